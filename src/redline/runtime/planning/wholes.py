"""Arrangements that train for a second, learning on: how much longer they take than their pieces tell.

Pieces say how plans differ in size; what roles do to each other where all wait for all is seen rather than reckoned.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from redline.architectures.config import ParallelConfig
from redline.planner.choose import predict
from redline.planner.measured import Costs
from redline.planner.options import Option
from redline.runtime.experiment import Experiment
from redline.runtime.launch import make_loop
from redline.runtime.parts import Parts, assemble
from redline.runtime.planning.candidates import Search, configure, options
from redline.runtime.planning.crews import WARM
from redline.runtime.planning.together import MANY, ON_GPU, Bench
from redline.runtime.planning.trial import STARTS
from redline.types import RunError

DOUBTFUL = 1.2  # times as slow as its pieces tell: that is looked at again, for the machine may have had a slow second
SHORT = 10e-3  # seconds of a batch below which what a learner does besides is not little


@dataclass(frozen=True)
class Seen:
    """What an arrangement reached at training."""

    rate: float  # agent steps/s
    core: float  # core-seconds of this process for each batch


@dataclass(frozen=True)
class Look:
    """An arrangement that is seen at training: so many copies for the recipe's environments."""

    name: str  # of what is found out: ``threads NAME`` and ``processes NAME`` of ``Costs.drag``
    architecture: str
    copies: int
    least: float | None = None
    # None: each runtime is seen. Else threads tell of both, and processes lose no less than this: simulators that step
    # by themselves leave the interpreter to others, and so does a network that takes pictures
    alone: str = ""  # the one runtime that is seen, and told of


def looks(bench: Bench) -> list[Look]:
    """What is worth seeing of an experiment: what no piece tells."""
    cores, spec = bench.cores, bench.parts.spec
    several, alike = 1 < cores <= MANY, spec.threaded
    found: list[Look] = []
    if not bench.replays and cores > 1:
        # With a replay the first seconds, in which the learner owes updates, tell nothing of the rest.
        found.append(Look("beside", "impala", 1, least=1.0 if alike else None))
    if several:
        found.append(Look("copies", "accel_sync", cores, least=0.0 if alike else None))
    if bench.replays:
        return found
    if bench.parts.algorithm.max_lag is not None:
        # It bears so little lag that several actors, or workers, wait for it, as it does for them.
        found += [Look("step", "impala", cores)] if several else []
        found.append(Look("served step", "seed", max(cores, 2)))
    elif several and not alike:
        # A server and workers that want one interpreter; in processes they have one each, and go as their pieces tell.
        found.append(Look("served", "seed", max(cores, 2), alone="threads"))
    envs, one = bench.experiment.sampler.num_envs, bench.round(1).step
    if one.wait > one.core and envs > 2 * max(cores, 2):
        found.append(Look("served crowd", "seed", envs))
    return found


def with_wholes(bench: Bench, costs: Costs, every: list[Look]) -> Costs:
    """With how much longer arrangements take that train than by their pieces: ``threads NAME``, ``processes NAME``.

    Without those of one that breaks: it is tried again if it is chosen.
    """
    for look in every:
        plans = _plans(bench, costs, look)
        experiments = {runtime: experiment for runtime, (experiment, _) in plans.items()}
        known = _expected(costs, plans, look.name)
        try:
            seen = _trained(experiments, bench.budget.crew, known)
        except RunError:
            continue
        if look.name == "beside":
            costs = _besides(bench, costs, seen)
            known = _expected(costs, plans, look.name)
        costs = _paced(costs, seen, known, look.name)
        told = costs.drag.get(f"threads {look.name}")
        if look.least is not None and told is not None:
            costs = replace(costs, drag=costs.drag | {f"processes {look.name}": max(told, look.least)})
    return costs


def _besides(bench: Bench, costs: Costs, seen: dict[str, Seen]) -> Costs:
    """With what a learner spends on a batch besides learning, where batches are short."""
    late = costs.drag.get("processes learner")
    learned = costs.learn[bench.place][1] * (late or 1.0)
    if late is None or "processes" not in seen or learned >= SHORT:
        return costs
    # Of one message: whatever is more belongs to the batch, such as caches that have grown cold since the last one.
    told = learned + costs.publish + costs.hand["processes"]
    return replace(costs, besides=max(seen["processes"].core - told, 0.0))


Plans = dict[str, tuple[Experiment, Option]]  # by runtime


