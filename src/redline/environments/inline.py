"""Gymnasium environments stepped one after another in this process: the reference, and what workers run inside."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium
import numpy as np

from redline.environments.batch import Buffers, EpisodeCounter, FiniteCheck, check_mask
from redline.environments.config import EnvironmentConfig
from redline.environments.registry import name_of, one_line
from redline.environments.snapshots import can_snapshot, restore, snapshot
from redline.environments.spaces import (
    MASK,
    ActionAdapter,
    Writer,
    canonical_action,
    canonical_observation,
    copy_tree,
    without_mask,
)
from redline.types import Episode, RunError, Spec, Step, UserError, choices_of, tree_leaves, tree_map


class EnvironmentCrash(RunError):
    """The environment's own code raised: restarting it may help."""


def describe(env: gymnasium.Env, config: EnvironmentConfig) -> Spec:
    """The Spec of a single environment. Resets it, to see whether it gives action masks.

    Raises:
      UserError: a space that is not supported.
      RunError: its ``reset`` raises.
    """
    name = name_of(config)
    for field in ("observation_space", "action_space"):
        if not isinstance(getattr(env, field, None), gymnasium.Space):
            raise UserError(f"environment {name!r} has no {field}")
    space, in_observation = without_mask(env.observation_space)
    observation, action = canonical_observation(space, name), canonical_action(env.action_space, name)
    masked = in_observation or MASK in _first_info(env, name)
    if masked:
        choices_of(action, name)  # refuses continuous actions
    rules = []
    if config.action_repeat > 1:
        rules.append(f"{config.action_repeat} frames per agent step, rewards summed")
    if config.time_limit is not None:
        rules.append(f"time limit {config.time_limit} agent steps, a truncation")
    elif limit := _time_limit(env):
        rules.append(f"time limit {-(-limit // config.action_repeat)} agent steps, a truncation")
    if isinstance(action, gymnasium.spaces.Box) and action.is_bounded("both"):
        rules.append("actions are clipped to the bounds of the action space")
    return Spec(
        name,
        observation,
        action,
        config.action_repeat,
        action_mask=masked,
        rules=tuple(rules),
        own=(space, env.action_space),
    )


def _first_info(env: gymnasium.Env, name: str) -> dict[str, Any]:
    try:
        _, info = env.reset()
    except Exception as error:
        raise EnvironmentCrash(f"environment {name!r} raised in reset(): {one_line(error)}") from error
    if not isinstance(info, dict):
        raise UserError(f"environment {name!r}: reset() must return (observation, info), info is {info!r}")
    return info


@contextlib.contextmanager
def _without_display() -> Iterator[None]:
    """Let MuJoCo draw through EGL where there is no screen.

    Only while drawing: MuJoCo reads the variable when imported too, and then fails where EGL is missing.
    """
    screen = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL"))
    if screen or sys.platform != "linux" or "mujoco" not in sys.modules:
        yield
        return
    os.environ["MUJOCO_GL"] = "egl"
    try:
        yield
    finally:
        del os.environ["MUJOCO_GL"]


def _time_limit(env: gymnasium.Env) -> int | None:
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, gymnasium.wrappers.TimeLimit):
            return env._max_episode_steps
        env = env.env
    return None


