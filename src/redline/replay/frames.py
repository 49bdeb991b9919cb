"""Observations in replay: plain ones whole; of a frame stack only the newest frame, the rest rebuilt.

A place in the ring is a slot (its row) and an environment. What the ring cannot hold,
because it belongs to no row, is kept beside it and is rare: the final observations of truncated episodes, and
the older frames of a first observation where they are neither zero (ALE) nor copies of the newest
(Gymnasium's ``FrameStackObservation``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import gymnasium
import numpy as np

from redline.replay.columns import Column
from redline.types import Tree, UserError

MakeColumn = Callable[[str, tuple[int, ...], np.dtype], Column]
Path = tuple[str, ...]  # keys from the root of a tree to a leaf
ZEROS, COPIES, KEPT = range(3)  # what fills a first observation's stack


class Pool:
    """Arrays [m, ...] of no row, by slot and environment; a slot's go when the ring overwrites it."""

    def __init__(self) -> None:
        self._slots: dict[int, dict[int, np.ndarray]] = {}

    def put(self, slot: int, env: int, value: np.ndarray) -> None:
        """Keep a copy of ``value``."""
        self._slots.setdefault(slot, {})[env] = np.array(value)

    def get(self, slot: int, env: int) -> np.ndarray:
        """What was put there; KeyError where nothing was."""
        return self._slots[slot][env]

    def drop(self, slot: int) -> None:
        """Let go of what a slot has."""
        self._slots.pop(slot, None)

    def nbytes(self) -> int:
        """Bytes taken."""
        return sum(value.nbytes for slot in self._slots.values() for value in slot.values())

    def state(self) -> dict[str, np.ndarray]:
        """For a checkpoint: keys i64[N, 3] (slot, environment, length) and the values end to end."""
        items = [(slot, env, value) for slot, found in self._slots.items() for env, value in found.items()]
        if not items:
            return {}
        keys = np.array([(slot, env, len(value)) for slot, env, value in items], np.int64)
        return {"keys": keys, "values": np.concatenate([value for _, _, value in items])}

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what ``state`` gave."""
        self._slots.clear()
        first = 0
        for slot, env, length in np.asarray(state.get("keys", ())).tolist():
            self.put(slot, env, state["values"][first : first + length])
            first += length


class Leaf(Protocol):
    """One array of the observation, for every row of the ring."""

    def write(self, slot: int, values: np.ndarray, start: np.ndarray) -> None:
        """The observations [B, ...] acted on in this row; start bool[B] where they begin an episode."""

    def write_many(self, slot: int, values: np.ndarray, start: np.ndarray) -> None:
        """The same for this row and the following (none past the last): values [k, B, ...], start bool[k, B]."""

    def end(self, slot: int, env: int, last: np.ndarray, final: np.ndarray) -> None:
        """The episode of ``env`` was truncated after ``last``, its observation in this row, by ``final``."""

    def gather(self, slots: np.ndarray, envs: np.ndarray, out: np.ndarray) -> None:
        """The observations in slots i64[N] of environments i64[N] into out [N, ...]."""

    def patch(self, slot: int, env: int, out: np.ndarray) -> None:
        """Turn ``out`` [1, ...], the observation in this row, into the final one that followed it."""

    def nbytes(self) -> int:
        """Bytes taken."""

    def state(self, used: int) -> dict[str, Any]:
        """The first ``used`` slots."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what ``state`` gave."""


