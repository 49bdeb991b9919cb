"""Ranking plans: by the time they need to learn, and the simpler of two that are within the error of each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from redline.planner.bound import bound
from redline.planner.costs import Machine, Prediction
from redline.planner.machines import uncertainty
from redline.planner.measured import Costs
from redline.planner.options import Option, Ranked
from redline.planner.simulate import simulate
from redline.planner.workload import architecture_of, workload

MODEL_ERROR = 0.15  # relative: nine plans of ten were measured within it, on the machine that was probed
CLOSE = 0.03  # of the best speed: plans within it are as good, and the simpler one is taken
# What a batch of lag costs, as a share of the samples that the same learning needs at zero lag. V-trace corrects: in
# `redline study lag` nothing shows below ten batches. Without correction a few batches do.
CORRECTED = {"impala": 0.003, "appo": 0.005}
UNCORRECTED = 0.03
OTHER_UNROLL = 1.05  # samples where unrolls are not as long as the recipe's: it was tuned for those
SECONDS, WARM = 5.0, 1.0  # simulated; more where batches take long
HOPELESS = 0.9  # of the best speed: a plan whose upper bound lies below it is not simulated

Predict = Callable[[Option, Costs, Machine], Prediction]


def predict(option: Option, costs: Costs, machine: Machine, *, seed: int = 0) -> Prediction:
    """What an option will do on a machine, and how sure that is."""
    found = simulate(
        architecture_of(option), workload(option, costs, machine), seconds=SECONDS, warm=WARM, seed=seed
    )
    return replace(found, error=math.hypot(MODEL_ERROR, costs.spread, uncertainty(option, costs)))


def samples_needed(option: Option, prediction: Prediction, costs: Costs, unroll: int) -> float:
    """Samples for the same learning, over those at zero lag with the recipe's unrolls of ``unroll`` steps."""
    factor = 1.0 if option.ratio is not None or option.unroll == unroll else OTHER_UNROLL
    if option.ratio is not None or option.architecture == "apex":
        return factor  # replay is old anyway: what its actors' lag adds is nothing beside that
    each = CORRECTED.get(costs.algorithm, UNCORRECTED)
    return factor * (1.0 + each * prediction.lag.get("mean", 0.0))


def rank(
    options: Sequence[Option],
    costs: Costs,
    machine: Machine,
    unroll: int,
    predictor: Predict = predict,
    *,
    every: bool = False,
    steps: int = 0,
) -> list[Ranked]:
    """Options with what is expected of them, the fastest to learn first.

    Args:
        unroll: the recipe's own, in time steps; 0: it has none.
        predictor: how options are predicted.
        every: also those whose upper bound says that they cannot be the best. The most promising of each kind of
            plan are predicted in any case.
        steps: agent steps of the run, over which its start is shared out; 0: so many that it does not matter.
    """
    limits = [bound(architecture_of(option), workload(option, costs, machine)) for option in options]
    found: list[Ranked] = []
    best, seen = 0.0, set()
    for limit, option in sorted(zip(limits, options, strict=True), key=lambda pair: -pair[0]):
        if not every and limit < HOPELESS * best and option.kind in seen:
            continue
        seen.add(option.kind)
        expected = predictor(option, costs, machine)
        start = costs.start.get(option.runtime, 0.0) / steps if steps else 0.0
        samples = samples_needed(option, expected, costs, unroll)
        found.append(Ranked(option, expected, samples, start=start))
        best = max(best, found[-1].speed)
    return sorted(found, key=lambda each: -each.speed)


def speed_of(ranked: Ranked) -> float:
    """``Ranked.speed`` as measured where it was, else as predicted."""
    return ranked.speed if ranked.measured is None else ranked.worth(ranked.measured.steps_per_second)


def choose(ranked: Sequence[Ranked]) -> int:
    """The plan to train with: among those that were run (all, where none was) the simplest that is as good as the best.

    "As good" is within ``CLOSE`` where both were run, and within the prediction's error where neither was.
    """
    run = [index for index, each in enumerate(ranked) if each.measured is not None]
    among = run or range(len(ranked))
    best = max(among, key=lambda index: speed_of(ranked[index]))
    close = CLOSE if run else min(ranked[best].prediction.error, 2 * CLOSE)
    least = (1.0 - close) * speed_of(ranked[best])
    as_good = [index for index in among if speed_of(ranked[index]) >= least]
    return min(as_good, key=lambda index: (ranked[index].option.complexity, -speed_of(ranked[index])))
