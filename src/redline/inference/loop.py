"""The inference server's loop: hears workers and the learner, chooses whom to serve, serves them, rings them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from redline.environments.workers.link import START_TIMEOUT
from redline.inference.batcher import ABSENT, ASKING, RESTING, STEPPING, Batcher, Crowd
from redline.inference.server import Server
from redline.inference.worker import CALLS, CUT, FRESH, LOST


@dataclass(frozen=True)
class Heard:
    """What came since the last look."""

    calls: Sequence[int] = ()  # numbers of workers
    slots: Sequence[tuple[int, int]] = ()  # (worker, slot) that the learner hands out
    lost: Sequence[int] = ()  # workers that died; they call again when they are back


class Channel(Protocol):
    """The server's ends of its channels to the workers and to the learner."""

    def wait(self, timeout: float | None) -> Heard:
        """What came; nothing after ``timeout`` seconds. Raises Interruption when the run ends."""

    def ring(self, workers: Sequence[int]) -> None:
        """Their orders are written: let them step."""

    def hand_in(self, worker: int, slot: int) -> None:
        """A complete unroll, for the learner."""

    def hung(self, worker: int, seconds: float) -> None:
        """A worker has not called for so long: end it."""


class InferenceLoop:
    """One server at work."""

    def __init__(
        self, server: Server, batcher: Batcher, crowd: Crowd, channel: Channel, step_timeout: float
    ) -> None:
        """step_timeout: seconds after which a worker that steps counts as hung."""
        self.server, self.batcher, self.crowd, self.channel = server, batcher, crowd, channel
        self.step_timeout = step_timeout
        workers = len(crowd.doing)
        self.discarded = 0  # unrolls that were part done when their worker was lost
        self.free: list[deque[int]] = [deque() for _ in range(workers)]  # slots of each worker
        self._cut: set[int] = set()
        self._since = np.full(workers, np.inf)  # when each was rung, or shall have made its environments anew
        self._look = time.monotonic() + step_timeout / 4

    def turn(self) -> None:
        """Hear once, and serve all that is due."""
        now = time.monotonic()
        heard = self.channel.wait(self.batcher.until(now))
        now = time.monotonic()
        for worker in heard.lost:  # first: its successor's call may have come with the news
            self._miss(worker, np.inf)
        for call in heard.calls:
            self._hear(call // CALLS, call % CALLS, now)
        for worker, slot in heard.slots:
            self.free[worker].append(slot)
            if self.crowd.doing[worker] == RESTING:
                self._start(worker, now)
        while batch := self.batcher.due(now):
            self._serve(batch)
            now = time.monotonic()
        if now > self._look:
            self._find_hung(now)

    def _hear(self, worker: int, what: int, now: float) -> None:
        if what == FRESH:
            self.batcher.remove(worker)
            self._cut.discard(worker)
            self.discarded += self.server.forget(worker)
            if self.server.slot[worker] >= 0:  # the slot is still there: its unroll begins again
                self.free[worker].appendleft(int(self.server.slot[worker]))
                self.server.slot[worker] = -1
            self._start(worker, now)
            return
        if what == LOST:
            self._miss(worker, now + START_TIMEOUT)
            return
        if self.crowd.doing[worker] != STEPPING:
            return  # called with its last breath
        self.server.time[worker] += 1
        if what == CUT:
            self._cut.add(worker)
        self._ask(worker, now)

    def _miss(self, worker: int, since: float) -> None:
        """A worker is gone until it calls again, which it should by ``since``."""
        self.crowd.doing[worker], self._since[worker] = ABSENT, since
        self.batcher.remove(worker)

    def _start(self, worker: int, now: float) -> None:
        """The next unroll of a worker that has none, where there is a slot for it."""
        self.crowd.doing[worker] = RESTING
        if self.free[worker]:
            self.server.begin(worker, self.free[worker].popleft())
            self._ask(worker, now)

    def _ask(self, worker: int, now: float) -> None:
        self.crowd.doing[worker] = ASKING
        self.batcher.add(worker, now)

    def _serve(self, batch: list[int]) -> None:
        cut = sorted(self._cut.intersection(batch)) if self._cut else []
        self._cut.difference_update(cut)
        rung, ended = self.server.serve(batch, cut)
        now = time.monotonic()
        self.crowd.doing[rung] = STEPPING
        self._since[rung] = now
        self.channel.ring(rung)
        for worker in ended:
            slot = int(self.server.slot[worker])
            self.server.slot[worker] = -1
            self.channel.hand_in(worker, slot)
            self._start(worker, now)

    def _find_hung(self, now: float) -> None:
        self._look = now + self.step_timeout / 4
        at_work = (self.crowd.doing == STEPPING) | (self.crowd.doing == ABSENT)
        for worker in np.flatnonzero(at_work & (now - self._since > self.step_timeout)).tolist():
            self.channel.hung(worker, now - self._since[worker])