class PlainLeaf:
    """Observations without a stack: rows of a column."""

    def __init__(self, column: Column, num_slots: int) -> None:
        self._column, self._num_slots = column, num_slots
        self._finals = Pool()

    def write(self, slot: int, values: np.ndarray, start: np.ndarray) -> None:
        self._finals.drop(slot)
        self._column.write(slot, values)

    def write_many(self, slot: int, values: np.ndarray, start: np.ndarray) -> None:
        for row in range(slot, slot + len(values)):
            self._finals.drop(row)
        self._column.write_many(slot, values)

    def end(self, slot: int, env: int, last: np.ndarray, final: np.ndarray) -> None:
        self._finals.put(slot, env, np.asarray(final, self._column.dtype)[None])

    def gather(self, slots: np.ndarray, envs: np.ndarray, out: np.ndarray) -> None:
        self._column.gather(envs * self._num_slots + slots, out)

    def patch(self, slot: int, env: int, out: np.ndarray) -> None:
        out[:] = self._finals.get(slot, env)

    def nbytes(self) -> int:
        return self._column.nbytes() + self._finals.nbytes()

    def state(self, used: int) -> dict[str, Any]:
        return {"column": self._column.state(used), "finals": self._finals.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        self._column.load_state(state["column"])
        self._finals.load_state(state["finals"])


class StackLeaf:
    """Stacks [k, ...] of frames, newest last: the column holds the newest frame of each observation."""

    def __init__(self, column: Column, stack: int, num_slots: int, num_envs: int) -> None:
        self._column, self._stack = column, stack
        self._num_slots, self._zeros = num_slots, num_slots * num_envs  # the column's row of zeros
        self._age = np.zeros((num_slots, num_envs), np.uint8)  # earlier rows of the episode, up to stack - 1
        self._fill = np.zeros((num_slots, num_envs), np.uint8)  # ZEROS, COPIES or KEPT, where age is 0
        self._newest = np.zeros((num_envs, *column.shape), column.dtype)  # of the row written last
        self._before, self._finals = Pool(), Pool()
        self._back = np.arange(stack - 1, -1, -1)  # how many rows ago each frame of a stack was the newest

    def write(self, slot: int, values: np.ndarray, start: np.ndarray) -> None:
        starting = np.flatnonzero(start).tolist()
        if len(starting) < len(start):
            self._check_continues(values, start)
        self._before.drop(slot)
        self._finals.drop(slot)
        age = self._age[slot]
        np.minimum(self._age[slot - 1] + 1, self._stack - 1, out=age)
        for env in starting:
            age[env] = 0
            self._fill[slot, env] = self._filling(slot, env, values[env])
        np.copyto(self._newest, values[:, -1])
        self._column.write(slot, self._newest)

    def write_many(self, slot: int, values: np.ndarray, start: np.ndarray) -> None:
        for row, (each, begins) in enumerate(zip(values, start, strict=True)):
            self.write(slot + row, each, begins)

    def _check_continues(self, values: np.ndarray, start: np.ndarray) -> None:
        same = values[:, -2] == self._newest
        if same.all():
            return
        broken = ~same.reshape(len(start), -1).all(axis=1) & ~start
        if broken.any():
            env = int(np.flatnonzero(broken)[0])
            raise UserError(
                f"environment {env} gave an observation that does not continue its stack of {self._stack} "
                "frames: they must move one place to the front each step, newest last (or set frame_stack=1)"
            )

    def _filling(self, slot: int, env: int, stack: np.ndarray) -> int:
        older = stack[:-1]
        if not older.any():
            return ZEROS
        if (older == stack[-1]).all():
            return COPIES
        self._before.put(slot, env, older)
        return KEPT

    def end(self, slot: int, env: int, last: np.ndarray, final: np.ndarray) -> None:
        continues = np.array_equal(final[:-1], last[1:])
        self._finals.put(slot, env, final[-1:] if continues else final)

    def gather(self, slots: np.ndarray, envs: np.ndarray, out: np.ndarray) -> None:
        age = self._age[slots, envs][:, None]
        first = (envs * self._num_slots)[:, None]
        rows = first + (slots[:, None] - np.minimum(self._back, age)) % self._num_slots
        missing = self._back > age  # frames older than the episode
        kept: list[int] = []
        if missing.any():
            begin = rows[:, 0] - first[:, 0]  # where a frame is missing, the slot of the episode's first row
            fill = self._fill[begin, envs]
            rows[missing & (fill == ZEROS)[:, None]] = self._zeros
            kept = np.flatnonzero(missing[:, 0] & (fill == KEPT)).tolist()
        self._column.gather(rows.ravel(), out.reshape(-1, *self._column.shape))
        for index in kept:
            count = self._stack - 1 - int(age[index, 0])
            out[index, :count] = self._before.get(int(begin[index]), int(envs[index]))[-count:]

    def patch(self, slot: int, env: int, out: np.ndarray) -> None:
        final = self._finals.get(slot, env)
        if len(final) == 1:
            out[0, :-1] = out[0, 1:]
        out[0, -len(final) :] = final

    def nbytes(self) -> int:
        beside = self._before.nbytes() + self._finals.nbytes() + self._newest.nbytes
        return self._column.nbytes() + self._age.nbytes + self._fill.nbytes + beside

    def state(self, used: int) -> dict[str, Any]:
        return {
            "column": self._column.state(used),
            "age": self._age[:used],
            "fill": self._fill[:used],
            "newest": self._newest,
            "before": self._before.state(),
            "finals": self._finals.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self._column.load_state(state["column"])
        self._age[: len(state["age"])] = state["age"]
        self._fill[: len(state["fill"])] = state["fill"]
        self._newest[...] = state["newest"]
        self._before.load_state(state["before"])
        self._finals.load_state(state["finals"])


def make_leaves(
    space: gymnasium.Space, frame_stack: int, num_slots: int, num_envs: int, make: MakeColumn
) -> dict[Path, Leaf]:
    """A leaf for every array of an observation space, by its path; columns are named "0", "1", ..."""
    found: dict[Path, Leaf] = {}
    for index, (path, leaf) in enumerate(space_leaves(space).items()):
        shape, dtype = leaf.shape, leaf.dtype
        if shape is None or dtype is None or np.dtype(dtype).kind not in "biuf":
            raise UserError(
                f"replay cannot keep observations of {leaf}: use Box, Discrete, MultiBinary or Dict"
            )
        if is_stack(space, frame_stack):
            found[path] = StackLeaf(
                make(str(index), shape[1:], np.dtype(dtype)), frame_stack, num_slots, num_envs
            )
        else:
            found[path] = PlainLeaf(make(str(index), shape, np.dtype(dtype)), num_slots)
    return found


def is_stack(space: gymnasium.Space, frame_stack: int) -> bool:
    """Whether single frames are kept: for stacked uint8 pictures [frame_stack, ...] outside a Dict."""
    if not isinstance(space, gymnasium.spaces.Box) or space.dtype != np.uint8:
        return False
    return 1 < frame_stack < 256 and len(space.shape) > 1 and space.shape[0] == frame_stack


def space_leaves(space: gymnasium.Space, path: Path = ()) -> dict[Path, gymnasium.Space]:
    """The leaves of a (nested) Dict space, by the keys that lead to them; () where the space is no Dict."""
    if not isinstance(space, gymnasium.spaces.Dict):
        return {path: space}
    found: dict[Path, gymnasium.Space] = {}
    for key, child in space.spaces.items():
        found.update(space_leaves(child, (*path, key)))
    return found


def tree_at(tree: Tree, path: Path) -> Any:
    """The leaf of a tree at a path of ``space_leaves``."""
    for key in path:
        tree = tree[key]
    return tree


def tree_of(leaves: dict[Path, Any]) -> Tree:
    """The tree whose leaves these are."""
    if () in leaves:
        return leaves[()]
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        branch = tree
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        branch[path[-1]] = leaf
    return tree
