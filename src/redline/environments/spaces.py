"""Spaces: which ones are supported, the form everything else sees, and single observations into batched arrays.

Floats are f32 behind this door; ``Tuple`` becomes ``Dict`` with keys "0", "1", ...; ``Discrete`` starts at 0; actions
are Discrete, MultiDiscrete or a flat f32 Box. Nothing else crosses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from redline.types import RunError, Tree, UserError, choices_of, tree_map

MASK = "action_mask"  # key of a Dict observation, or of ``info``, that marks the legal actions


def canonical_observation(space: Space, name: str, path: str = "observation") -> Space:
    """The space as Redline presents it.

    Raises:
      UserError: a kind of space, or an empty one, that no network can read.
    """
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = {key: canonical_observation(part, name, f"{path}.{key}") for key, part in children(space)}
        if not parts:
            raise UserError(f"environment {name!r}: {path} is an empty {type(space).__name__} space")
        return spaces.Dict(parts)
    if isinstance(space, spaces.Box) and 0 not in space.shape:
        if space.dtype.kind == "f":
            return spaces.Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)
        if space.dtype.kind in "iub":
            return space
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n))
    if isinstance(space, spaces.MultiBinary):
        return space
    if isinstance(space, spaces.MultiDiscrete):
        return spaces.Box(space.start, space.start + space.nvec - 1, dtype=np.int64)
    kinds = "Box (not empty, numbers), Discrete, MultiDiscrete, MultiBinary, Dict, Tuple"
    raise UserError(f"environment {name!r}: {path} space {space} is not supported; supported: {kinds}")


def canonical_action(space: Space, name: str) -> Space:
    """Discrete, MultiDiscrete (one axis) or Box f32[K].

    Raises:
      UserError: a space no algorithm here can choose from.
    """
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return spaces.MultiDiscrete(space.nvec.ravel())
    if isinstance(space, spaces.MultiBinary):
        return spaces.MultiDiscrete(np.full(int(np.prod(space.shape)), 2))
    if isinstance(space, spaces.Box) and space.dtype.kind == "f" and 0 not in space.shape:
        low, high = (bound.astype(np.float32).ravel() for bound in (space.low, space.high))
        return spaces.Box(low, high, dtype=np.float32)
    kinds = "Discrete, MultiDiscrete, MultiBinary, Box of floats"
    raise UserError(f"environment {name!r}: action space {space} is not supported; supported: {kinds}")


def children(space: spaces.Dict | spaces.Tuple) -> Sequence[tuple[str, Space]]:
    """(key, space) pairs of a composite space."""
    if isinstance(space, spaces.Dict):
        return [(str(key), part) for key, part in space.spaces.items()]
    return [(str(key), part) for key, part in enumerate(space.spaces)]


def without_mask(space: Space) -> tuple[Space, bool]:
    """The observation space less its ``action_mask`` entry, and whether it had one."""
    if isinstance(space, spaces.Dict) and MASK in space.spaces:
        return spaces.Dict({key: part for key, part in space.spaces.items() if key != MASK}), True
    return space, False


def allocate(space: Space, batch: int, array: Any = np.zeros) -> Tree:
    """Zeroed batched arrays [B, ...] for a canonical space. ``array(shape, dtype)`` makes each."""
    if isinstance(space, spaces.Dict):
        return {key: allocate(part, batch, array) for key, part in space.spaces.items()}
    return array((batch, *space.shape), space.dtype)  # type: ignore[misc]


class Writer:
    """Puts observations of single environments into rows of batched arrays, refusing what the space forbids."""

    def __init__(self, name: str, space: Space, arrays: Tree) -> None:
        """``space`` is the environment's own (less its mask); ``arrays`` [B, ...] come from ``allocate``."""
        self._name = name
        self._leaves = list(_leaves(space, arrays, ()))
        # The commonest case, one array and no shift, is written without walking a tree.
        plain = len(self._leaves) == 1 and not self._leaves[0][0] and not self._leaves[0][4]
        self._plain: tuple[Any, Any, Any] = self._leaves[0][1:4] if plain else (None, None, None)

    def write(self, index: int, observation: Any) -> None:
        """Write one observation to row ``index``; raises RunError where shape or dtype are not the space's."""
        array, shape, dtype = self._plain
        # Identity of dtypes is exact for numpy's own and only a fast way in: others are checked below.
        if observation.__class__ is np.ndarray and observation.dtype is dtype and observation.shape == shape:
            array[index] = observation
            return
        for keys, array, shape, dtype, start in self._leaves:
            leaf = observation
            try:
                for key in keys:
                    leaf = leaf[key]
            except (KeyError, IndexError, TypeError):
                missing = ".".join(("observation", *map(str, keys)))
                raise RunError(
                    f"environment {self._name!r}: {missing} is missing from what it gave"
                ) from None
            if leaf.__class__ is np.ndarray and leaf.dtype is dtype and leaf.shape == shape and not start:
                array[index] = leaf
            else:
                array[index] = self._converted(leaf, keys, shape, dtype) - start

    def _converted(self, leaf: Any, keys: tuple, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        field = ".".join(("observation", *map(str, keys)))
        given = np.asarray(leaf) if leaf is not None else np.asarray(None)
        if given.dtype.kind not in "fiub" or not np.can_cast(given.dtype, dtype, "same_kind"):
            kind = type(leaf).__name__ if given.dtype.kind == "O" else given.dtype
            raise RunError(f"environment {self._name!r}: {field} has dtype {kind}, its space says {dtype}")
        if given.shape != shape:
            raise RunError(
                f"environment {self._name!r}: {field} has shape {given.shape}, its space says {shape}"
            )
        return given.astype(dtype)


def _leaves(space: Space, arrays: Tree, keys: tuple) -> Any:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        for position, (key, part) in enumerate(children(space)):
            own = key if isinstance(space, spaces.Dict) else position
            yield from _leaves(part, arrays[key], (*keys, own))
        return
    start = int(space.start) if isinstance(space, spaces.Discrete) else 0
    yield keys, arrays, space.shape, np.dtype(space.dtype), start


class ActionAdapter:
    """Turns canonical batched actions into what the environments' own space takes."""

    def __init__(self, space: Space, num_envs: int) -> None:
        self._space = space
        canonical = canonical_action(space, "")
        self.shape = (num_envs, *canonical.shape)  # type: ignore[misc]
        self._own_shape = (num_envs, *space.shape)  # type: ignore[misc]
        self._start: Any = getattr(space, "start", 0)
        self._shifted = bool(np.any(self._start))
        self._bounded = isinstance(space, spaces.Box) and bool(
            (space.bounded_below | space.bounded_above).any()
        )

    def __call__(self, action: np.ndarray) -> np.ndarray:
        """i64[B], i64[B, K] or f32[B, K] -> [B, ...] for the environments, clipped to the bounds of a Box."""
        if action.shape != self.shape:
            raise ValueError(f"actions have shape {action.shape}, not {self.shape}")
        own = action.reshape(self._own_shape)
        if isinstance(self._space, spaces.Box):
            if self._bounded:
                own = np.clip(own, self._space.low, self._space.high)
            return own.astype(self._space.dtype, copy=not self._bounded)  # the caller may reuse its buffer
        if isinstance(self._space, spaces.MultiBinary):
            return own.astype(np.int8)
        return own + self._start if self._shifted else own


def presented(space: Space, observation: Any) -> Tree:
    """An environment's own observation, or a batch of them, as Redline presents it (see ``canonical_observation``).

    Raises: KeyError, IndexError or TypeError where it has not the parts that the space has.
    """
    if isinstance(space, spaces.Dict | spaces.Tuple):
        wanted: Any = dict if isinstance(space, spaces.Dict) else tuple | list
        if not isinstance(observation, wanted):
            raise TypeError
        own = (lambda key: key) if isinstance(space, spaces.Dict) else int
        return {key: presented(part, observation[own(key)]) for key, part in children(space)}
    values = np.asarray(observation)
    return values - space.start if isinstance(space, spaces.Discrete) and space.start else values


def copy_tree(tree: Tree) -> Tree:
    """A copy of every array."""
    return tree_map(np.copy, tree)


def random_actions(
    space: Space, num_envs: int, mask: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray:
    """Random legal actions i64[B], i64[B, K] or f32[B, K] of a canonical space; ``mask`` bool[B, A] or None."""
    if isinstance(space, spaces.Box):
        low, high = np.maximum(space.low, -1.0), np.minimum(space.high, 1.0)
        return rng.uniform(low, np.maximum(low, high), (num_envs, *space.shape)).astype(np.float32)
    sizes = choices_of(space, "of random actions")
    chances = rng.random((num_envs, sum(sizes))) if mask is None else rng.random(mask.shape) * mask
    parts = [part.argmax(1) for part in np.split(chances, np.cumsum(sizes)[:-1], axis=1)]
    return parts[0] if isinstance(space, spaces.Discrete) else np.stack(parts, 1)