class Copies:
    """The single environments behind a batch, and the rows that they write."""

    def __init__(self, envs: Sequence[gymnasium.Env], spec: Spec, first: int) -> None:
        self.envs = list(envs)
        self._name = spec.name
        self._repeat = spec.action_repeat
        self._first = first
        self._writers: dict[int, Writer] = {}
        self._space, in_observation = without_mask(envs[0].observation_space)
        self._mask_in_info = spec.action_mask and not in_observation

    def attach(self, buffers: Buffers) -> None:
        """Write to these arrays from now on."""
        self._buffers = buffers
        if id(buffers) not in self._writers:
            self._writers[id(buffers)] = Writer(self._name, self._space, buffers.observation)
        self._writer = self._writers[id(buffers)]

    def step(self, index: int, action: Any) -> None:
        """One agent step (``action_repeat`` frames) of one environment into row ``index``."""
        env, buffers = self.envs[index], self._buffers
        try:
            observation, reward, terminated, truncated, info = env.step(action)
            for _ in range(self._repeat - 1):
                if terminated or truncated:
                    break
                observation, more, terminated, truncated, info = env.step(action)
                reward = reward + more  # type: ignore[operator]
        except Exception as error:
            raise self._crash(index, "step", error) from error
        try:
            buffers.reward[index] = reward
            buffers.terminated[index] = terminated
            buffers.truncated[index] = truncated
        except (TypeError, ValueError):
            given = f"reward {reward!r}, terminated {terminated!r}, truncated {truncated!r}"
            raise RunError(f"{self._where(index)} gave {given}: a number and two bools are needed") from None
        self._writer.write(index, observation)
        if buffers.action_mask is not None and not (terminated or truncated):
            self._write_mask(index, observation, info)

    def reset(self, index: int, seed: int | None) -> None:
        """Start one environment afresh (seed None: go on with its generator) into row ``index``."""
        try:
            observation, info = self.envs[index].reset(seed=seed)
        except Exception as error:
            raise self._crash(index, "reset", error) from error
        self._writer.write(index, observation)
        if self._buffers.action_mask is not None:
            self._write_mask(index, observation, info)

    def _write_mask(self, index: int, observation: Any, info: dict[str, Any]) -> None:
        mask = info.get(MASK) if self._mask_in_info else observation[MASK]
        rows = self._buffers.action_mask
        assert rows is not None
        if mask is None or np.size(mask) != rows.shape[1]:
            given = "no action mask" if mask is None else f"an action mask of {np.size(mask)} entries"
            raise RunError(f"{self._where(index)} gave {given}, its actions need {rows.shape[1]}")
        rows[index] = np.reshape(mask, -1)

    def _where(self, index: int) -> str:
        return f"environment {self._name!r} number {self._first + index}"

    def _crash(self, index: int, method: str, error: Exception) -> EnvironmentCrash:
        return EnvironmentCrash(f"{self._where(index)} raised in {method}(): {one_line(error)}")


