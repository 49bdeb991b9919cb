"""Environments with the troubles that plans have to weigh: slow ones, rare long resets, large observations."""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class World(gymnasium.Env[Any, Any]):
    """Two actions, reward 1 a step; what it costs is said in numbers.

    Args:
        compute: seconds of this process's core that a step takes.   wait: seconds that it sleeps.
        reset_wait: mean seconds that a reset sleeps, log-normal: the slowest hundredth takes six times it.
        shape: of the observation, u8 where it has three axes, else f32.   length: steps of an episode on average, from
            half to one and a half of it, so that environments which started together do not all reset together.
    """

    def __init__(
        self,
        compute: float = 0.0,
        wait: float = 0.0,
        reset_wait: float = 0.0,
        shape: tuple[int, ...] = (8,),
        length: int = 50,
    ) -> None:
        image = len(shape) == 3
        low, high = (0, 255) if image else (-1.0, 1.0)
        self.observation_space = spaces.Box(low, high, tuple(shape), np.uint8 if image else np.float32)
        self.action_space = spaces.Discrete(2)
        self.compute, self.wait, self.reset_wait, self.length = compute, wait, reset_wait, length
        self.steps = self.end = 0

    def _see(self) -> np.ndarray:
        space = self.observation_space
        assert isinstance(space, spaces.Box)
        if space.dtype == np.uint8:
            return self.np_random.integers(0, 256, space.shape, np.uint8)
        return self.np_random.standard_normal(space.shape).clip(-1, 1).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """See ``gymnasium.Env``."""
        super().reset(seed=seed)
        self.steps, half = 0, self.length // 2
        self.end = int(self.np_random.integers(self.length - half, self.length + half + 1))
        if self.reset_wait:
            time.sleep(self.reset_wait * float(self.np_random.lognormal(-0.5, 1.0)))
        return self._see(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """See ``gymnasium.Env``."""
        if self.wait:
            time.sleep(self.wait)
        end = time.thread_time() + self.compute
        while time.thread_time() < end:
            pass
        self.steps += 1
        return self._see(), 1.0, self.steps >= self.end, False, {}


def slow() -> gymnasium.Env[Any, Any]:
    """Two milliseconds of Python a step."""
    return World(compute=0.002)


def remote() -> gymnasium.Env[Any, Any]:
    """Four milliseconds of waiting a step."""
    return World(wait=0.004)


def tailed() -> gymnasium.Env[Any, Any]:
    """Quick steps, and resets that take twice as long as an episode's steps on average, some ten times that.

    Episodes are short, so that a second holds a hundred of them: with ten times as long ones two runs of the same plan
    differed by a third.
    """
    return World(compute=0.0002, reset_wait=0.004, length=10)


def large() -> gymnasium.Env[Any, Any]:
    """Pictures of 128 x 128 x 3."""
    return World(compute=0.0005, shape=(128, 128, 3), length=200)


def register(name: str, make: Any) -> None:
    """Under a Gymnasium id, for who takes ids alone: ``worlds:Slow-v0``. A ``render_mode`` changes nothing."""
    gymnasium.register(name, entry_point=lambda render_mode=None: make())


register("Slow-v0", slow)
register("Tailed-v0", tailed)
register("Large-v0", large)


class Sleeping(gymnasium.Env[Any, Any]):
    """Nothing but waiting, as with a simulator elsewhere: it sleeps ``seconds`` each step.

    Observation f32[4], two actions, episodes of 100 steps, reward 1.
    """

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
