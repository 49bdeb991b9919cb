"""Ape-X DQN: double, dueling, n-step Q-learning on prioritised replay (Horgan et al. 2018, arXiv 1803.00933).

What differs from DQN: every environment has an exploration rate of its own, which never changes; each batch is large;
the target network is copied after so many *updates*; and actors may give their transitions first priorities, from the
action values they remember (``record``, ``ops.apex.actor_priorities``). Dueling heads live in the network, n-step
windows and the exponents alpha and beta in the replay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from redline.algorithms.dqn import DQN
from redline.ops.exploration import epsilon_greedy, epsilon_ladder
from redline.ops.values import legal, taken
from redline.types import ActInput, Metrics, ReplayBatch, Spec, Tree, tree_map


@dataclass(frozen=True)
class ApexConfig:
    """Ape-X DQN's numbers; steps are agent steps, never frames. Defaults: the paper's Atari runs."""

    batch: int = 512
    update_every: int = 640  # agent steps per update in one process: the paper's 12,500 over 19 a second
    learning_starts: int = 50_000  # transitions in replay before the first update
    target_every_updates: int = (
        2_500  # updates (the paper's batches), not steps, between copies to the target network
    )
    gamma: float = 0.99
    double: bool = True
    loss: Literal["squared", "huber"] = (
        "squared"  # (G - Q)^2 / 2, or that with the error's gradient held within 1
    )
    epsilon_base: float = 0.4  # environment i of N explores with base^(1 + alpha i / (N - 1))
    epsilon_alpha: float = 7.0
    epsilon_evaluation: float = 0.0

    def __post_init__(self) -> None:
        for name in ("batch", "update_every", "target_every_updates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        for name in ("epsilon_base", "epsilon_evaluation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if not 0 < self.gamma <= 1 or self.epsilon_alpha < 0:
            raise ValueError(
                f"gamma must be in (0, 1] and epsilon_alpha 0 or more, got {self.gamma}, {self.epsilon_alpha}"
            )


class Apex(DQN):
    """DQN with other exploration, other counting and a choice of losses."""

    name = "apex"
    paced = False  # beside actors of its own the learner goes at its own rate
    config: ApexConfig  # type: ignore[assignment]

    def __init__(self, config: ApexConfig, spec: Spec) -> None:
        super().__init__(config, spec)  # type: ignore[arg-type]

    def epsilons(self, x: ActInput) -> Tensor:
        """f32[B] probability of a random action in each environment of ``x``; environment 0 of all explores most."""
        config, count = self.config, len(x.reset)
        if not x.explore:
            return torch.full((count,), config.epsilon_evaluation)
        total = x.num_environments or x.first_environment + count
        return epsilon_ladder(x.first_environment, count, total, config.epsilon_base, config.epsilon_alpha)

    def act(self, network: Any, x: ActInput) -> tuple[dict[str, Tensor], Tree]:
        """Epsilon-greedy actions: record {action i64[B], q_taken f32[B], q_max f32[B]} and the next state."""
        output, state = network(tree_map(lambda leaf: leaf[None], x.observation), x.state, x.reset[None])
        values = output.policy[0].float()
        action = epsilon_greedy(values, self.epsilons(x), x.generator, x.action_mask)
        best = legal(values, x.action_mask).amax(-1)
        return {"action": action, "q_taken": taken(values, action), "q_max": best}, state

    def target_due(self, before: int, after: int) -> bool:
        """Never: copies are counted in updates, and made by ``update``."""
        return False

    def update(self, learner: Any, batch: ReplayBatch) -> tuple[Metrics, Tensor]:
        """As DQN's; every so many updates the target network is copied right after."""
        metrics, errors = super().update(learner, batch)
        if learner.version % self.config.target_every_updates == 0:
            learner.copy_target()
        return metrics, errors

    def per_sample(self, error: Tensor) -> Tensor:
        """Loss of TD errors, f32[N]."""
        return 0.5 * error.square() if self.config.loss == "squared" else super().per_sample(error)
