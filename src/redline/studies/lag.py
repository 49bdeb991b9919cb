"""How much does lag cost, and how much of it does V-trace give back? (Espeholt et al. 2018, section 5.2)

Weights reach the actor a fixed number of batches late; nothing else differs. Without correction the learner treats
what late weights did as its own policy's doing. At lag zero the two are the same algorithm, so it is run once.
"""

from __future__ import annotations

import statistics

from redline.studies.result import Curve, Options, Result, spread, train

ENVIRONMENT = "redline/Catch-v0"
DELAYS = (10, 40)  # batches
CORRECTIONS = {"vtrace": "V-trace", "none": "no correction"}
STEPS = 40_000  # agent steps
RATE = (
    5e-3  # so large that ten updates change the policy: where it changes little, lag costs little either way
)


def lag(options: Options) -> Result:
    """IMPALA on Catch with weights 0, 10 and 40 batches late, with V-trace and without."""
    cases = [(0, "vtrace"), *((delay, each) for delay in DELAYS for each in CORRECTIONS)]
    curves: dict[str, list[Curve]] = {}
    means: dict[tuple[int, str], float] = {}
    rows = []
    for delay, correction in cases:
        label = f"lag {delay}, {CORRECTIONS[correction]}" if delay else "no lag"
        settings = ["parallel.architecture=impala", "parallel.runtime=threads", "parallel.copies=1"]
        settings += ["parallel.queue=0", f"parallel.delay={delay}", f"algorithm.correction={correction}"]
        settings += [f"learner.learning_rate={RATE}", f"run.steps={options.steps or STEPS}"]
        curves[label] = train(options, label, ENVIRONMENT, "impala", settings)
        each = [statistics.fmean(curve.returns) for curve in curves[label]]
        means[delay, correction] = statistics.median(each)
        final = spread([curve.returns[-1] for curve in curves[label]])
        rows.append({"": label, "mean return over the run": spread(each), "final return": final})
    falls = [
        f"{delay} batches late, the mean return over the run is {means[delay, 'vtrace']:.2f} with V-trace and "
        f"{means[delay, 'none']:.2f} without correction"
        for delay in DELAYS
    ]
    answer = (
        f"Without lag it is {means[0, 'vtrace']:.2f}. With weights " + "; with weights ".join(falls) + "."
    )
    notes = [f"Medians and ranges of {options.seeds} seeds; returns are from -1 to 1; Adam at {RATE:g}."]
    return Result("lag", "What does lag cost, with V-trace and without?", answer, rows, curves, notes)
