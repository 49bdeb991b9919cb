"""Environments for runtimes to be tried with."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from typing import Any

import gymnasium
import numpy as np

from tests.environments.samples import Counter

_made = itertools.count()


class Uneven(gymnasium.Env[np.ndarray, int]):
    """Every second copy made in a process sleeps at each step."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self) -> None:
        self.slow = next(_made) % 2 == 1
        self.left = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.left = 10
        return self.np_random.uniform(-1, 1, 3).astype(np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if self.slow:
            time.sleep(0.002)
        self.left -= 1
        observation = self.np_random.uniform(-1, 1, 3).astype(np.float32)
        return observation, float(action), self.left == 0, False, {}


GATE = threading.Event()  # while it is shut, every second copy of ``Held`` stands still
GATE.set()


class Held(Uneven):
    """Every second copy made in a process waits at a gate at each step."""

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if self.slow:
            GATE.wait(60)
        return super().step(action)


def make_held() -> gymnasium.Env[np.ndarray, int]:
    """One copy."""
    return Held()


def make_uneven() -> gymnasium.Env[np.ndarray, int]:
    """One copy."""
    return Uneven()


class Interrupted(Counter):
    """Sends its own process a Ctrl-C in the hundredth step of an episode that lasts for ever, as it were."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.time == 100:
            os.kill(os.getpid(), signal.SIGINT)
        return super().step(action)


def make_interrupted() -> Interrupted:
    """One copy."""
    return Interrupted(1_000_000)


class Arms(gymnasium.Env[np.ndarray, int]):
    """Two arms, episodes of one step: the second earns 1, the first loses 1. There is nothing to see."""

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        return np.ones(1, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return np.ones(1, np.float32), 2.0 * float(action) - 1.0, True, False, {}


def make_arms() -> gymnasium.Env[np.ndarray, int]:
    """One copy."""
    return Arms()
