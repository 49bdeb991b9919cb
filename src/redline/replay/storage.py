"""Storage: a ring of rows, one per step of all environments, that gives back n-step transitions.

Row ``r`` lies in slot ``r % slots`` and holds, for each of B environments, the observation, the action taken
on it and what followed. A window is the n rows from a transition's own on, fewer where the episode ends; when
the row after a full-length window has been written, every window of that age is *closed*: its reward sum and
discount are computed, once, and its transitions can be drawn. Windows therefore never cross an end of episode
or the ring's write head.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from redline.replay import frames
from redline.replay.columns import Column, Mark, available_memory, gib, make_column
from redline.replay.config import ReplayConfig
from redline.types import RunError, Spec, Tree, UserError, tree_map

GOING, TERMINATED, TRUNCATED = range(3)  # what followed a row
FIELDS = ("action", "reward", "discount", "span", "end", "mask")


@dataclass
class Block:
    """T steps of B environments on their way into a replay (arrays); of each row what ``Replay.add`` takes."""

    observation: Tree  # [T, B, ...]
    action: np.ndarray  # [T, B] or [T, B, K]
    reward: np.ndarray  # f32[T, B]
    terminated: np.ndarray  # bool[T, B]
    truncated: np.ndarray  # bool[T, B]
    final_observation: Tree = None  # [T, B, ...] rows valid where truncated
    action_mask: np.ndarray | None = None  # bool[T, B, A]
    priority: np.ndarray | None = None  # f32[T, B]; NaN where not known

    def cut(self, rows: slice) -> Block:
        """Some of its rows."""
        return Block(**{name: tree_map(lambda x: x[rows], value) for name, value in vars(self).items()})


class Storage:
    """The ring. Transition ids, ``row * num_envs + environment``, grow for ever and never come again."""

    def __init__(self, spec: Spec, config: ReplayConfig, num_envs: int, gamma: float) -> None:
        self.num_envs, self.n_step = num_envs, config.n_step
        self.rows = config.capacity // num_envs
        if self.rows < config.n_step + 2:
            raise UserError(
                f"replay.capacity is {config.capacity}: {num_envs} environments with n_step {config.n_step} "
                f"need at least {num_envs * (config.n_step + 2)}"
            )
        # The oldest live observation's stack reaches back stack - 1 rows, which must not be overwritten yet.
        stack = spec.frame_stack if frames.is_stack(spec.observation, spec.frame_stack) else 1
        self.slots = self.rows + stack - 1
        self.head = 0  # rows written so far; the next one's number
        self.floor = 0  # rows below this number are lost, whatever the capacity says
        self._start = np.ones(num_envs, bool)  # the next observation begins an episode
        self._recent = np.zeros((config.n_step + 1, num_envs))  # single-step rewards of the newest rows
        self._powers = gamma ** np.arange(config.n_step + 1)
        self._allocate(spec, config)

    def _allocate(self, spec: Spec, config: ReplayConfig) -> None:
        check_memory(spec, config, self.slots * self.num_envs)
        folder = Path(config.memory_map) if config.memory_map is not None else None

        def make(name: str, shape: tuple[int, ...], dtype: np.dtype) -> Column:
            path = folder / f"observation{name}.npy" if folder is not None else None
            return make_column(self.num_envs, self.slots, shape, dtype, config.compression, path)

        self.leaves = frames.make_leaves(spec.observation, spec.frame_stack, self.slots, self.num_envs, make)
        self._spaces = frames.space_leaves(spec.observation)
        self._mark = Mark(folder) if folder is not None else None
        places = (self.slots, self.num_envs)
        shape, dtype = action_layout(spec.action)
        self.action = np.empty((*places, *shape), dtype)
        self.reward = np.full(places, np.nan, np.float32)  # n-step sum
        self.discount = np.full(places, np.nan, np.float32)  # gamma^span, or 0
        self.span = np.zeros(places, np.uint8)  # rows in the window
        self.end = np.zeros(places, np.uint8)  # GOING, TERMINATED or TRUNCATED
        self.mask = np.ones((*places, sum(spec.choices)), bool) if spec.action_mask else None

    def live(self) -> tuple[int, int]:
        """Ids [first, past the last) that can be drawn."""
        first = max(self.floor, self.head - self.rows)
        return first * self.num_envs, max(first, self.head - self.n_step) * self.num_envs

    def add(
        self,
        observation: Tree,
        action: np.ndarray,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        final_observation: Tree,
        action_mask: np.ndarray | None,
    ) -> None:
        """Write one row; see ``Replay.add``. The window that the row completes is closed."""
        leading = (self.num_envs,)
        observed = {path: self._observed(observation, path, leading) for path in self.leaves}
        check_shape("action", action, (self.num_envs, *self.action.shape[2:]))
        for name, values in (("reward", reward), ("terminated", terminated), ("truncated", truncated)):
            check_shape(name, values, (self.num_envs,))
        ends = np.where(terminated, TERMINATED, np.where(truncated, TRUNCATED, GOING))
        cut = np.flatnonzero(ends == TRUNCATED).tolist()
        if cut and final_observation is None:
            raise UserError(
                f"environment {cut[0]} was truncated without a final observation: replay needs it"
            )
        finals = {path: self._observed(final_observation, path, leading) for path in self.leaves if cut}

        row, slot = self.head, self.head % self.slots
        if self._mark is not None:
            self._mark.write(row + 1)
        for path, leaf in self.leaves.items():
            leaf.write(slot, observed[path], self._start)
            for env in cut:
                leaf.end(slot, env, observed[path][env], finals[path][env])
        if row - self.n_step >= self.floor:
            self._close(row - self.n_step)
        self.action[slot], self.end[slot] = action, ends
        if self.mask is not None and action_mask is not None:
            check_shape("action_mask", action_mask, self.mask.shape[1:])
            self.mask[slot] = action_mask
        self._recent[row % len(self._recent)] = reward
        np.not_equal(ends, GOING, out=self._start)
        self.head = row + 1

    def extend(self, block: Block) -> None:
        """Write T <= ``longest`` rows at once; see ``Replay.extend``. What T calls of ``add`` would leave is left."""
        leading = (length := len(block.reward), self.num_envs)
        observed = {path: self._observed(block.observation, path, leading) for path in self.leaves}
        for name in ("reward", "terminated", "truncated"):
            check_shape(name, getattr(block, name), leading)
        ends = np.where(block.terminated, TERMINATED, np.where(block.truncated, TRUNCATED, GOING))
        cut = list(zip(*np.nonzero(ends == TRUNCATED), strict=True))
        if cut and block.final_observation is None:
            raise UserError(
                f"environment {cut[0][1]} was truncated without a final observation: replay needs it"
            )
        final = block.final_observation
        finals = {path: self._observed(final, path, leading) for path in self.leaves if cut}
        start = np.concatenate([self._start[None], ends[:-1] != GOING])
        if self._mark is not None:
            self._mark.write(self.head + length)
        before = np.arange(self.head - self.n_step, self.head)
        rewards = np.concatenate([self._recent[before % len(self._recent)], block.reward])
        for rows, slots in segments(self.head % self.slots, length, self.slots):
            for path, leaf in self.leaves.items():
                leaf.write_many(slots.start, observed[path][rows], start[rows])
            self.action[slots], self.end[slots] = block.action[rows], ends[rows]
            if self.mask is not None and block.action_mask is not None:
                self.mask[slots] = block.action_mask[rows]
        for path, leaf in self.leaves.items():
            for row, env in cut:
                slot = (self.head + int(row)) % self.slots
                leaf.end(slot, int(env), observed[path][row, env], finals[path][row, env])
        skip = max(self.floor - before[0], 0)
        self._close_many(before[0] + skip, rewards[skip:], length - skip)
        for row in range(max(length - len(self._recent), 0), length):
            self._recent[(self.head + row) % len(self._recent)] = block.reward[row]
        self._start[:] = ends[-1] != GOING
        self.head += length

    @property
    def longest(self) -> int:
        """Rows that ``extend`` takes at a time: all that they make drawable still is so afterwards."""
        return self.rows - self.n_step

    def _close_many(self, first: int, rewards: np.ndarray, count: int) -> None:
        """Close the windows that begin in rows [first, first + count); rewards f64[count + n, B] from there on."""
        if count <= 0:
            return
        rows = np.arange(first, first + count)
        total, span = rewards[:count].copy(), np.ones((count, self.num_envs), np.int64)
        end = self.end[rows % self.slots]
        for step in range(1, self.n_step):
            going = end == GOING
            total += np.where(going, self._powers[step] * rewards[step : step + count], 0.0)
            span += going
            end = np.where(going, self.end[(rows + step) % self.slots], end)
        self.reward[rows % self.slots], self.span[rows % self.slots] = total, span
        self.discount[rows % self.slots] = self._powers[span] * (end != TERMINATED)

    def _observed(self, tree: Tree, path: frames.Path, leading: tuple[int, ...]) -> np.ndarray:
        """One leaf [*leading, ...] of an observation, checked against the space."""
        space, values = self._spaces[path], np.asarray(frames.tree_at(tree, path))
        name = ".".join(("observation", *path))
        check_shape(name, values, (*leading, *(space.shape or ())))
        if not np.can_cast(values.dtype, np.dtype(space.dtype), "same_kind"):
            raise UserError(f"replay was given {name} of {values.dtype}: the space says {space.dtype}")
        return values

    def _close(self, row: int) -> None:
        """Sum the rewards of the windows that begin in ``row``, up to the episode's end."""
        slot, newest = row % self.slots, len(self._recent)
        total, span = self._recent[row % newest].copy(), np.ones(self.num_envs, np.int64)
        end = self.end[slot]
        for step in range(1, self.n_step):
            going = end == GOING
            if not going.any():
                break
            total += np.where(going, self._powers[step] * self._recent[(row + step) % newest], 0.0)
            span += going
            end = np.where(going, self.end[(row + step) % self.slots], end)
        self.reward[slot], self.span[slot] = total, span
        self.discount[slot] = self._powers[span] * (end != TERMINATED)

    def gather(self, ids: np.ndarray, out: dict[str, Any]) -> None:
        """Copy transitions i64[N] into the arrays of ``out``: those of ``Replay``'s buffers."""
        rows, envs = np.divmod(ids, self.num_envs)
        slots = rows % self.slots
        last = (rows + self.span[slots, envs] - 1) % self.slots
        end = self.end[last, envs]
        # After a terminal row comes nothing: its own observation stands in, behind a discount of 0.
        after = (last + (end == GOING)) % self.slots
        cut = np.flatnonzero(end == TRUNCATED).tolist()
        for path, leaf in self.leaves.items():
            following = out["next_observation"][path]
            leaf.gather(slots, envs, out["observation"][path])
            leaf.gather(after, envs, following)
            for index in cut:
                leaf.patch(int(last[index]), int(envs[index]), following[index : index + 1])
        for name in ("action", "reward", "discount"):
            out[name][...] = getattr(self, name)[slots, envs]
        if self.mask is not None:
            out["next_action_mask"][...] = self.mask[after, envs]
            out["next_action_mask"][cut] = True  # nobody tells which actions are legal in a final observation

    def break_episodes(self) -> None:
        """The environments start afresh: end open episodes as truncated, each at its newest observation.

        That observation has no step after it any more, so its row is given back: one step an environment is
        lost.
        """
        if self._start.all():
            return
        newest, before = (self.head - 1) % self.slots, (self.head - 2) % self.slots
        envs = np.flatnonzero((self.end[before] == GOING) & (self.head > 1))
        for path, leaf in self.leaves.items():
            shape, dtype = self._spaces[path].shape or (), np.dtype(self._spaces[path].dtype)
            last, final = (np.empty((len(envs), *shape), dtype) for _ in range(2))
            leaf.gather(np.full(len(envs), before), envs, last)
            leaf.gather(np.full(len(envs), newest), envs, final)
            for index, env in enumerate(envs.tolist()):
                leaf.end(before, env, last[index], final[index])
        self.end[before, envs] = TRUNCATED
        self.floor = max(self.floor, self.head - self.rows)
        self.head -= 1
        self._start[:] = True

    def nbytes(self) -> int:
        """Bytes taken by everything, observations included."""
        arrays = [getattr(self, name) for name in FIELDS if getattr(self, name) is not None]
        return sum(leaf.nbytes() for leaf in self.leaves.values()) + sum(array.nbytes for array in arrays)

    def state(self) -> dict[str, Any]:
        """See ``Replay.state``."""
        used = min(self.head, self.slots)
        state: dict[str, Any] = {
            "layout": [self.slots, self.num_envs, self.n_step],
            "head": self.head,
            "floor": self.floor,
            "start": self._start,
            "recent": self._recent,
            "observation": {str(index): leaf.state(used) for index, leaf in enumerate(self.leaves.values())},
            "mark": self._mark.state() if self._mark is not None else None,
        }
        for name in FIELDS:
            if getattr(self, name) is not None:
                state[name] = getattr(self, name)[:used]
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """See ``Replay.load_state``."""
        here = [self.slots, self.num_envs, self.n_step]
        if list(state["layout"]) != here:
            raise RunError(
                "the checkpoint's replay has another form (slots, environments, n_step): "
                f"{list(state['layout'])}, not {here}"
            )
        self.head, self.floor = int(state["head"]), int(state["floor"])
        self._start[:] = state["start"]
        self._recent[:] = state["recent"]
        for index, leaf in enumerate(self.leaves.values()):
            leaf.load_state(state["observation"][str(index)])
        for name in FIELDS:
            if getattr(self, name) is not None:
                getattr(self, name)[: len(state[name])] = state[name]
        if self._mark is not None and state["mark"] is not None:
            self.floor = max(self.floor, self._mark.load_state(int(state["mark"])) - self.rows)


