"""The machine of a simulation: cores that computations share, GPUs with a queue, and meters of how busy somebody is."""

from __future__ import annotations

import heapq
from collections import deque
from typing import Any, Protocol


class Wanted(Protocol):
    """What a computation asks of the cores, and of what comes after them."""

    core: float  # core-seconds
    width: float  # cores it can keep busy
    wait: float  # seconds without a core, afterwards
    gpu: float  # seconds of a GPU, after that
    drag: float  # how much longer it takes while all cores are busy


class Meter:
    """How many of a role's copies are busy, integrated over time."""

    __slots__ = ("busy", "seconds", "since")

    def __init__(self) -> None:
        self.busy = 0  # copies, now
        self.seconds = 0.0  # copy-seconds until ``since``
        self.since = 0.0

    def add(self, now: float, change: int) -> None:
        """So many more (or, below 0, fewer) are busy from ``now`` on."""
        self.seconds += self.busy * (now - self.since)
        self.since = now
        self.busy += change

    def at(self, now: float) -> float:
        """Copy-seconds until ``now``."""
        return self.seconds + self.busy * (now - self.since)


class AnyOf:
    """Several processes that a meter counts as one: busy while any of them is."""

    __slots__ = ("busy", "meter")

    def __init__(self, meter: Meter) -> None:
        self.meter, self.busy = meter, 0

    def add(self, now: float, change: int) -> None:
        """See ``Meter``."""
        before, self.busy = self.busy, self.busy + change
        if not (before and self.busy):
            self.meter.add(now, change)


WEIGHT = (
    9.3  # shares of a core of one who is first, for one of somebody who gives way: Linux's, ten levels apart
)


class Pace:
    """Computations that are slowed alike: their own virtual time, and the heap of their ends in it."""

    __slots__ = ("drag", "first", "running", "speed", "virtual")

    def __init__(self, drag: float, first: bool) -> None:
        self.drag, self.first = drag, first
        self.speed = 1.0  # 1: as if alone
        self.virtual = 0.0
        self.running: list[tuple[float, int, float, Any, float, float]] = []


def speeds(cores: int, rest: float, first: float) -> tuple[float, float]:
    """Of those who give way and of those who are first, whose computations could keep so many cores busy: over full."""
    if rest + first <= cores:
        return 1.0, 1.0
    fast = min(WEIGHT * cores / (WEIGHT * first + rest), 1.0)
    return ((cores - first * fast) / rest if rest > 0.0 else fast), fast


class Cores:
    """C cores, shared equally: all computations run at one speed, those with a drag of their own slower by that.

    Some are before all others, who give way to them.
    """

    __slots__ = ("_first_demand", "_order", "_paces", "core_seconds", "count", "demand", "drag", "last")

    def __init__(self, count: int, drag: float) -> None:
        """drag: how many times as long everything takes while the demand is ``count`` or more; in between, linear."""
        self.count, self.drag = count, drag
        self.demand = self._first_demand = 0.0
        self.last = self.core_seconds = 0.0
        self._order = 0
        self._paces: dict[tuple[float, bool], Pace] = {}  # by the drag of their works, and who is first

    def advance(self, now: float) -> None:
        """Let time pass."""
        passed = now - self.last
        if passed > 0.0:
            for pace in self._paces.values():
                pace.virtual += passed * pace.speed
            self.core_seconds += passed * min(self.demand, self.count)
            self.last = now

    def _demand(self, change: float, first: bool) -> None:
        demand, before = self.demand + change, self._first_demand + (change if first else 0.0)
        if not any(pace.running for pace in self._paces.values()):
            demand = before = 0.0  # rounding does not add up
        self.demand, self._first_demand = demand, before
        slow, fast = speeds(self.count, demand - before, before)
        full = min(max(demand - 1.0, 0.0) / (self.count - 1.0), 1.0) if self.count > 1 else 0.0
        for pace in self._paces.values():
            pace.speed = (fast if pace.first else slow) / (1.0 + (pace.drag - 1.0) * full)

    def begin(self, now: float, work: Wanted, process: Any, *, first: bool = False) -> None:
        """Start the part of ``work`` that needs cores; ``first``: before all others."""
        self.advance(now)
        pace = self._paces.get((work.drag, first))
        if pace is None:
            pace = self._paces[work.drag, first] = Pace(work.drag * self.drag, first)
        self._order += 1
        end = pace.virtual + work.core / work.width
        heapq.heappush(pace.running, (end, self._order, work.width, process, work.wait, work.gpu))
        self._demand(work.width, first)

    def _first(self) -> tuple[float, Pace | None]:
        """When the next computation ends, and among whom."""
        when, first = float("inf"), None
        for pace in self._paces.values():
            if pace.running:
                ends = self.last + max(pace.running[0][0] - pace.virtual, 0.0) / pace.speed
                if ends < when:
                    when, first = ends, pace
        return when, first

    def next(self) -> float:
        """When the next computation ends, if none begins before; infinity: none runs."""
        return self._first()[0]

    def finish(self, now: float) -> tuple[Any, float, float]:
        """The computation that ends ``now``: its process, and its seconds of waiting and of a GPU still to come."""
        _, pace = self._first()
        assert pace is not None
        self.advance(now)
        end, _, width, process, wait, gpu = heapq.heappop(pace.running)
        pace.virtual = max(pace.virtual, end)  # rounding: no computation ends early
        self._demand(-width, pace.first)
        return process, wait, gpu


class GPUs:
    """GPUs behind one first-come-first-served queue; each serves one request at a time."""

    __slots__ = ("count", "meter", "waiting")

    def __init__(self, count: int) -> None:
        self.count = count
        self.meter = Meter()  # GPUs that are busy
        self.waiting: deque[tuple[Any, float]] = deque()