def _plans(bench: Bench, costs: Costs, look: Look) -> Plans:
    """The arrangement in threads and in processes (or the one that tells of both)."""
    place = _place(bench, costs, look.architecture)
    experiment = replace(bench.experiment, parallel=ParallelConfig())
    if place.startswith("cuda"):
        device, precision = place.split()
        learner = replace(experiment.learner, device=device, precision=precision)  # type: ignore[arg-type]
        experiment = replace(experiment, learner=learner)
    envs = experiment.sampler.num_envs
    search = Search(experiment, bench.parts.spec, costs, costs.machine, only=look.architecture)
    return {
        each.runtime: (configure(experiment, each), each)
        for each in options(search)[0]
        if (each.copies, each.copies * each.environments) == (look.copies, envs)
        and each.learn_on == place
        and each.threads == 1
        and each.runtime in _runtimes(bench, costs, look)
    }


def _runtimes(bench: Bench, costs: Costs, look: Look) -> tuple[str, ...]:
    """Which runtimes are seen. An actor in a process of its own goes as its pieces tell, but for short batches."""
    long = look.name == "beside" and costs.learn[bench.place][1] >= SHORT
    if long or look.least is not None:
        return ("threads",)
    return (look.alone,) if look.alone else ("threads", "processes")


def _place(bench: Bench, costs: Costs, architecture: str) -> str:
    """Where it learns: a server acts on the GPU if there is one, and a learner with it."""
    return ON_GPU if architecture == "seed" and ON_GPU in costs.act else bench.place


def _expected(costs: Costs, plans: Plans, name: str) -> dict[str, float]:
    """Agent steps/s of plans by their pieces, without the drags called NAME."""
    plain = replace(costs, drag=costs.drag | {f"{runtime} {name}": 1.0 for runtime in plans})
    return {
        runtime: predict(option, plain, costs.machine).steps_per_second
        for runtime, (_, option) in plans.items()
    }


def _paced(costs: Costs, seen: dict[str, Seen], known: dict[str, float], name: str) -> Costs:
    """With the drags called NAME by which plans are predicted to go as they were seen to, not as is ``known``."""
    drag = {
        f"{runtime} {name}": float(np.clip(known[runtime] / reached.rate, 0.5, 10.0))
        for runtime, reached in seen.items()
    }
    return replace(costs, drag=costs.drag | drag)


def _trained(experiments: dict[str, Experiment], seconds: float, known: dict[str, float]) -> dict[str, Seen]:
    """Experiments at work, by runtime. Each is alone, but they start side by side.

    One that is far slower than is ``known`` of its pieces is seen again after the others, and the faster look believed.
    """
    found: dict[str, Seen] = {}
    with ExitStack() as stack:
        every: dict[str, tuple[Parts, Any]] = {}
        for runtime in sorted(experiments):  # processes take longest to start
            parts = stack.enter_context(closing(assemble(experiments[runtime])))
            every[runtime] = parts, stack.enter_context(closing(make_loop(parts)))
        for _, loop in every.values():
            loop.iterate(0, 0.0, bool)  # by then everybody is at work
        for runtime, (parts, loop) in reversed(every.items()):
            found[runtime] = _seen(parts, loop, seconds)
            if known[runtime] <= DOUBTFUL * found[runtime].rate:
                loop.close()
        for runtime, (parts, loop) in every.items():
            if known[runtime] > DOUBTFUL * found[runtime].rate:
                found[runtime] = max(found[runtime], _seen(parts, loop, seconds), key=lambda seen: seen.rate)
                loop.close()
    return found


def _seen(parts: Parts, loop: Any, seconds: float) -> Seen:
    """What a loop reaches, once it learns and has done so for a moment: buffers are made, unrolls wait if they may.

    From one arrival of steps to another: they come by the slot, and there may be few of those in a second.
    """
    steps, first = 0, time.perf_counter()
    begin: float | None = None
    before, batches, core = 0, 0, 0.0
    while True:
        taken = loop.iterate(steps, 0.0, bool)[0]
        steps += taken
        batches += 1
        now = time.perf_counter()
        if now - first > STARTS:
            raise RunError(f"no update within {STARTS:.0f} s ({steps} agent steps): nothing to measure")
        if not taken:
            continue
        if begin is None:
            if parts.learner.version and now - first > WARM:
                begin, before, batches, core = now, steps, 0, time.process_time()
        elif now - begin >= seconds:
            return Seen((steps - before) / (now - begin), (time.process_time() - core) / batches)
