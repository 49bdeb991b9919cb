"""A host: some workers, a thread each, in one process. What it imports does without torch.

Environments that wait (for a simulator elsewhere, a robot, a sleep) or step in C++ release the interpreter's lock, so
one process can host many of them; those that compute in Python get a process each.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from typing import Any

from redline import environments
from redline.environments.config import EnvironmentConfig
from redline.inference.tables import Shape, Tables
from redline.inference.worker import Worker
from redline.runtime.crew.bells import Bell
from redline.runtime.crew.board import Board
from redline.runtime.crew.ports import FAILED, REQUEST, Port
from redline.runtime.crew.region import Region
from redline.runtime.crew.threads import describe
from redline.types import Environment, Interruption, RunError, UserError

LEAVE = 1.0  # seconds for workers to come to the end of a step
TELL = 0.25  # seconds between notes on the board


@dataclass
class HostJob:
    """What one host needs to know."""

    name: str
    workers: tuple[int, ...]
    environment: EnvironmentConfig
    seed: int  # of the run's environment 0
    threads: int  # cores that each worker's environments may keep busy
    region: Region
    shape: Shape
    bells: tuple[Bell, ...]  # of each worker
    board: Board
    core: int = -1  # to stay on; -1: any. Many threads of one interpreter pass its lock on faster on one core

    def run(self, port: Port) -> None:
        """Let the workers step until the run ends; answer requests when they rest."""
        if self.core >= 0 and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {self.core})
        host = _Host(self, port)
        host.start()
        try:
            while True:
                number = port.get()
                if number == REQUEST:
                    port.answer(host.answer(*port.request()))
        finally:
            host.stop()


class _Host:
    def __init__(self, job: HostJob, port: Port) -> None:
        self.job, self.port = job, port
        self.stopping = False
        self._speaking = threading.Lock()  # a failure is two messages
        self._making = threading.Lock()  # constructors were not written for threads
        tables = Tables(job.region.arrays, job.shape)
        self.workers = [
            Worker(number, tables, self._make, job.seed, bell.wait, self._call, self._stopping)
            for number, bell in zip(job.workers, job.bells, strict=True)
        ]
        self._crashes = [int(job.board.region.arrays["events"][1 + number, 0]) for number in job.workers]
        self._told = dict.fromkeys(job.workers, 0.0)
        self._threads = [
            threading.Thread(target=self._live, args=(place,), name=f"redline-worker-{number}", daemon=True)
            for place, number in enumerate(job.workers)
        ]

    def _make(self, count: int) -> Environment:
        with self._making:
            return environments.make(self.job.environment, count, threads=self.job.threads)

    def _stopping(self) -> bool:
        return self.stopping

    def _call(self, number: int) -> None:
        self.port.put(number)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def _live(self, place: int) -> None:
        worker = self.workers[place]
        call = worker._call

        def tell_and_call(number: int) -> None:
            self._note(place)
            call(number)

        worker._call = tell_and_call
        try:
            worker.run()
        except Interruption:
            pass
        except BaseException as error:
            if self.stopping:
                return
            name = f"worker-{worker.number}"
            refusal = error if isinstance(error, UserError) else RunError(f"{name} failed: {describe(error)}")
            with self._speaking:
                self.port.answer(refusal, FAILED)

    def _note(self, place: int) -> None:
        """Now and then, on the board: how long this worker has stepped, and what went wrong."""
        worker, now = self.workers[place], time.monotonic()
        if now - self._told[worker.number] < TELL:
            return
        self._told[worker.number] = now
        board, row = self.job.board, 1 + worker.number
        board.taken[row] = worker.steps
        board.write_clock(row, {"stepping": worker.stepping})
        events = {} if worker.environment is None else worker.environment.events()
        crashes = self._crashes[place] + worker.crashes + events.get("crashes", 0)
        board.write_events(row, events | {"crashes": crashes})

    def answer(self, what: str, argument: Any) -> Any:
        """Requests: states of all environments, by worker; loading them; None where they cannot tell."""
        if what == "state":
            return {worker.number: _state(worker) for worker in self.workers}
        if what == "load_state":
            for worker in self.workers:
                assert worker.environment is not None
                worker.environment.load_state(argument[worker.number])
                worker.show_now(worker.environment.observe())
            return True
        raise ValueError(f"a host is not asked {what!r}")

    def stop(self) -> None:
        self.stopping = True
        for bell in self.job.bells:
            bell.ring()
        deadline = time.monotonic() + LEAVE
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))


def _state(worker: Worker) -> Any:
    return None if worker.environment is None else worker.environment.state()
