"""A plan run for a while, learning on: what it really does. No folder, no checkpoint, no screen."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from typing import Any, NamedTuple

from redline.planner.options import Measured
from redline.runtime.experiment import ALGORITHMS, Experiment, uses_replay
from redline.runtime.launch import make_loop
from redline.runtime.parts import assemble
from redline.runtime.pool import one_thread_each
from redline.types import RunError, lag_gauges

WARM = 1.0  # seconds after the first update that are not counted: caches, kernels, queues filling
SETTLED = 4  # batches in which queues that filled while the first was learned from find their depth
LONGEST = 4.0  # times as long as asked for, to end with an arrival: steps come by the slot, and few of those a second
SOON = 0.1  # seconds of a batch that are short enough to see several
LONG = 0.5  # seconds of a batch above which fewer epochs tell as much
STARTS = 120.0  # seconds in which the first update must have come


def soon(experiment: Experiment) -> Experiment:
    """The experiment learning almost at once: what comes before its first update tells nothing of its rate."""
    if not uses_replay(experiment):
        return experiment
    algorithm = experiment.algorithm
    starts = max(4 * algorithm.batch, 8 * experiment.sampler.num_envs)  # type: ignore[union-attr]
    starts = min(starts, algorithm.learning_starts)  # type: ignore[union-attr]
    return replace(experiment, algorithm=replace(algorithm, learning_starts=starts))  # type: ignore[arg-type]


class Shorter(NamedTuple):
    """An experiment with short batches, and by how much they are shorter than the recipe's."""

    experiment: Experiment
    times: int = 1  # in unrolls and minibatches, these as large as before
    passes: float = 1.0  # over each sample


def shortened(experiment: Experiment, seconds: float) -> Shorter:
    """The experiment with unrolls so short that a batch, which takes ``seconds``, is soon learned from, in minibatches
    as large as before; and where that is not enough, with fewer epochs.

    Recurrent networks keep theirs: their minibatches are of environments, and of fewer they would be larger.
    """
    algorithm: Any = experiment.algorithm
    times, parts = 1, getattr(algorithm, "minibatches", 1)
    if uses_replay(experiment) or experiment.network.core != "none":
        return Shorter(experiment)
    while seconds / times > 2 * SOON and not (parts % (2 * times) or algorithm.unroll % (2 * times)):
        times *= 2
    shorter, passes = algorithm, 1.0
    if times > 1:
        shorter = replace(shorter, unroll=algorithm.unroll // times, minibatches=parts // times)
    epochs, left = getattr(algorithm, "epochs", 1), seconds / times
    if left > LONG and epochs > 1:
        fewer = max(int(epochs * LONG / left), 1)
        shorter, passes = replace(shorter, epochs=fewer), epochs / fewer
    if shorter is algorithm:
        return Shorter(experiment)
    return Shorter(replace(experiment, algorithm=shorter), times, passes)


def try_out(experiment: Experiment, seconds: float = 4.0, warm: float = WARM) -> Measured:
    """Train for ``warm`` and then ``seconds`` more, and give the rates of the latter.

    Raises: UserError where the experiment cannot run; RunError where nothing was learned in time.
    """
    with one_thread_each():
        parts = assemble(soon(experiment))
        try:
            loop = make_loop(parts)
            try:
                found = _drive(loop, parts.learner, experiment.run.steps, seconds, warm)
            finally:
                loop.close()
        finally:
            parts.close()
    return _in_the_long_run(found, experiment.algorithm)


def _in_the_long_run(found: Measured, algorithm: Any) -> Measured:
    """With the agent steps that updates come to, where the algorithm ties them to each other: at first actors run ahead
    of the updates that are due, by as many slots as there are."""
    paced = getattr(ALGORITHMS[type(algorithm)], "paced", False)
    every = algorithm.update_every if paced else 0
    return replace(found, steps_per_second=found.updates_per_second * every) if every else found


def _drive(loop, learner, total: int, seconds: float, warm: float) -> Measured:  # type: ignore[no-untyped-def]
    steps, begun = 0, time.perf_counter()
    learning: float | None = None  # since when
    batches = 0  # learned from since
    first: tuple[float, int, int, Counter[int]] | None = None
    while True:
        taken, _ = loop.iterate(steps, min(steps / total, 1.0), bool)
        steps += taken
        now = time.perf_counter()
        if learner.version > 0 and learning is None:
            learning = now
        if learning is None:
            if now - begun > STARTS:
                raise RunError(f"no update within {STARTS:.0f} s ({steps} agent steps): nothing to measure")
            continue
        if first is None:
            batches += 1
            ready = now - learning >= warm and (batches > SETTLED or now - learning >= 3 * warm)
            if ready and (taken or now - learning >= LONGEST * max(warm, seconds)):
                first = now, steps, learner.version, _lags(loop)
                loop.gauges()  # from here on it counts who is at work
            continue
        if now - first[0] >= seconds and (taken or now - first[0] >= LONGEST * seconds):
            gauges = loop.gauges()
            elapsed = now - first[0]
            return Measured(
                steps_per_second=(steps - first[1]) / elapsed,
                updates_per_second=(learner.version - first[2]) / elapsed,
                seconds=elapsed,
                utilisation=dict(gauges.roles),
                lag=lag_gauges(_lags(loop) - first[3]) or dict(gauges.lag),
            )


def _lags(loop) -> Counter[int]:  # type: ignore[no-untyped-def]
    """Lags counted so far; what fills the queues at first, while the learner's kernels warm up, tells nothing."""
    return Counter(getattr(loop, "lags", {}))
