"""Environments made slow on purpose: they wait as a remote or heavy simulator would, and leave the core free."""

from __future__ import annotations

import time
from typing import Any

import gymnasium


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
