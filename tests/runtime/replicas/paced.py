"""An environment that takes a fixed time a step, whatever else the machine does: rates then count copies, not cores."""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Paced(gymnasium.Env[np.ndarray, Any]):
    """Ten milliseconds a step; episodes of 20 steps; observation f32[2]."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        time.sleep(0.01)
        self.steps += 1
        return np.full(2, self.steps / 20, np.float32), float(action), self.steps >= 20, False, {}


def make() -> Paced:
    """One environment."""
    return Paced()
