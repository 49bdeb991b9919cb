"""The learner's side of the inference engine: to it the server is W actors, each with slots of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from redline.actors.unroll import unroll_forms, unroll_over
from redline.inference.tables import Tables, shape_of, table_forms
from redline.runtime.crew.board import Board
from redline.runtime.crew.crews import ANSWER, START, Muster
from redline.runtime.crew.processes import ProcessCrew
from redline.runtime.crew.region import Region
from redline.runtime.crew.threads import Crew, ThreadCrew
from redline.runtime.crew.weights import Publication, WeightStore
from redline.runtime.parts import Parts
from redline.runtime.serving.job import InferenceJob
from redline.types import Episode, Unroll, tree_map


class WorkerSlots:
    """One worker's columns of all slots. See ``crew.slots.Slots``."""

    def __init__(self, tables: Tables, worker: int) -> None:
        span = tables.shape.spans[worker]
        self.unrolls = [
            Unroll(**tree_map(torch.from_numpy, tables.slot(slot, *span)))
            for slot in range(tables.shape.slots)
        ]

    def __len__(self) -> int:
        return len(self.unrolls)

    def close(self) -> None:
        """Nothing of its own to give up."""


class ServerCrew:
    """The crew of one inference server, spoken to as if each of its workers were an actor. See ``Crew``."""

    def __init__(self, crew: Crew, tables: Tables) -> None:
        self.crew, self.tables, self.shape = crew, tables, tables.shape
        self._handed_in = np.zeros(self.shape.workers, np.int64)  # unrolls, by worker

    def pids(self) -> list[int | None]:
        """The server's process id; none where it is a thread."""
        return self.crew.pids() if isinstance(self.crew, ProcessCrew) else []

    def tell(self, role: int, number: int) -> None:
        """Send a worker's slot to the server."""
        self.crew.tell(0, self.shape.slots * role + number)

    def wait(self, timeout: float) -> list[tuple[int, int]]:
        """(worker, slot) of all trajectories that are done."""
        arrived = [divmod(number, self.shape.slots) for _, number in self.crew.wait(timeout)]
        for worker, _ in arrived:
            self._handed_in[worker] += 1
        return arrived

    def post(self, number: int) -> None:
        """As the crew's."""
        self.crew.post(number)

    def kill(self, role: int) -> None:
        """End the server: all workers live and die with it."""
        self.crew.kill(0)

    def ask(self, role: int, what: str, argument: Any = None, timeout: float = 10.0) -> Any:
        """What the server answers; it answers for all workers."""
        return self.crew.ask(0, what, argument, timeout)

    def revived(self) -> list[int]:
        """All workers, where the server was started anew.

        It may have died between counting an unroll and handing it in, which is made anew: what has come counts.
        """
        if not self.crew.revived():
            return []
        self.tables.done[:] = self._handed_in
        return list(range(self.shape.workers))

    def events(self) -> dict[str, int]:
        return self.crew.events()

    def close(self) -> None:
        self.crew.close()


@dataclass
class ServerMuster(Muster):
    """An inference server with its workers, and what they share with the learner."""

    region: Region
    tables: Tables
    whole: list[Unroll]  # of each slot: the unrolls of all workers side by side

    def joined(self, batch: Sequence[tuple[int, int]]) -> Unroll | None:
        """Where every worker's unroll lies in the same slot, they are one unroll already."""
        if len(batch) == len(self.slots) and len({slot for _, slot in batch}) == 1:
            return self.whole[batch[0][1]]
        return None

    def episodes(self, batch: Sequence[tuple[int, int]]) -> list[Episode]:
        """The episodes that ended in the slots of (worker, slot) pairs."""
        return self.tables.episodes(batch)

    def busy(self) -> dict[str, float]:
        """Seconds that a worker has spent stepping so far, in the mean, and the server acting."""
        workers = len(self.slots)
        stepping = sum(self.board.clock(1 + worker)["stepping"] for worker in range(workers)) / workers
        return {"worker": stepping, "inference": self.board.clock(0)["acting"]}

    def ask_all(self, what: str) -> list[Any]:
        """The server's answer, or None where it did not come in time."""
        return [self.crew.ask(0, what, timeout=2 * ANSWER)]

    def restore(self, states: list[Any]) -> bool:
        """Hand a saved state to the server; False unless everybody is back where they were."""
        if len(states) != 1 or states[0] is None:
            return False
        return bool(self.crew.ask(0, "load_state", states[0], timeout=START))

    def close(self) -> None:
        """End the server and its workers, then free the memory. Safe to call twice."""
        super().close()
        self.region.close()


def muster_server(
    parts: Parts, slots_each: int, make_job: Callable[..., InferenceJob] = InferenceJob
) -> ServerMuster:
    """Start the experiment's inference server, and through it its workers, each with ``slots_each`` slots."""
    experiment, learner = parts.experiment, parts.learner
    shared = experiment.parallel.runtime == "processes"
    workers, columns = experiment.parallel.copies, experiment.sampler.num_envs
    length: int = getattr(experiment.algorithm, "unroll", 1)
    shape = shape_of(columns, workers, experiment.sampler.groups, length, slots_each)
    forms = unroll_forms(parts.algorithm, learner.acting, parts.spec, length, columns)
    region = Region(table_forms(forms, shape), shared=shared)
    tables = Tables(region.arrays, shape)
    whole = [unroll_over(tables.slot(slot), debug=experiment.run.debug) for slot in range(slots_each)]
    if "action_mask" in tables.now:
        tables.now["action_mask"][...] = True
    board = Board(1 + workers, shared=shared)
    weights = WeightStore(Publication(learner).sizes, shared=shared)
    weights.publish(Publication(learner).views(), learner.version)
    job = make_job("inference", experiment, parts.spec, region, shape, [weights], board)
    inner: Crew = ProcessCrew([job]) if shared else ThreadCrew([job])
    slots = [WorkerSlots(tables, worker) for worker in range(workers)]
    first = [span[0] for span in shape.spans]
    return ServerMuster(ServerCrew(inner, tables), slots, weights, board, first, region, tables, whole)
