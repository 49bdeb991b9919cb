"""Storage: a ring of rows, one per step of all environments, that gives back n-step transitions.

Row ``r`` lies in slot ``r % slots`` and holds, for each of B environments, the observation, the action taken
on it and what followed. A window is the n rows from a transition's own on, fewer where the episode ends; when
the row after a full-length window has been written, every window of that age is *closed*: its reward sum and
discount are computed, once, and its transitions can be drawn. Windows therefore never cross an end of episode
or the ring's write head.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from redline.replay import frames
from redline.replay.columns import Column, Mark, available_memory, gib, make_column
from redline.replay.config import ReplayConfig
from redline.types import RunError, Spec, Tree, UserError

GOING, TERMINATED, TRUNCATED = range(3)  # what followed a row
FIELDS = ("action", "reward", "discount", "span", "end", "mask")


class Storage:
    """The ring. Transition ids, ``row * num_envs + environment``, grow for ever and never come again."""

    def __init__(self, spec: Spec, config: ReplayConfig, num_envs: int, gamma: float) -> None:
        self.num_envs, self.n_step, self._gamma = num_envs, config.n_step, gamma
        self.rows = config.capacity // num_envs
        if self.rows < config.n_step + 2:
            raise UserError(
                f"replay.capacity is {config.capacity}: {num_envs} environments with n_step {config.n_step} "
                f"need at least {num_envs * (config.n_step + 2)}"
            )
        # The oldest live observation's stack reaches back stack - 1 rows, which must not be overwritten yet.
        stack = spec.frame_stack if frames.is_stack(spec.observation, spec.frame_stack) else 1
        self.slots = self.rows + stack - 1
        self.size = self.slots * num_envs
        self.head = 0  # rows written so far; the next one's number
        self.floor = 0  # rows below this number are lost, whatever the capacity says
        self._start = np.ones(num_envs, bool)  # the next observation begins an episode
        self._allocate(spec, config)

    def _allocate(self, spec: Spec, config: ReplayConfig) -> None:
        check_memory(spec, config, self.size)
        folder = Path(config.memory_map) if config.memory_map is not None else None

        def make(name: str, shape: tuple[int, ...], dtype: np.dtype) -> Column:
            path = folder / f"observation{name}.npy" if folder is not None else None
            return make_column(self.size, shape, dtype, config.compression, path)

        self.leaves = frames.make_leaves(spec.observation, spec.frame_stack, self.slots, self.num_envs, make)
        self._spaces = frames.space_leaves(spec.observation)
        self._mark = Mark(folder) if folder is not None else None
        shape, dtype = action_layout(spec.action)
        self.action = np.empty((self.size, *shape), dtype)
        self.reward = np.full(self.size, np.nan, np.float32)  # n-step sum
        self.discount = np.full(self.size, np.nan, np.float32)  # gamma^span, or 0
        self.span = np.zeros(self.size, np.uint8)  # rows in the window
        self.end = np.zeros(self.size, np.uint8)  # GOING, TERMINATED or TRUNCATED
        actions = int(spec.action.n) if spec.action_mask and hasattr(spec.action, "n") else 0
        self.mask = np.ones((self.size, actions), bool) if actions else None
        self._recent = np.zeros((self.n_step + 1, self.num_envs))  # single-step rewards of the newest rows

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
        row, slot = self.head, self.head % self.slots
        first = slot * self.num_envs
        here = slice(first, first + self.num_envs)
        observed = {path: self._checked(observation, path) for path in self.leaves}
        ends = np.where(terminated, TERMINATED, np.where(truncated, TRUNCATED, GOING))
        cut = np.flatnonzero(ends == TRUNCATED).tolist()
        if cut and final_observation is None:
            raise UserError(
                f"environment {cut[0]} was truncated without a final observation: replay must have it"
            )
        finals = {path: self._checked(final_observation, path) for path in self.leaves} if cut else {}
        self._fits("action", action, self.action.shape[1:])
        for name, flag in (("reward", reward), ("terminated", terminated), ("truncated", truncated)):
            self._fits(name, flag, ())
        if self._mark is not None:
            self._mark.write(row + 1)
        for path, leaf in self.leaves.items():
            leaf.write(slot, observed[path], self._start)
            for env in cut:
                leaf.end(slot, env, observed[path][env], finals[path][env])
        if row - self.n_step >= self.floor:
            self._close(row - self.n_step)
        self.action[here], self.end[here] = action, ends
        if self.mask is not None and action_mask is not None:
            self._fits("action_mask", action_mask, self.mask.shape[1:])
            self.mask[here] = action_mask
        self._recent[row % len(self._recent)] = reward
        np.not_equal(ends, GOING, out=self._start)
        self.head = row + 1

    def _checked(self, tree: Tree, path: frames.Path) -> np.ndarray:
        space = self._spaces[path]
        values = np.asarray(frames.tree_at(tree, path))
        name = ".".join(("observation", *path))
        self._fits(name, values, space.shape or ())
        if not np.can_cast(values.dtype, np.dtype(space.dtype), "same_kind"):
            raise UserError(f"replay was given {name} of {values.dtype}: the space says {space.dtype}")
        return values

    def _fits(self, name: str, values: np.ndarray, shape: tuple[int, ...]) -> None:
        if np.shape(values) != (self.num_envs, *shape):
            raise UserError(
                f"replay was given {name} of shape {list(np.shape(values))}: it must be "
                f"{[self.num_envs, *shape]}"
            )

    def _close(self, row: int) -> None:
        """Sum the rewards of the windows that begin in ``row``, up to the episode's end."""
        total, span = np.zeros(self.num_envs), np.zeros(self.num_envs, np.int64)
        going, terminal = np.ones(self.num_envs, bool), np.zeros(self.num_envs, bool)
        for step in range(self.n_step):
            total[going] += self._gamma**step * self._recent[(row + step) % len(self._recent)][going]
            span[going] += 1
            first = (row + step) % self.slots * self.num_envs
            end = self.end[first : first + self.num_envs]
            terminal |= going & (end == TERMINATED)
            going &= end == GOING
        first = row % self.slots * self.num_envs
        here = slice(first, first + self.num_envs)
        self.reward[here], self.span[here] = total, span
        self.discount[here] = np.where(terminal, 0.0, self._gamma**span)

    def gather(self, ids: np.ndarray, out: dict[str, Any]) -> None:
        """Copy transitions i64[N] into the arrays of ``out``: those of ``Replay``'s buffers."""
        at = ids % self.size
        last = (at + (self.span[at].astype(np.int64) - 1) * self.num_envs) % self.size
        end = self.end[last]
        # After a terminal row comes nothing: its own observation stands in, behind a discount of 0.
        after = np.where(end == GOING, (last + self.num_envs) % self.size, last)
        cut = np.flatnonzero(end == TRUNCATED).tolist()
        for path, leaf in self.leaves.items():
            leaf.gather(at, out["observation"][path])
            leaf.gather(after, out["next_observation"][path])
            for index in cut:
                slot, env = divmod(int(last[index]), self.num_envs)
                leaf.patch(slot, env, out["next_observation"][path][index : index + 1])
        for name in ("action", "reward", "discount"):
            np.take(getattr(self, name), at, axis=0, out=out[name], mode="clip")
        if self.mask is not None:
            np.take(self.mask, after, axis=0, out=out["next_action_mask"], mode="clip")
            out["next_action_mask"][cut] = True  # nobody tells which actions are legal in a final observation

    def interrupt(self) -> None:
        """The environments start afresh: end open episodes as truncated, each at its newest observation.

        That observation has no step after it any more, so its row is given back: one step an environment is
        lost.
        """
        if self._start.all():
            return
        newest, before = (self.head - 1) % self.slots, (self.head - 2) % self.slots
        envs = np.arange(self.num_envs)
        going = (
            np.flatnonzero(self.end[before * self.num_envs + envs] == GOING) if self.head > 1 else envs[:0]
        )
        for path, leaf in self.leaves.items():
            shape, dtype = self._spaces[path].shape or (), np.dtype(self._spaces[path].dtype)
            last, final = (np.empty((len(going), *shape), dtype) for _ in range(2))
            leaf.gather(before * self.num_envs + going, last)
            leaf.gather(newest * self.num_envs + going, final)
            for index, env in enumerate(going.tolist()):
                leaf.end(before, env, last[index], final[index])
        self.end[before * self.num_envs + going] = TRUNCATED
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
                state[name] = getattr(self, name)[: used * self.num_envs]
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
