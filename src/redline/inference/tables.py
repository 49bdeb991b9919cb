"""What workers and the inference server share: unrolls of all environments side by side, and what passes between them.

Columns are environments. A worker steps those of its *span*, which are next to each other; row t of slot s of a column
holds step t of one unroll. Worker and server write different fields of the same row:

    server: action, record, final_value, state, bootstrap_value, policy_version      worker: everything else

This file is imported by workers, which do without torch: seconds and 150 MB for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from redline.types import Episode, Tree, tree_map

BY_COLUMN = ("state", "bootstrap_value")  # fields [S, B, ...]; all others are [S, T, B, ...]
SLOT, STEP, TICKET = (
    0,
    1,
    2,
)  # of an order: where to find the action, and a number that says whether it is a new one


@dataclass(frozen=True)
class Shape:
    """How many of everything."""

    length: int  # T, steps of an unroll
    slots: int  # S, unrolls of each worker
    spans: tuple[tuple[int, int], ...]  # of each worker: first and last (exclusive) column
    groups: tuple[
        tuple[int, int], ...
    ]  # first and last (exclusive) worker of those served together in lock-step

    @property
    def workers(self) -> int:
        """W."""
        return len(self.spans)

    @property
    def columns(self) -> int:
        """B."""
        return self.spans[-1][1]


def shape_of(num_envs: int, workers: int, groups: int, length: int, slots: int) -> Shape:
    """Shares as equal as can be: groups of columns first, as one process would cut them, then workers within them."""
    spans: list[tuple[int, int]] = []
    bounds: list[tuple[int, int]] = []
    for group, size in enumerate(_cut(num_envs, groups)):
        count = _cut(workers, groups)[group][1] - _cut(workers, groups)[group][0]
        bounds.append((len(spans), len(spans) + count))
        spans += [(size[0] + first, size[0] + last) for first, last in _cut(size[1] - size[0], count)]
    return Shape(length, slots, tuple(spans), tuple(bounds))


def _cut(total: int, parts: int) -> list[tuple[int, int]]:
    return [(total * k // parts, total * (k + 1) // parts) for k in range(parts)]


def table_forms(unroll: dict[str, Tree], shape: Shape) -> dict[str, Tree]:
    """A tree of (shape, dtype) of everything shared. ``unroll``: the forms of one unroll [T, B]."""
    slots, workers, columns = shape.slots, shape.workers, shape.columns

    def row(form: tuple[tuple[int, ...], str]) -> tuple[tuple[int, ...], str]:
        return form[0][1:], form[1]

    now = {"observation": tree_map(row, unroll["observation"]), "reset": ((columns,), "bool")}
    if "action_mask" in unroll:
        now["action_mask"] = row(unroll["action_mask"])
    return {
        "unroll": tree_map(lambda form: ((slots, *form[0]), form[1]), unroll),
        "now": now,  # what the next unroll begins with
        "final": tree_map(row, unroll["observation"]),  # valid where the newest step truncated
        "sent": row(unroll["action"]),  # as the environments spell actions
        "order": ((workers, 3), "int64"),
        "done": ((workers,), "int64"),  # unrolls handed in
        "starts": ((workers + 1,), "int64"),  # of each worker's environments, and of the server
        "ended": ((slots, workers), "int64"),
        "episode": ((slots, shape.length * columns, 4), "float64"),  # step, environment, return, agent steps
    }


class Tables:
    """Arrays of ``table_forms``."""

    def __init__(self, arrays: dict[str, Any], shape: Shape) -> None:
        self.shape = shape
        self.unroll: dict[str, Tree] = arrays["unroll"]
        self.now: dict[str, Tree] = arrays["now"]
        self.final: Tree = arrays["final"]
        self.sent: np.ndarray = arrays["sent"]
        self.order: np.ndarray = arrays["order"]
        self.done: np.ndarray = arrays["done"]
        self.starts: np.ndarray = arrays["starts"]
        self.ended: np.ndarray = arrays["ended"]
        self._episode: np.ndarray = arrays["episode"]

    def slot(self, slot: int, first: int = 0, last: int | None = None) -> dict[str, Tree]:
        """Fields [T, n, ...] of one slot's unroll, columns ``first`` to ``last`` (exclusive): views."""

        def cut(name: str, leaf: np.ndarray) -> np.ndarray:
            return leaf[slot, first:last] if name in BY_COLUMN else leaf[slot, :, first:last]

        return {
            name: tree_map(lambda leaf, name=name: cut(name, leaf), tree)
            for name, tree in self.unroll.items()
        }

    def add_episodes(self, worker: int, slot: int, t: int, episodes: Sequence[Episode]) -> None:
        """Note episodes that ended at step t of a worker's slot; ``index`` counts from its first environment."""
        rows = self._rows(worker, slot)
        count = int(self.ended[slot, worker])
        for row, episode in zip(rows[count:], episodes, strict=False):
            row[:] = t, episode.index, episode.episode_return, episode.length
            count += 1
        self.ended[slot, worker] = count

    def episodes(self, unrolls: Sequence[tuple[int, int]]) -> list[Episode]:
        """The episodes that ended in (worker, slot) pairs, as one process would list them: by step, then column."""
        found: list[tuple[float, ...]] = []
        for worker, slot in unrolls:
            rows = self._rows(worker, slot)[: int(self.ended[slot, worker])].tolist()
            first = self.shape.spans[worker][0]
            found += [(t, first + index, total, length) for t, index, total, length in rows]
        found.sort(key=lambda row: row[:2])
        return [Episode(int(index), total, int(length)) for _, index, total, length in found]

    def _rows(self, worker: int, slot: int) -> np.ndarray:
        first, last = self.shape.spans[worker]
        length = self.shape.length
        return self._episode[slot, first * length : last * length]
