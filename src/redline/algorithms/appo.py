"""Asynchronous PPO: PPO's clipped objective on V-trace targets, for unrolls that arrive with lag.

As in Sample Factory (Petrenko et al. 2020, arXiv 2006.11751) and RLlib's APPO: the learner's own network
gives values and log-probabilities of the whole unroll once, before the first epoch; V-trace (Espeholt et al. 2018)
makes value targets and advantages of them; then follow PPO's epochs and minibatches.

V-trace's advantages already carry the weight min(rho_bar, pi / mu) of the policy pi at the update's start over the
behaviour policy mu. So the clip is by default around pi (``around="proximal"``: the ratio starts at 1 however large
the lag, as with the decoupled objective of Hilton et al. 2021, arXiv 2110.00641). ``around="behaviour"`` takes
Sample Factory's ratio to mu, which counts pi / mu twice and clips samples that lag alone has moved outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from redline.algorithms.on_policy import Samples
from redline.algorithms.ppo import PPO, PPOConfig
from redline.algorithms.trajectories import Trajectories, check_replayed, clipped, corrected, lag
from redline.types import Metrics, Unroll


@dataclass(frozen=True)
class APPOConfig(PPOConfig):
    """PPO's numbers and V-trace's; ``gae_lambda`` scales V-trace's traces."""

    unroll: int = 32
    epochs: int = 1
    correction: Literal["vtrace", "none"] = "vtrace"  # none: returns as if the unroll were on-policy
    around: Literal["proximal", "behaviour"] = "proximal"  # the policy that the clip is around
    rho_bar: float = 1.0  # clips the TD errors' weights: what is learned
    c_bar: float = 1.0  # clips the traces: how fast
    pg_rho_bar: float = 1.0  # clips the advantages' weights
    replay_share: float = 0.0  # of each batch, that are older unrolls drawn uniformly
    replay_unrolls: int = 10_000  # of single environments, that are kept for it

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rho_bar", "c_bar", "pg_rho_bar"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.c_bar > self.rho_bar:
            raise ValueError(f"c_bar must be at most rho_bar ({self.rho_bar}), got {self.c_bar}")
        check_replayed(self.replay_share, self.replay_unrolls)

    @property
    def lambda_(self) -> float:
        """Of V-trace."""
        return self.gae_lambda


class APPO(PPO):
    """PPO with other samples."""

    name = "appo"
    max_lag = None  # corrected by V-trace
    bootstraps = False  # by the learner's own values
    config: APPOConfig

    def record(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Of each action its log-probability under the behaviour policy; the actor's values are not used."""
        return {"log_prob": ((), torch.float32)}

    @torch.no_grad()
    def samples(self, learner: Any, unroll: Unroll) -> tuple[Samples, Metrics]:
        """The unroll's samples with V-trace's targets at the learner's weights; one forward pass over [T+1, B]."""
        config = self.config
        output, _ = learner.acting(unroll.observation, unroll.state, unroll.reset)
        values = output.value.float()
        mask = None if unroll.action_mask is None else unroll.action_mask[:-1]
        log_prob = self.distribution.log_prob(output.policy[:-1].float(), unroll.action, mask)
        log_rhos = log_prob - unroll.record["log_prob"]
        targets = corrected(config, log_rhos, Trajectories.of(learner, unroll, config.gamma), values)
        samples = Samples.of(
            unroll,
            targets.pg_advantages,
            recurrent=unroll.state is not None,
            value=values[:-1],
            target=targets.vs,
            log_prob=log_prob if config.around == "proximal" else unroll.record["log_prob"],
        )
        rhos = log_rhos.exp()
        metrics: Metrics = {"rho": rhos.mean(), "rho_clipped": clipped(rhos, config.rho_bar)}
        return samples, metrics | lag(learner, unroll)
