"""An environment that counts its steps, made in processes that load no torch."""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Pacing(gymnasium.Env):
    """Observation f32[1]: steps since the episode began. Each takes ``pause`` seconds."""

    def __init__(self, pause: float = 0.0, length: int = 50) -> None:
        self.observation_space = spaces.Box(0, np.inf, (1,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.pause, self.length = pause, length
        self.time = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        time.sleep(self.pause)
        self.time += 1
        return np.full(1, self.time, np.float32), 1.0, self.time >= self.length, False, {}
