"""Arrangements that train for a second, learning on: how much longer they take than their pieces tell.

Pieces say how plans differ in size; what roles do to each other where all wait for all is seen rather than reckoned.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any

import numpy as np

from redline.architectures.config import ParallelConfig
from redline.planner.choose import predict
from redline.planner.measured import Costs
from redline.planner.options import Option
from redline.runtime.experiment import Experiment, uses_replay
from redline.runtime.launch import make_loop
from redline.runtime.parts import Parts, assemble
from redline.runtime.planning.candidates import Search, configure, options
from redline.runtime.planning.crews import WARM
from redline.runtime.planning.together import MANY, ON_GPU, Bench
from redline.runtime.planning.trial import STARTS
from redline.types import RunError

SHORT = 10e-3  # seconds of a batch below which what a learner does besides is not little
SOON = 0.1  # seconds of a batch that are short enough to see several
BATCHES = 20  # batches before anything is counted


def with_copies(bench: Bench, costs: Costs) -> Costs:
    """Copies that train and share gradients, one for every core: how much longer they take than by their pieces.

    Simulators that step by themselves leave the interpreter to others, and so does a network that takes pictures: then
    threads tell of processes, too.
    """
    if not 1 < bench.cores <= MANY:
        return costs
    if not bench.parts.spec.threaded:
        return _as_seen(bench, costs, "accel_sync", bench.cores, "copies")
    costs = _as_seen(bench, costs, "accel_sync", bench.cores, "copies", only="threads")
    seen = costs.drag.get("threads copies")
    return costs if seen is None else replace(costs, drag=costs.drag | {"processes copies": seen})


def with_lock_step(bench: Bench, costs: Costs) -> Costs:
    """Where the algorithm bears so little lag that several actors, or workers, wait for it, as it does for them."""
    if bench.parts.algorithm.max_lag is None:
        return costs
    if 1 < bench.cores <= MANY:
        costs = _as_seen(bench, costs, "impala", bench.cores, "step")
    return _as_seen(bench, costs, "seed", max(bench.cores, 2), "served step")


def with_crowd(bench: Bench, costs: Costs) -> Costs:
    """A server among a crowd of workers that mostly wait."""
    envs, one = bench.experiment.sampler.num_envs, bench.round(1).step
    if one.wait > one.core and envs > 2 * max(bench.cores, 2):
        costs = _as_seen(bench, costs, "seed", envs, "served crowd")
    return costs


def with_hand(bench: Bench, costs: Costs) -> Costs:
    """A learner at work beside an actor: what it spends on a message besides learning, where batches are short."""
    drag = costs.drag.get("processes learner")
    learned = costs.learn[bench.place][1] * (drag or 1.0)
    if drag is None or bench.replays or learned > SHORT:
        return costs
    for experiment, _ in _plans(bench, bench.experiment, costs, "impala", 1).values():
        if experiment.parallel.runtime == "processes":
            spent = _core_of_a_batch(experiment, bench.budget.crew) - learned - costs.publish
            return replace(costs, hand={name: max(spent, least) for name, least in costs.hand.items()})
    return costs


def _core_of_a_batch(experiment: Experiment, seconds: float) -> float:
    """Core-seconds of this process for a batch, while it learns from what others collect."""
    with closing(assemble(experiment)) as parts, closing(make_loop(parts)) as loop:
        steps, batches, core, end = 0, 0, 0.0, float("inf")
        while time.perf_counter() < end:
            steps += loop.iterate(steps, 0.0, bool)[0]
            batches += 1
            if batches == BATCHES:
                core, end = time.process_time(), time.perf_counter() + seconds
        return (time.process_time() - core) / (batches - BATCHES)


def _shorter(experiment: Experiment, costs: Costs, place: str) -> tuple[Experiment, Costs]:
    """The same with unrolls so short that a batch is soon learned from, in minibatches as large as before."""
    algorithm: Any = experiment.algorithm
    times, seconds = 1, costs.learn[place][1]
    while seconds / times > 2 * SOON and not (
        getattr(algorithm, "minibatches", 1) % (2 * times) or algorithm.unroll % (2 * times)
    ):
        times *= 2
    if times == 1:
        return experiment, costs
    algorithm = replace(
        algorithm, unroll=algorithm.unroll // times, minibatches=algorithm.minibatches // times
    )
    learn = {
        name: {threads: spent / times for threads, spent in each.items()}
        for name, each in costs.learn.items()
    }
    costs = replace(costs, batch=costs.batch // times, updates=costs.updates / times, learn=learn)
    return replace(experiment, algorithm=algorithm), costs


def _plans(
    bench: Bench, experiment: Experiment, costs: Costs, architecture: str, copies: int
) -> dict[str, tuple[Experiment, Option]]:
    """By runtime: an arrangement of so many copies for the recipe's environments, and the experiment with it."""
    place = _place(bench, costs, architecture)
    experiment = replace(experiment, parallel=ParallelConfig())
    envs = experiment.sampler.num_envs
    search = Search(experiment, bench.parts.spec, costs, costs.machine, only=architecture)
    return {
        each.runtime: (configure(experiment, each), each)
        for each in options(search)[0]
        if (each.copies, each.copies * each.environments) == (copies, envs) and each.learn_on == place
    }


