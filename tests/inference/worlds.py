"""Environments and a network that say whether everything reached the one that it was meant for."""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

ACTIONS = 997


class Checked(gymnasium.Env):
    """Shows numbers nobody else shows, and raises unless the action is the one that follows from what it showed."""

    def __init__(self, pause: float = 0.0, length: int = 23, truncate: bool = True) -> None:
        self.observation_space = spaces.Box(0, 2**24, (2,), np.float32)
        self.action_space = spaces.Discrete(ACTIONS)
        self.pause, self.length, self.truncate = pause, length, truncate
        self.shown = np.zeros(2, np.float32)
        self.time = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self.show(), {}

    def show(self) -> np.ndarray:
        self.shown = self.np_random.integers(0, 2**24, 2).astype(np.float32)
        return self.shown

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        wanted = int(answer(torch.from_numpy(self.shown)[None])[0])
        if int(action) != wanted:
            raise AssertionError(f"showed {self.shown}, which asks for action {wanted}, and got {action}")
        if self.pause:
            time.sleep(self.np_random.uniform(0, 2 * self.pause))
        self.time += 1
        over = self.time >= self.length
        reward = float(self.shown[0])
        return self.show(), reward, over and not self.truncate, over and self.truncate, {}


def answer(observation: torch.Tensor) -> torch.Tensor:
    """f32[n, 2] -> i64[n]: the action that ``Checked`` wants."""
    whole = observation.to(torch.int64)
    return (whole[:, 0] * 31 + whole[:, 1] * 7) % ACTIONS


class Oracle:
    """An algorithm that needs no network: acts as ``Checked`` wants; values are the first number shown."""

    name = "oracle"
    network_kind = "actor_critic"
    experience = "unroll"
    bootstraps = True

    def __init__(self) -> None:
        self.sizes: list[int] = []  # of the batches served

    def record(self) -> dict[str, Any]:
        return {"value": ((), torch.float32)}

    def act(self, network: Any, x: Any) -> tuple[dict[str, torch.Tensor], Any]:
        self.sizes.append(len(x.observation))
        state = x.state
        if state is not None:  # counts the steps of each episode
            count = torch.where(x.reset[:, None], 0.0, state["count"]) + 1.0
            state = {"count": count}
        return {"action": answer(x.observation), "value": x.observation[:, 0]}, state

    def value(self, network: Any, x: Any) -> torch.Tensor:
        return x.observation[:, 0]

    @staticmethod
    def to_environment(action: torch.Tensor) -> np.ndarray:
        return action.numpy()


class Counting:
    """A network whose recurrent state is one number for each environment."""

    def initial_state(self, batch: int) -> dict[str, torch.Tensor]:
        return {"count": torch.zeros(batch, 1)}
