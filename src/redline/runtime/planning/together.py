"""Roles side by side, as multiples of what each takes alone: actors beside a learner, in crowds, around a server."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch

from redline.architectures.catalogue import find
from redline.architectures.model import gives_way
from redline.environments.workers.kept import prepare
from redline.learners.exchanges.allreduce import AllReduce
from redline.planner.cores import speeds
from redline.planner.costs import Curve
from redline.planner.measured import Costs
from redline.planner.workload import side_by_side, waiting
from redline.runtime.experiment import Experiment
from redline.runtime.parts import Parts
from redline.runtime.planning import crews, pieces
from redline.runtime.planning.pieces import Collecting, Round, faster_half, fastest_half, median_of
from redline.runtime.pool import Pool
from redline.runtime.replicas.reducers import Rows, SharedReducer

ON_GPU = "cuda bf16"  # where a server acts, if it can
SATURATED = (
    0.9  # of its time that a server is at work: workers wait for it then, and their rounds tell no more
)
MEET = 100e-6  # seconds that copies wait for each other at one update, where they are equally fast
SOON = 0.1  # seconds of an actor's slot that are short: several come in a second
AHEAD = 8  # slots, at least, of an actor beside a learner, so that it need not wait while a batch is learned
MANY = 4  # cores above which actors beside a learner stand for actors alone


@dataclass(frozen=True)
class Budget:
    """Seconds for each kind of measurement."""

    round: float = 0.6
    learn: float = 0.9
    network: float = 2.5
    crew: float = 0.8
    gpu: float = 0.6  # a GPU repeats itself exactly, and is fast


class Bench(Protocol):
    """A probe: what is measured, how long, and what is known of single rounds."""

    experiment: Experiment
    budget: Budget
    cores: int
    parts: Parts
    place: str
    replays: bool
    together: float

    def round(self, count: int) -> Round:
        """A round of so many environments on one thread."""

    def room(self, count: int) -> Collecting:
        """A real actor with so many environments."""


def in_company(bench: Bench, learn: dict[str, dict[int, float]], unroll: Any) -> dict[str, Any]:
    """``drag``, ``uneven``, ``start`` and ``queueing`` of ``Costs``: an actor for every core, those beside a learner
    (``full``), one less beside it, and a crowd of them."""
    uneven: dict[str, tuple[float, ...]] = {}
    start: dict[str, float] = {}
    if bench.cores == 1:
        return {}
    seconds, envs = bench.budget.crew, bench.experiment.sampler.num_envs
    experiment, slots = _in_short_slots(bench, learn[bench.place][1])
    drag: dict[str, float] = {}
    waits = 0.0

    batch = partial(_learn, bench, unroll)

    def beside(name: str, actors: int, team: crews.Team) -> crews.Company:
        work, expected = team.drive(seconds, batch), _fair(bench, actors, learners=1)
        drag[f"{name} actor"] = _period(envs, work) / expected.round
        drag[f"{name} learner"] = work.learned / (learn[bench.place][1] * expected.learner)
        uneven[f"{name} learner"] = work.uneven
        return work

    if envs >= bench.cores and not bench.replays:
        drag["shards"] = _shards(bench)
    prepare(min(bench.cores, envs))  # no more, where ``start`` is told: each has a core to start on
    actors = min(bench.cores - 1, envs)
    few = partial(crews.actors, experiment, copies=actors, slots=slots)
    for runtime, team in crews.in_turn(few):
        start[runtime] = beside(runtime, actors, team).start
    if envs >= bench.cores > MANY:  # one actor more or less makes no difference, and all have to start
        drag |= {runtime: drag[f"{runtime} actor"] for runtime in start}
    elif envs >= bench.cores:
        full = partial(crews.actors, experiment, copies=bench.cores, slots=slots)
        for runtime, team in crews.in_turn(full):
            drag[runtime] = _period(envs, team.drive(seconds)) / _fair(bench, bench.cores).round
            if runtime == "processes":  # of threads of one interpreter one beside a learner tells more
                beside(f"{runtime} full", bench.cores, team)
    alone = bench.round(1).step
    if alone.wait > alone.core and envs > 2 * bench.cores:
        for runtime, team in crews.in_turn(partial(crews.actors, experiment, copies=envs)):
            longer = 1.25 * seconds  # and two looks: it varies most
            looks = [team.drive(longer)]
            if runtime == "threads" and not bench.replays:
                looks.append(team.drive(longer, batch))  # the learner needs their interpreter, hardly a core
                waits = max(looks[1].learned - learn[bench.place][1], 0.0)
            else:
                looks.append(team.drive(longer))
            drag[f"{runtime} crowd"] = float(np.mean([_crowd(bench, look, envs) for look in looks]))
    drag = {name: float(np.clip(value, 0.8, 10.0)) for name, value in drag.items()}
    return {"drag": drag, "uneven": uneven, "start": start, "queueing": waits}


def _in_short_slots(bench: Bench, learn: float) -> tuple[Experiment, int]:
    """The experiment with slots that come often enough to be counted for a second, and as many of them for an actor as
    last while a batch is learned, which takes ``learn``."""
    experiment = bench.experiment
    if bench.replays:
        return experiment, AHEAD
    algorithm: Any = experiment.algorithm
    rounds: int = algorithm.unroll
    each = bench.round(max(experiment.sampler.num_envs // bench.cores, 1)).alone
    while rounds % 2 == 0 and rounds * each > SOON:
        rounds //= 2
    experiment = replace(experiment, algorithm=replace(algorithm, unroll=rounds))
    return experiment, max(math.ceil(2 * learn / (rounds * each)), AHEAD)


def _learn(bench: Bench, unroll: Any) -> None:
    """One batch, of what was collected or (where it learns from replay) by what does it."""
    unroll() if bench.replays else bench.parts.algorithm.update(bench.parts.learner, unroll, 0.0)


def _period(envs: int, work: crews.Company) -> float:
    """Seconds of a round of all environments."""
    return envs / max(work.steps_per_second, 1e-9)


def _crowd(bench: Bench, work: crews.Company, copies: int) -> float:
    """How much longer the core's part of a round takes for many actors that mostly wait, over the cores it has."""
    one = bench.round(1)
    core = one.step.core + one.act + one.record
    period = copies / work.steps_per_second
    alone = max(one.step.wait + core, core * copies / bench.cores)  # were nobody in anybody's way
    return 1.0 + max(period - alone, 0.0) / (core * max(copies / bench.cores, 1.0))


