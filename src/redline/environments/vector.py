"""Any Gymnasium ``VectorEnv`` behind the batched contract."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Space, spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from redline.environments.batch import Buffers, EpisodeCounter, FiniteCheck, check_mask
from redline.environments.config import EnvironmentConfig
from redline.environments.inline import EnvironmentCrash
from redline.environments.registry import name_of, one_line
from redline.environments.spaces import (
    MASK,
    ActionAdapter,
    Writer,
    canonical_action,
    canonical_observation,
    children,
    without_mask,
)
from redline.types import Episode, RunError, Spec, Step, Tree, UserError, choices_of


def autoreset_of(env: VectorEnv, name: str) -> AutoresetMode:
    """How a VectorEnv resets: in the same step, or (disabled) only where it is told to.

    Raises:
      UserError: it resets on the next step. The last observation then stands where the next episode's first one
        belongs until another step of *all* environments is taken, so the same-step contract cannot be kept.
    """
    if type(env) is SyncVectorEnv:
        env.autoreset_mode = AutoresetMode.SAME_STEP  # it only looks this up when it steps
        env.metadata = {**env.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}
    mode = env.metadata.get("autoreset_mode")
    if mode in (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED):
        return AutoresetMode(mode)
    wanted = "make it with autoreset_mode=AutoresetMode.SAME_STEP (or DISABLED, with reset_mask)"
    stated = "does not say when it resets" if mode is None else "resets on the next step"
    raise UserError(f"environment {name!r}: its VectorEnv {stated}: {wanted}")


def describe(env: VectorEnv, config: EnvironmentConfig) -> Spec:
    """The Spec of a VectorEnv. Resets it, to see whether it gives action masks.

    Raises:
      UserError: unsupported spaces, its way of resetting, or settings that only apply to single environments.
    """
    name = name_of(config)
    for field, unset in (("action_repeat", 1), ("time_limit", None)):
        if getattr(config, field) != unset:
            raise UserError(
                f"environment.{field} does not apply to {name!r}, which is a VectorEnv: set it in the factory"
            )
    autoreset_of(env, name)
    space, in_observation = without_mask(env.single_observation_space)
    try:
        _, info = env.reset()
    except Exception as error:
        raise EnvironmentCrash(f"environment {name!r} raised in reset(): {one_line(error)}") from error
    action = canonical_action(env.single_action_space, name)
    masked = in_observation or MASK in info
    if masked:
        choices_of(action, name)  # refuses continuous actions
    rules = (f"stepped by {type(env.unwrapped).__name__}",)
    observation, own = canonical_observation(space, name), (space, env.single_action_space)
    return Spec(name, observation, action, action_mask=masked, rules=rules, own=own)


class Vector:
    """A VectorEnv that resets in the same step, or one that resets the rows it is told to (``reset_mask``)."""

    def __init__(self, env: VectorEnv, spec: Spec) -> None:
        """``env`` is owned, and closed, by this object."""
        self.spec = spec
        self.num_envs = env.num_envs
        self._env = env
        self._disabled = autoreset_of(env, spec.name) is AutoresetMode.DISABLED
        self._buffers = Buffers.allocate(spec, env.num_envs)
        self._actions = ActionAdapter(env.single_action_space, env.num_envs)
        self._space, self._mask_in_observation = without_mask(env.single_observation_space)
        self._final = Writer(spec.name, self._space, self._buffers.final_observation)
        self._finite = FiniteCheck(spec.name)
        self._counter = EpisodeCounter(env.num_envs)
        self._sent: np.ndarray | None = None

    def reset(self, seed: int) -> Step:
        """Start every environment afresh; a VectorEnv spreads ``seed`` over its environments itself."""
        observation, info = self._call("reset", seed=seed)
        self._store(observation, info)
        self._finite(self._buffers.observation, np.zeros(1, np.float32))
        self._finite.steps = 0
        self._counter.clear()
        return self._buffers.still()

    def send(self, action: np.ndarray) -> None:
        """Start stepping where the VectorEnv can (``step_async``), else remember the actions."""
        self._sent = self._actions(action)
        if hasattr(self._env, "step_async"):
            self._call("step_async", self._sent)

    def recv(self) -> Step:
        """The step."""
        if hasattr(self._env, "step_wait"):
            outcome = self._call("step_wait")
        else:
            outcome = self._call("step", self._sent)
        observation, reward, terminated, truncated, info = outcome
        buffers = self._buffers
        buffers.reward[:] = reward
        buffers.terminated[:] = terminated
        np.logical_and(truncated, ~buffers.terminated, out=buffers.truncated)
        self._counter.add(buffers.reward)
        ended = np.flatnonzero(buffers.terminated | buffers.truncated)
        episodes: list[Episode] = self._counter.finish(ended.tolist())
        if len(ended) and self._disabled:
            for row in ended:
                self._final.write(int(row), _row(self._space, observation, int(row)))
            done = buffers.terminated | buffers.truncated
            observation, info = self._call("reset", options={"reset_mask": done})
        elif len(ended):
            self._store_final(ended, info)
        self._store(observation, info)
        self._finite(buffers.observation, buffers.reward)
        return buffers.step(len(ended) > 0, episodes)

    def render(self, index: int = 0) -> np.ndarray | None:
        """u8[H, W, 3], or None where the VectorEnv does not draw."""
        try:
            picture = np.asarray(self._env.render()[index])  # type: ignore[index]
        except Exception:  # no mode, no library or no display
            return None
        return picture.astype(np.uint8) if picture.ndim == 3 and picture.shape[-1] == 3 else None

    def state(self) -> None:
        """None: Gymnasium's vector interface cannot save."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Never possible, as ``state`` is None."""
        raise UserError(f"environment {self.spec.name!r}: a VectorEnv cannot load a saved state")

    def observe(self) -> Step:
        """The current observation again (reward 0, nothing ended)."""
        return self._buffers.still()

    def events(self) -> dict[str, int]:
        """Nothing is mended here."""
        return {"crashes": 0, "hangs": 0}

    def close(self) -> None:
        """Close the VectorEnv. Safe to call twice."""
        self._env.close()

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return getattr(self._env, method)(*args, **kwargs)
        except Exception as error:
            raise EnvironmentCrash(
                f"environment {self.spec.name!r} raised in {method}(): {one_line(error)}"
            ) from error

    def _store(self, observation: Any, info: dict[str, Any]) -> None:
        store_batch(self._space, observation, self._buffers.observation, self.spec.name)
        if self._buffers.action_mask is not None:
            mask = observation[MASK] if self._mask_in_observation else info.get(MASK)
            if mask is None or len(mask) != self.num_envs:
                raise RunError(f"environment {self.spec.name!r} gave no action mask in this step's info")
            self._buffers.action_mask[:] = np.stack(list(mask)).reshape(self._buffers.action_mask.shape)
            check_mask(self.spec.name, self._buffers.action_mask, self.spec.choices)

    def _store_final(self, ended: np.ndarray, info: dict[str, Any]) -> None:
        final = info.get("final_obs")
        if final is None:
            raise RunError(f"environment {self.spec.name!r} ended an episode without final_obs in its info")
        for row in ended:
            # An object array holds one observation a row; otherwise the rows are those of a batched tree.
            whole = isinstance(final, np.ndarray) and final.dtype == object
            self._final.write(int(row), final[row] if whole else _row(self._space, final, int(row)))


def _row(space: Space, batch: Any, index: int) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _row(part, batch[key], index) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_row(part, batch[key], index) for key, part in enumerate(space.spaces))
    return batch[index]


def store_batch(space: Space, batch: Any, arrays: Tree, name: str, path: str = "observation") -> None:
    """Copy a batch [B, ...] in an environment's own space to canonical arrays; RunError on shape or dtype."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        for position, (key, part) in enumerate(children(space)):
            own = key if isinstance(space, spaces.Dict) else position
            store_batch(part, batch[own], arrays[key], name, f"{path}.{key}")
        return
    given = np.asarray(batch)
    if given.shape != arrays.shape:
        raise RunError(f"environment {name!r}: {path} has shape {given.shape}, its space says {arrays.shape}")
    if not np.can_cast(given.dtype, space.dtype, "same_kind"):  # type: ignore[arg-type]
        raise RunError(f"environment {name!r}: {path} has dtype {given.dtype}, its space says {space.dtype}")
    arrays[...] = given - space.start if isinstance(space, spaces.Discrete) and space.start else given
