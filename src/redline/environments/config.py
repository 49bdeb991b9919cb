"""What environment to make, and how to step it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from redline.types import UserError

BACKENDS = ("auto", "inline", "vector", "workers", "atari", "envpool")


@dataclass(frozen=True)
class AtariConfig:
    """Atari preprocessing (Machado et al. 2018, section 5, unless a recipe departs from it and says so)."""

    frame_stack: int = 4  # frames per observation
    action_repeat: int = 4  # emulator frames per agent step; the last two are max-pooled
    noop_max: int = 30  # up to this many no-ops at the start of a game (Mnih et al. 2015)
    episodic_life: bool = False  # a lost life ends the episode for the learner, though the game goes on
    fire_reset: bool = False  # press FIRE at the start of games that wait for it
    sticky: float | None = None  # chance that the last action is repeated; None: as the id is registered
    full_action_space: bool | None = None  # all 18 actions; None: as the id is registered
    screen: int = 84  # pixels, height and width after resizing
    max_frames: int = 108_000  # frames until a game is truncated: 30 minutes at 60 frames per second

    def __post_init__(self) -> None:
        _at_least("environment.atari.frame_stack", self.frame_stack, 1)
        _at_least("environment.atari.action_repeat", self.action_repeat, 1)
        _at_least("environment.atari.noop_max", self.noop_max, 0)
        _at_least("environment.atari.screen", self.screen, 8)
        _at_least("environment.atari.max_frames", self.max_frames, 1)
        if self.sticky is not None and not 0.0 <= self.sticky <= 1.0:
            raise UserError(f"environment.atari.sticky is a probability from 0 to 1, not {self.sticky}")


@dataclass(frozen=True)
class EnvironmentConfig:
    """Which environment, and how it is stepped. The number of copies is an argument of ``make``.

    ``id`` is a Gymnasium id (``CartPole-v1``, ``ALE/Pong-v5``, ``my_package:MyEnv-v0``), a factory
    (``my_package.module:function``), or a callable; factories return a ``gymnasium.Env``, or a
    ``gymnasium.vector.VectorEnv`` when they take ``num_envs``.
    """

    id: str | Callable[..., Any] = "CartPole-v1"
    kwargs: dict[str, Any] = field(default_factory=dict)  # for the environment's constructor or the factory
    backend: str = "auto"  # auto, inline, vector, workers, atari or envpool
    workers: int = 0  # worker processes; 0: as many as pay on the cores that `make` is given
    step_timeout: float = 60.0  # seconds a worker may take for one step before it counts as hung
    action_repeat: int = 1  # frames per agent step outside Atari; rewards are summed
    time_limit: int | None = None  # agent steps until truncation; None: the id's own limit
    atari: AtariConfig = field(default_factory=AtariConfig)

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise UserError(f"environment.backend {self.backend!r} is none of {', '.join(BACKENDS)}")
        if not callable(self.id) and not isinstance(self.id, str):
            raise UserError(f"environment.id is an id or a callable, not {self.id!r}")
        _at_least("environment.workers", self.workers, 0)
        _at_least("environment.action_repeat", self.action_repeat, 1)
        if self.time_limit is not None:
            _at_least("environment.time_limit", self.time_limit, 1)
        if not self.step_timeout > 0:
            raise UserError(
                f"environment.step_timeout is a number of seconds above 0, not {self.step_timeout}"
            )


def _at_least(name: str, value: int, smallest: int) -> None:
    if value < smallest:
        raise UserError(f"{name} is at least {smallest}, not {value}")
