"""Synchronous data parallelism: gradients are averaged over learners, then all clip and step alike.

    g = sum_k n_k g_k / sum_k n_k        then clip by the norm of g, then step
    g = sum_k g_k                        where the loss is a sum over samples, not their mean

The synchronous scheme of DistBelief's successors and of Accel RL (Stooke & Abbeel 2018, section 3). It equals one
learner's step on the union of the batches. Parameters start equal and stay equal, bit for bit, because every learner
adds the same numbers in the same order: nothing is ever broadcast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from redline.ops.moments import Pool
from redline.types import Metrics

Reduce = Callable[
    [Tensor], None
]  # sums f32[N] (or f64[N]) over all learners, in place, with the same bits in each


class AllReduce:
    """Averages over learners, weighted by the samples behind each gradient; gradients of sums are added."""

    needs_loss = False

    def __init__(self, reduce: Reduce, *, summed: bool = False) -> None:
        """summed: whether a loss is the sum over its samples. Metrics are means in any case."""
        self._reduce, self._summed = reduce, summed
        self._payload = torch.zeros(0)

    @property
    def pool(self) -> Pool | None:
        """Sums f64[N] over all learners."""
        return self._pool

    def _pool(self, sums: Tensor) -> Tensor:
        reduced = sums.to("cpu", copy=True)
        self._reduce(reduced)
        return reduced.to(sums.device)

    def pull(self, learner: Any) -> None:
        """Nothing: all weights are equal."""

    def step(self, learner: Any, norm: Tensor, metrics: Metrics) -> Metrics:
        """Average gradients (or add them) and metrics, clip what came out, step. Blocks until all learners are here."""
        names = [
            name for name, value in metrics.items() if not (isinstance(value, Tensor) and value.dim() > 0)
        ]
        size, samples = learner.gradient.numel(), float(max(learner.samples, 1))
        if self._payload.numel() != size + len(names) + 1:
            self._payload = torch.zeros(size + len(names) + 1)  # on the host, where learners meet
        payload = self._payload
        payload[:size].copy_(learner.gradient)
        payload[size:-1] = torch.tensor([float(metrics[name]) for name in names])
        payload[-1] = 1.0
        means = payload[size:] if self._summed else payload
        means.mul_(samples)
        self._reduce(payload)
        means.div_(float(payload[-1]))
        learner.gradient.copy_(payload[:size])
        norm = torch.linalg.vector_norm(learner.gradient)
        learner.clip_and_step(norm)
        averaged: Metrics = dict(zip(names, payload[size:-1].tolist(), strict=True))
        return metrics | averaged | {"gradient_norm": norm}

    def refresh_target(self, learner: Any) -> bool:
        """The learner's own weights are everyone's."""
        return False

    def state(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Nothing."""
