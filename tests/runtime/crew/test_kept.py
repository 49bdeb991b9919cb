"""Processes that are kept between jobs: the same ones serve the next crew, hold on to nothing, and end with their
owner however it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest

from redline.environments.workers.kept import kept_processes, prepare
from redline.runtime.crew.ports import REQUEST, Port
from redline.runtime.crew.processes import ProcessCrew
from redline.runtime.crew.region import Region
from redline.types import RunError
from tests.leaks import eventually
from tests.runtime.chaos import ROOT, alive
from tests.runtime.crew.test_crew import Doomed, Echo, collect

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are kept on Linux only")


class Adder:
    """Adds its numbers to a shared array; tells how many descriptors its process has."""

    name = "adder"

    def __init__(self, regions: list[Region]) -> None:
        self.regions = regions

    def run(self, port: Port) -> None:
        while True:
            number = port.get()
            if number == REQUEST:
                port.request()
                port.answer((os.getpid(), len(os.listdir("/proc/self/fd"))))
                continue
            for region in self.regions:
                region.arrays["sums"] += number
            port.put(number)


def add(count: int, number: int) -> tuple[int, int, list[float]]:
    """The process that did it, its descriptors, and what became of so many shared arrays of zeros."""
    regions = [Region({"sums": ((1000,), "float64")}, shared=True) for _ in range(count)]
    crew = ProcessCrew([Adder(regions)], torch=False)
    try:
        crew.tell(0, number)
        assert collect(crew, 1) == [(0, number)]
        pid, descriptors = crew.ask(0, "descriptors", timeout=30)
        return pid, descriptors, [float(region.arrays["sums"].mean()) for region in regions]
    finally:
        crew.close()
        for region in regions:
            region.close()


def test_one_process_serves_crew_after_crew_and_keeps_nothing_of_them() -> None:
    with kept_processes():
        first, few, sums = add(3, 5)
        assert sums == [5.0] * 3
        second, many, sums = add(300, 7)  # more than travel at once
        assert sums == [7.0] * 300
        third, again, sums = add(3, 9)
        assert sums == [9.0] * 3
        with kept_processes():
            assert add(1, 1)[0] == first
        assert add(1, 1)[0] == first, "who is within another leaves them to it"
    assert first == second == third
    assert many == few + 2 * 297, "a map has a descriptor of its own"
    assert again == few
    assert eventually(lambda: not alive(first))
    assert add(1, 1)[0] != first


class Polite:
    """Tells its priority and cores, then lowers the one and leaves all but one of the others."""

    name = "polite"

    def run(self, port: Port) -> None:
        while port.get() == REQUEST:
            port.request()
            me, cores = threading.get_native_id(), os.sched_getaffinity(0)
            port.answer((os.getpid(), os.getpriority(os.PRIO_PROCESS, me), len(cores)))
            os.setpriority(os.PRIO_PROCESS, me, min(os.getpriority(os.PRIO_PROCESS, me) + 5, 19))
            os.sched_setaffinity(0, {min(cores)})


def test_a_job_that_gave_way_leaves_the_next_one_its_priority_and_cores() -> None:
    told: list[Any] = []
    with kept_processes():
        for _ in range(2):
            crew = ProcessCrew([Polite()], torch=False)
            told.append(crew.ask(0, "priority", timeout=30))
            crew.close()
    assert told[0] == told[1]
    assert told[0][1:] == (os.getpriority(os.PRIO_PROCESS, 0), len(os.sched_getaffinity(0)))


def test_those_that_die_or_are_killed_are_not_kept() -> None:
    with kept_processes():
        crew = ProcessCrew([Echo(), Echo()], torch=False)
        try:
            for role in (0, 1):
                crew.tell(role, 1)
            collect(crew, 2)
            victim, other = crew.pids()
            os.kill(victim or 0, signal.SIGKILL)
            assert eventually(lambda: crew.wait(0.1) is not None and crew.events() == {"restarts": 1}, 20)
            assert eventually(lambda: crew.wait(0.1) is not None and crew.revived() == [0], 20)
            crew.tell(0, 41)
            assert collect(crew, 1) == [(0, 42)]
            pids = set(crew.pids())
        finally:
            crew.close()
        assert other in pids
        assert victim not in pids
        again = ProcessCrew([Echo(), Echo()], torch=False)
        assert set(again.pids()) == pids
        again.close()
        idle = next(iter(pids))
        os.kill(idle or 0, signal.SIGKILL)
        assert eventually(lambda: idle not in {child.pid for child in multiprocessing.active_children()})
        last = ProcessCrew([Echo(), Echo()], torch=False)
        assert idle not in last.pids()
        last.close()
    assert eventually(lambda: not any(alive(pid or 0) for pid in pids))


def test_a_job_that_fails_is_told_and_its_process_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redline.runtime.crew.processes.PAUSE", 0.0)
    monkeypatch.setattr("redline.runtime.crew.processes.LIMIT", 0)
    with kept_processes():
        crew = ProcessCrew([Echo()], torch=False)
        pid = crew.pids()[0]
        crew.tell(0, 13)
        with pytest.raises(RunError, match="thirteen"):
            collect(crew, 1)
        crew.close()
        crew = ProcessCrew([Doomed()], torch=False)
        assert crew.pids()[0] == pid
        with pytest.raises(RunError, match="exited with code 7"):
            collect(crew, 1)
        crew.close()


def test_prepared_processes_are_those_that_are_used() -> None:
    with kept_processes():
        prepare(2)
        pids: list[Any] = []
        for _ in range(2):
            crew = ProcessCrew([Echo(), Echo()], torch=False)
            pids.append(set(crew.pids()))
            crew.close()
        prepare(2)
    assert pids[0] == pids[1]


OWNER = """
import os, signal
from redline.environments.workers.kept import kept_processes
from redline.runtime.crew.processes import ProcessCrew
from tests.runtime.crew.test_crew import Echo, collect

if __name__ == "__main__":
    with kept_processes():
        idle = ProcessCrew([Echo()], torch=False)
        idle.tell(0, 1)
        collect(idle, 1)
        print(*idle.pids())
        idle.close()
        busy = ProcessCrew([Echo(), Echo()], torch=False)
        print(*busy.pids(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_they_end_with_an_owner_that_is_killed(tmp_path: Any) -> None:
    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    done = subprocess.run(
        [sys.executable, str(script)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    pids = {int(word) for word in done.stdout.split()}
    assert done.returncode == -signal.SIGKILL
    assert len(pids) == 2, done.stderr
    assert eventually(lambda: not any(alive(pid) for pid in pids), 10)
