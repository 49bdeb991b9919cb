"""Proximal Policy Optimisation (Schulman et al. 2017, arXiv 1707.06347), the clipped objective of equation 7.

Several epochs of minibatches over each unroll, with generalised advantage estimation (Schulman et al. 2016). Departures
from the usual code: truncated episodes bootstrap from their final observation, and value clipping is off unless asked
for (Andrychowicz et al. 2021 found it hurts).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from redline.algorithms import on_policy
from redline.algorithms.on_policy import ActorCritic, Samples
from redline.ops import distributions
from redline.ops.policy import advantage_moments, normalize_advantage
from redline.ops.ppo import categorical_ppo_loss, categorical_ppo_slopes, ppo_loss
from redline.ops.returns import gae
from redline.types import Metrics, Spec, Unroll


@dataclass(frozen=True)
class PPOConfig:
    """PPO's numbers. Defaults: OpenAI baselines' and CleanRL's for Atari, but for their clip of 0.1."""

    unroll: int = 128  # agent steps of each environment between updates
    epochs: int = 4
    minibatches: int = 4  # per epoch; recurrent networks split environments, others samples
    clip: float = 0.2  # epsilon of equation 7
    anneal_clip: bool = False  # clip falls linearly to 0 over the run
    value_clip: float | None = None
    gamma: float = 0.99
    gae_lambda: float = 0.95
    entropy_cost: float = 0.01
    value_cost: float = 0.5
    normalize_advantage: bool = True  # per minibatch
    target_kl: float | None = None  # stop the update's epochs beyond 1.5 x this approximate KL

    def __post_init__(self) -> None:
        for name in ("unroll", "epochs", "minibatches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if not 0 < self.gamma <= 1 or not 0 <= self.gae_lambda <= 1:
            raise ValueError(
                f"gamma must be in (0, 1] and gae_lambda in [0, 1], got {self.gamma}, {self.gae_lambda}"
            )
        if self.clip <= 0:
            raise ValueError(f"clip must be above 0, got {self.clip}")


class PPO(ActorCritic):
    """Act, loss, update. No process, queue or device in sight."""

    name = "ppo"
    config: PPOConfig

    def __init__(self, config: PPOConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.clip = config.clip

    def update(self, learner: Any, unroll: Unroll, fraction: float) -> Metrics:
        """Learn from one unroll [T, B]; ``fraction`` of the run is done. Returns means over all minibatches."""
        config = self.config
        if config.anneal_clip:
            self.clip = config.clip * (1.0 - fraction)
        samples, about = self.samples(learner, unroll)
        history: list[Metrics] = []
        for _ in range(config.epochs):
            order = self._order(learner, samples)
            history += [
                self._minibatch(learner, samples, index) for index in order.tensor_split(config.minibatches)
            ]
            if config.target_kl is not None and float(history[-1]["approximate_kl"]) > 1.5 * config.target_kl:
                break
        return _means(history) | about

    def _order(self, learner: Any, samples: Samples) -> Tensor:
        """The samples of one epoch, i64[N]: shuffled, unless all are in one minibatch, a mean with no order."""
        device = samples.action.device
        if self.config.minibatches == 1:
            return torch.arange(samples.columns, device=device)
        return torch.randperm(samples.columns, generator=learner.generator).to(device)

    def samples(self, learner: Any, unroll: Unroll) -> tuple[Samples, Metrics]:
        """What the epochs are made of: the unroll's samples with advantages and value targets, and metrics of them."""
        reward, discount = on_policy.ends(learner, unroll, self.config.gamma)
        advantage = gae(reward, discount, on_policy.next_values(unroll), self.config.gae_lambda)
        return Samples.of(unroll, advantage, recurrent=unroll.state is not None), {}

    def _minibatch(self, learner: Any, samples: Samples, index: Tensor) -> Metrics:
        moments: tuple[Tensor, Tensor] | None = None  # of the whole minibatch, whatever the shards
        if self.config.normalize_advantage:
            all_of_it = len(index) == samples.columns
            moments = advantage_moments(
                samples.advantage if all_of_it else samples.advantage.index_select(1, index)
            )

        def make(part: Tensor) -> Samples:
            batch = replace(samples) if len(part) == samples.columns else samples.take(part)
            if moments is not None:
                batch.advantage = normalize_advantage(batch.advantage, moments)
            batch.clip = learner.scalar(self.clip)
            return batch

        parts = learner.split(index)
        made, shares = [partial(make, part) for part in parts], [len(p) / len(index) for p in parts]
        own = getattr(self.loss, "__func__", None) is PPO.loss  # a loss put in its place has other gradients
        return learner.step(self.loss, made, shares, direct=self.gradients if own else None)

    def loss(self, network: Any, batch: Samples) -> tuple[Tensor, Metrics]:
        """Scalar loss and metrics (left on the device) of samples [T, N] with normalised advantages."""
        output, _ = network(batch.observation, batch.state, batch.reset)
        parameters, value = output.policy.float(), output.value.float()
        if isinstance(self.distribution, distributions.Categorical):
            return categorical_ppo_loss(parameters, value, batch, **self._costs())
        return ppo_loss(self.distribution, parameters, value, batch, **self._costs())

    def gradients(
        self, network: Any, batch: Samples, share: float
    ) -> tuple[tuple[Tensor, ...], Metrics] | None:
        """Gradients of ``share`` times ``loss`` by the network's own closed form, where it has one; and metrics."""
        if not isinstance(self.distribution, distributions.Categorical):
            return None
        direct = network.closed_form()
        if direct is None:
            return None
        policy, value = direct.forward(network.observer.prepare(batch.observation)[0])
        flat = (policy.view(*batch.action.shape, -1), value.view(batch.action.shape))
        metrics, for_policy, for_value = categorical_ppo_slopes(*flat, batch, **self._costs())
        if share != 1.0:
            for_policy, for_value = for_policy.mul_(share), for_value.mul_(share)
        return direct.backward(for_policy.view(policy.shape), for_value.view(value.shape)), metrics

    def _costs(self) -> dict[str, Any]:
        config = self.config
        return {
            "value_cost": config.value_cost,
            "entropy_cost": config.entropy_cost,
            "value_clip": config.value_clip,
        }


def _means(history: list[Metrics]) -> Metrics:
    """The means of metrics over minibatches: a stack of each, since many small sums would cost a minibatch's time."""
    return {name: torch.stack([torch.as_tensor(m[name]) for m in history]).mean() for name in history[0]}
