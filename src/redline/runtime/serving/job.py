"""The inference server's job: starts its workers' hosts, acts for them, and hands unrolls in as if it were W actors."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from redline.inference.batcher import RESTING, Batcher, Crowd, Dynamic, LockStep
from redline.inference.loop import Heard, InferenceLoop
from redline.inference.server import Policy, Server
from redline.inference.tables import Shape, Tables
from redline.runs.provenance import usable_cores
from redline.runs.rng import go_on_from
from redline.runtime.crew.acting import ActingNetwork
from redline.runtime.crew.bells import Bell
from redline.runtime.crew.board import EVENTS, Board
from redline.runtime.crew.ports import REQUEST, Port
from redline.runtime.crew.processes import ProcessCrew
from redline.runtime.crew.region import Region
from redline.runtime.crew.threads import Crew, ThreadCrew
from redline.runtime.crew.weights import WeightStore
from redline.runtime.experiment import Experiment, make_algorithm
from redline.runtime.plan import first_seed
from redline.runtime.serving.host import HostJob
from redline.runtime.system import give_way
from redline.types import Interruption, Spec, tree_map

STOP, ASKED = -3, -4  # what the listener posts beside slots
PATIENCE = 0.5  # seconds between looks at whether the run shall stop
FINE = 1e-3  # seconds below which selectors round up: a deadline that close is slept for
START = 100.0  # seconds for all workers to be there


@dataclass
class InferenceJob:
    """What the inference server needs to know."""

    name: str
    experiment: Experiment  # every automatic choice made
    spec: Spec
    region: Region
    shape: Shape
    weights: Sequence[WeightStore]  # one a policy
    board: Board  # row 0 is the server's, row 1 + w that of worker w
    assigned: Sequence[int] | None = (
        None  # of each worker, the number of its policy; None: the first acts for all
    )

    def run(self, port: Port) -> None:
        """Act for the workers until the run ends; an unroll's slot is ``slots * worker + slot`` on the port."""
        give_way(self.experiment)  # and with it the workers that it starts
        bells = [Bell() for _ in range(self.shape.workers)]
        crew = self._muster(bells)
        listener = _Listener(port, crew)
        try:
            desk = _Desk(self, crew, port, listener, bells)
            loop = self._loop(desk)
            while True:
                loop.turn()
                self._note(loop, desk)
                while listener.asked:
                    port.answer(self._answer(loop, desk, *listener.asked.popleft()))
        finally:
            crew.close()
            for bell in bells:
                bell.close()

    @property
    def hosts(self) -> list[tuple[int, ...]]:
        """The workers of each host, neighbours together."""
        workers = self.shape.workers
        count = self.experiment.parallel.hosts if self._processes else 1
        bounds = [workers * k // count for k in range(count + 1)]
        return [tuple(range(*pair)) for pair in itertools.pairwise(bounds)]

    @property
    def _processes(self) -> bool:
        return self.experiment.parallel.runtime == "processes"

    def _muster(self, bells: Sequence[Bell]) -> Crew:
        experiment = self.experiment
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [-1]
        jobs = [
            HostJob(
                f"host-{number}",
                workers,
                experiment.environment,
                first_seed(experiment.run.seed),
                max(1, usable_cores() // self.shape.workers),
                self.region,
                self.shape,
                tuple(bells[worker] for worker in workers),
                self.board,
                cores[number % len(cores)] if self._processes and len(workers) > 1 else -1,
            )
            for number, workers in enumerate(self.hosts)
        ]
        return ProcessCrew(jobs, torch=False) if self._processes else ThreadCrew(jobs)

    def _loop(self, desk: _Desk) -> InferenceLoop:
        experiment, tables = self.experiment, Tables(self.region.arrays, self.shape)
        algorithm = make_algorithm(experiment, self.spec)
        device = experiment.learner.device
        policies = []
        for weights in self.weights:
            network = ActingNetwork(experiment, self.spec, algorithm.network_kind, device)
            policies.append(Policy(network.module, _refresh(weights, network), weights.announce))
        seed = first_seed(experiment.run.seed, int(tables.starts[-1]))
        tables.starts[-1] += 1
        server = Server(
            tables,
            algorithm,
            policies,
            seed,
            steps=lambda: self.board.steps,
            device=device,
            assigned=self.assigned,
        )
        crowd = Crowd(self.shape.workers, tables.done)
        parallel = experiment.parallel
        batcher: Batcher = (
            LockStep(crowd, self.shape.groups)
            if parallel.queue == 0
            else Dynamic(crowd, parallel.max_batch, parallel.max_wait)
        )
        return InferenceLoop(server, batcher, crowd, desk, experiment.environment.step_timeout)

    def _note(self, loop: InferenceLoop, desk: _Desk) -> None:
        now = time.monotonic()
        if now < desk.note_due:
            return
        desk.note_due = now + 0.25
        self.board.taken[0] = loop.server.served
        self.board.write_clock(0, {"acting": loop.server.acting})
        counts = {"crashes": desk.deaths - desk.hangs, "hangs": desk.hangs, "discarded": loop.discarded}
        self.board.write_events(0, {name: count + desk.before.get(name, 0) for name, count in counts.items()})

    def _answer(self, loop: InferenceLoop, desk: _Desk, what: str, argument: Any) -> Any:
        if what == "state":
            return self._state(loop, desk)
        if what == "load_state":
            return self._load_state(loop, desk, argument)
        raise ValueError(f"an inference server is not asked {what!r}")

    def _state(self, loop: InferenceLoop, desk: _Desk) -> Any:
        """None where somebody is at work: an unroll in the making cannot be saved."""
        if not (loop.crowd.doing == RESTING).all():
            return None
        each = desk.ask_hosts("state", [None] * len(self.hosts))
        states = {str(worker): state for part in each for worker, state in (part or {}).items()}
        if len(states) < self.shape.workers or any(state is None for state in states.values()):
            return None
        server = loop.server
        return {
            "generator": server.generator.get_state(),
            "state": tree_map(lambda x: x.to("cpu", copy=True), server.state),
            "reset": server.tables.now["reset"].copy(),
            "environments": states,
        }

    def _load_state(self, loop: InferenceLoop, desk: _Desk, saved: Any) -> bool:
        deadline = time.monotonic() + START
        while not (loop.crowd.doing == RESTING).all():
            if time.monotonic() > deadline:
                return False
            loop.turn()
        if len(saved["environments"]) != self.shape.workers:
            return False
        parts = [{worker: saved["environments"][str(worker)] for worker in host} for host in self.hosts]
        server = loop.server
        if not go_on_from(server.generator, saved["generator"]):
            return False
        if not all(desk.ask_hosts("load_state", parts)):
            return False
        server.tables.now["reset"][...] = saved["reset"]
        tree_map(lambda mine, state: mine.copy_(state), server.state, saved["state"])
        return True


def _refresh(weights: WeightStore, network: ActingNetwork) -> Callable[[], int]:
    """A function that reads the newest weights where there are newer ones, and returns their version."""
    version = -1

    def refresh() -> int:
        nonlocal version
        if weights.version != version:
            version = network.read(weights)
        return version

    return refresh


class _Listener:
    """Hears the learner on a thread of its own, so that the server can wait for its workers at the same time."""

    def __init__(self, port: Port, crew: Crew) -> None:
        self.asked: deque[tuple[str, Any]] = deque()
        self._port, self._crew = port, crew
        threading.Thread(target=self._listen, name="redline-listener", daemon=True).start()

    def _listen(self) -> None:
        try:
            while True:
                number = self._port.get()
                if number == REQUEST:
                    self.asked.append(self._port.request())
                    number = ASKED
                self._crew.post(number)
        except (Interruption, EOFError, OSError):
            self._crew.post(STOP)


class _Desk:
    """The loop's channel: workers through their hosts' crew and their bells, the learner through the port."""

    def __init__(
        self, job: InferenceJob, crew: Crew, port: Port, listener: _Listener, bells: Sequence[Bell]
    ) -> None:
        self.crew, self.port, self.listener, self.bells = crew, port, listener, bells
        self.hosts, self.slots = job.hosts, job.shape.slots
        self.host_of = {worker: host for host, workers in enumerate(self.hosts) for worker in workers}
        self.board = job.board
        self.before = dict(zip(EVENTS, job.board.region.arrays["events"][0].tolist(), strict=True))
        self.deaths = self.hangs = 0
        self.note_due = 0.0
        self._killed: set[int] = set()

    def wait(self, timeout: float | None) -> Heard:
        """See ``Channel``."""
        calls: list[int] = []
        slots: list[tuple[int, int]] = []
        timeout = PATIENCE if timeout is None else timeout
        if 0.0 < timeout < FINE:
            time.sleep(timeout)
            timeout = 0.0
        for role, number in self.crew.wait(timeout):
            if role >= 0:
                calls.append(number)
            elif number >= 0:
                slots.append((number // self.slots, number % self.slots))
            elif number == STOP:
                raise Interruption
        if self.board.stopping or self.port.orphaned():
            raise Interruption
        lost = [worker for host in self.crew.revived() for worker in self._mourn(host)]
        return Heard(calls, slots, lost)

    def _mourn(self, host: int) -> tuple[int, ...]:
        self.deaths += 1
        self._killed.discard(host)
        return self.hosts[host]

    def ring(self, workers: Sequence[int]) -> None:
        """See ``Channel``."""
        for worker in workers:
            self.bells[worker].ring()

    def hand_in(self, worker: int, slot: int) -> None:
        """See ``Channel``."""
        self.port.put(self.slots * worker + slot)

    def hung(self, worker: int, seconds: float) -> None:
        """See ``Channel``."""
        host = self.host_of[worker]
        if host not in self._killed:
            self._killed.add(host)
            self.hangs += 1
            self.crew.kill(host)

    def ask_hosts(self, what: str, arguments: Sequence[Any]) -> list[Any]:
        """The answer of each host, or None."""
        return [
            self.crew.ask(host, what, argument, timeout=2.0 if argument is None else START)
            for host, argument in enumerate(arguments)
        ]
