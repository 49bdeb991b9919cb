"""PPO with a KL penalty in place of clipping (Schulman et al. 2017, section 4, beta fixed): an algorithm in one file.

Used in docs/guide/new-algorithm.md. To train it:

>>> import redline
>>> import examples.kl_penalty  # its last lines make algorithm and recipe known
>>> redline.train("CartPole-v1", recipe="kl_penalty")
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from redline.actors.config import SamplerConfig
from redline.algorithms import on_policy
from redline.algorithms.on_policy import ActorCritic, Samples
from redline.algorithms.trajectories import shards
from redline.learners.config import LearnerConfig
from redline.networks.config import NetworkConfig
from redline.ops.policy import approximate_kl, normalize_advantage, value_loss
from redline.ops.returns import episode_ends, gae
from redline.recipes import RECIPES
from redline.runtime.experiment import ALGORITHMS, Experiment, RunConfig
from redline.types import Metrics, Unroll


# --8<-- [start:config]
@dataclass(frozen=True)
class KLPenaltyConfig:
    """The algorithm's numbers: what ``--set algorithm.beta=3`` changes and ``config.yaml`` keeps."""

    unroll: int = 32  # agent steps of each environment between updates
    epochs: int = 10
    beta: float = 1.0  # weight of KL(old, new)
    gamma: float = 0.98
    gae_lambda: float = 0.8
    value_cost: float = 0.5

    def __post_init__(self) -> None:
        if self.beta < 0:
            raise ValueError(f"beta must be 0 or more, got {self.beta}")


# --8<-- [end:config]


# --8<-- [start:act]
class KLPenalty(ActorCritic):
    """Acts as every actor-critic does; ``update`` and ``loss`` follow."""

    name = "kl_penalty"
    config: KLPenaltyConfig

    # --8<-- [end:act]

    # --8<-- [start:loss]
    def loss(self, network: Any, batch: Samples) -> tuple[Tensor, Metrics]:
        """-mean(ratio A) + beta KL(old, new) + value_cost (V - target)^2 / 2, for samples [T, N]."""
        output, _ = network(batch.observation, batch.state, batch.reset)
        log_prob = self.distribution.log_prob(output.policy.float(), batch.action, batch.action_mask)
        log_ratio = log_prob - batch.log_prob
        ratio = log_ratio.exp()
        kl = (ratio - 1 - log_ratio).mean()  # unbiased and never negative
        policy_loss = -(ratio * batch.advantage).mean()
        error = value_loss(output.value.float(), batch.target).mean()
        metrics: Metrics = {
            "policy_loss": policy_loss.detach(),
            "kl": approximate_kl(log_prob, batch.log_prob),
        }
        return policy_loss + self.config.beta * kl + self.config.value_cost * error, metrics

    # --8<-- [end:loss]

    # --8<-- [start:update]
    def update(self, learner: Any, unroll: Unroll, fraction: float) -> Metrics:
        """Several optimiser steps on one unroll [T, B]; ``fraction`` of the run is done."""
        ended = unroll.terminated | unroll.truncated
        rewards = learner.rewards(unroll.reward, ended)
        reward, discount = episode_ends(
            rewards, unroll.terminated, unroll.truncated, unroll.final_value, self.config.gamma
        )
        advantage = gae(reward, discount, on_policy.next_values(unroll), self.config.gae_lambda)
        samples = Samples.of(unroll, advantage, recurrent=unroll.state is not None)
        samples.advantage = normalize_advantage(samples.advantage)
        parts, shares = shards(learner, samples)
        metrics: Metrics = {}
        for _ in range(self.config.epochs):
            metrics = learner.step(self.loss, parts, shares)
        return metrics


# --8<-- [end:update]


# --8<-- [start:recipe]
def kl_penalty() -> Experiment:
    """KL-penalised policy optimisation for small tasks."""
    return Experiment(
        recipe="kl_penalty",
        algorithm=KLPenaltyConfig(),  # type: ignore[arg-type]
        network=NetworkConfig(hidden=(64, 64), activation="tanh"),
        learner=LearnerConfig(learning_rate=1e-3),
        sampler=SamplerConfig(num_envs=8),
        run=RunConfig(steps=50_000),
    )


ALGORITHMS[KLPenaltyConfig] = KLPenalty
RECIPES["kl_penalty"] = kl_penalty
# --8<-- [end:recipe]
