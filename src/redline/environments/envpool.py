"""EnvPool's C++ environments (Weng et al. 2022), where that package is installed."""

from __future__ import annotations

import difflib
from typing import Any

import gymnasium
import numpy as np

from redline.environments.atari import is_atari, settings
from redline.environments.batch import Buffers, EpisodeCounter, FiniteCheck
from redline.environments.config import EnvironmentConfig
from redline.environments.inline import EnvironmentCrash
from redline.environments.registry import one_line, register_namespaces
from redline.environments.spaces import ActionAdapter, canonical_action, canonical_observation
from redline.environments.vector import store_batch
from redline.types import Episode, Spec, Step, UserError, tree_map


class EnvPool:
    """B environments of EnvPool. It resets on the next step; here the rows that ended take that step at once.

    Arrays are overwritten by the next ``recv``. Rewards are never clipped. Environment ``i`` is seeded with
    ``seed + i``, which EnvPool fixes when a pool is made: ``reset`` makes a new one.
    """

    def __init__(self, config: EnvironmentConfig, num_envs: int, threads: int) -> None:
        """``threads``: of EnvPool's own."""
        self.spec = describe(config)
        self.num_envs = num_envs
        self._config, self._threads = config, threads
        self._pool: Any = None
        self._space: Any = None
        self._buffers = Buffers.allocate(self.spec, num_envs)
        self._finite = FiniteCheck(self.spec.name)
        self._counter = EpisodeCounter(num_envs)

    def reset(self, seed: int) -> Step:
        """Start every environment afresh; environment ``i`` is seeded with ``seed + i``."""
        self.close()
        self._pool = _pool(self._config, self.num_envs, self._threads, seed)
        self._space = self._pool.observation_space
        self._actions = ActionAdapter(self._pool.action_space, self.num_envs)
        observation, _ = self._call("reset")
        store_batch(self._space, observation, self._buffers.observation, self.spec.name)
        self._counter.clear()
        self._finite.steps = 0
        return self._buffers.still()

    def send(self, action: np.ndarray) -> None:
        """Start stepping in EnvPool's threads."""
        self._call("send", self._actions(action), np.arange(self.num_envs, dtype=np.int32))

    def recv(self) -> Step:
        """Wait for the step, and for the first observations of episodes that follow it."""
        observation, reward, terminated, truncated, _ = self._call("recv")
        buffers = self._buffers
        buffers.reward[:] = reward
        buffers.terminated[:] = terminated
        np.logical_and(truncated, ~buffers.terminated, out=buffers.truncated)
        store_batch(self._space, observation, buffers.observation, self.spec.name)
        self._counter.add(buffers.reward)
        self._finite(buffers.observation, buffers.reward)
        ended = np.flatnonzero(buffers.terminated | buffers.truncated)
        if not len(ended):
            return buffers.step(False, ())
        tree_map(np.copyto, buffers.final_observation, buffers.observation)
        self._start_again(ended)
        episodes: list[Episode] = self._counter.finish(ended.tolist())
        return buffers.step(True, episodes)

    def _start_again(self, ended: np.ndarray) -> None:
        idle = np.zeros((len(ended), *self._actions.shape[1:]), self.spec.action.dtype)
        self._call("send", ActionAdapter(self._pool.action_space, len(ended))(idle), ended.astype(np.int32))
        observation, *_, info = self._call("recv")
        rows = np.asarray(info["env_id"])  # threads finish in any order
        fresh = tree_map(lambda leaf: np.empty_like(leaf[: len(rows)]), self._buffers.observation)
        store_batch(self._space, observation, fresh, self.spec.name)

        def put(target: np.ndarray, values: np.ndarray) -> None:
            target[rows] = values

        tree_map(put, self._buffers.observation, fresh)

    def render(self, index: int = 0) -> None:
        """None: EnvPool draws for a window only."""

    def state(self) -> None:
        """None: EnvPool cannot save its environments."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Never possible, as ``state`` is None."""
        raise UserError(f"environment {self.spec.name!r}: EnvPool cannot load a saved state")

    def observe(self) -> Step:
        """The current observation again (reward 0, nothing ended)."""
        return self._buffers.still()

    def events(self) -> dict[str, int]:
        """Nothing is mended here."""
        return {"crashes": 0, "hangs": 0}

    def close(self) -> None:
        """Stop EnvPool's threads. Safe to call twice."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _call(self, method: str, *args: Any) -> Any:
        try:
            return getattr(self._pool, method)(*args)
        except Exception as error:
            raise EnvironmentCrash(
                f"environment {self.spec.name!r} raised in {method}(): {one_line(error)}"
            ) from error


def describe(config: EnvironmentConfig) -> Spec:
    """The Spec of an EnvPool task; raises UserError where EnvPool is missing or does not know the id."""
    pool = _pool(config, 1, 1, 0)
    name, atari, rules = str(config.id), _atari(config), ["stepped by EnvPool"]
    limit = getattr(pool.spec.config, "max_episode_steps", 0)
    if atari is not None:
        rules += [
            f"{atari['frame_skip']} frames per agent step",
            f"sticky actions {atari['repeat_action_probability']:g}",
        ]
    if limit:
        rules.append(f"time limit {limit} agent steps, a truncation")
    try:
        return Spec(
            name=name,
            observation=canonical_observation(pool.observation_space, name),
            action=canonical_action(pool.action_space, name),
            action_repeat=1 if atari is None else atari["frame_skip"],
            frame_stack=1 if atari is None else atari["stack_num"],
            threaded=True,
            rules=tuple(rules),
            own=(pool.observation_space, pool.action_space),
        )
    finally:
        pool.close()


def _pool(config: EnvironmentConfig, num_envs: int, threads: int, seed: int) -> Any:
    try:
        import envpool
    except ImportError as error:
        raise UserError(
            f"environment.backend=envpool needs EnvPool ({error}): pip install 'redline[envpool]'"
        ) from error
    if not isinstance(config.id, str):
        raise UserError("environment.backend=envpool takes an id, not a callable")
    if config.action_repeat != 1:
        raise UserError(
            "environment.action_repeat does not apply to environment.backend=envpool: set it in environment.kwargs"
        )
    register_namespaces()
    task = config.id.removeprefix("ALE/")
    if task not in envpool.list_all_envs():
        close = difflib.get_close_matches(task, envpool.list_all_envs(), n=1, cutoff=0.4)
        raise UserError(f"EnvPool has no {task!r}" + (f"; did you mean {close[0]}?" if close else ""))
    kwargs = {**(_atari(config) or {}), **config.kwargs}
    if config.time_limit is not None:
        kwargs["max_episode_steps"] = config.time_limit
    try:
        return envpool.make(
            task,
            env_type="gymnasium",
            num_envs=num_envs,
            num_threads=min(threads, num_envs),
            seed=seed,
            **kwargs,
        )
    except Exception as error:
        raise UserError(f"environment {config.id!r} cannot be made by EnvPool: {one_line(error)}") from error


def _atari(config: EnvironmentConfig) -> dict[str, Any] | None:
    """EnvPool's spelling of ``AtariConfig``, for ids of ale-py; None for others."""
    registration = gymnasium.registry.get(str(config.id))
    if registration is None or not is_atari(registration):
        return None
    atari = settings(config, registration)
    if atari.episodic_life:
        raise UserError(
            "environment.atari.episodic_life needs environment.backend=atari, which counts whole games"
        )
    return {
        "frame_skip": atari.action_repeat,
        "stack_num": atari.frame_stack,
        "img_height": atari.screen,
        "img_width": atari.screen,
        "noop_max": atari.noop_max,
        "use_fire_reset": atari.fire_reset,
        "repeat_action_probability": float(atari.sticky or 0.0),
        "full_action_space": bool(atari.full_action_space),
        "max_episode_steps": atari.max_frames // atari.action_repeat,
        "episodic_life": False,
        "reward_clip": False,
    }
