"""Deep Q-learning (Mnih et al. 2015, Nature 518), with double, dueling, n-step and prioritised replay as switches.

Double Q-learning: van Hasselt et al. 2016 (arXiv 1509.06461). Dueling heads live in the network (Wang et al. 2016).
n-step windows and priorities live in the replay (Schaul et al. 2016, arXiv 1511.05952). The error is clipped, not the
loss: the gradient with respect to Q has magnitude at most 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from redline.ops import distributions
from redline.ops.exploration import random_action
from redline.ops.values import double_q_target, huber, legal, q_target, taken
from redline.types import ActInput, Loss, Metrics, ReplayBatch, Spec, Tree, tree_leaves, tree_map


@dataclass(frozen=True)
class DQNConfig:
    """DQN's numbers; steps are agent steps, never frames. Defaults: Nature paper, Adam aside."""

    batch: int = 32
    update_every: int = 4  # agent steps per update: with batch 32, replay ratio 8
    learning_starts: int = 50_000  # agent steps of random acting before the first update
    target_every: int = 10_000  # agent steps between copies to the target network
    gamma: float = 0.99
    double: bool = False
    epsilon_start: float = 1.0
    epsilon_final: float = 0.1
    epsilon_steps: int = 1_000_000  # agent steps of linear annealing
    epsilon_evaluation: float = 0.05

    def __post_init__(self) -> None:
        for name in ("batch", "update_every", "target_every", "epsilon_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        for name in ("epsilon_start", "epsilon_final", "epsilon_evaluation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if not 0 < self.gamma <= 1:
            raise ValueError(f"gamma must be in (0, 1], got {self.gamma}")


class DQN:
    """Act, loss, update. The target network is the learner's, bit-equal to the online one after each copy."""

    name = "dqn"
    network_kind: Literal["q"] = "q"
    experience: Literal["replay"] = "replay"
    max_lag: int | None = None  # off-policy
    target_network = True
    recordable = False  # how much an actor explores is counted on the host
    bootstraps = False  # by the target network
    paced = True  # updates are counted by agent steps (``due``), wherever they happen

    def __init__(self, config: DQNConfig, spec: Spec) -> None:
        self.config, self.spec = config, spec
        self._loss: Loss | None = None
        self.to_environment = distributions.make(spec.action).to_environment

    def epsilon(self, steps: int) -> float:
        """Probability of a random action after ``steps`` agent steps of the whole run."""
        config = self.config
        done = min(max(steps - config.learning_starts, 0) / config.epsilon_steps, 1.0)
        return config.epsilon_start + done * (config.epsilon_final - config.epsilon_start)

    def record(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """What actors that write unrolls remember: values of the action taken and of the best (Ape-X's priorities)."""
        return {"q_taken": ((), torch.float32), "q_max": ((), torch.float32)}

    def act(self, network: Any, x: ActInput) -> tuple[dict[str, Tensor], Tree]:
        """Epsilon-greedy actions i64[B] among the legal ones; no forward pass while all are random.

        With ``x.record`` also q_taken and q_max f32[B], and always a forward pass.
        """
        epsilon = self.epsilon(x.steps) if x.explore else self.config.epsilon_evaluation
        batch = len(x.reset)
        noise = torch.rand((2, batch), generator=x.generator, device=x.generator.device)
        random = random_action(noise[1], int(self.spec.action.n), x.action_mask)  # type: ignore[attr-defined]
        if epsilon >= 1.0 and not x.record:
            return {"action": random}, x.state
        output, state = network(tree_map(lambda leaf: leaf[None], x.observation), x.state, x.reset[None])
        values = legal(output.policy[0].float(), x.action_mask)
        explore = (noise[0] < epsilon).to(values.device)
        action = torch.where(explore, random.to(values.device), values.argmax(-1))
        if not x.record:
            return {"action": action}, state
        return {"action": action, "q_taken": taken(values, action), "q_max": values.amax(-1)}, state

    def value(self, network: Any, x: ActInput) -> Tensor:
        """f32[B] highest action values, for actors that estimate priorities."""
        output, _ = network(tree_map(lambda leaf: leaf[None], x.observation), x.state, x.reset[None])
        return legal(output.policy[0].float(), x.action_mask).amax(-1)

    def due(self, steps: int, num_envs: int) -> int:
        """How many updates follow the batch of agent steps that brought the total to ``steps``."""
        config = self.config
        if steps < config.learning_starts:
            return 0
        return (
            steps // config.update_every
            - max(steps - num_envs, config.learning_starts) // config.update_every
        )

    def target_due(self, before: int, after: int) -> bool:
        """Whether the target network is copied now that agent steps of the run went from ``before`` to ``after``."""
        return before // self.config.target_every < after // self.config.target_every

    def update(self, learner: Any, batch: ReplayBatch) -> tuple[Metrics, Tensor]:
        """One optimiser step on a replay batch [N]; returns metrics and absolute TD errors f32[N] (new priorities)."""
        count = len(batch.reward)
        sizes = [len(part) for part in learner.split(torch.arange(count))]
        if self._loss is None:  # one object for the whole run: what a recorded step is known by
            self._loss = partial(self.loss, target=learner.target)
        parts = [partial(_piece, batch, sum(sizes[:k]), size) for k, size in enumerate(sizes)]
        metrics = learner.step(self._loss, parts, [size / count for size in sizes])
        return metrics, metrics.pop("td_error").abs()

    @torch.no_grad()
    def next_values(self, target: Any, observation: Tree) -> Tensor:
        """Action values f32[N, A] by the target network, which stays the same from one copy to the next."""
        return _values(target, observation)

    def loss(self, network: Any, batch: ReplayBatch, target: Any) -> tuple[Tensor, Metrics]:
        """Weighted Huber loss and metrics (``td_error`` f32[N] among them) of transitions [N]."""
        values = _values(network, batch.observation)
        with torch.no_grad():
            next_values = batch.next_values
            if next_values is None:
                next_values = self.next_values(target, batch.next_observation)
            if self.config.double:
                online = _values(network, batch.next_observation)
                backup = double_q_target(
                    batch.reward, batch.discount, online, next_values, batch.next_action_mask
                )
            else:
                backup = q_target(batch.reward, batch.discount, next_values, batch.next_action_mask)
        chosen = taken(values, batch.action)
        error = chosen - backup
        total = (batch.weight * self.per_sample(error)).mean()
        metrics: Metrics = {
            "q_loss": total.detach(),
            "q_value": chosen.detach().mean(),
            "td_error": error.detach(),
        }
        return total, metrics

    def per_sample(self, error: Tensor) -> Tensor:
        """Loss of TD errors, f32[N]."""
        return huber(error)


def _values(network: Any, observation: Tree) -> Tensor:
    """Action values f32[N, A] of observations [N, ...]: one time step of N environments."""
    first = next(tree_leaves(observation))
    reset = torch.ones((1, len(first)), dtype=torch.bool, device=first.device)
    output, _ = network(tree_map(lambda leaf: leaf[None], observation), None, reset)
    return output.policy[0].float()


def _piece(batch: ReplayBatch, start: int, size: int) -> ReplayBatch:
    return batch.map(lambda x: x[start : start + size])
