"""Roles side by side, timed: what actors reach when nobody learns, and how much they and a learner hold each other up.

These are the real roles on the real channels, with a main role that hands every slot straight back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
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
from redline.types import RunError

WARM = 0.3  # seconds that are not counted, from the first slot of every role on


@dataclass(frozen=True)
class Company:
    """What roles reached together."""

    steps_per_second: float
    learned: float = 0.0  # seconds of one batch, by the learner beside them: the median
    uneven: tuple[float, ...] = ()  # how long its batches took, over their mean
    core: float = 0.0  # core-seconds of this process for each agent step
    start: float = 0.0  # seconds until everybody was at work
    serving: float = 0.0  # seconds of an inference server at its batches, for each agent step


class Team:
    """Actors, or an inference server with its workers, who rest until they are driven."""

    def __init__(self, parts: Parts, muster: Callable[[Parts, int], Muster], slots: int) -> None:
        """slots: of each actor or worker."""
        self._parts, self._begun = parts, time.perf_counter()
        self._start = 0.0  # seconds until everybody was at work, an unroll of each included
        try:
            self.muster = muster(parts, slots)
        except BaseException:
            parts.close()
            raise
        self._resting = [(role, slot) for role in range(len(self.muster.slots)) for slot in range(slots)]

    def ready(self) -> None:
        """Wait until everybody has made one unroll."""
        if self._start:
            return
        roles, came = len(self.muster.slots), 0
        for role in range(roles):
            self.muster.crew.tell(role, 0)
        while came < roles:
            came += len(_arrivals(self.muster, 0.1))
        self._start = time.perf_counter() - self._begun

    def drive(self, seconds: float, learn: Callable[[], Any] | None = None) -> Company:
        """Hand slots straight back, and learn in between, as a learner does that takes in and learns by turns."""
        self.ready()
        for role, slot in self._resting:
            self.muster.crew.tell(role, slot)
        self._resting.clear()
        return _drive(self.muster, seconds, learn, self._start)

    def close(self) -> None:
        """End everybody."""
        try:
            self.muster.close()
        finally:
            self._parts.close()


def actors(experiment: Experiment, runtime: str, copies: int, *, slots: int = 2) -> Team:
    """``copies`` actors in ``runtime``, with so many slots each.

    Their channels are IMPALA's, or with a replay Ape-X's, whatever the algorithm would say to learning that way.
    """
    name = "apex" if uses_replay(experiment) else "impala"
    parallel = ParallelConfig(architecture=name, runtime=runtime, copies=copies, queue=0)  # type: ignore[arg-type]
    parts = assemble(replace(experiment, parallel=parallel))
    if parts.experiment.parallel.slot == 1:  # lock-step sends single steps; at their own pace actors do not
        parts.experiment = replace(parts.experiment, parallel=replace(parts.experiment.parallel, slot=16))
    return Team(parts, muster_actors, slots)


def server(experiment: Experiment, runtime: str, workers: int) -> Team:
    """An inference server with ``workers`` workers in two groups."""
    parallel = ParallelConfig(architecture="seed", runtime=runtime, copies=workers, queue=0)  # type: ignore[arg-type]
    return Team(assemble(replace(experiment, parallel=parallel)), muster_server, 1)


def in_turn(make: Callable[[str], Team]) -> Iterator[tuple[str, Team]]:
    """A team in threads, then one in processes. Each is alone when it is driven, but they start side by side."""
    with ExitStack() as stack:
        teams = {runtime: stack.enter_context(closing(make(runtime))) for runtime in ("processes", "threads")}
        for team in teams.values():
            team.ready()
        for runtime in ("threads", "processes"):
            yield runtime, teams[runtime]
            teams[runtime].close()


def _drive(muster: Muster, seconds: float, learn: Callable[[], Any] | None, there: float) -> Company:
    """there: seconds that everybody took to be at work."""
    taken = 0

    def take_in(patience: float) -> None:
        nonlocal taken
        for role, slot in _arrivals(muster, patience):
            muster.crew.tell(role, slot)
            taken += int(np.prod(muster.slots[role].unrolls[slot].reward.shape))

    spent: list[float] = []
    begin, first, before, core = time.perf_counter(), 0.0, 0, 0.0
    server = _served(muster)
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
    acting, served = (now - then for now, then in zip(_served(muster), server, strict=True))
    serving = acting / served if served else 0.0
    return Company(rate, learned, tail_of(spent), core, max(there - made, 0.0), serving)


def _arrivals(muster: Muster, patience: float) -> list[tuple[int, int]]:
    """Slots that came in. Raises: RunError when a role died, for what the others reach is not what all would."""
    arrived = muster.crew.wait(patience)
    if lost := muster.crew.revived():
        raise RunError(f"role {lost[0]} died or hung while roles were measured side by side: measure again")
    return arrived


def _served(muster: Muster) -> tuple[float, int]:
    """Seconds of an inference server at its batches so far, and agent steps in them, as of one moment."""
    return muster.busy().get("inference", 0.0), int(muster.board.taken[0])


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