class Inline:
    """B ``gymnasium.Env`` stepped in turn, with same-step autoreset, action repeat and an optional time limit.

    ``send`` does the stepping, ``recv`` hands over the arrays, which the next ``send`` overwrites. Truncation is
    reported only where the episode did not also terminate.
    """

    def __init__(
        self,
        envs: Sequence[gymnasium.Env],
        spec: Spec,
        *,
        time_limit: int | None = None,
        buffers: Buffers | None = None,
        first: int = 0,
    ) -> None:
        """Args:
        envs: environments with equal spaces, owned (and closed) by this object.
        time_limit: agent steps until truncation, beside limits of the environments' own.
        buffers: arrays [B, ...] to write to; None: own ones.
        first: number of ``envs[0]`` in a larger batch, for seeds and messages.
        """
        self.spec = spec
        self.num_envs = len(envs)
        self._copies = Copies(envs, spec, first)
        self._first = first
        self._limit = time_limit
        self.use_buffers(Buffers.allocate(spec, self.num_envs) if buffers is None else buffers)
        self._actions = ActionAdapter(envs[0].action_space, self.num_envs)
        self._finite = FiniteCheck(spec.name, first)
        self._counter = EpisodeCounter(self.num_envs)
        self._told = False  # that an environment's state cannot be saved
        self._ended: Sequence[Episode] | None = None  # of the step in flight; None: nothing ended

    def use_buffers(self, buffers: Buffers) -> None:
        """Write to these arrays from now on (workers alternate between two)."""
        self._buffers = buffers
        self._copies.attach(buffers)

    def reset(self, seed: int) -> Step:
        """Start every environment afresh; environment ``i`` is seeded with ``seed + first + i``."""
        for index in range(self.num_envs):
            self._copies.reset(index, seed + self._first + index)
        self._buffers.reward[:] = 0.0
        self._finite(self._buffers.observation, self._buffers.reward)
        self._finite.steps = 0
        self._counter.clear()
        return self._buffers.still()

    def send(self, action: np.ndarray) -> None:
        """Step every environment. Raises RunError where one raises, or gives what its spaces forbid."""
        buffers, step = self._buffers, self._copies.step
        actions = self._actions(action)
        for index in range(self.num_envs):
            step(index, actions[index])
        terminated, truncated = buffers.terminated, buffers.truncated
        self._counter.add(buffers.reward)
        self._finite(buffers.observation, buffers.reward)
        if self._limit is not None:
            truncated |= self._counter.lengths >= self._limit
        truncated &= ~terminated
        self._ended = None
        if np.count_nonzero(terminated) or np.count_nonzero(truncated):
            self._autoreset(np.flatnonzero(terminated | truncated))
        if buffers.action_mask is not None:
            check_mask(self.spec.name, buffers.action_mask, self.spec.choices, self._first)

    def recv(self) -> Step:
        """The step that ``send`` made."""
        return self._buffers.step(self._ended is not None, self._ended or ())

    def render(self, index: int = 0) -> np.ndarray | None:
        """u8[H, W, 3], or None where the environment cannot draw itself here (no mode, no library, no display)."""
        try:
            with _without_display():
                picture = self._copies.envs[index].render()
        except Exception:  # whatever a graphics library dislikes about this machine
            return None
        picture = np.asarray(picture) if picture is not None else None
        if picture is None or picture.ndim != 3 or picture.shape[-1] != 3:
            return None
        return picture.astype(np.uint8)

    def state(self) -> dict[str, Any] | None:
        """Everything needed to go on bit for bit, or None where an environment does not allow it."""
        environments = self._snapshots()
        if environments is None:
            return None
        mask = self._buffers.action_mask
        return {
            "environments": environments,
            "observation": copy_tree(self._buffers.observation),
            "action_mask": None if mask is None else mask.copy(),
            **self._counter.state(),
        }

    def _snapshots(self) -> dict[str, Any] | None:
        """Of each environment, or None. One whose own ``save_state`` raises is one that cannot be saved."""
        if not all(can_snapshot(env) for env in self._copies.envs):
            return None
        try:
            return {str(index): snapshot(env) for index, env in enumerate(self._copies.envs)}
        except Exception as error:
            if not self._told:
                self._told = True
                text = f"environment {self.spec.name!r} raised in save_state(): {one_line(error)}"
                warnings.warn(f"{text}; episodes in progress are not saved", RuntimeWarning, stacklevel=2)
            return None

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to what ``state`` gave; refuses another number of environments."""
        if len(state["environments"]) != self.num_envs:
            saved = len(state["environments"])
            raise UserError(f"environment {self.spec.name!r}: saved with {saved} copies, not {self.num_envs}")
        for index, env in enumerate(self._copies.envs):
            restore(env, state["environments"][str(index)])
        tree_map(np.copyto, self._buffers.observation, state["observation"])
        if self._buffers.action_mask is not None:
            self._buffers.action_mask[:] = state["action_mask"]
        self._counter.load_state(state)

    def observe(self) -> Step:
        """The current observation again (reward 0, nothing ended)."""
        return self._buffers.still()

    def events(self) -> dict[str, int]:
        """Nothing is mended here: an environment that raises ends the run."""
        return {"crashes": 0, "hangs": 0}

    def close(self) -> None:
        """Close every environment. Safe to call twice."""
        envs, self._copies.envs = self._copies.envs, []
        for env in envs:
            env.close()

    def _autoreset(self, ended: np.ndarray) -> None:
        buffers = self._buffers
        pairs = zip(tree_leaves(buffers.final_observation), tree_leaves(buffers.observation), strict=True)
        for final, current in pairs:
            final[ended] = current[ended]
        self._ended = self._counter.finish([int(index) for index in ended])
        for index in ended:
            self._copies.reset(int(index), None)
        self._finite(buffers.observation, buffers.reward)
        self._finite.steps -= 1  # the same step, looked at twice