def _place(bench: Bench, costs: Costs, architecture: str) -> str:
    """Where it learns: a server acts on the GPU if there is one, and a learner with it."""
    return ON_GPU if architecture == "seed" and ON_GPU in costs.act else bench.place


def _as_seen(
    bench: Bench, costs: Costs, architecture: str, copies: int, name: str, *, only: str | None = None
) -> Costs:
    """With ``threads NAME`` and ``processes NAME`` (or the one of them that is ``only`` of interest): how much longer
    than predicted an arrangement takes that trains. Without, where it breaks: it is tried again if it is chosen."""
    experiment, short = _shorter(bench.experiment, costs, _place(bench, costs, architecture))
    found = _plans(bench, experiment, short, architecture, copies)
    plans = {runtime: plan for runtime, plan in found.items() if only in (None, runtime)}
    drag = {f"{runtime} {name}": 1.0 for runtime in plans}
    plain = replace(short, drag=costs.drag | drag)
    experiments = {runtime: experiment for runtime, (experiment, _) in plans.items()}
    try:
        rates = _trained(experiments, bench.budget.crew)
    except RunError:
        return costs
    for runtime, rate in rates.items():
        known = predict(plans[runtime][1], plain, costs.machine).steps_per_second
        drag[f"{runtime} {name}"] = float(np.clip(known / rate, 0.5, 10.0))
    return replace(costs, drag=costs.drag | drag)


def _trained(experiments: dict[str, Experiment], seconds: float) -> dict[str, float]:
    """Agent steps/s of experiments at work, by runtime. Each is alone, but they start side by side."""
    found: dict[str, float] = {}
    with ExitStack() as stack:
        every: dict[str, tuple[Parts, Any]] = {}
        for runtime in sorted(experiments):  # processes take longest to start
            parts = stack.enter_context(closing(assemble(experiments[runtime])))
            every[runtime] = parts, stack.enter_context(closing(make_loop(parts)))
        for _, loop in every.values():
            loop.iterate(0, 0.0, bool)  # by then everybody is at work
        for runtime, (parts, loop) in reversed(every.items()):
            found[runtime] = _rate(parts, loop, seconds)
            loop.close()
    return found


def _rate(parts: Parts, loop: Any, seconds: float) -> float:
    """Agent steps/s, once it learns; where unrolls may wait for the learner, after some for those to gather."""
    waits = uses_replay(parts.experiment) or bool(parts.experiment.parallel.queue)
    steps, before, first = 0, 0, time.perf_counter()
    begin = first if not waits else None
    while begin is None or steps == before or time.perf_counter() - begin < seconds:
        steps += loop.iterate(steps, 0.0, bool)[0]
        now = time.perf_counter()
        if begin is None and parts.learner.version and now - first > WARM:
            begin, before = now, steps
        if now - first > STARTS:
            raise RunError(f"no update within {STARTS:.0f} s ({steps} agent steps): nothing to measure")
    return (steps - before) / (time.perf_counter() - begin)
