"""Samplers: which transitions a batch is made of. A replay is handed one and knows nothing of how it chooses.

Ids count transitions in the order in which they were added (row * environments + environment), and never come
again.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from redline.replay.config import ReplayConfig
from redline.types import RunError


class Sampler(Protocol):
    """Told what enters, leaves and is learned; asked for ids and importance weights."""

    def enter(self, ids: np.ndarray, priority: np.ndarray | None) -> None:
        """Ids i64[M] can be drawn from now on; priority f64[M] |TD error|, or None if not known."""

    def leave(self, ids: np.ndarray) -> None:
        """Ids i64[M] must not be drawn any more."""

    def draw(self, count: int, beta: float, live: tuple[int, int], rng: np.random.Generator) -> Draw:
        """``count`` of the ids in [live[0], live[1])."""

    def update(self, ids: np.ndarray, td_error: np.ndarray) -> None:
        """The TD errors f[M] just measured of ids i64[M], all of them live."""

    def nbytes(self) -> int:
        """Bytes taken."""

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what ``state`` gave."""


Draw = tuple[np.ndarray, np.ndarray]  # ids i64[N], importance weights f32[N]


class UniformSampler:
    """Every live transition is equally likely, with replacement."""

    def enter(self, ids: np.ndarray, priority: np.ndarray | None) -> None:
        pass

    def leave(self, ids: np.ndarray) -> None:
        pass

    def draw(self, count: int, beta: float, live: tuple[int, int], rng: np.random.Generator) -> Draw:
        return rng.integers(live[0], live[1], count), np.ones(count, np.float32)

    def update(self, ids: np.ndarray, td_error: np.ndarray) -> None:
        pass

    def nbytes(self) -> int:
        return 0

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        pass


class PrioritizedSampler:
    """Proportional prioritised replay (Schaul et al. 2016, section 3.3; golden numbers: Ape-X, section 3).

    P(i) = p_i^alpha / sum p^alpha with p_i = |TD error| + epsilon; a batch is one draw from each of N equal
    strata of the sum. w_i = (M P(i))^-beta over the largest w *in the buffer*, not in the batch: a
    transition's weight then does not hang on its neighbours. New transitions without a known priority enter
    with the largest p seen so far.
    """

    def __init__(self, config: ReplayConfig, size: int) -> None:
        from redline.replay.sumtree import (
            SumTree,
        )  # late: numba takes half a second, and uniform replay needs none

        self._alpha, self._epsilon = config.alpha, config.priority_epsilon
        self._size = size
        self._tree = SumTree(size)
        self.largest = 1.0  # priority seen so far

    @property
    def total(self) -> float:
        """Sum of p^alpha."""
        return self._tree.total

    @property
    def low(self) -> float:
        """The smallest p^alpha; infinity where there is none."""
        return self._tree.low

    def enter(self, ids: np.ndarray, priority: np.ndarray | None) -> None:
        if priority is None:
            self._tree.update(ids % self._size, np.full(len(ids), self.largest**self._alpha))
        else:
            self.update(ids, priority)

    def leave(self, ids: np.ndarray) -> None:
        self._tree.update(ids % self._size, np.zeros(len(ids)))

    def draw(self, count: int, beta: float, live: tuple[int, int], rng: np.random.Generator) -> Draw:
        targets = (np.arange(count) + rng.random(count)) * (self._tree.total / count)
        ids, masses = self.at(targets, live)
        return ids, ((masses / self.low) ** -beta).astype(np.float32)

    def at(self, targets: np.ndarray, live: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Ids i64[N] at ``targets`` f64[N] in [0, total) of the running sum, and their p^alpha; uses up ``targets``."""
        leaves = self._tree.find(targets)
        newest = live[1] - 1
        return newest - (newest - leaves) % self._size, self._tree.leaves[leaves]

    def update(self, ids: np.ndarray, td_error: np.ndarray) -> None:
        priority = np.abs(td_error.astype(np.float64)) + self._epsilon
        if len(priority) == 0:
            return
        largest = float(priority.max())
        if not np.isfinite(largest):
            raise RunError(
                "a TD error is not finite: learning has diverged, so replay has no priority to store"
            )
        self.largest = max(self.largest, largest)
        self._tree.update(ids % self._size, priority**self._alpha)

    def nbytes(self) -> int:
        return self._tree.nbytes

    def state(self) -> dict[str, Any]:
        return {"priority": self._tree.leaves, "largest": self.largest}

    def load_state(self, state: dict[str, Any]) -> None:
        self.largest = float(state["largest"])
        self._tree.update(np.arange(self._size), np.asarray(state["priority"], np.float64))
