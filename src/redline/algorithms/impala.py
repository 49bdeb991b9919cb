"""IMPALA: an actor-critic learner that corrects for lag with V-trace (Espeholt et al. 2018, arXiv 1802.01561).

One update on each batch of whole unrolls. Values come from the learner's own network, for all T + 1 observations and
from the recurrent state at the unroll's start; of the actor only the log-probabilities of its actions are used. One
exception: a truncated step bootstraps from the value that the *actor's* weights gave its final observation, since
that observation is not part of the unroll.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from redline.algorithms.on_policy import ActorCritic
from redline.algorithms.trajectories import (
    Reduction,
    Trajectories,
    check_replayed,
    clipped,
    corrected,
    lag,
    shards,
)
from redline.ops.policy import approximate_kl, policy_gradient_loss, value_loss
from redline.types import Metrics, Unroll


@dataclass(frozen=True)
class IMPALAConfig:
    """IMPALA's numbers; the defaults are those of the paper's Atari runs."""

    unroll: int = 20  # n of the paper: agent steps of each environment between updates
    gamma: float = 0.99
    value_cost: float = 0.5  # the paper's baseline cost, of (v_s - V)^2 / 2
    entropy_cost: float = 0.01
    correction: Literal["vtrace", "none"] = "vtrace"  # none: n-step returns, as if the unroll were on-policy
    rho_bar: float = 1.0  # clips the TD errors' weights: what is learned
    c_bar: float = 1.0  # clips the traces: how fast
    pg_rho_bar: float = 1.0  # clips the weights of the policy gradient
    lambda_: float = 1.0  # scales the traces
    reduction: Reduction = "sum"  # over time and batch, as in the paper; mean: learning rates carry over
    replay_share: float = (
        0.0  # of each batch, that are older unrolls drawn uniformly; the paper's ablation has 0.5
    )
    replay_unrolls: int = 10_000  # of single environments, that are kept for it

    def __post_init__(self) -> None:
        if self.unroll < 1:
            raise ValueError(f"unroll must be 1 or more, got {self.unroll}")
        check_replayed(self.replay_share, self.replay_unrolls)
        if not 0 < self.gamma <= 1 or not 0 <= self.lambda_ <= 1:
            raise ValueError(
                f"gamma must be in (0, 1] and lambda_ in [0, 1], got {self.gamma}, {self.lambda_}"
            )
        for name in ("rho_bar", "c_bar", "pg_rho_bar"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.c_bar > self.rho_bar:
            raise ValueError(f"c_bar must be at most rho_bar ({self.rho_bar}), got {self.c_bar}")


class IMPALA(ActorCritic):
    """Act, loss, update."""

    name = "impala"
    max_lag = None  # corrected by V-trace
    bootstraps = False  # by the learner's own values
    config: IMPALAConfig

    def record(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Of each action its log-probability under the behaviour policy; the actor's values are not used."""
        return {"log_prob": ((), torch.float32)}

    def update(self, learner: Any, unroll: Unroll, fraction: float) -> Metrics:
        """One optimiser step on unrolls [T, B]. Shards split the environments; each is unrolled whole."""
        batch = Trajectories.of(learner, unroll, self.config.gamma, self.config.reduction)
        behind = lag(learner, unroll)
        return learner.step(self.loss, *shards(learner, batch)) | behind

    def loss(self, network: Any, batch: Trajectories) -> tuple[Tensor, Metrics]:
        """Scalar loss and metrics (means, left on the device) of unrolls [T, B].

        One forward pass over [T+1, B]; the last row serves as a constant bootstrap alone.
        """
        config = self.config
        output, _ = network(batch.observation, batch.state, batch.reset)
        values = output.value.float()
        mask = None if batch.action_mask is None else batch.action_mask[:-1]
        log_prob, entropy = self.distribution.log_prob_entropy(output.policy[:-1].float(), batch.action, mask)
        log_rhos = log_prob.detach() - batch.record["log_prob"]
        targets = corrected(config, log_rhos, batch, values.detach())
        policy_loss = policy_gradient_loss(log_prob, targets.pg_advantages).mean()
        error = value_loss(values[:-1], targets.vs).mean()
        entropy = entropy.mean()
        total = policy_loss + config.value_cost * error - config.entropy_cost * entropy
        rhos = log_rhos.exp()
        metrics: Metrics = {
            "policy_loss": policy_loss.detach(),
            "value_loss": error.detach(),
            "entropy": entropy.detach(),
            "rho": rhos.mean(),
            "rho_clipped": clipped(rhos, config.rho_bar),
            "approximate_kl": approximate_kl(log_prob, batch.record["log_prob"]),
        }
        return total * batch.scale, metrics
