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
    means_of: dict[tuple[int, str], list[float]] = {}
    for delay in DELAYS:
        for correction in CORRECTIONS:
            label = f"lag {delay}, {'V-trace' if correction == 'vtrace' else 'no correction'}"
            settings = ["parallel.architecture=impala", "parallel.runtime=threads", "parallel.copies=1"]
            settings += ["parallel.queue=0", f"parallel.delay={delay}", f"algorithm.correction={correction}"]
            curves[label] = train(options, label, "CartPole-v1", "impala", settings)
            means = means_of[delay, correction] = [statistics.fmean(curve.returns) for curve in curves[label]]
            rows.append(
                {
                    "lag": delay,
                    "correction": correction,
                    "mean return over the run": spread(means),
                    "final return": spread([curve.returns[-1] for curve in curves[label]]),
                }
            )
    lost = {
        each: 1 - statistics.median(means_of[DELAYS[-1], each]) / statistics.median(means_of[0, each])
        for each in CORRECTIONS
    }
    answer = (
        f"With weights {DELAYS[-1]} batches late, the mean return over the run falls by {lost['vtrace']:.0%} with "
        f"V-trace and by {lost['none']:.0%} without correction (medians of {options.seeds} seeds)."
    )
    return Result("lag", "What does lag cost, with V-trace and without?", answer, rows, curves)
