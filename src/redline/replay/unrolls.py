"""Unrolls that are learned from again beside fresh ones: IMPALA's ablation (Espeholt et al. 2018, section 5.2.2)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from redline.replay.columns import available_memory, gib
from redline.types import BY_ENVIRONMENT, RunError, Tree, Unroll, tree_leaves, tree_map


class UnrollReplay:
    """The newest ``capacity`` unrolls of single environments, drawn uniformly with replacement. On the host."""

    def __init__(self, capacity: int, share: float, *, seed: int) -> None:
        """share: of a mixed batch, that is drawn from here, in [0, 1). With 0 nothing is kept."""
        self.capacity, self.share = capacity, share
        self.generator = torch.Generator().manual_seed(seed)
        self.kept: Unroll | None = None  # [T, capacity]
        self.count = 0  # unrolls that have come, all told

    def __len__(self) -> int:
        return min(self.count, self.capacity)

    def mix(self, fresh: Unroll) -> Unroll:
        """``fresh`` [T, B] with so many older unrolls behind it that they are ``share`` of all; keeps it for later.

        The first batch has none.
        """
        if not self.share:
            return fresh
        columns = fresh.action.shape[1]
        drawn = round(columns * self.share / (1.0 - self.share))
        mixed = fresh
        if len(self) and drawn:
            index = torch.randint(len(self), (drawn,), generator=self.generator)
            mixed = _joined(fresh, self.take(index))
        self.add(fresh)
        return mixed

    def take(self, index: Tensor) -> Unroll:
        """The unrolls in places i64[N], copied: [T, N]."""
        assert self.kept is not None
        return _each(self.kept, lambda x, axis: x.index_select(axis, index))

    def add(self, fresh: Unroll) -> None:
        """Keep every unroll of [T, B] in the place of the oldest."""
        columns = fresh.action.shape[1]
        if self.kept is None:
            self._check_memory(fresh)
            self.kept = _each(fresh, lambda x, axis: x.new_empty(_sized(x, axis, self.capacity)))
        first = max(columns - self.capacity, 0)  # of more than there is room for the last are kept
        places = (self.count + torch.arange(first, columns)) % self.capacity

        def keep(axis: int, into: Tensor, given: Tensor) -> Tensor:
            return into.index_copy_(axis, places, given.narrow(axis, first, columns - first))

        for name in vars(self.kept):
            axis = 0 if name in BY_ENVIRONMENT else 1
            tree_map(partial(keep, axis), getattr(self.kept, name), getattr(fresh, name))
        self.count += columns

    def _check_memory(self, fresh: Unroll) -> None:
        """Refuse now what would be killed hours later: memory is committed only when first written."""
        size = sum(leaf.nbytes for tree in vars(fresh).values() for leaf in tree_leaves(tree))
        each, available = size / fresh.action.shape[1], available_memory()
        if available is not None and each * self.capacity > available:
            raise RunError(
                f"{self.capacity:,} unrolls to learn from again need {gib(each * self.capacity)} of memory, "
                f"{gib(available)} are left: set algorithm.replay_unrolls to {int(available / each * 0.9):,}"
            )

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        kept = None if self.kept is None else self.take(torch.arange(len(self)))
        return {
            "unrolls": None if kept is None else dict(vars(kept)),
            "count": self.count,
            "generator": self.generator.get_state(),
        }

    def load_state(self, state: dict[str, Any] | None) -> bool:
        """Put back what ``state`` gave; False where it is needed and was not saved."""
        if state is None:
            return not self.share
        self.kept, self.count = None, 0
        if state["unrolls"] is not None:
            self.add(Unroll(**state["unrolls"]))
        self.count = int(state["count"])
        self.generator.set_state(state["generator"])
        return True


def _sized(x: Tensor, axis: int, count: int) -> tuple[int, ...]:
    return (*x.shape[:axis], count, *x.shape[axis + 1 :])


def _each(unroll: Unroll, function: Callable[[Tensor, int], Tensor]) -> Unroll:
    """``function`` of every tensor and the axis on which its environments lie."""

    def of(name: str, tree: Tree) -> Tree:
        return tree_map(lambda x: function(x, 0 if name in BY_ENVIRONMENT else 1), tree)

    return Unroll(**{name: of(name, tree) for name, tree in vars(unroll).items()})


def _joined(first: Unroll, second: Unroll) -> Unroll:
    """Both, side by side."""
    parts = {}
    for name, tree in vars(first).items():
        axis = 0 if name in BY_ENVIRONMENT else 1
        parts[name] = tree_map(lambda x, y, axis=axis: torch.cat([x, y], axis), tree, getattr(second, name))
    return Unroll(**parts)
