"""A killed host of workers, and a killed server: both come back, what was lost is counted, unrolls stay whole."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from redline import api
from redline.runtime.crew.ports import Port
from redline.runtime.parts import assemble
from redline.runtime.serving.job import InferenceJob
from redline.runtime.serving.muster import ServerMuster, muster_server
from tests.leaks import eventually
from tests.runtime import chaos

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for children in /proc")
WORKERS = 4
SETTINGS = [
    "parallel.architecture=seed",
    "parallel.runtime=processes",
    f"parallel.copies={WORKERS}",
    f"sampler.num_envs={WORKERS}",
    "parallel.hosts=2",
    "parallel.queue=0",
    "learner.precision=fp32",
    "algorithm.unroll=10",
    "environment.kwargs.pause=0.002",
    "environment.kwargs.length=100000",
]


class Learner:
    """Hands slots out again as soon as they are handed in, as a learner that learns nothing."""

    def __init__(self, queue: int, make_job: type[InferenceJob] = InferenceJob) -> None:
        self.parts = assemble(api.make_experiment("tests.inference.pacing:Pacing", "a2c", overrides=SETTINGS))
        parallel = replace(self.parts.experiment.parallel, queue=queue)
        self.parts.experiment = replace(self.parts.experiment, parallel=parallel)
        self.muster: ServerMuster = muster_server(self.parts, 1 + queue, make_job)
        self.out = {(worker, slot) for worker in range(WORKERS) for slot in range(1 + queue)}
        self.rest: set[tuple[int, int]] = set()  # handed in
        self.bad: list[str] = []
        self._tell(self.out)

    def collect(self, unrolls: int, seconds: float = 40.0) -> None:
        """Until so many more unrolls of every worker have come."""
        counts, deadline = [0] * WORKERS, time.monotonic() + seconds
        while min(counts) < unrolls:
            assert time.monotonic() < deadline, f"{counts} unrolls"
            for worker, slot in self.muster.crew.wait(0.1):
                counts[worker] += 1
                self.check(worker, slot)
                self.out.discard((worker, slot))
                self.rest.add((worker, slot))
            if self.muster.crew.revived():
                self._tell(self.out)  # what the dead server had is handed out again
            if not self.lock_step or not self.out:
                self._tell(self.rest)
                self.out |= self.rest
                self.rest.clear()

    def _tell(self, keys: set[tuple[int, int]]) -> None:
        for key in sorted(keys):
            self.muster.crew.tell(*key)

    @property
    def lock_step(self) -> bool:
        """Whether all slots go back together."""
        return self.parts.experiment.parallel.queue == 0

    def check(self, worker: int, slot: int) -> None:
        """Steps of one environment follow each other without a gap, but where an episode begins."""
        unroll = self.muster.slots[worker].unrolls[slot]
        count = unroll.observation[:, 0, 0]
        for t in range(10):
            if not unroll.reset[t + 1, 0] and count[t + 1] != count[t] + 1:
                self.bad.append(f"worker {worker}: {count.tolist()}")

    def close(self) -> None:
        """End everything."""
        self.muster.close()
        self.parts.close()

    def pids(self) -> tuple[int, list[int]]:
        """The server and its hosts."""
        server = self.muster.crew.pids()[0]  # type: ignore[attr-defined]
        return server, chaos.children(server)


@pytest.mark.slow
@pytest.mark.parametrize("queue", [0, 1])
def test_a_killed_host_comes_back_and_its_part_unrolls_are_discarded(queue: int) -> None:
    learner = Learner(queue)
    try:
        learner.collect(2)
        _, hosts = learner.pids()
        assert len(hosts) == 2
        os.kill(hosts[0], signal.SIGKILL)
        learner.collect(4)
        events: dict[str, Any] = {}

        def told() -> bool:
            learner.collect(1)
            events.update(learner.muster.board.events())
            return events["crashes"] >= 1

        assert eventually(told, 10)
        assert events["crashes"] == 1
        assert events.get("discarded", 0) <= 2
        assert not learner.bad, learner.bad[0]
    finally:
        learner.close()


@pytest.mark.slow
@pytest.mark.parametrize("queue", [0, 1])
def test_a_killed_server_comes_back_with_its_workers(queue: int) -> None:
    learner = Learner(queue)
    try:
        learner.collect(2)
        server, hosts = learner.pids()
        os.kill(server, signal.SIGKILL)
        assert eventually(lambda: not any(chaos.alive(pid) for pid in hosts), 10), (
            "hosts outlive their server"
        )
        learner.collect(3)
        assert learner.muster.crew.events() == {"restarts": 1}
        assert not learner.bad, learner.bad[0]
        again, _ = learner.pids()
        assert again != server
    finally:
        learner.close()


class DyingPort:
    """A server's port at which it is killed when it has counted four workers' unrolls and handed in two of them."""

    def __init__(self, port: Port) -> None:
        self._port, self._left = port, WORKERS + 2

    def put(self, number: int) -> None:
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1
        self._port.put(number)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)


class DyingJob(InferenceJob):
    """The first server dies, its successor does not."""

    def run(self, port: Port) -> None:
        first = not self.region.arrays["starts"][-1]
        super().run(DyingPort(port) if first else port)


@pytest.mark.slow
def test_unrolls_that_a_killed_server_had_counted_but_not_handed_in_are_made_anew() -> None:
    """In lock-step they seemed to be done, and whoever had handed in was waited for by those who had to begin again."""
    learner = Learner(queue=0, make_job=DyingJob)
    try:
        learner.collect(4)
        assert learner.muster.crew.events() == {"restarts": 1}
        assert not learner.bad, learner.bad[0]
    finally:
        learner.close()
