"""Whole unrolls as a batch: what losses read that look along time, and its columns shared out among shards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from redline.algorithms.on_policy import ends
from redline.ops.returns import VTrace, vtrace
from redline.types import Metrics, Tree, Unroll, tree_map

Reduction = Literal["sum", "mean"]


@dataclass
class Trajectories:
    """B unrolls of T steps, ends of episodes already turned into rewards and discounts."""

    observation: Tree  # [T+1, B, ...]
    action: Tensor  # [T, B, ...]
    reward: Tensor  # f32[T, B] as learned from; truncated steps hold the value of their final observation
    discount: Tensor  # f32[T, B] gamma, or 0 where the episode ended
    reset: Tensor  # bool[T+1, B]
    record: dict[str, Tensor]  # [T, B, ...] what the algorithm asked the actor to remember
    action_mask: Tensor | None = None  # bool[T+1, B, A]
    state: Tree = None  # [B, ...] recurrent state before observation 0
    scale: float = 1.0  # T x B where losses are sums, so that shards of unequal size add up to their union

    @classmethod
    def of(cls, learner: Any, unroll: Unroll, gamma: float, reduction: Reduction = "mean") -> Trajectories:
        """The unroll [T, B] with the learner's rewards."""
        reward, discount = ends(learner, unroll, gamma)
        return cls(
            observation=unroll.observation,
            action=unroll.action,
            reward=reward,
            discount=discount,
            reset=unroll.reset,
            record=unroll.record,
            action_mask=unroll.action_mask,
            state=unroll.state,
            scale=float(reward.numel()) if reduction == "sum" else 1.0,
        )

    @property
    def columns(self) -> int:
        """Number of unrolls B."""
        return self.action.shape[1]

    def take(self, index: Tensor) -> Trajectories:
        """The unrolls with column indices i64[M]: [T, M, ...]."""
        return self._each(lambda x: x.index_select(1, index), lambda x: x.index_select(0, index))

    def map(self, function: Callable[[Tensor], Tensor]) -> Trajectories:
        """The same batch with ``function`` applied to every tensor."""
        return self._each(function, function)

    def _each(self, timed: Callable[[Tensor], Tensor], untimed: Callable[[Tensor], Tensor]) -> Trajectories:
        names = ("observation", "action", "reward", "discount", "reset", "record", "action_mask")
        parts = {name: tree_map(timed, getattr(self, name)) for name in names}
        return Trajectories(**parts, state=tree_map(untimed, self.state), scale=self.scale)


class Correction(Protocol):
    """How lag is corrected for: numbers of V-trace (``ops.returns.vtrace``)."""

    @property
    def correction(self) -> Literal["vtrace", "none"]:
        """none: every ratio counts as 1, as if the unrolls were on-policy."""

    @property
    def rho_bar(self) -> float:
        """Clips the TD errors' weights."""

    @property
    def c_bar(self) -> float:
        """Clips the traces."""

    @property
    def pg_rho_bar(self) -> float:
        """Clips the weights of the policy gradient."""

    @property
    def lambda_(self) -> float:
        """Scales the traces."""


def corrected(config: Correction, log_rhos: Tensor, batch: Trajectories, values: Tensor) -> VTrace:
    """Value targets and advantages f32[T, B], constants to the gradient.

    Args:
      log_rhos: f32[T, B] log of target over behaviour probability.   values: f32[T+1, B] of the learner's network.
    """
    return vtrace(
        log_rhos if config.correction == "vtrace" else torch.zeros_like(log_rhos),
        batch.reward,
        batch.discount,
        values,
        rho_bar=config.rho_bar,
        c_bar=config.c_bar,
        pg_rho_bar=config.pg_rho_bar,
        lambda_=config.lambda_,
    )


def check_replayed(share: float, unrolls: int) -> None:
    """Refuse numbers that no mixture of fresh and older unrolls has."""
    if not 0 <= share < 1:
        raise ValueError(f"replay_share must be in [0, 1), got {share}")
    if unrolls < 1:
        raise ValueError(f"replay_unrolls must be 1 or more, got {unrolls}")


def clipped(rhos: Tensor, bar: float) -> Tensor:
    """Share of ratios above ``bar``, f32[]; not counted are those that rounding alone puts there without lag."""
    return (rhos > bar * 1.001).float().mean()


class Columns(Protocol):
    """A batch that can be cut along its second axis."""

    action: Tensor  # [T, N, ...]

    def take(self, index: Tensor) -> Any:
        """The columns with indices i64[M]."""


def shards(learner: Any, batch: Columns) -> tuple[list[Callable[[], Any]], list[float]]:
    """What ``learner.step`` takes beside the loss: makers of each shard's columns, and the shards' shares.

    A single shard is the batch itself, not a copy of it.
    """
    count = batch.action.shape[1]
    parts = learner.split(torch.arange(count, device=batch.action.device))
    if len(parts) == 1:
        return [lambda: batch], [1.0]
    return [partial(batch.take, part) for part in parts], [len(part) / count for part in parts]


def lag(learner: Any, unroll: Unroll) -> Metrics:
    """Updates since the weights that began the unroll, mean and largest over environments (nothing if unstamped)."""
    if unroll.policy_version is None:
        return {}
    behind = learner.version - unroll.policy_version[0]
    return {"lag": behind.float().mean(), "lag_max": behind.max().float()}
