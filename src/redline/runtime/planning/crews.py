"""Roles side by side, timed: what actors reach when nobody learns, and how much they and a learner hold each other up.

These are the real roles on the real channels, with a main role that hands every slot straight back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from redline.architectures.config import ParallelConfig
from redline.runtime.crew.crews import Muster, muster_actors
from redline.runtime.crew.slots import Gatherer
from redline.runtime.crew.weights import Publication, WeightStore
from redline.runtime.experiment import Experiment, uses_replay
from redline.runtime.parts import Parts, assemble
from redline.runtime.serving.muster import muster_server

WARM = 0.4  # seconds that are not counted, from the first slot of every role on


@dataclass(frozen=True)
class Company:
    """What roles reached together."""

    steps_per_second: float
    learned: float = 0.0  # seconds of one batch, by the learner beside them


def actors_at_work(
    experiment: Experiment,
    runtime: str,
    copies: int,
    seconds: float,
    learn: Callable[[], Any] | None = None,
) -> Company:
    """Agent steps/s of ``copies`` actors in ``runtime``; with ``learn``, called over and over on a thread beside them.

    Their channels are IMPALA's, or with a replay Ape-X's, whatever the algorithm would say to learning that way.
    """
    name = "apex" if uses_replay(experiment) else "impala"
    parallel = ParallelConfig(architecture=name, runtime=runtime, copies=copies, queue=0)  # type: ignore[arg-type]
    parts = assemble(replace(experiment, parallel=parallel))
    if parts.experiment.parallel.slot == 1:  # lock-step sends single steps; at their own pace actors do not
        parts.experiment = replace(parts.experiment, parallel=replace(parts.experiment.parallel, slot=16))
    try:
        muster = muster_actors(parts, 2)
        try:
            return _drive(muster, 2, seconds, learn)
        finally:
            muster.close()
    finally:
        parts.close()


def server_at_work(experiment: Experiment, runtime: str, workers: int, seconds: float) -> Company:
    """Agent steps/s of an inference server with ``workers`` workers in two groups, when nobody learns."""
    parallel = ParallelConfig(architecture="seed", runtime=runtime, copies=workers, queue=0)  # type: ignore[arg-type]
    parts = assemble(replace(experiment, parallel=parallel))
    try:
        muster = muster_server(parts, 1)
        try:
            return _drive(muster, 1, seconds, None)
        finally:
            muster.close()
    finally:
        parts.close()


def _drive(muster: Muster, slots: int, seconds: float, learn: Callable[[], Any] | None) -> Company:
    roles = range(len(muster.slots))
    handed = [(role, slot) for role in roles for slot in range(slots)]
    for key in handed:
        muster.crew.tell(*key)
    seen: set[int] = set()
    while len(seen) < len(roles):  # everybody is there
        for role, slot in muster.crew.wait(0.1):
            seen.add(role)
            muster.crew.tell(role, slot)
    learner = _Beside(learn) if learn is not None else None
    begin = time.perf_counter()
    first: tuple[float, int] | None = None
    taken = 0
    try:
        while True:
            for role, slot in muster.crew.wait(0.05):
                muster.crew.tell(role, slot)
                taken += int(np.prod(muster.slots[role].unrolls[slot].reward.shape))
            now = time.perf_counter()
            if first is None and now - begin > WARM and (learner is None or learner.spent):
                first = now, taken
            if first is not None and now - first[0] > seconds and (learner is None or len(learner.spent) > 2):
                break
    finally:
        learned = learner.stop() if learner is not None else 0.0
    return Company((taken - first[1]) / (now - first[0]), learned)


class _Beside:
    """A learner on a thread of its own."""

    def __init__(self, learn: Callable[[], Any]) -> None:
        self.spent: list[float] = []
        self._learn, self._stopping = learn, False
        self._thread = threading.Thread(target=self._run, name="redline-probe-learner", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping:
            begin = time.perf_counter()
            self._learn()
            self.spent.append(time.perf_counter() - begin)

    def stop(self) -> float:
        """Median seconds of a batch, the first left out."""
        self._stopping = True
        self._thread.join()
        return float(np.median(self.spent[1:] or self.spent))


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
