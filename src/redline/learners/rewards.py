"""What happens to rewards before learning: nothing, clipping, or scaling by the spread of returns."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from redline.ops.moments import Pool, pooled_moments


class RewardTransform:
    """Raw rewards f32[T, B] in, rewards to learn from out. Its statistics are part of the learner's state.

    ``normalize`` divides by the running standard deviation of the discounted return of each environment
    (Engstrom et al. 2020, "Implementation matters", section 3), clipped to [-10, 10].
    """

    def __init__(self, kind: Literal["raw", "clip", "normalize"], num_envs: int, gamma: float) -> None:
        self.kind, self.gamma = kind, gamma
        self.returns = torch.zeros(
            num_envs, dtype=torch.float64
        )  # f64[B] discounted so far, reset with the episode
        self.pool: Pool | None = None  # sums over learners who share these moments
        self.count, self.mean, self.square = 1e-4, 0.0, 1e-4  # Welford-style moments; variance starts at 1

    def __call__(self, reward: Tensor, done: Tensor) -> Tensor:
        """reward f32[T, B], done bool[T, B] (terminated or truncated) -> f32[T, B]."""
        if self.kind == "raw":
            return reward
        if self.kind == "clip":
            return reward.clamp(-1.0, 1.0)
        seen = []
        alive = (~done).cpu().to(torch.float64)
        for t, now in enumerate(reward.cpu().to(torch.float64)):
            self.returns = self.returns * self.gamma + now
            seen.append(self.returns)
            self.returns = self.returns * alive[t]
        self._merge(torch.stack(seen))
        return (reward / (self.variance + 1e-8) ** 0.5).clamp(-10.0, 10.0)

    @property
    def variance(self) -> float:
        """Variance of the discounted returns seen so far."""
        return self.square / self.count

    def _merge(self, batch: Tensor) -> None:
        """Chan's parallel update of the moments with a batch of returns."""
        count: float = batch.numel()
        if self.pool is None:
            mean, variance = float(batch.mean()), float(batch.var(correction=0))
        else:
            count, *moments = pooled_moments(batch.reshape(-1, 1), self.pool)
            mean, variance = (float(x) for x in moments)
        delta, total = mean - self.mean, self.count + count
        self.square += variance * count + delta**2 * self.count * count / total
        self.mean += delta * count / total
        self.count = total

    def state(self) -> dict[str, Any]:
        """Statistics and the returns under way."""
        return {
            "returns": self.returns,
            "moments": torch.tensor([self.count, self.mean, self.square], dtype=torch.float64),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to a state that ``state`` gave; environments that differ in number start afresh."""
        if state["returns"].shape == self.returns.shape:
            self.returns = state["returns"].clone()
        self.count, self.mean, self.square = (float(value) for value in state["moments"])
