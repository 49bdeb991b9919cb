"""The actor that feeds a replay: one step at a time, so that learning can go on while the environments step.

act -> send -> (the learner updates meanwhile) -> receive -> replay.add
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from redline.types import ActInput, Environment, Episode, Tree, tree_map

Add = Callable[..., None]  # replay's ``add``


class ReplayActor:
    """Steps one batch of environments. Call ``act``, then ``receive``, in turn."""

    def __init__(
        self,
        environment: Environment,
        algorithm: Any,
        network: Any,
        *,
        seed: int,
        device: str = "cpu",
        first_environment: int = 0,
        num_environments: int = 0,
    ) -> None:
        """first_environment, num_environments: see ``ActInput``: this batch's place among all of the run."""
        self.environment, self.algorithm, self.network = environment, algorithm, network
        self.device = torch.device(device)
        self.generator = torch.Generator().manual_seed(seed)
        self.now = environment.reset(seed)
        self.acted_on: Tree = None
        self.legal: np.ndarray | None = None  # bool[B, A] in what was acted on
        self.first_environment, self.num_environments = first_environment, num_environments
        self.action = np.zeros(environment.num_envs, dtype=np.int64)
        self.clock = {"stepping": 0.0, "acting": 0.0}
        self.episodes: list[Episode] = []
        self._reset = torch.zeros(environment.num_envs, dtype=torch.bool, device=self.device)

    @torch.no_grad()
    def act(self, steps: int) -> None:
        """Choose actions and start the step; ``steps`` agent steps of the run are done."""
        begin = time.perf_counter()
        # Copies: the environment may reuse its arrays, and does as soon as it steps.
        self.acted_on = tree_map(np.copy, self.now.observation)
        self.legal = tree_map(np.copy, self.now.action_mask)
        observation, mask = self._tensors(self.acted_on), self._tensors(self.legal)
        x = ActInput(
            observation,
            None,
            self._reset,
            mask,
            self.generator,
            steps,
            first_environment=self.first_environment,
            num_environments=self.num_environments,
        )
        record, _ = self.algorithm.act(self.network, x)
        self.action = record["action"].cpu().numpy()
        chosen = time.perf_counter()
        self.clock["acting"] += chosen - begin
        self.environment.send(self.algorithm.to_environment(record["action"]))  # may step in here
        self.clock["stepping"] += time.perf_counter() - chosen

    def receive(self, add: Add, transform: Callable[[np.ndarray], np.ndarray]) -> None:
        """Wait for the step and hand it to ``add``; ``transform`` makes rewards to learn from of raw ones f32[B]."""
        begin = time.perf_counter()
        self.now = self.environment.recv()
        self.clock["stepping"] += time.perf_counter() - begin
        step = self.now
        add(
            self.acted_on,
            self.action,
            transform(step.reward),
            step.terminated,
            step.truncated,
            step.final_observation,
            self.legal,
        )
        self.episodes.extend(step.episodes)

    def _tensors(self, tree: Tree) -> Tree:
        return tree_map(lambda x: torch.from_numpy(x).to(self.device, non_blocking=True), tree)

    def state(self) -> dict[str, Any]:
        """Generator and environments (None where they cannot save themselves)."""
        return {"generator": self.generator.get_state(), "environment": self.environment.state()}

    def load_state(self, state: dict[str, Any]) -> bool:
        """Go back to a saved state. False where the environments had to start new episodes instead."""
        self.generator.set_state(state["generator"])
        if state["environment"] is None:
            return False
        self.environment.load_state(state["environment"])
        self.now = self.environment.observe()
        return True

    def close(self) -> None:
        """Close the environments."""
        self.environment.close()
