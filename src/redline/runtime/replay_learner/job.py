"""The replay's job where it has a process of its own: slots in, batches out, by numbers over shared memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from redline.replay.buffers import Buffer, batch_forms, buffer_over
from redline.runtime.crew.ports import REQUEST, Port
from redline.runtime.crew.region import Region
from redline.runtime.crew.slots import Slots
from redline.runtime.experiment import Experiment
from redline.runtime.replay_learner.feeder import Feeder
from redline.runtime.system import keep_freed_memory
from redline.types import Spec, tree_map

SHELVES = 3  # batches that live at once: one being learned from, two drawn ahead


class Shelves:
    """Batches in memory that replay and learner share, and a few numbers between them."""

    def __init__(self, spec: Spec, batch: int) -> None:
        each = {
            "batch": batch_forms(spec, batch),
            "error": ((batch,), "float32"),  # of the learner, TD errors
            "version": ((batch,), "int64"),  # of the replay, weights that acted
        }
        forms = {
            "shelf": {number: each for number in range(SHELVES)},
            "beta": ((1,), "float64"),  # the learner writes it
            "seconds": ((1,), "float64"),  # the replay writes these
            "size": ((1,), "int64"),
        }
        self._hold(Region(forms, shared=True))

    def _hold(self, region: Region) -> None:
        self.region = region
        self.numbers: dict[str, np.ndarray] = region.arrays
        shelves = region.arrays["shelf"]
        self.buffers: list[Buffer] = [
            buffer_over(tree_map(torch.from_numpy, shelves[k]["batch"])) for k in range(SHELVES)
        ]
        self.error: list[np.ndarray] = [shelves[k]["error"] for k in range(SHELVES)]
        self.version: list[np.ndarray] = [shelves[k]["version"] for k in range(SHELVES)]

    def close(self) -> None:
        """Give up this process's hold."""
        self.region.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"region": self.region}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._hold(state["region"])


@dataclass(frozen=True)
class Numbers:
    """What numbers mean. To the replay: store a slot, fill a shelf, a shelf was learned from, an actor began anew. From
    it: a slot is stored, a shelf is full."""

    actors: int
    slots: int  # of each

    @property
    def shelf(self) -> int:
        """The first number that is no slot."""
        return self.actors * self.slots

    def learned(self, shelf: int) -> int:
        """Of a shelf that was learned from."""
        return self.shelf + SHELVES + shelf

    def anew(self, actor: int) -> int:
        """Of an actor whose episodes begin anew."""
        return self.shelf + 2 * SHELVES + actor


@dataclass
class ReplayJob:
    """What a replay needs to know."""

    name: str
    experiment: Experiment  # every automatic choice made
    spec: Spec
    slots: Sequence[Slots]
    shelves: Shelves
    numbers: Numbers

    def run(self, port: Port) -> None:
        """Store and draw until the run ends. A shelf asked for while there is nothing to draw is filled later."""
        keep_freed_memory()
        feeder = Feeder(self.experiment, self.spec, self.slots, soft=True)
        shelves, first = self.shelves, self.numbers.shelf
        empty: deque[int] = deque()
        while True:
            number = port.get()
            if number == REQUEST:
                port.answer(self._answer(feeder, *port.request()))
            elif number < first:
                feeder.add(*divmod(number, self.numbers.slots))
                port.put(number)
            elif number < first + SHELVES:
                empty.append(number - first)
            elif number < first + 2 * SHELVES:
                shelf = number - first - SHELVES
                feeder.learned(shelves.buffers[shelf].batch.index, shelves.error[shelf])
            else:
                feeder.break_episodes(number - first - 2 * SHELVES)
            while empty and feeder.size:
                shelf = empty.popleft()
                beta = float(shelves.numbers["beta"][0])
                shelves.version[shelf][:] = feeder.draw_into(shelves.buffers[shelf], beta)
                port.put(first + shelf)
            shelves.numbers["size"][0] = feeder.size
            shelves.numbers["seconds"][0] = feeder.seconds

    @staticmethod
    def _answer(feeder: Feeder, what: str, argument: Any) -> Any:
        if what == "state":
            return feeder.state()
        if what == "load_state":
            feeder.load_state(argument)
            return True
        raise ValueError(f"a replay is not asked {what!r}")
