"""The learner: gradients of a loss, averaged over shards, clipped, stepped. One flat buffer of weights comes out.

On a CPU the shards of a minibatch are computed by threads side by side (torch releases the GIL): two single-threaded
workers beat one with two threads. The result is that of one step on the union of the shards, always summed in the
same order, so a run is deterministic whatever the threads' timing.

In bf16 the networks compute with a rounded copy of the weights, made once an update; gradients are summed, clipped
and applied to the f32 weights. Autocast would round the same values at every forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from redline.learners import optimizers
from redline.learners.config import LearnerConfig
from redline.learners.exchange import Alone, Exchange, clip, clip_scale
from redline.learners.fitting import CHANGED
from redline.learners.flat import Tile, cut_tiles, flatten_parameters, parameter_views, twin
from redline.learners.graphs import Graphed, GraphedActing, can_be_recorded
from redline.learners.rewards import RewardTransform
from redline.networks.packed import Prepared, tell, watch
from redline.types import Interruption, Loss, Metrics, RunError

Part = Callable[[], Any]  # makes the batch of one shard
Gradients = tuple[tuple[Tensor, ...], Metrics]  # in the order of the network's parameters
Direct = Callable[
    [Any, Any, float], Gradients | None
]  # (network, batch, share of the loss); None: by autograd
Parallel = Callable[
    [Sequence[Callable[[], Any]]], list[Any]
]  # runs tasks side by side, returns their results


def serial(tasks: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run tasks one after the other: the reference for every other way of running them."""
    return [task() for task in tasks]


_NO_LOSS = torch.full((), torch.nan)  # of a step whose gradients came without one


