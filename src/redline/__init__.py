"""Redline: parallel deep reinforcement learning at the limit of the machine it is on, saying what that limit is.

>>> import redline
>>> run = redline.train("CartPole-v1", recipe="ppo", steps=100_000)
>>> run.evaluate(episodes=20).mean_return
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redline.version import VERSION

if TYPE_CHECKING:
    from redline.api import (
        Evaluation,
        Interrupted,
        Policy,
        Run,
        evaluate,
        explain,
        load,
        plan,
        record,
        resume,
        train,
    )

__version__ = VERSION
__all__ = [
    "Evaluation",
    "Interrupted",
    "Policy",
    "Run",
    "evaluate",
    "explain",
    "load",
    "plan",
    "record",
    "resume",
    "train",
]


def __getattr__(name: str) -> Any:
    """Names of ``redline.api``, imported when first used: ``import redline`` alone does not load torch."""
    if name in __all__:
        from redline import api

        return getattr(api, name)
    raise AttributeError(f"module 'redline' has no attribute {name!r}")
