"""How much does lag cost, and how much of it does V-trace give back? (Espeholt et al. 2018, section 5.2)

Weights reach the actor a fixed number of batches late; nothing else differs. Without correction the learner treats
what late weights did as its own policy's doing.
"""

from __future__ import annotations

import statistics

from redline.studies.result import Options, Result, spread, train

DELAYS = (0, 10)  # batches
CORRECTIONS = ("vtrace", "none")


def lag(options: Options) -> Result:
    """IMPALA on CartPole with weights 0 and 10 batches late, with V-trace and without."""
    curves, rows = {}, []
    for delay in DELAYS:
        for correction in CORRECTIONS:
            label = f"lag {delay}, {'V-trace' if correction == 'vtrace' else 'no correction'}"
            settings = ["parallel.architecture=impala", "parallel.runtime=threads", "parallel.copies=1"]
            settings += ["parallel.queue=0", f"parallel.delay={delay}", f"algorithm.correction={correction}"]
            curves[label] = train(options, label, "CartPole-v1", "impala", settings)
            means = [statistics.fmean(curve.returns) for curve in curves[label]]
            rows.append(
                {
                    "lag": delay,
                    "correction": correction,
                    "mean return over the run": spread(means),
                    "final return": spread([curve.returns[-1] for curve in curves[label]]),
                    "median": statistics.median(means),
                }
            )
    lost = {
        correction: 1 - _median(rows, DELAYS[-1], correction) / _median(rows, 0, correction)
        for correction in CORRECTIONS
    }
    answer = (
        f"With weights {DELAYS[-1]} batches late, the mean return over the run falls by {lost['vtrace']:.0%} with "
        f"V-trace and by {lost['none']:.0%} without correction (medians of {options.seeds} seeds)."
    )
    return Result("lag", "What does lag cost, with V-trace and without?", answer, rows, curves)


def _median(rows: list[dict[str, object]], delay: int, correction: str) -> float:
    return next(
        float(str(row["median"])) for row in rows if row["lag"] == delay and row["correction"] == correction
    )
