"""Playing a policy without learning: evaluation and pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from redline import environments
from redline.runtime.experiment import Experiment
from redline.types import ActInput, Environment, Episode, Step, Tree, tree_map

AfterStep = Callable[[Environment, Step], None]


class Player:
    """Acts for B environments with a network, carrying recurrent state from step to step."""

    def __init__(
        self, algorithm: Any, network: Any, batch: int, *, seed: int = 0, explore: bool = False
    ) -> None:
        self.algorithm, self.network, self.explore = algorithm, network, explore
        self.device = next(network.parameters()).device
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.state: Tree = network.initial_state(batch)
        self.reset = torch.ones(batch, dtype=torch.bool, device=self.device)

    @torch.no_grad()
    def act(self, observation: Tree, action_mask: np.ndarray | None = None) -> np.ndarray:
        """Actions for observations [B, ...] as the environment takes them; call ``ended`` after each step."""
        seen = tree_map(lambda x: torch.from_numpy(np.ascontiguousarray(x)).to(self.device), observation)
        seen = tree_map(lambda x: x.float() if x.dtype == torch.float64 else x, seen)
        mask = None if action_mask is None else torch.from_numpy(action_mask).to(self.device)
        x = ActInput(seen, self.state, self.reset, mask, self.generator, 2**62, self.explore)
        record, self.state = self.algorithm.act(self.network, x)
        self.reset = torch.zeros_like(self.reset)
        return self.algorithm.to_environment(record["action"])

    def ended(self, done: np.ndarray) -> None:
        """Say which environments' episodes ended bool[B]: their recurrent state starts anew."""
        self.reset = torch.from_numpy(np.asarray(done, dtype=bool)).to(self.device)


def evaluate(
    experiment: Experiment,
    algorithm: Any,
    network: Any,
    episodes: int,
    seed: int,
    *,
    explore: bool = False,
    after_step: AfterStep | None = None,
    num_envs: int | None = None,
) -> list[Episode]:
    """Play ``episodes`` whole episodes with fresh environments.

    Every environment plays its equal share, so that short episodes are not counted more often than long ones.
    """
    batch = min(episodes, num_envs or 8)
    environment = environments.make(experiment.environment, batch)
    quota = [episodes * (k + 1) // batch - episodes * k // batch for k in range(batch)]
    finished: list[Episode] = []
    try:
        player = Player(algorithm, network, batch, seed=seed, explore=explore)
        step = environment.reset(seed)
        while any(quota):
            environment.send(player.act(step.observation, step.action_mask))
            step = environment.recv()
            player.ended(step.terminated | step.truncated)
            for episode in step.episodes:
                if quota[episode.index] > 0:
                    quota[episode.index] -= 1
                    finished.append(episode)
            if after_step is not None:
                after_step(environment, step)
    finally:
        environment.close()
    return finished
