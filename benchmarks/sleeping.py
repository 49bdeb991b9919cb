"""An environment that only waits, as one does whose simulator runs elsewhere: it costs time, and no processor."""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Sleeping(gymnasium.Env):
    """Sleeps ``seconds`` each step. Observation f32[4], two actions, episodes of 100 steps, reward 1."""

    def __init__(self, seconds: float = 0.005) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.seconds = seconds
        self.steps = 0
        self.seen = np.zeros(4, np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.seen, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        time.sleep(self.seconds)
        self.steps += 1
        return self.seen, 1.0, self.steps >= 100, False, {}
