"""Roles side by side, timed: what actors reach when nobody learns, and how much they and a learner hold each other up.

These are the real roles on the real channels, with a main role that hands every slot straight back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from redline.architectures.config import ParallelConfig
from redline.runtime.crew.crews import Muster, muster_actors
from redline.runtime.crew.slots import Gatherer
from redline.runtime.crew.weights import Publication, WeightStore
from redline.runtime.experiment import Experiment, uses_replay
from redline.runtime.parts import Parts, assemble
from redline.runtime.planning.pieces import tail_of
from redline.runtime.serving.muster import muster_server

AHEAD = 8  # slots of an actor beside a learner, so that it need not wait while a batch is learned
WARM = 0.4  # seconds that are not counted, from the first slot of every role on


@dataclass(frozen=True)
class Company:
    """What roles reached together."""

    steps_per_second: float
    learned: float = 0.0  # seconds of one batch, by the learner beside them: the median
    uneven: tuple[float, ...] = ()  # how long its batches took, over their mean
    core: float = 0.0  # core-seconds of this process for each agent step
    start: float = 0.0  # seconds until everybody was at work
    serving: float = 0.0  # seconds of an inference server at its batches, for each agent step


def actors_at_work(
    experiment: Experiment,
    runtime: str,
    copies: int,
    seconds: float,
    learn: Callable[[], Any] | None = None,
) -> Company:
    """``copies`` actors in ``runtime``; with ``learn``, that is called over and over beside them."""
    return phases_of_actors(experiment, runtime, copies, seconds, [learn])[0]


def phases_of_actors(
    experiment: Experiment,
    runtime: str,
    copies: int,
    seconds: float,
    phases: Sequence[Callable[[], Any] | None],
) -> list[Company]:
    """The same actors one phase after the other: alone (None), or beside what is called over and over.

    Their channels are IMPALA's, or with a replay Ape-X's, whatever the algorithm would say to learning that way.
    """
    name = "apex" if uses_replay(experiment) else "impala"
    parallel = ParallelConfig(architecture=name, runtime=runtime, copies=copies, queue=0)  # type: ignore[arg-type]
    parts = assemble(replace(experiment, parallel=parallel))
    if parts.experiment.parallel.slot == 1:  # lock-step sends single steps; at their own pace actors do not
        parts.experiment = replace(parts.experiment, parallel=replace(parts.experiment.parallel, slot=16))
    try:
        slots = AHEAD if any(phases) else 2
        begin = time.perf_counter()
        muster = muster_actors(parts, slots)
        try:
            there = _start(muster, slots, begin)
            return [_drive(muster, seconds, learn, there) for learn in phases]
        finally:
            muster.close()
    finally:
        parts.close()


def server_at_work(experiment: Experiment, runtime: str, workers: int, seconds: float) -> Company:
    """Agent steps/s of an inference server with ``workers`` workers in two groups, when nobody learns."""
    parallel = ParallelConfig(architecture="seed", runtime=runtime, copies=workers, queue=0)  # type: ignore[arg-type]
    parts = assemble(replace(experiment, parallel=parallel))
    try:
        begin = time.perf_counter()
        muster = muster_server(parts, 1)
        try:
            there = _start(muster, 1, begin)
            before, taken = muster.busy()["inference"], int(muster.board.taken[0])
            work = _drive(muster, seconds, None, there)
            served = int(muster.board.taken[0]) - taken  # as of the moment that ``busy`` is of
            return replace(work, serving=(muster.busy()["inference"] - before) / max(served, 1))
        finally:
            muster.close()
    finally:
        parts.close()


def _start(muster: Muster, slots: int, begun: float) -> float:
    """Hand out all slots and wait until everybody is at work; seconds since ``begun``."""
    roles = range(len(muster.slots))
    for role in roles:
        for slot in range(slots):
            muster.crew.tell(role, slot)
    seen: set[int] = set()
    while len(seen) < len(roles):
        for role, slot in muster.crew.wait(0.1):
            muster.crew.tell(role, slot)
            seen.add(role)
    return time.perf_counter() - begun


def _drive(muster: Muster, seconds: float, learn: Callable[[], Any] | None, there: float) -> Company:
    """Hand slots straight back, and learn in between, as a learner does that takes in and learns by turns.

    there: seconds that everybody took to be at work.
    """
    taken = 0

    def take_in(patience: float) -> None:
        nonlocal taken
        for role, slot in muster.crew.wait(patience):
            muster.crew.tell(role, slot)
            taken += int(np.prod(muster.slots[role].unrolls[slot].reward.shape))

    spent: list[float] = []
    begin, first, before, core = time.perf_counter(), 0.0, 0, 0.0
    while True:
        take_in(0.05 if learn is None else 0.0)
        if learn is not None:
            then = time.perf_counter()
            learn()
            spent.append(time.perf_counter() - then)
        now = time.perf_counter()
        if not first and now - begin > WARM:
            first, before, core = now, taken, time.process_time()
            spent.clear()
        enough = learn is None or len(spent) > 1 or (spent and now - first > 2 * seconds)
        if first and now - first > seconds and enough and taken > before:
            break
    steps = taken - before
    learned = float(np.median(spent)) if spent else 0.0
    rate, core = steps / (now - first), (time.process_time() - core) / steps
    shapes = [each.unrolls[0].reward.shape for each in muster.slots]
    made = sum(int(np.prod(shape)) for shape in shapes) / rate  # seconds of everybody's first slot
    return Company(rate, learned, tail_of(spent), core, max(there - made, 0.0))


def publication(parts: Parts, repeats: int = 20) -> float:
    """Seconds of one publication of the learner's weights."""
    source = Publication(parts.learner)
    store = WeightStore(source.sizes, shared=False)
    try:
        return _median(lambda: store.publish(source.views(), 0), repeats)
    finally:
        store.close()


def joining(parts: Parts, unrolls: list[Any], repeats: int = 10) -> float:
    """Core-seconds per message of joining ``unrolls`` into one batch."""
    gatherer = Gatherer(parts.algorithm, parts.learner.acting, parts.spec, len(unrolls[0].action))
    return _median(lambda: gatherer.join(unrolls), repeats) / len(unrolls)


def _median(call: Callable[[], Any], repeats: int) -> float:
    spent: list[float] = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        spent.append(time.perf_counter() - begin)
    return float(np.median(spent[1:]))
