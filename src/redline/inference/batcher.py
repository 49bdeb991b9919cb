"""Who is served together, and when. Knows numbers and the time only.

``Dynamic`` serves whoever is ready; ``LockStep`` serves one whole group after another in a fixed order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

ABSENT, RESTING, ASKING, STEPPING = range(4)  # not started or lost; without a slot; to be served; at work


class Crowd:
    """What each of W workers is doing."""

    def __init__(self, workers: int, done: np.ndarray) -> None:
        """done: i64[W] unrolls that each has handed in."""
        self.doing = np.full(workers, ABSENT)
        self.done = done


class Batcher(Protocol):
    """Chooses batches of workers."""

    def add(self, worker: int, now: float, patience: float | None = None) -> None:
        """A worker asks at ``now`` (seconds), and wants an answer within ``patience`` seconds."""

    def remove(self, worker: int) -> None:
        """A worker asks no longer. Harmless where it did not."""

    def due(self, now: float) -> list[int]:
        """The workers to serve now, in the order of their numbers; empty while it is better to wait."""

    def until(self, now: float) -> float | None:
        """Seconds until ``due`` may answer differently by itself; None: only when somebody asks."""


class Dynamic:
    """Whoever asks, at most ``largest`` together: as soon as so many ask, nobody else can, or one's time is up.

    Those whose time is up first go first, so none starves.
    """

    def __init__(self, crowd: Crowd, largest: int, patience: float) -> None:
        """largest: workers in a batch; 0: no limit.   patience: seconds a request may wait for company."""
        self.crowd = crowd
        self.largest = largest or len(crowd.doing)
        self.patience = patience
        self._deadlines: dict[int, float] = {}  # in order of asking

    def add(self, worker: int, now: float, patience: float | None = None) -> None:
        self._deadlines[worker] = now + (self.patience if patience is None else patience)

    def remove(self, worker: int) -> None:
        self._deadlines.pop(worker, None)

    def due(self, now: float) -> list[int]:
        waiting = self._deadlines
        if not waiting:
            return []
        alone = not np.count_nonzero(self.crowd.doing == STEPPING)
        if len(waiting) < self.largest and not alone and min(waiting.values()) > now:
            return []
        if len(waiting) <= self.largest:
            batch = sorted(waiting)
            waiting.clear()
            return batch
        first = sorted(waiting, key=waiting.__getitem__)[
            : self.largest
        ]  # stable: who asked first, among equals
        for worker in first:
            del waiting[worker]
        return sorted(first)

    def until(self, now: float) -> float | None:
        if not self._deadlines:
            return None
        return max(min(self._deadlines.values()) - now, 0.0)


class LockStep:
    """Groups take turns, and each is served whole: what is served depends on no clock.

    A worker that has handed in more unrolls than the last of all waits for the learner, and is waited for by nobody:
    after a restart the others' unrolls are complete while one is made anew.
    """

    def __init__(self, crowd: Crowd, groups: Sequence[tuple[int, int]]) -> None:
        """groups: first and last (exclusive) worker of each."""
        self.crowd = crowd
        self.groups = list(groups)
        self.turn = 0

    def add(self, worker: int, now: float, patience: float | None = None) -> None:
        pass  # the crowd tells who asks

    def remove(self, worker: int) -> None:
        pass

    def due(self, now: float) -> list[int]:
        for _ in self.groups:
            first, last = self.groups[self.turn]
            doing, done = self.crowd.doing[first:last], self.crowd.done
            asking = doing == ASKING
            finished = (doing == RESTING) & (done[first:last] > done.min())
            if not (asking | finished).all():
                return []
            self.turn = (self.turn + 1) % len(self.groups)
            if asking.any():
                return (first + np.flatnonzero(asking)).tolist()
        return []

    def until(self, now: float) -> float | None:
        return None
