"""Which unrolls make the next batch, within the bound on lag: ``runtime/actor_learner.Pacer``'s rules on counts alone.

Unrolls that were begun after the same batch are alike, so what is on its way is kept by that number, of which no more
are about than the bound allows: a decision costs so much, not the number of actors.
"""

from __future__ import annotations

from collections import deque
from typing import Any


class _Age:
    """Unrolls begun when so many batches had been learned from, and published."""

    __slots__ = ("arrived", "total")

    def __init__(self) -> None:
        self.total = 0  # on their way, or arrived
        self.arrived: deque[Any] = deque()


class Pacer:
    """Chooses unrolls oldest first; None while the learner must wait for one that would otherwise come too late."""

    def __init__(self, bound: int, take: int) -> None:
        """bound: batches.   take: unrolls in a batch."""
        self.bound, self.take = bound, take
        self.batches = 0  # learned from so far
        self._ages: dict[int, _Age] = {}  # by batches when begun, ascending
        self._waiting = 0  # handed out and not begun: they will have the newest weights
        self._arrived = 0
        self._blocking: int | None = None  # unrolls of that age or older are waited for

    def hand_out(self) -> None:
        """A free slot goes out."""
        self._waiting += 1

    def begin(self, published: int) -> int:
        """A slot that went out is begun with the weights of so many batches: its age, to be told when it is whole."""
        self._waiting -= 1
        self._ages.setdefault(published, _Age()).total += 1
        return published

    def arrive(self, since: int, unroll: Any) -> None:
        """An unroll of that age is whole."""
        self._ages[since].arrived.append(unroll)
        self._arrived += 1
        if self._blocking is not None and since <= self._blocking:
            self._blocking = None

    def ready(self) -> list[tuple[int, Any]] | None:
        """The next batch as (age, unroll). They count as on their way until ``gone``."""
        if self._arrived < self.take or self._blocking is not None:
            return None
        wanted, left = self.take, 0
        for since, age in self._ages.items():
            taken = min(wanted, len(age.arrived))
            wanted -= taken
            left += age.total - taken
            # The last of that age is learned from in the batch after ``(left - 1) // take`` others.
            if left and age.total > taken and since + self.bound < self.batches + 1 + (left - 1) // self.take:
                self._blocking = since
                return None
        if self.bound < 1 + (left + self._waiting - 1) // self.take and self._waiting:
            return None
        batch: list[tuple[int, Any]] = []
        for since, age in self._ages.items():
            while age.arrived and len(batch) < self.take:
                batch.append((since, age.arrived.popleft()))
            if len(batch) == self.take:
                break
        self._arrived -= self.take
        return batch

    def gone(self, batch: list[tuple[int, Any]]) -> None:
        """The slots of a batch are free."""
        for since, _ in batch:
            age = self._ages[since]
            age.total -= 1
            if not age.total:
                del self._ages[since]

    def learned(self) -> None:
        """A batch has been learned from."""
        self.batches += 1
        self._blocking = None
