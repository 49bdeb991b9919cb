"""Accel RL's asynchronous way: central weights and statistics in chunks, each behind a lock of its own.

A learner clips its own gradient, then visits the chunks in whatever order their locks are free: it steps the chunk by
its gradient and keeps the fresh values as its own. So every push is also a pull, no update is lost, and two learners
work on different chunks at once. Moments are central; Adam's count of steps is each learner's own (Stooke & Abbeel,
arXiv 1803.02811, asynchronous multi-GPU optimisation).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from redline.learners.config import LearnerConfig
from redline.learners.exchange import clip
from redline.learners.exchanges.central import Central, SharedTarget
from redline.learners.optimizers import set_rate, set_steps, shared_optimizer
from redline.ops.moments import Pool
from redline.types import Metrics


class Lock(Protocol):
    """What guards a chunk: ``threading.Lock``, or one between processes that is freed when its holder dies."""

    def acquire(self, blocking: bool = True) -> bool:
        """Take it; False where it is taken and ``blocking`` is False."""

    def release(self) -> None:
        """Give it back."""


def cut(size: int, parts: int) -> list[slice]:
    """``size`` coordinates in ``parts`` contiguous pieces as equal as can be, empty ones left out."""
    edges = [size * k // parts for k in range(parts + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(edges) if b > a]


class ChunkLocked:
    """One learner's end."""

    needs_loss = False
    pool: Pool | None = None

    def __init__(self, central: Central, writer: int, config: LearnerConfig, locks: Sequence[Lock]) -> None:
        """writer: its row of the counts.   locks: one a chunk."""
        self.central, self.writer, self.config = central, writer, config
        self.gradient = torch.zeros_like(central.weights)  # f32[P] on the host
        self.chunks = cut(central.weights.numel(), len(locks))
        self.locks = list(locks)[: len(self.chunks)]
        self.optimizers = [
            shared_optimizer(
                config,
                central.weights[chunk],
                self.gradient[chunk],
                {name: tensor[chunk] for name, tensor in central.statistics.items()},
            )
            for chunk in self.chunks
        ]
        self.order: list[int] = []  # chunks of the newest push, as they were visited
        self.target = SharedTarget(central)
        self._fresh = torch.zeros_like(central.weights)
        self._pulled = -1

    def _others(self) -> int:
        return int(self.central.updates.sum() - self.central.updates[self.writer])

    def _visit(self, work: Any) -> None:
        """Call ``work(k)`` for every chunk while holding its lock, those first whose lock is free."""
        count = len(self.chunks)
        waiting = [(self.writer + k) % count for k in range(count)]  # learners start at different chunks
        self.order = []
        while waiting:
            number = next((k for k in waiting if self.locks[k].acquire(blocking=False)), None)
            if number is None:
                number = waiting[0]
                self.locks[number].acquire()
            try:
                work(number)
            finally:
                self.locks[number].release()
            waiting.remove(number)
            self.order.append(number)

    def _read(self, number: int) -> None:
        chunk = self.chunks[number]
        self._fresh[chunk].copy_(self.central.weights[chunk])

    def _step(self, number: int) -> None:
        self.optimizers[number].step()
        self._read(number)

    def pull(self, learner: Any) -> None:
        """Nothing but for the first time: every push is also a pull."""
        self.target.follow(learner)
        if self._pulled < 0:
            self._pulled = self._others()
            self._visit(self._read)
            learner.adopt(self._fresh)

    @torch.no_grad()
    def step(self, learner: Any, norm: Tensor, metrics: Metrics) -> Metrics:
        """Clip the gradient by its own norm, push it chunk by chunk, keep what comes out."""
        clip(learner.gradient, norm, self.config.max_grad_norm)
        self.gradient.copy_(learner.gradient)
        for optimizer in self.optimizers:
            set_rate(optimizer, learner.learning_rate)
            # Adam's t: a learner that comes after another, or after a checkpoint, finds its moments full.
            set_steps(optimizer, int(self.central.updates[self.writer]))
        lag, self._pulled = (
            self._others() - self._pulled,
            self._others(),
        )  # chunks differ: from the first one read
        self._visit(self._step)
        self.central.record(self.writer, lag)
        learner.adopt(self._fresh)
        return metrics | {"gradient_norm": norm, "staleness": float(lag)}

    def refresh_target(self, learner: Any) -> bool:
        """The target network is kept beside the central weights."""
        self.target.refresh(learner)
        return True

    def state(self) -> dict[str, Any]:
        """Nothing: what counts is shared."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Nothing."""