class Learner:
    """Owns the weights and the optimiser. ``version`` counts updates and stamps whatever is published.

    ``network`` computes with the newest weights; ``acting`` is the same without gradients; ``target`` is a copy that
    changes only by ``copy_target``.
    """

    def __init__(
        self,
        network: nn.Module,
        config: LearnerConfig,
        *,
        seed: int,
        num_envs: int,
        gamma: float,
        parallel: Parallel = serial,
    ) -> None:
        self.config = config
        self.device = torch.device(config.device)
        self.flat = flatten_parameters(network.to(self.device))  # f32[P]
        self.gradient = torch.zeros_like(self.flat)  # f32[P]
        self.compute = self.flat if config.precision == "fp32" else self.flat.to(torch.bfloat16)  # [P]
        self.shards = max(config.threads, 1) if self.device.type == "cpu" else 1
        self._networks = [twin(network, self.compute, trainable=True) for _ in range(self.shards)]
        self.network = self._networks[0]
        acting = twin(self.network, self.compute, trainable=False)
        self.graphs = self.device.type == "cuda" and config.cuda_graphs and can_be_recorded(acting)
        self.acting: nn.Module = GraphedActing(acting) if self.graphs else acting
        self._watching, self._watching_target = watch(acting), list[Prepared]()
        self.target: nn.Module | None = None
        self._target = self.compute
        self.generator = torch.Generator().manual_seed(
            seed
        )  # for shuffling: on the host, the same on every device
        self.rewards = RewardTransform(config.reward, num_envs, gamma)
        self.version = 0
        self.steps = 0  # agent steps of the whole run, as far as ``set_progress`` was told
        self.target_steps = 0  # the same when the target network was last copied
        self.exchange: Exchange = Alone()  # makes new weights of ``gradient``; see ``share``
        self.samples = 0  # behind the gradient being made: the length of the index last given to ``split``
        self.loss = torch.zeros(())  # f32[] of the newest step, before it
        self.learning_rate = config.learning_rate
        self.stop: Callable[[], bool] = bool  # asked before every step; True raises ``Interruption``
        self._leaves = [list(net.parameters()) for net in self._networks]
        self._forward = [torch.compile(net) if config.compile else net for net in self._networks]
        self._parallel = parallel
        self._views = parameter_views(network, self.gradient)
        self._tiles = [tiles for tiles in cut_tiles(network, self.shards) if tiles]
        # Torch's passes over memory add up, and for small networks its optimisers' upkeep does.
        self._fused = optimizers.kernels_for(config, self.device)
        self._optimizers: list[Any] = [self._make_optimizer(tiles) for tiles in self._tiles]
        self._graphed: dict[Any, Graphed] = {}

    def _make_optimizer(self, tiles: list[Tile]) -> Any:
        piece = slice(tiles[0].start, tiles[-1].stop)
        weights = nn.Parameter(self.flat[piece])
        weights.grad = self.gradient[piece]
        # A recorded graph reads the rate from memory; a plain number would be frozen into it.
        rate: Any = (
            torch.tensor(self.learning_rate, device=self.device) if self.graphs else self.learning_rate
        )
        if self._fused is not None:
            return self._fused.make(self.config, weights, rate)
        return optimizers.make(self.config, weights, rate, capturable=self.graphs)

    def share(self, exchange: Exchange) -> None:
        """From now on gradients become weights by ``exchange``, in company with other learners."""
        self.exchange = exchange
        self.graphs = False  # a recording cannot wait for anyone
        self.rewards.pool = exchange.pool

    def set_progress(self, fraction: float, steps: int | None = None) -> None:
        """Tell the learner what share of the run is done, for schedules, and how many agent steps of all actors."""
        self.steps = self.steps if steps is None else steps
        scale = max(1.0 - fraction, 0.0) if self.config.anneal else 1.0
        self.learning_rate = self.config.learning_rate * scale
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(self.learning_rate)
                else:
                    group["lr"] = self.learning_rate

    def make_target(self) -> None:
        """Keep a target network: ``target``, changed only by ``copy_target``."""
        self._target = self.compute.clone()
        self.target = twin(self.network, self._target, trainable=False, share_buffers=False)
        self._watching_target = watch(self.target)

    def copy_target(self) -> None:
        """Make the target network's parameters equal the online ones, bit for bit."""
        assert self.target is not None, "make_target comes first"
        self.target_steps = self.steps
        if self.exchange.refresh_target(self):
            return
        self._target.copy_(self.compute)
        tell(self._watching_target)
        for mine, theirs in zip(self.target.buffers(), self.network.buffers(), strict=True):
            mine.copy_(theirs)

    def adopt(self, weights: Tensor) -> None:
        """Go on with ``weights`` f32[P], such as those that learners share."""
        self.flat.copy_(weights)
        if self.compute is not self.flat:
            self.compute.copy_(self.flat)
        tell(self._watching)

    def adopt_target(self, weights: Tensor) -> None:
        """Make the target network's parameters ``weights`` f32[P]."""
        assert self.target is not None, "make_target comes first"
        self._target.copy_(weights)
        tell(self._watching_target)

    def split(self, index: Tensor) -> list[Tensor]:
        """Cut sample indices i64[N] into one piece per shard (none empty)."""
        self.samples = len(index)
        return list(index.tensor_split(min(self.shards, len(index)))) if self.shards > 1 else [index]

    def scalar(self, value: float) -> Any:
        """A number that changes during the run, as a loss may read it: a tensor where losses are recorded."""
        return torch.tensor(value, device=self.device) if self.graphs else value

    def step(
        self,
        loss: Loss,
        parts: Sequence[Part],
        weights: Sequence[float] | None = None,
        direct: Direct | None = None,
    ) -> Metrics:
        """One optimiser step on the weighted mean of ``loss`` over ``parts`` (at most one part per shard).

        Args:
          loss: called as ``loss(network, batch)``; returns a scalar (a mean over its part) and metrics.
          parts: make the batches for ``loss``, each called on the thread that uses it.
          weights: share of each part, summing to 1 (default: equal), so uneven parts equal their union.
          direct: the gradients of ``loss`` without autograd, where it can; the two must agree.
        Returns: metrics (scalars averaged over parts, vectors joined) and ``gradient_norm`` before clipping; tensors
          stay on the device.
        """
        if self.stop():
            raise Interruption
        if self.graphs:
            recorded = self._graphed.setdefault(loss, Graphed(partial(self._whole_step, loss), self.device))
            self.version += 1
            return recorded(parts[0]())
        shares = weights or [1.0 / len(parts)] * len(parts)
        if self.config.compile or self.exchange.needs_loss:
            direct = None
        tasks = [
            partial(self._differentiate, k, loss, part, shares[k], direct) for k, part in enumerate(parts)
        ]
        done = self._parallel(tasks)
        norm = self._gather([gradients for gradients, _, _ in done])
        self.loss = done[0][2] if len(done) == 1 else sum(total for _, _, total in done)
        metrics = self.exchange.step(self, norm, _merge([metrics for _, metrics, _ in done], shares))
        tell(self._watching)
        self.version += 1
        return metrics

    def _whole_step(self, loss: Loss, batch: Any) -> Metrics:
        gradients, metrics, _ = self._differentiate(0, loss, lambda: batch, 1.0)
        return self.exchange.step(self, self._gather([gradients]), metrics)

    def _differentiate(
        self, shard: int, loss: Loss, part: Part, weight: float, direct: Direct | None = None
    ) -> tuple[tuple[Tensor, ...], Metrics, Tensor]:
        batch = part()
        if direct is not None and (found := direct(self._networks[shard], batch, weight)) is not None:
            return *found, _NO_LOSS
        total, metrics = loss(self._forward[shard], batch)
        total = total * weight if weight != 1.0 else total
        return torch.autograd.grad(total, self._leaves[shard]), metrics, total.detach()

    def _gather(self, gradients: Sequence[tuple[Tensor, ...]]) -> Tensor:
        """Sum the shards' gradients into ``gradient``, each thread its own piece; returns the norm, a scalar."""
        if len(self._tiles) == 1:
            torch._foreach_copy_(self._views, list(gradients[0]))
            return torch.linalg.vector_norm(self.gradient)
        squares = self._parallel([partial(self._reduce, tiles, gradients) for tiles in self._tiles])
        return torch.stack(squares).sum().sqrt()

    def clip_and_step(self, norm: Tensor) -> None:
        """Scale ``gradient``, of global norm ``norm``, to the limit where it exceeds it, and step by it."""
        if len(self._tiles) == 1:
            self._clip_and_step(0, norm)
        else:
            self._parallel([partial(self._clip_and_step, k, norm) for k in range(len(self._tiles))])

    def _reduce(self, tiles: list[Tile], gradients: Sequence[tuple[Tensor, ...]]) -> Tensor:
        """Sum a worker's tiles over the shards into ``gradient``; returns the sum of squares, a scalar."""
        total = 0.0
        for tile in tiles:
            target = self._views[tile.parameter][tile.rows]
            shards = [shard[tile.parameter][tile.rows] for shard in gradients]
            squares = self._fused.add_shards(shards, target) if self._fused is not None else None
            if squares is None:
                _sum_into(target, shards)
                piece = self.gradient[tile.start : tile.stop]
                squares = float(piece.dot(piece))
            total += squares
        return torch.tensor(total)

    def _clip_and_step(self, worker: int, norm: Tensor) -> None:
        limit = self.config.max_grad_norm
        tiles, optimizer = self._tiles[worker], self._optimizers[worker]
        piece = slice(tiles[0].start, tiles[-1].stop)
        if self._fused is not None:
            optimizer.sweep(
                clip_scale(norm, limit), None if self.compute is self.flat else self.compute[piece]
            )
            return
        clip(self.gradient[piece], norm, limit)
        optimizer.step()
        if self.compute is not self.flat:
            self.compute[piece].copy_(self.flat[piece])

    def state(self) -> dict[str, Any]:
        """Everything that training needs to go on bit for bit."""
        return {
            "weights": self.flat,
            "buffers": dict(self.network.named_buffers()),
            "optimizers": [_optimizer_state(optimizer) for optimizer in self._optimizers],
            "generator": self.generator.get_state(),
            "rewards": self.rewards.state(),
            "version": self.version,
            "target": None if self.target is None else self._target,
            "target_buffers": None if self.target is None else dict(self.target.named_buffers()),
            "target_steps": self.target_steps,
        }

    @torch.no_grad()
    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to a state that ``state`` gave (any device; other shard counts round sums apart)."""
        self.flat.copy_(state["weights"])
        self.compute.copy_(self.flat)
        tell(self._watching)
        for name, buffer in self.network.named_buffers():
            buffer.copy_(state["buffers"][name])
        _load_optimizers(self.config, self._optimizers, state["optimizers"])
        self.generator.set_state(state["generator"].cpu())
        self.rewards.load_state(state["rewards"])
        self.version = int(state["version"])
        if self.target is not None:
            self._target.copy_(state["target"])
            tell(self._watching_target)
            buffers = state.get("target_buffers") or state["buffers"]  # older checkpoints have no such entry
            for name, buffer in self.target.named_buffers():
                buffer.copy_(buffers[name])
            self.target_steps = int(state.get("target_steps", 0))


def _sum_into(target: Tensor, shards: Sequence[Tensor]) -> None:
    first, *others = shards
    if others and first.dtype == target.dtype:
        torch.add(first, others.pop(0), out=target)
    else:
        target.copy_(first)
    for other in others:
        target.add_(other)


def _merge(metrics: Sequence[Metrics], shares: Sequence[float]) -> Metrics:
    """Scalars averaged by share, vectors [n] joined in order."""
    if len(metrics) == 1:
        return metrics[0]
    merged: Metrics = {}
    for name, first in metrics[0].items():
        each: list[Any] = [m[name] for m in metrics]
        vector = isinstance(first, Tensor) and first.dim() > 0
        merged[name] = torch.cat(each) if vector else sum(w * x for w, x in zip(shares, each, strict=True))
    return merged


def _optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    entries = list(optimizer.state.values())
    return {name: value for name, value in entries[0].items()} if entries else {}


def _check_statistics(config: LearnerConfig, saved: list[dict[str, Any]]) -> None:
    """Refuse what another optimiser kept; one that had not stepped yet kept nothing."""
    kept, needed = (
        {name for piece in saved for name in piece if name != "step"},
        optimizers.statistics_of(config),
    )
    if kept and kept != set(needed):
        raise RunError(
            f"the checkpoint keeps {', '.join(sorted(kept))}, learner.optimizer={config.optimizer} needs "
            f"{', '.join(needed) or 'nothing'}: {CHANGED}"
        )


def _load_optimizers(
    config: LearnerConfig, made: list[torch.optim.Optimizer], saved: list[dict[str, Any]]
) -> None:
    """Restore per-coordinate statistics, cut anew when the number of shards has changed."""
    _check_statistics(config, saved)
    if not saved or not saved[0]:
        return
    joined = {
        name: torch.cat([piece[name] for piece in saved]) if value.dim() else value
        for name, value in saved[0].items()
    }
    start = 0
    for optimizer in made:
        weights = optimizer.param_groups[0]["params"][0]
        stop = start + weights.numel()
        kept = optimizer.state[weights]
        for name, value in joined.items():
            value = value[start:stop] if value.dim() else value
            if name in kept:  # in place: a recorded step knows no other memory
                kept[name].copy_(value)
            else:
                kept[name] = value.clone().to(weights.device)
        start = stop
