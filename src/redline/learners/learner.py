"""The learner: gradients of a loss, averaged over shards, clipped, stepped. One flat buffer of weights comes out.

On a CPU the shards of a minibatch are computed by threads side by side (torch releases the GIL): two single-threaded
workers beat one with two threads. The result is that of one step on the union of the shards, always summed in the
same order, so a run is deterministic whatever the threads' timing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from redline.learners.config import LearnerConfig
from redline.learners.flat import Snapshot, flatten_parameters, replica, view_like
from redline.learners.rewards import RewardTransform
from redline.types import Loss, Metrics

Parallel = Callable[[Sequence[Callable[[], Any]]], list[Any]]  # runs tasks side by side, returns their results


def serial(tasks: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run tasks one after the other: the reference for every other way of running them."""
    return [task() for task in tasks]


class Learner:
    """Owns the weights and the optimiser. ``version`` counts updates and stamps whatever is published."""

    def __init__(
        self, network: nn.Module, config: LearnerConfig, *, seed: int, num_envs: int, gamma: float, parallel: Parallel = serial
    ) -> None:
        self.config = config
        self.device = torch.device(config.device)
        self.network = network.to(self.device)
        self.flat = flatten_parameters(self.network)  # f32[P]
        self.gradient = torch.zeros_like(self.flat)  # f32[P]
        self.shards = max(config.threads, 1) if self.device.type == "cpu" else 1
        self.generator = torch.Generator().manual_seed(seed)  # for shuffling: on the host, the same on every device
        self.rewards = RewardTransform(config.reward, num_envs, gamma)
        self.version = 0
        self.learning_rate = config.learning_rate
        self._parallel = parallel
        self._networks = [self.network, *(replica(self.network, self.flat) for _ in range(self.shards - 1))]
        self._partial = [self.gradient, *(torch.zeros_like(self.flat) for _ in range(self.shards - 1))]
        self._views = [self._gradient_views(buffer) for buffer in self._partial]
        self._pieces = [slice(*bounds) for bounds in _bounds(self.flat.numel(), self.shards)]
        self._optimizers = [self._make_optimizer(piece) for piece in self._pieces]
        self._target: Snapshot | None = None
        self.target: nn.Module | None = None

    def _gradient_views(self, buffer: Tensor) -> list[Tensor]:
        views, start = [], 0
        for parameter in self.network.parameters():
            views.append(view_like(buffer[start : start + parameter.numel()], parameter))
            start += parameter.numel()
        return views

    def _make_optimizer(self, piece: slice) -> torch.optim.Optimizer:
        weights = nn.Parameter(self.flat[piece])
        weights.grad = self.gradient[piece]
        if self.config.optimizer == "adam":
            capturable = self.device.type == "cuda"
            return torch.optim.Adam([weights], lr=self.learning_rate, eps=self.config.epsilon, fused=True, capturable=capturable)
        return torch.optim.RMSprop([weights], lr=self.learning_rate, alpha=self.config.decay, eps=self.config.epsilon)

    def set_progress(self, fraction: float) -> None:
        """Tell the learner what share of the run is done, for the learning-rate schedule."""
        scale = max(1.0 - fraction, 0.0) if self.config.anneal else 1.0
        self.learning_rate = self.config.learning_rate * scale
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context in which the network computes in the configured precision."""
        if self.config.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    @property
    def compute_dtype(self) -> torch.dtype:
        """What inference copies of the network compute in."""
        return torch.bfloat16 if self.config.precision == "bf16" else torch.float32

    def make_target(self) -> None:
        """Keep a target network: ``target``, changed only by ``copy_target``."""
        self._target = Snapshot(self.network, self.flat, self.compute_dtype, share=False)
        self.target = self._target.network

    def copy_target(self) -> None:
        """Make the target network's parameters equal the online ones, bit for bit (after rounding to its precision)."""
        assert self._target is not None, "make_target comes first"
        self._target.load()

    def split(self, index: Tensor) -> list[Tensor]:
        """Cut sample indices i64[N] into one piece per shard (none empty)."""
        return list(index.tensor_split(min(self.shards, len(index))))

    def step(self, loss: Loss, parts: Sequence[Any], weights: Sequence[float] | None = None) -> Metrics:
        """One optimiser step on the weighted mean of ``loss`` over ``parts`` (at most one part per shard).

        Args:
          loss: called as ``loss(network, part)``; returns a scalar (a mean over its part) and metrics.
          parts: what to hand to ``loss``; computed side by side.
          weights: share of each part, summing to 1 (default: equal), so uneven parts equal their union.
        Returns: metrics averaged over parts, ``gradient_norm`` (before clipping); tensors stay on the device.
        """
        weights = weights or [1.0 / len(parts)] * len(parts)
        tasks = [partial(self._differentiate, k, loss, part, weights[k]) for k, part in enumerate(parts)]
        metrics = self._parallel(tasks)
        norm = self._apply(len(parts))
        self.version += 1
        merged: Metrics = {
            name: sum(share * m[name] for share, m in zip(weights, metrics, strict=True)) for name in metrics[0]
        }
        return merged | {"gradient_norm": norm}

    def _differentiate(self, shard: int, loss: Loss, part: Any, weight: float) -> Metrics:
        network = self._networks[shard]
        with self.autocast():
            total, metrics = loss(network, part)
        gradients = torch.autograd.grad(total * weight if weight != 1.0 else total, list(network.parameters()))
        torch._foreach_copy_(self._views[shard], list(gradients))
        return metrics

    def _apply(self, used: int) -> Tensor:
        if self.shards == 1:
            norm = torch.linalg.vector_norm(self.gradient)
            self._clip_and_step(0, norm)
            return norm
        squares = self._parallel([partial(self._reduce, piece, used) for piece in self._pieces])
        norm = torch.stack(squares).sum().sqrt()
        self._parallel([partial(self._clip_and_step, k, norm) for k in range(self.shards)])
        return norm

    def _reduce(self, piece: slice, used: int) -> Tensor:
        total = self.gradient[piece]
        for other in self._partial[1:used]:
            total += other[piece]
        return total.dot(total)

    def _clip_and_step(self, shard: int, norm: Tensor) -> None:
        limit = self.config.max_grad_norm
        if limit is not None:
            self.gradient[self._pieces[shard]].mul_((limit / (norm + 1e-6)).clamp(max=1.0))
        self._optimizers[shard].step()

    def state(self) -> dict[str, Any]:
        """Everything that training needs to go on bit for bit."""
        return {
            "weights": self.flat,
            "buffers": dict(self.network.named_buffers()),
            "optimizers": [_optimizer_state(optimizer) for optimizer in self._optimizers],
            "generator": self.generator.get_state(),
            "rewards": self.rewards.state(),
            "version": self.version,
            "target": None if self._target is None else self._target.own,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to a state that ``state`` gave (on any device; shard counts may differ, sums may then round apart)."""
        self.flat.copy_(state["weights"])
        for name, buffer in self.network.named_buffers():
            buffer.copy_(state["buffers"][name])
        _load_optimizers(self._optimizers, state["optimizers"])
        self.generator.set_state(state["generator"].cpu())
        self.rewards.load_state(state["rewards"])
        self.version = int(state["version"])
        if self._target is not None:
            self._target.own.copy_(state["target"])


def _bounds(total: int, pieces: int) -> list[tuple[int, int]]:
    edges = [total * k // pieces for k in range(pieces + 1)]
    return list(zip(edges[:-1], edges[1:], strict=True))


def _optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    entries = list(optimizer.state.values())
    return {name: value for name, value in entries[0].items()} if entries else {}


def _load_optimizers(optimizers: list[torch.optim.Optimizer], saved: list[dict[str, Any]]) -> None:
    """Restore per-coordinate statistics, cut anew when the number of shards has changed."""
    if not saved or not saved[0]:
        return
    joined = {
        name: torch.cat([piece[name] for piece in saved]) if saved[0][name].dim() else saved[0][name] for name in saved[0]
    }
    start = 0
    for optimizer in optimizers:
        weights = optimizer.param_groups[0]["params"][0]
        stop = start + weights.numel()
        optimizer.state[weights] = {
            name: (value[start:stop] if value.dim() else value).clone().to(weights.device if value.dim() else "cpu")
            for name, value in joined.items()
        }
        start = stop
