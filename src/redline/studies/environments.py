"""Environments made slow on purpose: they wait as a remote or heavy simulator would, and leave the core free."""

from __future__ import annotations

import threading
import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Latency(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Sleeps at every step."""

    def __init__(self, env: gymnasium.Env[Any, Any], milliseconds: float) -> None:
        super().__init__(env)
        self.seconds = milliseconds / 1e3

    def step(self, action: Any) -> Any:
        """As the environment's, later."""
        time.sleep(self.seconds)
        return self.env.step(action)


def make_late(inner: str = "CartPole-v1", milliseconds: float = 5.0) -> gymnasium.Env[Any, Any]:
    """The environment ``inner`` with ``milliseconds`` of latency a step."""
    return Latency(gymnasium.make(inner), milliseconds)


CORES = 2  # of the emulated machine
_cores = threading.Semaphore(CORES)


class Occupying(gymnasium.Env[np.ndarray, Any]):
    """Keeps one of ``CORES`` emulated cores of this process to itself for ``milliseconds`` at each step, asleep.

    Observation f32[4] of zeros, two actions, reward 1, episodes of 100 steps. What steps beside it, as threads, shares
    those cores with it as heavy simulators would the real ones.
    """

    observation_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, milliseconds: float) -> None:
        self.seconds = milliseconds / 1e3
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """A new episode."""
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(4, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Wait for a core, keep it."""
        with _cores:
            time.sleep(self.seconds)
        self.steps += 1
        return np.zeros(4, np.float32), 1.0, self.steps >= 100, False, {}


def make_occupying(milliseconds: float = 10.0) -> Occupying:
    """One environment that keeps an emulated core busy for so long a step."""
    return Occupying(milliseconds)