def segments(slot: int, length: int, slots: int) -> list[tuple[slice, slice]]:
    """Where rows [0, length) go from ``slot`` on: slots side by side, cut where the ring begins anew."""
    done, cuts = 0, []
    while done < length:
        count = min(length - done, slots - slot)
        cuts.append((slice(done, done + count), slice(slot, slot + count)))
        slot, done = 0, done + count
    return cuts


def check_shape(name: str, values: np.ndarray, shape: tuple[int, ...]) -> None:
    """[B] against [B, 1] would broadcast without a word."""
    if np.shape(values) != shape:
        raise UserError(
            f"replay was given {name} of shape {list(np.shape(values))}: it must be {list(shape)}"
        )


def action_layout(space: gymnasium.Space) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of one action: i64 for Discrete and MultiDiscrete, f32 for Box."""
    if not isinstance(
        space, gymnasium.spaces.Discrete | gymnasium.spaces.MultiDiscrete | gymnasium.spaces.Box
    ):
        raise UserError(f"replay cannot keep actions of {space}: use Discrete, MultiDiscrete or Box")
    box = isinstance(space, gymnasium.spaces.Box)
    return space.shape or (), np.dtype(np.float32 if box else np.int64)


def check_memory(spec: Spec, config: ReplayConfig, size: int) -> None:
    """Refuse now what would be killed hours later: memory is committed only when first written."""
    available = available_memory()
    if config.memory_map is not None or config.compression != "none" or available is None:
        return
    stack = spec.frame_stack if frames.is_stack(spec.observation, spec.frame_stack) else 1
    need = sum(
        size * int(np.prod(leaf.shape or (), dtype=np.int64)) * np.dtype(leaf.dtype).itemsize // stack
        for leaf in frames.space_leaves(spec.observation).values()
        if leaf.dtype is not None
    )
    if need > available:
        fits = int(config.capacity * available / need * 0.9)
        raise RunError(
            f"replay of {config.capacity:,} steps needs {gib(need)} of memory, {gib(available)} are left: "
            f"set replay.capacity to {fits:,}, replay.compression to lz4, or replay.memory_map to a folder"
        )
