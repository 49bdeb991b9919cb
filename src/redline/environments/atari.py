"""Atari through ale-py's own C++ vector environment: emulation, resizing and stacking in its threads, no OpenCV."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ale_py
import numpy as np
from ale_py import roms
from ale_py.vector_env import AtariVectorEnv
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode

from redline.environments.batch import EpisodeCounter
from redline.environments.config import AtariConfig, EnvironmentConfig
from redline.types import Episode, RunError, Spec, Step, UserError

ENTRY_POINT = "ale_py.env:AtariEnv"
Key = tuple[tuple[str, Any], ...]  # what emulators were made with
SUPPORTED = ("mode", "difficulty", "render_mode")


def is_atari(registration: EnvSpec | None) -> bool:
    """Whether an id is one of ale-py's."""
    return registration is not None and registration.entry_point == ENTRY_POINT


def settings(config: EnvironmentConfig, registration: EnvSpec) -> AtariConfig:
    """The Atari configuration with what is None filled in from the id's registration.

    ``ALE/Pong-v5`` is registered with sticky actions 0.25, ``PongNoFrameskip-v4`` with 0.

    Raises:
      UserError: arguments that ale-py's vector environment does not take.
    """
    unknown = [key for key in config.kwargs if key != "render_mode"]
    if unknown:
        fields = ", ".join(AtariConfig.__dataclass_fields__)
        where = "environment.atari" if config.backend != "inline" else "environment.kwargs"
        raise UserError(
            f"environment.kwargs.{unknown[0]} does not apply to {registration.id!r}: set {where} ({fields}),"
            " or environment.backend=inline for the single environment"
        )
    if config.action_repeat != 1:
        raise UserError(
            "environment.action_repeat is for environments other than Atari: set environment.atari.action_repeat"
        )
    known = registration.kwargs
    atari = config.atari
    if atari.sticky is None:
        atari = replace(atari, sticky=float(known.get("repeat_action_probability", 0.0)))
    if atari.full_action_space is None:
        atari = replace(atari, full_action_space=bool(known.get("full_action_space", False)))
    if config.time_limit is not None:
        atari = replace(atari, max_frames=config.time_limit * atari.action_repeat)
    return atari


def describe(config: EnvironmentConfig, registration: EnvSpec) -> Spec:
    """The Spec of an Atari id, without starting an emulator for it (spaces follow from the ROM and configuration)."""
    atari = settings(config, registration)
    from gymnasium import spaces

    count = 18 if atari.full_action_space else _minimal_actions(str(registration.kwargs["game"]))
    shape = (atari.frame_stack, atari.screen, atari.screen)
    return Spec(
        name=registration.id,
        observation=spaces.Box(0, 255, shape, np.uint8),
        action=spaces.Discrete(count),
        action_repeat=atari.action_repeat,
        frame_stack=atari.frame_stack,
        threaded=True,
        rules=_rules(atari),
    )


@functools.cache  # loading a game takes 80 ms
def _minimal_actions(game: str) -> int:
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.loadROM(_rom(game))
    return len(ale.getMinimalActionSet())


def _rom(game: str) -> Any:
    path = roms.get_rom_path(game)
    if path is None:
        raise UserError(f"ale-py has no ROM for the game {game!r}")
    return path


def _rules(atari: AtariConfig) -> tuple[str, ...]:
    frames = f"{atari.action_repeat} frames per agent step, the last two max-pooled"
    size = f"{atari.screen} x {atari.screen}"
    picture = f"{atari.frame_stack} grey frames of {size} stacked, newest last, zeros before the first"
    minutes = atari.max_frames / 3600
    return (
        frames,
        picture,
        f"sticky actions {atari.sticky:g}",
        f"up to {atari.noop_max} no-ops at the start of a game",
        "FIRE is pressed at the start of a game that waits for it"
        if atari.fire_reset
        else "FIRE is left to the agent",
        "a lost life ends an episode for the learner; returns are those of whole games"
        if atari.episodic_life
        else "an episode is a whole game",
        "all 18 actions" if atari.full_action_space else "the game's own actions",
        f"time limit {atari.max_frames} frames ({minutes:g} minutes of play), a truncation",
    )


