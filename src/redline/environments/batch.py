"""What every batched environment needs: its arrays, its episode counts, and a check of every number that comes out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from redline.environments.spaces import allocate
from redline.types import Episode, RunError, Spec, Step, Tree, tree_leaves, tree_map

FEW = 16  # numbers
BLAS_LIMIT = 4096  # numbers; OpenBLAS stays on one thread below 10,000
Array = Callable[[tuple[int, ...], Any], np.ndarray]


@dataclass
class Buffers:
    """Arrays of one step of B environments, written in place."""

    observation: Tree  # [B, ...]
    final_observation: Tree  # [B, ...]
    reward: np.ndarray  # f32[B]
    terminated: np.ndarray  # bool[B]
    truncated: np.ndarray  # bool[B]
    action_mask: np.ndarray | None  # bool[B, A]

    @classmethod
    def allocate(cls, spec: Spec, num_envs: int, array: Array = np.zeros) -> Buffers:
        """Arrays for ``num_envs`` environments; ``array(shape, dtype)`` makes each (zeroed)."""
        mask = array((num_envs, sum(spec.choices)), np.bool_) if spec.action_mask else None
        return cls(
            observation=allocate(spec.observation, num_envs, array),
            final_observation=allocate(spec.observation, num_envs, array),
            reward=array((num_envs,), np.float32),
            terminated=array((num_envs,), np.bool_),
            truncated=array((num_envs,), np.bool_),
            action_mask=mask,
        )

    def rows(self, first: int, last: int) -> Buffers:
        """Views of the environments ``first`` to ``last`` (exclusive)."""
        return Buffers(
            observation=tree_map(lambda leaf: leaf[first:last], self.observation),
            final_observation=tree_map(lambda leaf: leaf[first:last], self.final_observation),
            reward=self.reward[first:last],
            terminated=self.terminated[first:last],
            truncated=self.truncated[first:last],
            action_mask=None if self.action_mask is None else self.action_mask[first:last],
        )

    def still(self) -> Step:
        """The observation again: reward 0, nothing ended."""
        size = len(self.reward)
        return Step(
            observation=self.observation,
            reward=np.zeros(size, np.float32),
            terminated=np.zeros(size, np.bool_),
            truncated=np.zeros(size, np.bool_),
            action_mask=self.action_mask,
        )

    def step(self, ended: bool, episodes: Sequence[Episode]) -> Step:
        """This step's arrays (not copied)."""
        final = self.final_observation if ended else None
        return Step(
            self.observation, self.reward, self.terminated, self.truncated, final, self.action_mask, episodes
        )


class EpisodeCounter:
    """Running return (f64, raw rewards) and length (agent steps) of each environment's episode."""

    def __init__(self, num_envs: int) -> None:
        self.returns = np.zeros(num_envs, np.float64)
        self.lengths = np.zeros(num_envs, np.int64)

    def add(self, reward: np.ndarray) -> None:
        """Count one step of every environment."""
        self.returns += reward
        self.lengths += 1

    def finish(self, indices: Sequence[int]) -> list[Episode]:
        """The episodes of ``indices``, which start again from zero."""
        episodes = [Episode(int(i), float(self.returns[i]), int(self.lengths[i])) for i in indices]
        for index in indices:
            self.returns[index] = 0.0
            self.lengths[index] = 0
        return episodes

    def clear(self) -> None:
        """Forget the episodes in progress."""
        self.returns[:] = 0.0
        self.lengths[:] = 0

    def state(self) -> dict[str, np.ndarray]:
        """Copies of both counts."""
        return {"returns": self.returns.copy(), "lengths": self.lengths.copy()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to what ``state`` gave."""
        self.returns[:] = state["returns"]
        self.lengths[:] = state["lengths"]


class FiniteCheck:
    """Refuses NaN and infinity in rewards and float observations; integers cost nothing."""

    def __init__(self, name: str, first: int = 0) -> None:
        """``first``: number of the batch's first environment, for the message."""
        self._name = name
        self._first = first
        self.steps = 0  # checked so far

    def __call__(self, observation: Tree, reward: np.ndarray) -> None:
        """Raise RunError naming environment, index and step where a number is not finite."""
        self.steps += 1
        for values in (reward, *tree_leaves(observation)):
            if values.dtype.kind != "f":
                continue
            # A NaN or infinity always shows in the sum of squares. A sum that overflows without one is
            # possible, so only the exact test may refuse. Above a few thousand numbers BLAS would start threads.
            flat = values.reshape(-1)
            if (
                flat.size <= FEW
            ):  # one environment of a worker: looking at each costs less than a call of BLAS
                if not all(map(math.isfinite, flat.tolist())):
                    self._refuse(values, "reward" if values is reward else "observation")
                continue
            with np.errstate(all="ignore"):
                suspect = flat.size > BLAS_LIMIT or not math.isfinite(np.dot(flat, flat))
            if suspect and not np.isfinite(values).all():
                self._refuse(values, "reward" if values is reward else "observation")

    def _refuse(self, values: np.ndarray, field: str) -> None:
        rows = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
        index = int(np.flatnonzero(rows)[0])
        bad = values[index].ravel()
        bad = bad[~np.isfinite(bad)][0]
        where = f"environment {self._name!r} number {self._first + index}"
        raise RunError(f"{where} gave {field} {bad} at its step {self.steps}: {field}s must be finite")


def check_mask(name: str, mask: np.ndarray, choices: Sequence[int], first: int = 0) -> None:
    """Refuse a row of bool[B, A] that leaves nothing to choose in one of the action's parts (``Spec.choices``).

    ``first`` numbers the first row.
    """
    starts = [sum(choices[:part]) for part in range(len(choices))]
    legal = np.logical_or.reduceat(mask, starts, axis=1)  # bool[B, K]
    if not legal.all():
        row, part = np.argwhere(~legal)[0].tolist()
        where = "" if len(choices) == 1 else f" for part {part} of it"
        raise RunError(
            f"environment {name!r} number {first + row} gave an action mask without a legal action{where}"
        )
