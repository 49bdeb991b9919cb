"""What the planner reckons with: costs of pieces of work, as measured (or published), and nothing of how they were.

Seconds are of the wall clock with nothing else running, unless a name says core-seconds.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Curve:
    """Seconds of one call against its size: piecewise linear through what was measured, the end slopes going on.

    Below the first point it stays level: a call costs something however small it is.
    """

    points: tuple[tuple[float, float], ...]  # (size, seconds), sizes ascending

    def __post_init__(self) -> None:
        sizes = [size for size, _ in self.points]
        if not sizes or sizes != sorted(set(sizes)):
            raise ValueError(f"a curve needs points of ascending size, got {self.points}")

    @classmethod
    def of(cls, points: Iterable[Iterable[float]]) -> Curve:
        """From pairs in any order; a pair is (size, seconds)."""
        return cls(tuple(sorted((float(size), float(seconds)) for size, seconds in points)))

    def at(self, size: float) -> float:
        """Seconds of a call of ``size``."""
        points = self.points
        if len(points) == 1 or size <= points[0][0]:
            return points[0][1]
        right = min(max(bisect.bisect_left([x for x, _ in points], size), 1), len(points) - 1)
        (x0, y0), (x1, y1) = points[right - 1], points[right]
        return max(y0 + (y1 - y0) * (size - x0) / (x1 - x0), 0.0)

    def scaled(self, factor: float) -> Curve:
        """The same taking ``factor`` times as long."""
        return Curve(tuple((size, seconds * factor) for size, seconds in self.points))


@dataclass(frozen=True)
class Work:
    """One piece of work: what cores do, what a GPU does, and what is only waited for, one after another."""

    core: float = 0.0  # core-seconds
    width: float = 1  # cores it can keep busy; with so many it takes core / width seconds
    wait: float = 0.0  # seconds without a core: a simulator elsewhere, a sleep
    gpu: float = 0.0  # seconds of one GPU, queued with all else that wants one
    tail: tuple[float, ...] = ()  # how long single pieces take, over their mean (mean 1); empty: all the same
    drag: float = 1.0  # how much longer it takes while all cores are busy, beside what slows everybody

    @property
    def alone(self) -> float:
        """Seconds with nothing else running."""
        return self.core / self.width + self.wait + self.gpu

    def scaled(self, factor: float) -> Work:
        """``factor`` times as much of everything."""
        return replace(self, core=self.core * factor, wait=self.wait * factor, gpu=self.gpu * factor)

    def slowest(self, of: int) -> Work:
        """The one that is waited for of so many pieces side by side, each with a core of its own."""
        if of == 1 or not self.tail:
            return self
        values, size = np.sort(self.tail), len(self.tail)
        at_most = (np.arange(1, size + 1) / size) ** of  # chance that all are as short as this one
        tail = values[np.searchsorted(at_most, (np.arange(size) + 0.5) / size)]
        mean = float(tail.mean())
        return replace(self.scaled(mean), tail=tuple((tail / mean).tolist()))

    def total_of(self, count: int, chance: np.random.Generator) -> float:
        """How long ``count`` pieces in a row take, over ``count`` times the mean: one draw."""
        if not self.tail:
            return 1.0
        if count <= 64:
            return float(chance.choice(self.tail, count).mean())
        # Many pieces: their mean is nearly normal, and drawing each would cost more than it tells.
        deviation = float(np.std(self.tail)) / count**0.5
        return max(float(chance.normal(1.0, deviation)), min(self.tail))


@dataclass(frozen=True)
class GPU:
    """One kind of accelerator. Rates as measured, else as published."""

    name: str
    count: int = 1
    tflops: float = 0.0  # that a dense network of bf16 or tf32 reaches, at best
    launch: float = 5e-6  # seconds before anything happens
    transfer: float = 20e9  # bytes/s between host and device
    memory: int = 0  # bytes
    measured: bool = False


@dataclass(frozen=True)
class Machine:
    """What a plan may use."""

    name: str
    cores: int
    clock: float = 0.0  # GHz; 0: not known
    memory: int = 0  # bytes
    gpus: GPU | None = None
    network: float = 0.0  # bytes/s to other machines; 0: there are none
    price: float = 0.0  # of an hour, in any currency; 0: not given


@dataclass(frozen=True)
class Workload:
    """One plan's roles in numbers: what each piece of work of the architecture's roles costs, and how often it comes.

    A *copy* is one of the role that steps environments. A *round* of a copy is one time step of all its environments.
    """

    cores: int
    unroll: int  # rounds between messages: an unroll, or a slot on its way to a replay
    environments: int  # of one copy
    step: Work  # one round's stepping
    act: Work  # one round's acting, where copies act for themselves
    learn: Work  # one batch: all updates made of what a turn takes. Of a replay: one update
    updates: float = 1.0  # optimiser steps in it
    hand: Work = field(default_factory=Work)  # by the receiver, for each message
    publish: Work = field(default_factory=Work)  # by the learner, for each batch
    shards: int = (
        1  # a loop's actor threads, side by side; its ``step`` and ``act`` are of one shard's environments
    )
    groups: int = 1  # of environments that take turns: one group steps while another is acted for
    overlap: bool = False  # stepping goes on beside learning, round by round (a loop that learns from replay)
    serve: Curve | None = None  # core-seconds of an inference server's batch against observations in it
    serve_gpu: Curve | None = None  # seconds of the GPU for it
    largest: int = 0  # workers in such a batch; 0: no limit
    samples: int = 0  # of one update drawn from replay
    draw: Work = field(default_factory=Work)  # of one batch, by a replay apart; else it is part of ``learn``
    shelves: int = (
        0  # batches that live at once between a replay apart and its learner; 0: they are one process
    )
    ratio: float | None = None  # samples learned from for each collected, at most; None: as fast as it goes
    paced: bool = False  # whether actors wait for a learner that learns from replay and is a round behind
    gpus: int = 0
    drag: float = (
        1.0  # how much longer everything takes while all cores are busy: shared caches, interpreter, clock
    )
    jitter: float = (
        0.0  # how far unrolls of one copy lie from each other, relative; 0: copies begin in step, too
    )
    stepping: int = 1  # threads on which an actor's environments step by themselves
    polite: bool = True  # whether actors give way to their learner where the architecture has them do so
    chunks: int = 1  # pieces of central parameters, each behind its own lock; shards of a parameter server

    def __post_init__(self) -> None:
        for name in ("cores", "unroll", "environments", "shards", "groups", "chunks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.drag < 1.0:
            raise ValueError(f"drag must be 1 or more, got {self.drag}")
        for name in ("step", "act", "learn", "hand", "publish", "draw"):
            work: Work = getattr(self, name)
            if not math.isfinite(work.alone) or not math.isfinite(work.drag):
                raise ValueError(f"{name} must take a finite time, got {work}")
        if self.step.alone + self.act.alone + self.learn.alone <= 0.0:
            raise ValueError(
                "stepping, acting and learning take no time at all: there is nothing to simulate"
            )


@dataclass(frozen=True)
class Prediction:
    """What a plan will do."""

    steps_per_second: float  # agent steps
    updates_per_second: float
    utilisation: dict[
        str, float
    ]  # of each role, averaged over its copies: share of the time it is not waiting
    cores_busy: float
    gpu_busy: float = 0.0
    lag: dict[str, float] = field(default_factory=dict)  # batches: mean, p95, max; empty where there is none
    replay_ratio: float | None = None  # samples learned from / samples collected
    error: float = 0.0  # relative, of steps_per_second: how sure this is (0.1: within 10%)

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return dict(vars(self))