class _Kept:
    """Emulators that nobody uses for now, by what they were made with; None: they are not kept."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.resting: dict[Key, list[AtariVectorEnv]] | None = None

    def take(self, settings: dict[str, Any]) -> AtariVectorEnv:
        """Some that rest, or new ones."""
        key = tuple(sorted(settings.items()))
        with self.lock:
            there = (self.resting or {}).get(key)
            if there:
                return there.pop()
        return AtariVectorEnv(**settings)

    def leave(self, settings: dict[str, Any], emulators: AtariVectorEnv) -> None:
        """They are not used any more."""
        with self.lock:
            if self.resting is not None:
                self.resting.setdefault(tuple(sorted(settings.items())), []).append(emulators)


_KEPT = _Kept()


@contextmanager
def only_timed() -> Iterator[None]:
    """Until its end, games of this process are there to be timed, not to be played.

    Those that are closed are kept for the next that want the same number, rules and threads, and no seed is heeded:
    making a game takes 0.08 s, and seeding it as long again.
    """
    with _KEPT.lock:
        outer, _KEPT.resting = _KEPT.resting, {} if _KEPT.resting is None else _KEPT.resting
    try:
        yield
    finally:
        with _KEPT.lock:
            _KEPT.resting = outer


class Atari:
    """B games of one ROM. Every step's arrays are fresh: the next step does not overwrite them.

    Frame stacks begin an episode with zero frames, except after a lost life (``episodic_life``), where the game and
    its stack go on. Reward is the game's own score, never clipped.
    """

    def __init__(self, config: EnvironmentConfig, registration: EnvSpec, num_envs: int, threads: int) -> None:
        """Takes about 0.1 s per environment, and the first ``reset`` about 0.13 s more."""
        atari = settings(config, registration)
        self.spec = describe(config, registration)
        self.num_envs = num_envs
        self._lives = atari.episodic_life
        self._settings: dict[str, Any] = dict(
            game=str(registration.kwargs["game"]),
            num_envs=num_envs,
            num_threads=min(threads, num_envs),
            max_num_frames_per_episode=atari.max_frames,
            repeat_action_probability=float(atari.sticky or 0.0),
            full_action_space=bool(atari.full_action_space),
            autoreset_mode=AutoresetMode.SAME_STEP,
            img_height=atari.screen,
            img_width=atari.screen,
            stack_num=atari.frame_stack,
            frameskip=atari.action_repeat,
            noop_max=atari.noop_max,
            # ale-py's `episodic_life` starts a new game at every lost life; the field's meaning is this one.
            life_loss_info=atari.episodic_life,
            reward_clipping=False,
            use_fire_reset=atari.fire_reset,
        )
        self._env: AtariVectorEnv | None = _KEPT.take(self._settings)
        self._actions = int(self.spec.action.n)  # type: ignore[attr-defined]
        self._sent = False  # whether a step is under way
        self._counter = EpisodeCounter(num_envs)
        self._origin = np.zeros(num_envs, np.int64)  # frame number at which each game in progress began
        self._observation = np.zeros((num_envs, *self.spec.observation.shape), np.uint8)  # type: ignore[misc]

    def reset(self, seed: int) -> Step:
        """Start every game afresh; game ``i`` is seeded with ``seed + i``."""
        heeded = seed if _KEPT.resting is None else None  # ale-py loads the game anew for a seed
        self._observation, info = self._open.reset(seed=heeded)
        self._origin = info["frame_number"].astype(np.int64) - info["episode_frame_number"]
        self._counter.clear()
        return self.observe()

    def send(self, action: np.ndarray) -> None:
        """Start stepping in ale-py's threads with i64[B]."""
        # ale-py never returns from a step with an action it does not know: look first.
        if action.shape != (self.num_envs,) or action.min() < 0 or action.max() >= self._actions:
            raise ValueError(f"actions must be {self.num_envs} numbers from 0 to {self._actions - 1}")
        self._open.send(np.ascontiguousarray(action, np.int64))
        self._sent = True

    def recv(self) -> Step:
        """Wait for the step."""
        observation, reward, terminated, truncated, info = self._open.recv()
        self._sent = False
        self._observation = observation
        reward = reward.astype(np.float32)
        self._counter.add(reward)
        final: np.ndarray | None = None
        episodes: list[Episode] = []
        if np.count_nonzero(terminated) or np.count_nonzero(truncated):
            truncated = truncated & ~terminated
            final, episodes = self._finish(terminated | truncated, observation, info)
        return Step(observation, reward, terminated, truncated, final, None, episodes)

    def _finish(
        self, ended: np.ndarray, observation: np.ndarray, info: dict[str, Any]
    ) -> tuple[np.ndarray, list[Episode]]:
        """Final observations, and the episodes of games that really are over."""
        final = info["final_obs"]
        # The distance between the two frame counters moves when, and only when, a new game starts.
        origin = info["frame_number"].astype(np.int64) - info["episode_frame_number"]
        over = origin != self._origin
        self._origin = origin
        continues = ended & ~over
        if continues.any():  # a lost life: ale-py leaves these rows of final_obs unwritten
            final[continues] = observation[continues]
        return final, self._counter.finish(np.flatnonzero(over).tolist())

    def render(self, index: int = 0) -> np.ndarray:
        """u8[screen, screen, 3]: the newest frame as the agent sees it, grey (the vector interface has no other)."""
        return np.repeat(self._observation[index, -1, :, :, None], 3, axis=2)

    def state(self) -> None:
        """None: ale-py's vector interface has no way to save its emulators (only reset, send, recv)."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Never possible, as ``state`` is None."""
        raise UserError(
            f"environment {self.spec.name!r}: ale-py's vector environment cannot load a saved state"
        )

    def observe(self) -> Step:
        """The current observation again (reward 0, nothing ended)."""
        size = self.num_envs
        flags = (np.zeros(size, np.bool_), np.zeros(size, np.bool_))
        return Step(self._observation, np.zeros(size, np.float32), *flags)

    def events(self) -> dict[str, int]:
        """Nothing is mended here."""
        return {"crashes": 0, "hangs": 0}

    def close(self) -> None:
        """Stop ale-py's threads. Safe to call twice."""
        emulators, self._env = self._env, None  # ale-py joins its threads with the last reference
        if emulators is not None and not self._sent:
            _KEPT.leave(self._settings, emulators)

    @property
    def _open(self) -> AtariVectorEnv:
        if self._env is None:
            raise RunError(f"environment {self.spec.name!r} is closed")
        return self._env