def _shards(bench: Bench) -> float:
    """How much longer actors take that collect on threads of one loop, side by side."""
    count = max(bench.experiment.sampler.num_envs // bench.cores, 1)
    others = [Collecting(bench.parts, count) for _ in range(bench.cores - 1)]
    pool = Pool(bench.cores)
    try:
        every = [bench.room(count), *others]
        length = every[0].length
        for each in every:
            each.collect(length)
        together, alone = list[float](), list[float]()
        end = time.perf_counter() + 1.0
        while len(alone) < 3 or time.perf_counter() < end:
            together.append(_seconds(lambda: pool([partial(e.collect, length) for e in every])))
            # The slowest is waited for anyway.
            alone.append(max(_seconds(partial(e.collect, length)) for e in every))
        return faster_half(together) / faster_half(alone)
    finally:
        pool.close()
        for each in others:
            each.close()


def _seconds(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


@dataclass(frozen=True)
class Fair:
    """What roles would take if all they shared were the cores."""

    round: float  # seconds of an actor's
    learner: float  # of a learner's work, over those alone


def _fair(bench: Bench, actors: int, learners: int = 0) -> Fair:
    """Of ``actors`` that collect for as many environments as the recipe has, beside ``learners``."""
    each = bench.round(max(bench.experiment.sampler.num_envs // actors, 1))
    envs = bench.experiment.sampler.num_envs
    width = min(max(bench.cores // actors, 1), max(envs // actors, 1)) if bench.parts.spec.threaded else 1
    lost = waiting(width, min(bench.cores, envs), bench.together)
    polite = gives_way(find("apex" if bench.replays else "impala").sized(actors), bench.cores, width)
    return fair(each, bench.cores, actors, width, learners, lost, polite=polite)


def fair(
    each: Round,
    cores: int,
    actors: int,
    width: int,
    learners: int,
    lost: float = 1.0,
    *,
    polite: bool = False,
) -> Fair:
    """Of ``actors`` whose environments step on ``width`` threads, ``lost`` times as long as these could, and take
    ``each`` on one, beside ``learners``, to whom they give way where they are ``polite``."""
    crowd = _late(cores, actors * width, learners, polite)  # while environments step
    busy = _late(cores, actors, learners, polite)  # and for the rest of a round
    stepping, rest = each.step.core * lost / width * crowd[0], (each.act + each.record) * busy[0]
    whole = stepping + each.step.wait + rest
    return Fair(whole, 1.0 + ((crowd[1] - 1.0) * stepping + (busy[1] - 1.0) * rest) / whole)


def _late(cores: int, actors: int, learners: int, polite: bool) -> tuple[float, float]:
    """How much longer than alone threads of actors take, and those of learners."""
    rest, first = (actors, learners) if polite else (actors + learners, 0)
    slow, fast = speeds(cores, rest, first)
    return 1.0 / slow, 1.0 / (fast if polite else slow)


def sharing(bench: Bench, learn: float, updates: float, unroll: Any) -> dict[str, float]:
    """Seconds that sharing one gradient adds to an update: of the way there, as it is; of meeting, a guess.

    The learner is given a company of one to share with, which costs it everything but the waiting.
    """
    learner = bench.parts.learner
    rows = Rows(1, 4 * (learner.flat.numel() + 64), shared=False)
    alone = learner.exchange
    try:
        learner.exchange = AllReduce(SharedReducer(rows, 0, bool))
        if bench.replays:
            shared = median_of(unroll, bench.budget.learn)
        else:
            shared = pieces.learning(bench.parts, unroll, bench.budget.learn)
    finally:
        learner.exchange = alone
        rows.close()
    flat = torch.zeros_like(learner.flat)
    once = fastest_half(lambda: flat.add_(1.0), 0.05)  # a pass over a gradient: another copy's row
    way = max((shared - learn) / updates, 0.0) + 2 * once
    return {
        "accel_sync": way + MEET,
        "a3c": 4 * once,
        "accel_async": 6 * once + MEET,
        "gorila": 4 * once + MEET,
        "gorila_global": 4 * once + MEET,
    }


def with_servers(bench: Bench, costs: Costs) -> Costs:
    """Inference servers at work, on the GPU where there is one: what a batch costs beyond the pass, and a round beyond
    batch and step."""
    experiment, envs = bench.experiment, bench.experiment.sampler.num_envs
    workers = min(max(bench.cores, 2), envs)
    if workers < 2:
        return costs
    count = max(envs // 2, 1)
    half, step = bench.round(count), bench.round(max(envs // workers, 1)).step
    act = half.act
    if ON_GPU in costs.act:
        device, precision = ON_GPU.split()
        learner = replace(experiment.learner, device=device, precision=precision)  # type: ignore[arg-type]
        experiment, act = replace(experiment, learner=learner), costs.act[ON_GPU].at(count)
    serve: dict[str, Curve] = {}
    latency: dict[str, float] = {}
    for runtime, team in crews.in_turn(partial(crews.server, experiment, workers=workers)):
        work = team.drive(bench.budget.crew)
        # Two groups take turns: either the server is always at work, or a group's own round is the longer way.
        both, served = _period(envs, work), act + half.record
        batch = max(work.serving * count, served)
        if half.step.wait > half.step.core:  # among many that wait it serves few at a time: its core tells
            batch = work.core * count - half.step.core
            batch = served + serve["threads"].at(1) if runtime == "processes" else batch
        serve[runtime] = Curve.of([(1, max(batch - served, 0.0))])
        stepping = step.core * side_by_side(costs, runtime) + step.wait
        idle = both - stepping - batch if batch < SATURATED * both / 2 else 0.0
        latency[runtime] = max(idle, 0.0) if half.step.wait <= half.step.core else 0.0
    return replace(costs, serve=serve, latency=latency)
