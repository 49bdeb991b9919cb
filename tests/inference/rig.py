"""Workers as threads around one server, without crew, ports or learner: the loops alone, driven by a test.

Over budget: every property of the rig is one argument.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from redline import environments
from redline.actors.unroll import unroll_forms
from redline.environments.config import EnvironmentConfig
from redline.inference.batcher import Batcher, Crowd, Dynamic, LockStep
from redline.inference.loop import Heard, InferenceLoop
from redline.inference.server import Policy, Server
from redline.inference.tables import Tables, shape_of, table_forms
from redline.inference.worker import CALLS, Worker
from redline.runtime.crew.bells import Bell
from redline.runtime.crew.region import Region
from redline.types import tree_map


class Rig:
    """Use as a context. ``collect`` runs the server and gives slots back until so many unrolls were handed in."""

    def __init__(
        self,
        environment: EnvironmentConfig,
        algorithm: Any,
        network: Any,
        *,
        workers: int,
        columns: int,
        length: int = 10,
        slots: int = 2,
        groups: int = 1,
        lock: bool = False,
        largest: int = 0,
        patience: float = 0.0,
        policies: Sequence[Policy] | None = None,
        assigned: Sequence[int] | None = None,
    ) -> None:
        spec = environments.probe(environment)
        self.shape = shape_of(columns, workers, groups, length, slots)
        forms = unroll_forms(algorithm, network, spec, length, columns)
        self.region = Region(table_forms(forms, self.shape), shared=False)
        self.tables = Tables(self.region.arrays, self.shape)
        self.version = 0
        self.calls: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.slots: list[tuple[int, int]] = []
        self.handed: list[tuple[int, int]] = []
        self.unrolls: list[dict[str, Any]] = []
        self.log: list[tuple[str, list[int]]] = []
        self.stopping = False
        self.bells = [Bell() for _ in range(workers)]
        policies = policies or [Policy(network, lambda: self.version)]
        self.server = Server(self.tables, algorithm, policies, 0, lambda: 0, assigned=assigned)
        crowd = Crowd(workers, self.tables.done)
        batcher: Batcher = LockStep(crowd, self.shape.groups) if lock else Dynamic(crowd, largest, patience)
        self.loop = InferenceLoop(self.server, batcher, crowd, self, step_timeout=60.0)
        self.workers = [
            Worker(
                number,
                self.tables,
                lambda n: environments.make(environment, n),
                seed=100,
                wait=bell.wait,
                call=self.calls.put,
                stopping=lambda: self.stopping,
            )
            for number, bell in enumerate(self.bells)
        ]
        self.failure: BaseException | None = None
        self.threads = [threading.Thread(target=self._run, args=(worker,)) for worker in self.workers]

    def _run(self, worker: Worker) -> None:
        try:
            worker.run()
        except BaseException as error:
            self.failure = error

    def __enter__(self) -> Rig:
        for thread in self.threads:
            thread.start()
        self.slots = [
            (worker, slot) for worker in range(self.shape.workers) for slot in range(self.shape.slots)
        ]
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping = True
        for bell in self.bells:
            bell.ring()
        for thread in self.threads:
            thread.join()
        for bell in self.bells:
            bell.close()

    def wait(self, timeout: float | None) -> Heard:
        """See ``Channel``."""
        slots, self.slots = self.slots, []
        calls: list[int] = []
        try:
            calls.append(self.calls.get(not slots, 0.5 if timeout is None else timeout or 1e-6))
            while True:
                calls.append(self.calls.get_nowait())
        except queue.Empty:
            self.log.append(("call", [call // CALLS for call in calls]))
            return Heard(calls, slots)

    def ring(self, workers: Sequence[int]) -> None:
        """See ``Channel``."""
        if workers:
            self.log.append(("ring", list(workers)))
        for worker in workers:
            self.bells[worker].ring()

    def hand_in(self, worker: int, slot: int) -> None:
        """See ``Channel``. The unroll is copied, and its slot handed out again."""
        self.handed.append((worker, slot))
        self.unrolls.append(tree_map(np.copy, self.tables.slot(slot, *self.shape.spans[worker])))
        self.give_back(worker, slot)

    def give_back(self, worker: int, slot: int) -> None:
        """A free slot; tests may keep it."""
        self.slots.append((worker, slot))

    def hung(self, worker: int, seconds: float) -> None:
        """See ``Channel``."""
        raise AssertionError(f"worker {worker} hangs")

    @torch.no_grad()
    def collect(self, unrolls: int, seconds: float = 60.0) -> list[dict[str, Any]]:
        """Serve until so many unrolls were handed in since the start."""
        deadline = time.monotonic() + seconds
        while len(self.unrolls) < unrolls:
            assert time.monotonic() < deadline, f"{len(self.unrolls)} of {unrolls} unrolls"
            if self.failure is not None:
                raise self.failure
            self.loop.turn()
        return self.unrolls
