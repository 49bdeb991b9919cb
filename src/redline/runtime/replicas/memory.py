"""What the copies of a run and its main role share: the board, the central weights, and what each copy reports."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from redline.learners.config import LearnerConfig
from redline.learners.exchanges.central import Central, central_forms
from redline.runtime.crew.board import Board
from redline.runtime.crew.region import Region
from redline.types import Episode, Metrics

ROOM = 4096  # episodes of a copy that may wait to be counted; older ones are lost to the statistics
METRICS = 64
NAMES = 4096  # bytes


class Reports:
    """Episodes and metrics of each copy, written by it and read by the main role."""

    def __init__(self, copies: int, *, shared: bool) -> None:
        self.region = Region(
            {
                "episode": ((copies, ROOM, 3), "float64"),  # environment, return, agent steps
                "ended": ((copies,), "int64"),
                "names": ((copies, NAMES), "uint8"),
                "named": ((copies,), "int64"),
                "metrics": ((copies, METRICS), "float64"),
            },
            shared=shared,
        )
        self._read = [0] * copies  # by the main role

    def write_episodes(self, role: int, episodes: Iterable[Episode], first_column: int) -> None:
        """Append what ended; environments are numbered among those of the run from here on."""
        arrays = self.region.arrays
        for episode in episodes:
            place = int(arrays["ended"][role]) % ROOM
            arrays["episode"][role, place] = (
                first_column + episode.index,
                episode.episode_return,
                episode.length,
            )
            arrays["ended"][role] += 1

    def read_episodes(self, role: int) -> list[Episode]:
        """What ended since the last call."""
        arrays = self.region.arrays
        ended = int(arrays["ended"][role])
        rows = [
            arrays["episode"][role, place % ROOM].tolist()
            for place in range(max(self._read[role], ended - ROOM), ended)
        ]
        self._read[role] = ended
        return [Episode(int(index), total, int(length)) for index, total, length in rows]

    def write_metrics(self, role: int, metrics: Metrics) -> None:
        """Newest values of a copy. Their names are those of the first call."""
        arrays = self.region.arrays
        if not arrays["named"][role]:
            text = json.dumps(list(metrics)[:METRICS]).encode()
            arrays["names"][role, : len(text)] = np.frombuffer(text, np.uint8)
            arrays["named"][role] = len(text)
        values = [float(value) for value in metrics.values()][:METRICS]
        arrays["metrics"][role, : len(values)] = values

    def read_metrics(self) -> Metrics:
        """Means over the copies that have written any."""
        arrays, found = self.region.arrays, []
        for role, length in enumerate(arrays["named"].tolist()):
            if length:
                names = json.loads(bytes(arrays["names"][role, :length]))
                found.append(dict(zip(names, arrays["metrics"][role].tolist(), strict=False)))
        if not found:
            return {}
        return {name: sum(each.get(name, 0.0) for each in found) / len(found) for name in found[0]}

    def close(self) -> None:
        """Give up this process's hold."""
        self.region.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"region": self.region}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.region, self._read = state["region"], []


class Memory:
    """Everything shared. Pickles while a process is being spawned, where it is ``shared``."""

    def __init__(self, copies: int, servers: int, *, shared: bool) -> None:
        self.shared = shared
        self.board = Board(copies + servers, shared=shared)
        self.reports = Reports(copies, shared=shared)
        self.signs = Region(dict.fromkeys(("pause", "abandon", "learn"), ((1,), "int64")), shared=shared)
        self.central_region: Region | None = None

    def make_central(self, size: int, writers: int, config: LearnerConfig) -> Central:
        """Add central weights f32[size] and statistics, whose counts have ``writers`` rows."""
        self.central_region = Region(central_forms(size, writers, config), shared=self.shared)
        return self.central()

    def central(self) -> Central:
        """The central weights and statistics, over this process's view of the memory."""
        assert self.central_region is not None, "make_central comes first"
        return Central.over(self.central_region.arrays)

    @property
    def whole(self) -> int:
        """Agent steps of all copies."""
        return int(self.board.taken.sum())

    @property
    def paused(self) -> bool:
        """Whether copies shall come to rest after the iteration they are in."""
        return bool(self.signs.arrays["pause"][0])

    @paused.setter
    def paused(self, value: bool) -> None:
        """Ask the copies to come to rest, or to go on."""
        self.signs.arrays["pause"][0] = value

    @property
    def abandoned(self) -> bool:
        """Whether copies that wait for each other shall give up."""
        return bool(self.signs.arrays["abandon"][0])

    @abandoned.setter
    def abandoned(self, value: bool) -> None:
        """Call off the meeting that copies wait at, or allow the next."""
        self.signs.arrays["abandon"][0] = value

    @property
    def learns_from(self) -> int:
        """Agent steps of the run from which on copies that step together learn from their replays."""
        return int(self.signs.arrays["learn"][0])

    @learns_from.setter
    def learns_from(self, steps: int) -> None:
        """Written by the main role alone, between iterations: every copy makes the same updates."""
        self.signs.arrays["learn"][0] = steps

    def close(self) -> None:
        """Give up this process's hold. Safe to call twice."""
        for each in (self.board, self.reports, self.signs, self.central_region):
            if each is not None:
                each.close()
