"""Slots: unrolls allocated beforehand, written by an actor, read by a learner. Only their numbers travel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from redline.actors.unroll import unroll_forms, unroll_over
from redline.runtime.crew.region import Region
from redline.types import BY_ENVIRONMENT, Episode, Spec, Tree, Unroll, tree_map


class Slots:
    """``count`` unrolls [T, B] of one actor, and beside each the episodes that ended in it."""

    def __init__(
        self,
        forms: dict[str, Tree],
        count: int,
        *,
        shared: bool,
        debug: bool = False,
        priorities: bool = False,
    ) -> None:
        """forms: of ``unroll_forms``.   priorities: room for f32[T, B] beside each, see ``actors.priorities``."""
        room = int(np.prod(forms["reward"][0]))
        each = {
            "unroll": forms,
            "ended": ((1,), "int64"),
            "episode": ((room, 3), "float64"),  # environment, return, agent steps
        }
        if priorities:
            each["priority"] = (forms["reward"][0], "float32")
        self.region = Region({str(number): each for number in range(count)}, shared=shared)
        self.debug = debug
        self.unrolls = [
            unroll_over(self.region.arrays[str(number)]["unroll"], debug=debug) for number in range(count)
        ]

    def __len__(self) -> int:
        return len(self.unrolls)

    def write_episodes(self, number: int, episodes: Sequence[Episode]) -> None:
        """Put the episodes that ended in slot ``number`` beside it."""
        arrays = self.region.arrays[str(number)]
        count = min(len(episodes), len(arrays["episode"]))
        for row, episode in zip(arrays["episode"], episodes, strict=False):
            row[:] = episode.index, episode.episode_return, episode.length
        arrays["ended"][0] = count

    def episodes(self, number: int) -> list[Episode]:
        """The episodes that ended in slot ``number``."""
        arrays = self.region.arrays[str(number)]
        rows = arrays["episode"][: int(arrays["ended"][0])].tolist()
        return [Episode(int(index), total, int(length)) for index, total, length in rows]

    def priority(self, number: int) -> np.ndarray | None:
        """The first priorities f32[T, B] beside slot ``number``, or None without room for them."""
        found: np.ndarray | None = self.region.arrays[str(number)].get("priority")
        return found

    def close(self) -> None:
        """Give up this process's hold."""
        self.region.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"region": self.region, "count": len(self.unrolls)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.region, self.debug = state["region"], False
        self.unrolls = [
            Unroll(
                **{k: tree_map(torch.from_numpy, v) for k, v in self.region.arrays[str(n)]["unroll"].items()}
            )
            for n in range(state["count"])
        ]


class Gatherer:
    """Joins the unrolls of several slots along the environments: the one copy on the way to the learner."""

    def __init__(self, algorithm: Any, network: Any, spec: Spec, length: int, *, pin: bool = False) -> None:
        self._make = lambda columns: unroll_forms(algorithm, network, spec, length, columns)
        self._batches: dict[int, Unroll] = {}
        self._pin = pin

    def join(self, unrolls: Sequence[Unroll]) -> Unroll:
        """unrolls [T, B_i] -> [T, sum B_i]. One alone is handed through, not copied. Valid until the next call."""
        if len(unrolls) == 1 and not self._pin:
            return unrolls[0]
        columns = sum(unroll.action.shape[1] for unroll in unrolls)
        if columns not in self._batches:
            self._batches[columns] = self._allocate(columns)
        batch, start = self._batches[columns], 0
        for unroll in unrolls:
            stop = start + unroll.action.shape[1]
            _copy_columns(batch, unroll, slice(start, stop))
            start = stop
        return batch

    def _allocate(self, columns: int) -> Unroll:
        forms = self._make(columns)
        forms.pop("final_observation", None)
        zeros = {
            name: tree_map(lambda form: np.zeros(form[0], np.dtype(form[1])), tree)
            for name, tree in forms.items()
        }
        batch = unroll_over(zeros)
        return batch.map(Tensor.pin_memory) if self._pin else batch


def _copy_columns(batch: Unroll, unroll: Unroll, columns: slice) -> None:
    for name in vars(batch):
        target, source = getattr(batch, name), getattr(unroll, name)
        if target is None or source is None:
            continue
        if name in BY_ENVIRONMENT:
            tree_map(lambda x, y: x[columns].copy_(y), target, source)
        else:
            tree_map(lambda x, y: x[:, columns].copy_(y), target, source)
