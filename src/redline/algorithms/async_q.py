"""Q-learning without replay: n-step Q, one-step Q and one-step SARSA (Mnih et al. 2016, arXiv 1602.01783, section 4).

Many environments, each with an exploration of its own, stand in for the replay. One update on each unroll; a target
network, copied now and then, gives the values to bootstrap from. The paper's threads are an architecture: here is
what each of them computes.

Truncated steps bootstrap from the highest value that the *acting* weights gave the final observation, in all three
variants: it is not part of the unroll, so the target network never sees it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from redline.algorithms.trajectories import Reduction, Trajectories, lag, shards
from redline.ops import distributions
from redline.ops.exploration import epsilon_greedy, shared_out
from redline.ops.returns import bootstrapped_returns
from redline.ops.values import legal, taken
from redline.types import ActInput, Loss, Metrics, Spec, Tree, Unroll, tree_map


@dataclass(frozen=True)
class AsyncQConfig:
    """The methods' numbers; steps are agent steps, never frames. Defaults: the paper's Atari runs."""

    variant: Literal["n_step_q", "one_step_q", "one_step_sarsa"] = "n_step_q"
    unroll: int = 5  # t_max, and the one-step methods' steps between updates
    gamma: float = 0.99
    target_every: int = (
        10_000  # agent steps of all actors between copies to the target network (40,000 frames)
    )
    epsilon_steps: int = 1_000_000  # agent steps of all actors in which epsilon falls from 1 (4M frames)
    epsilon_finals: tuple[float, ...] = (0.1, 0.01, 0.5)  # where it ends: one of these for each environment
    epsilon_shares: tuple[float, ...] = (0.4, 0.3, 0.3)  # for how many environments each
    reduction: Reduction = "sum"  # over time and batch, as in the paper; mean: learning rates carry over

    def __post_init__(self) -> None:
        for name in ("unroll", "target_every", "epsilon_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if not 0 < self.gamma <= 1:
            raise ValueError(f"gamma must be in (0, 1], got {self.gamma}")
        if not self.epsilon_finals or not all(0 <= value <= 1 for value in self.epsilon_finals):
            raise ValueError(f"epsilon_finals must lie in [0, 1], got {list(self.epsilon_finals)}")
        shared_out(0, 1, self.epsilon_finals, self.epsilon_shares)


class AsyncQ:
    """Act, loss, update. The learner keeps the target network, and is told the steps of all actors."""

    name = "async_q"
    network_kind: Literal["q"] = "q"
    experience: Literal["unroll"] = "unroll"
    max_lag: int | None = None  # off-policy, but for n-step returns, whose lag the paper bears uncorrected
    target_network = True
    bootstraps = False  # by the target network

    def __init__(self, config: AsyncQConfig, spec: Spec) -> None:
        self.config, self.spec = config, spec
        self._loss: Loss | None = None
        self.to_environment = distributions.make(spec.action).to_environment

    def record(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """SARSA needs to know how random the actor was; the others remember nothing beside the action."""
        return {"epsilon": ((), torch.float32)} if self.config.variant == "one_step_sarsa" else {}

    def epsilon(self, x: ActInput) -> Tensor:
        """f32[B] probability of a random action in each environment of ``x``, after ``x.steps`` agent steps."""
        config, count = self.config, len(x.reset)
        final = shared_out(x.first_environment, count, config.epsilon_finals, config.epsilon_shares)
        done = min(x.steps / config.epsilon_steps, 1.0)
        return done * final + (1.0 - done)

    def act(self, network: Any, x: ActInput) -> tuple[dict[str, Tensor], Tree]:
        """Epsilon-greedy (or greedy) actions: record {action i64[B], epsilon f32[B]} and the next state."""
        output, state = network(tree_map(lambda leaf: leaf[None], x.observation), x.state, x.reset[None])
        values = output.policy[0].float()
        if not x.explore:
            return {"action": legal(values, x.action_mask).argmax(-1)}, state
        epsilon = self.epsilon(x)
        return {
            "action": epsilon_greedy(values, epsilon, x.generator, x.action_mask),
            "epsilon": epsilon,
        }, state

    def value(self, network: Any, x: ActInput) -> Tensor:
        """f32[B] highest action values, for bootstrapping truncated episodes."""
        output, _ = network(tree_map(lambda leaf: leaf[None], x.observation), x.state, x.reset[None])
        return legal(output.policy[0].float(), x.action_mask).amax(-1)

    def update(self, learner: Any, unroll: Unroll, fraction: float) -> Metrics:
        """One optimiser step on unrolls [T, B], then a copy to the target network if one is due.

        ``learner.steps`` must be right: ``learner.set_progress(fraction, steps)`` comes first.
        """
        if learner.steps == 0:
            raise ValueError(
                "target copies are counted in agent steps: call learner.set_progress(fraction, steps)"
            )
        if self._loss is None:  # one object for the whole run: what a recorded step is known by
            self._loss = partial(self.loss, target=learner.target)
        batch = Trajectories.of(learner, unroll, self.config.gamma, self.config.reduction)
        behind = lag(learner, unroll)
        metrics = learner.step(self._loss, *shards(learner, batch))
        every = self.config.target_every
        if learner.target_steps // every < learner.steps // every:
            learner.copy_target()
        return metrics | behind

    def loss(self, network: Any, batch: Trajectories, target: Any) -> tuple[Tensor, Metrics]:
        """Squared error and metrics (means, left on the device) of unrolls [T, B]."""
        output, _ = network(batch.observation, batch.state, batch.reset)
        values = output.policy.float()  # [T+1, B, A]; of the last row only SARSA makes use, as a constant
        backup = self.backup(batch, values.detach(), target)
        chosen = taken(values[:-1], batch.action)
        error = (backup - chosen).square().mean()
        metrics: Metrics = {"q_loss": error.detach(), "q_value": chosen.detach().mean()}
        return error * batch.scale, metrics

    @torch.no_grad()
    def backup(self, batch: Trajectories, values: Tensor, target: Any) -> Tensor:
        """What Q(s_t, a_t) is moved towards, f32[T, B]; ``values`` f32[T+1, B, A] of the network in training."""
        n_step = self.config.variant == "n_step_q"
        start = (
            len(batch.action) if n_step and batch.state is None else 0
        )  # of feed-forward networks the row needed
        later = tree_map(lambda x: x[start:], batch.observation)
        output, _ = target(later, batch.state, batch.reset[start:])
        after = output.policy.float()
        if self.config.variant == "one_step_sarsa":
            return batch.reward + batch.discount * self._of_next_actions(batch, values[-1], after)
        best = legal(after, None if batch.action_mask is None else batch.action_mask[start:]).amax(-1)
        if n_step:  # the longest return for each state: T steps for the first, one for the last
            return bootstrapped_returns(batch.reward, batch.discount, best[-1].contiguous())
        return batch.reward + batch.discount * best[1:]

    def _of_next_actions(self, batch: Trajectories, last: Tensor, after: Tensor) -> Tensor:
        """Target values f32[T, B] of the actions taken next.

        Which action followed the unroll's last step is not known yet: its expectation under the behaviour policy
        (``last`` f32[B, A] says what is greedy) stands in, which leaves the expected update as it is.
        """
        mask = None if batch.action_mask is None else batch.action_mask[-1]
        epsilon = batch.record["epsilon"][-1]
        greedy = taken(after[-1], legal(last, mask).argmax(-1))
        allowed = torch.ones_like(after[-1]) if mask is None else mask.float()
        average = (after[-1] * allowed).sum(-1) / allowed.sum(-1)
        expected = (1.0 - epsilon) * greedy + epsilon * average
        return torch.cat([taken(after[1:-1], batch.action[1:]), expected[None]])
