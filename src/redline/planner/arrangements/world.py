"""What all arrangements need: one workload on one engine, pieces of work with their stragglers, and what is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import repeat

import numpy as np

from redline.architectures.model import Architecture
from redline.planner.cores import AnyOf, Meter
from redline.planner.costs import Work, Workload
from redline.planner.engine import Compute, Engine, Get, Queue, Sleep, Steps

APART = 4.0  # unrolls within which copies begin: nobody starts at the same moment
BLOCK = 2**16  # single pieces drawn together
MANY = (
    2**12
)  # pieces in a row from which their mean is drawn from a normal distribution (see ``Work.total_of``)


class Tally:
    """Counts of things and their rate.

    The rate is the slope of the line that fits the count best over the time looked at (least squares): each event
    weighs ``6 t (W - t) / W^3`` at time t of W. Whether a long batch ends just inside or just outside hardly matters:
    of k equal cycles the error falls with 1 / k^2, that of counting from end to end with 1 / k.
    """

    __slots__ = ("_first", "_second", "since", "total")

    def __init__(self) -> None:
        self.start(0.0)

    def start(self, now: float) -> None:
        """Forget what was counted before ``now``."""
        self.since = now
        self.total = self._first = self._second = 0.0  # sums of counts times time to the power of 0, 1, 2

    def add(self, now: float, count: float) -> None:
        """So many more."""
        time = now - self.since
        self.total += count
        self._first += count * time
        self._second += count * time * time

    def rate(self, now: float) -> float:
        """A second, since ``start``."""
        window = now - self.since
        return 6.0 * (self._first * window - self._second) / window**3 if window > 0.0 else 0.0


class World:
    """One simulation. Arrangements spawn processes on ``engine`` and count what they do here."""

    def __init__(self, architecture: Architecture, workload: Workload, seed: int) -> None:
        self.architecture, self.load = architecture, workload
        self.engine = Engine(workload.cores, gpus=workload.gpus, drag=workload.drag)
        self.chance = np.random.default_rng(seed)
        self.meters = {role.name: Meter() for role in architecture.roles}
        self.steps, self.updates = Tally(), Tally()  # agent steps, optimiser steps
        self.samples = Tally()  # learned from, drawn from replay
        self.batches = 0  # learned from, all told
        self.unrolls = 0  # made, all told
        self.lags: Counter[int] = Counter()  # batches -> unrolls or gradients, since ``start``
        self._factors: dict[tuple[tuple[float, ...], int], Iterator[float]] = {}

    def start(self) -> None:
        """Measure from now on."""
        for tally in (self.steps, self.updates, self.samples):
            tally.start(self.engine.now)
        self.lags.clear()

    @property
    def turns(self) -> float:
        """How often everything has happened: batches, or unrolls of each copy, whichever are fewer."""
        return min(self.batches, self.unrolls / self.architecture.acting.copies)

    def collected(self, unrolls: int, steps: float) -> None:
        """So many unrolls of ``steps`` agent steps together are there."""
        self.unrolls += unrolls
        self.steps.add(self.engine.now, steps)

    def learned(self, updates: float, samples: float = 0.0) -> None:
        """A batch has been learned from; ``samples`` that were drawn from replay."""
        now = self.engine.now
        self.batches += 1
        self.updates.add(now, updates)
        if samples:
            self.samples.add(now, samples)

    def factors(self, tail: tuple[float, ...], count: int) -> Iterator[float]:
        """How long ``count`` pieces in a row take over their mean, again and again: as ``Work.total_of``, in blocks."""
        if not tail:
            return repeat(1.0)
        if (tail, count) not in self._factors:
            self._factors[tail, count] = self._draw(np.asarray(tail), count)
        return self._factors[tail, count]

    def _draw(self, tail: np.ndarray, count: int) -> Iterator[float]:
        while True:
            if count <= MANY:
                block = self.chance.choice(tail, (BLOCK // count, count)).mean(axis=1)
            else:
                block = np.maximum(self.chance.normal(1.0, tail.std() / count**0.5, 64), tail.min())
            yield from block.tolist()

    def pieces(self, work: Work, count: float = 1.0) -> Iterator[Compute]:
        """The request for ``count`` pieces of ``work`` in a row, again and again, each with luck of its own."""
        core, wait, gpu = work.core * count, work.wait * count, work.gpu * count
        if not work.tail:
            yield from repeat(Compute(core, work.width, wait, gpu, work.drag))
        for factor in self.factors(work.tail, max(round(count), 1)):
            yield Compute(core * factor, work.width, wait * factor, gpu * factor, work.drag)

    def together(self, pieces: list[tuple[Work, int]]) -> Iterator[Compute]:
        """One request for several pieces of work that alternate, each ``count`` times, again and again.

        Cores see the same core-seconds over the same time as if they took turns; what is waited for comes after them.
        """
        luck = [self.factors(work.tail, count) for work, count in pieces]
        cores = sum(work.core * count for work, count in pieces)
        drag = sum(work.core * count * work.drag for work, count in pieces) / cores if cores else 1.0
        while True:
            core = wait = gpu = alone = 0.0
            for (work, count), factors in zip(pieces, luck, strict=True):
                times = count * next(factors)
                core += work.core * times
                alone += work.core / min(work.width, self.load.cores) * times
                wait += work.wait * times
                gpu += work.gpu * times
            yield Compute(core, core / alone if alone else 1.0, wait, gpu, drag)

    def uneven(self, requests: Iterator[Compute], rounds: int = 1) -> Iterator[Compute]:
        """The same requests, each a little longer or shorter than the last; ``rounds``: of them that make an unroll."""
        jitter = self.load.jitter * rounds**0.5
        if not jitter:
            yield from requests
        while True:
            for chance in self.chance.standard_normal(256).tolist():
                work, factor = next(requests), max(1.0 + jitter * chance, 0.5)
                yield Compute(
                    work.core * factor, work.width, work.wait * factor, work.gpu * factor, work.drag
                )

    def late(self) -> Sleep:
        """Before a copy's first unroll: copies that were in step would stay so, and meet each other's worst or best."""
        unroll = (self.load.step.alone + self.load.act.alone) * self.load.unroll
        return Sleep(self.chance.random() * APART * unroll if self.load.jitter else 0.0)


class Collector:
    """One copy's way to an unroll. ``collect`` takes the copy's process through ``rounds`` of stepping and acting.

    ``meter`` counts what the copy does besides, on threads of its own.
    """

    def __init__(self, world: World, rounds: int, meter: AnyOf | None) -> None:
        load = world.load
        self.world, self.rounds, self.meter = world, rounds, meter
        self.groups = load.groups
        # An unroll is one event, unless others queue for the GPU between its rounds, or groups take turns.
        self.whole = not load.step.gpu and not load.act.gpu and load.groups == 1
        if self.whole:
            self._unroll = world.uneven(world.together([(load.step, rounds), (load.act, rounds)]))
        else:
            self._step = world.pieces(load.step.scaled(1.0 / load.groups))
            self._act = world.pieces(load.act.scaled(1.0 / load.groups))
            self._stepped = [Queue() for _ in range(load.groups)]
            for queue in self._stepped:
                queue.items.append(0)

    def collect(self) -> Steps:
        """One unroll."""
        if self.whole:
            yield next(self._unroll)
        elif self.groups == 1:
            for _ in range(self.rounds):
                yield next(self._act)
                yield next(self._step)
        else:
            yield from self._alternate()

    def _alternate(self) -> Steps:
        """While one group steps, on threads of its own, another is acted for."""
        engine = self.world.engine
        for _ in range(self.rounds):
            for queue in self._stepped:
                yield Get(queue)
                yield next(self._act)
                engine.spawn(self._step_group(queue), self.meter)
        for queue in self._stepped:  # the unroll is whole when all have stepped
            yield Get(queue)
            queue.items.append(0)

    def _step_group(self, queue: Queue) -> Steps:
        yield next(self._step)
        queue.put_now(self.world.engine, 0)
