"""Advantage actor-critic, synchronous (Mnih et al. 2016, arXiv 1602.01783, section 4; a barrier instead of threads).

One update on each unroll; every state gets the longest available n-step return (lambda = 1), cut at episode ends.
Losses are means over samples, where A3C sums over each rollout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from redline.algorithms import on_policy
from redline.algorithms.on_policy import ActorCritic, Samples
from redline.algorithms.trajectories import shards
from redline.ops.policy import normalize_advantage, policy_gradient_loss, value_loss
from redline.ops.returns import gae
from redline.types import Metrics, Unroll


@dataclass(frozen=True)
class A2CConfig:
    """A2C's numbers."""

    unroll: int = 5  # t_max of the paper
    gamma: float = 0.99
    gae_lambda: float = 1.0  # 1: n-step returns, as in the paper
    entropy_cost: float = 0.01
    value_cost: float = 0.5
    normalize_advantage: bool = False

    def __post_init__(self) -> None:
        if self.unroll < 1:
            raise ValueError(f"unroll must be 1 or more, got {self.unroll}")
        if not 0 < self.gamma <= 1 or not 0 <= self.gae_lambda <= 1:
            raise ValueError(
                f"gamma must be in (0, 1] and gae_lambda in [0, 1], got {self.gamma}, {self.gae_lambda}"
            )


class A2C(ActorCritic):
    """Act, loss, update. No process, queue or device in sight."""

    name = "a2c"
    config: A2CConfig

    def update(self, learner: Any, unroll: Unroll, fraction: float) -> Metrics:
        """One optimiser step on one unroll [T, B]."""
        reward, discount = on_policy.ends(learner, unroll, self.config.gamma)
        advantage = gae(reward, discount, on_policy.next_values(unroll), self.config.gae_lambda)
        samples = Samples.of(unroll, advantage, recurrent=unroll.state is not None)
        if self.config.normalize_advantage:
            samples.advantage = normalize_advantage(samples.advantage)
        return learner.step(self.loss, *shards(learner, samples))

    def loss(self, network: Any, batch: Samples) -> tuple[Tensor, Metrics]:
        """Scalar loss and metrics (left on the device) of samples [T, N]; advantages are constants."""
        output, _ = network(batch.observation, batch.state, batch.reset)
        log_prob, entropy = self.distribution.log_prob_entropy(
            output.policy.float(), batch.action, batch.action_mask
        )
        policy_loss = policy_gradient_loss(log_prob, batch.advantage).mean()
        error = value_loss(output.value.float(), batch.target).mean()
        entropy = entropy.mean()
        total = policy_loss + self.config.value_cost * error - self.config.entropy_cost * entropy
        metrics: Metrics = {
            "policy_loss": policy_loss.detach(),
            "value_loss": error.detach(),
            "entropy": entropy.detach(),
        }
        return total, metrics
