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

SHORT = 10e-3  # seconds of a batch below which what a learner does besides is not little


@dataclass(frozen=True)
class Seen:
    """What an arrangement reached at training."""

    rate: float  # agent steps/s
    core: float  # core-seconds of this process for each batch


def with_copies(bench: Bench, costs: Costs) -> Costs:
    """Copies that train and share gradients, one for every core: how much longer they take than by their pieces."""
    if not 1 < bench.cores <= MANY:
        return costs
    costs = _as_seen(bench, costs, "accel_sync", bench.cores, "copies", only=_only(bench))
    return _told_by_threads(bench, costs, "copies", least=0.0)


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


def with_actor(bench: Bench, costs: Costs) -> Costs:
    """One actor beside a learner: what this spends on a batch besides learning, where batches are short, and how much
    longer all of it takes than by its pieces. Not with a replay: its first seconds, in which the learner owes updates,
    tell nothing of the rest."""
    if bench.replays or bench.cores == 1:
        return costs
    plans, seen = _at_work(bench, costs, "impala", 1, _only(bench))
    late = costs.drag.get("processes learner")
    learned = costs.learn[bench.place][1] * (late or 1.0)
    if late is not None and "processes" in seen and learned < SHORT:
        # Of one message: whatever is more belongs to the batch, such as caches that have grown cold since the last one.
        told = learned + costs.publish + costs.hand["processes"]
        costs = replace(costs, besides=max(seen["processes"].core - told, 0.0))
    # What threads were thought to lose by sharing an interpreter, and did not, processes never lost.
    return _told_by_threads(bench, _paced(costs, plans, seen, "beside"), "beside", least=1.0)


def _only(bench: Bench) -> str | None:
    """The runtime that tells of both: simulators that step by themselves leave the interpreter to others, and so does a
    network that takes pictures."""
    return "threads" if bench.parts.spec.threaded else None


def _told_by_threads(bench: Bench, costs: Costs, name: str, least: float) -> Costs:
    """With the drag of threads for processes, too, where threads tell of both."""
    seen = costs.drag.get(f"threads {name}")
    if _only(bench) is None or seen is None:
        return costs
    return replace(costs, drag=costs.drag | {f"processes {name}": max(seen, least)})


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
    return _paced(costs, *_at_work(bench, costs, architecture, copies, only), name)


Plans = dict[str, tuple[Experiment, Option]]  # by runtime


def _at_work(
    bench: Bench, costs: Costs, architecture: str, copies: int, only: str | None
) -> tuple[Plans, dict[str, Seen]]:
    """Plans of an arrangement, and what they reached at training: nothing, where it breaks."""
    found = _plans(bench, bench.experiment, costs, architecture, copies)
    plans = {runtime: plan for runtime, plan in found.items() if only in (None, runtime)}
    experiments = {runtime: experiment for runtime, (experiment, _) in plans.items()}
    try:
        return plans, _trained(experiments, bench.budget.crew)
    except RunError:
        return plans, {}


def _paced(costs: Costs, plans: Plans, seen: dict[str, Seen], name: str) -> Costs:
    """With the drags called NAME by which plans are predicted to go as they were seen to."""
    drag = {f"{runtime} {name}": 1.0 for runtime in seen}
    plain = replace(costs, drag=costs.drag | drag)
    for runtime, reached in seen.items():
        known = predict(plans[runtime][1], plain, costs.machine).steps_per_second
        drag[f"{runtime} {name}"] = float(np.clip(known / reached.rate, 0.5, 10.0))
    return replace(costs, drag=costs.drag | drag)


def _trained(experiments: dict[str, Experiment], seconds: float) -> dict[str, Seen]:
    """Experiments at work, by runtime. Each is alone, but they start side by side."""
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
