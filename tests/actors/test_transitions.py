"""The actor that feeds a replay: what it hands over belongs to the observation that was acted on."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from redline import environments
from redline.actors.transitions import ReplayActor
from redline.algorithms.dqn import DQN, DQNConfig
from redline.environments import EnvironmentConfig
from redline.replay import Replay, ReplayConfig


class Tell(gymnasium.Env[np.ndarray, int]):
    """Observation k, in which action k % 4 alone is legal."""

    observation_space = gymnasium.spaces.Box(0, 1e6, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.k = 0
        return self._tell()

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert action == self.k % 4
        self.k += 1
        observation, info = self._tell()
        return observation, 0.0, False, False, info

    def _tell(self) -> tuple[np.ndarray, dict[str, Any]]:
        mask = np.zeros(4, np.bool_)
        mask[self.k % 4] = True
        return np.array([self.k], np.float32), {"action_mask": mask}


def test_the_mask_in_replay_is_that_of_its_observation() -> None:
    environment = environments.make(EnvironmentConfig(Tell, backend="inline"), 1)
    algorithm = DQN(DQNConfig(learning_starts=10**6), environment.spec)
    actor = ReplayActor(environment, algorithm, None, seed=0)  # epsilon 1: no network needed
    replay = Replay(environment.spec, ReplayConfig(capacity=100), 1)
    for steps in range(50):
        actor.act(steps)
        actor.receive(replay.add, lambda reward: reward)
    batch = replay.sample(32)
    assert batch.next_action_mask is not None
    legal = [np.flatnonzero(mask).tolist() for mask in batch.next_action_mask.numpy()]
    assert legal == [[int(k) % 4] for k in batch.next_observation[:, 0]]
