"""Threads and processes keep the same promises: numbers and answers travel, faults are told, the dead are replaced."""

from __future__ import annotations

import multiprocessing
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from redline.runtime.crew import processes
from redline.runtime.crew.ports import REQUEST, Port
from redline.runtime.crew.processes import ProcessCrew
from redline.runtime.crew.threads import Crew, ThreadCrew
from redline.types import RunError
from tests.leaks import eventually
from tests.runtime.chaos import ROOT, alive

CREWS = {"threads": ThreadCrew, "processes": ProcessCrew}


class Echo:
    """Sends back each number plus one; answers requests; raises at 13."""

    def __init__(self, name: str = "echo") -> None:
        self.name = name

    def run(self, port: Port) -> None:
        while True:
            number = port.get()
            if number == REQUEST:
                what, argument = port.request()
                port.answer({"what": what, "argument": argument, "pid": os.getpid()})
                continue
            if number == 13:
                raise RuntimeError("thirteen")
            port.put(number + 1)


def collect(crew: Crew, count: int, patience: float = 30.0) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    end = time.monotonic() + patience
    while len(found) < count and time.monotonic() < end:
        found += crew.wait(0.2)
    return found


@pytest.mark.parametrize("kind", CREWS)
def test_numbers_and_answers_travel(kind: str) -> None:
    crew: Any = CREWS[kind]([Echo(), Echo()])
    try:
        for number in range(10):
            crew.tell(number % 2, number)
        assert sorted(collect(crew, 10)) == sorted((n % 2, n + 1) for n in range(10))
        big = list(range(100_000))  # larger than any pipe's buffer
        answer = crew.ask(1, "size", big, timeout=30)
        assert answer["what"] == "size"
        assert answer["argument"] == big
        assert crew.wait(0.01) == []
    finally:
        crew.close()
        crew.close()


@pytest.mark.parametrize("kind", CREWS)
def test_what_a_role_raises_reaches_the_main_role_in_one_line(kind: str) -> None:
    crew: Any = CREWS[kind]([Echo("actor-0")])
    try:
        crew.tell(0, 13)
        with pytest.raises(RunError, match="actor-0 failed: RuntimeError: thirteen"):
            collect(crew, 1)
    finally:
        crew.close()


def test_a_killed_process_is_replaced_and_its_loss_told() -> None:
    crew = ProcessCrew([Echo(), Echo()])
    try:
        for role in (0, 1):
            crew.tell(role, 1)
        collect(crew, 2)
        victim = crew.pids()[1]
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        revived: list[int] = []

        def replaced() -> bool:
            crew.wait(0.1)
            revived.extend(crew.revived())
            return bool(revived)

        assert eventually(replaced, 20)
        assert revived == [1]
        assert crew.events() == {"restarts": 1}
        crew.tell(1, 41)
        assert collect(crew, 1) == [(1, 42)]
    finally:
        crew.close()


class Doomed:
    name = "doomed"

    def run(self, port: Port) -> None:
        os._exit(7)


def test_a_role_that_keeps_dying_ends_the_run_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PAUSE", 0.0)
    monkeypatch.setattr(processes, "LIMIT", 1)
    crew = ProcessCrew([Doomed()], torch=False)
    try:
        with pytest.raises(
            RunError, match="doomed died 2 times in a row, the last time it exited with code 7"
        ):
            collect(crew, 1, 60)
    finally:
        crew.close()


class Survived:
    """At 1 forks a process that sleeps, says which, and is killed; else sends back the number."""

    name = "survived"

    def run(self, port: Port) -> None:
        while True:
            number = port.get()
            if number == 1:
                fork = os.fork()
                if fork == 0:
                    time.sleep(60)
                    os._exit(0)
                port.put(fork)
                os.kill(os.getpid(), signal.SIGKILL)
            port.put(number)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_role_whose_death_is_hidden_by_a_process_that_it_forked_is_replaced() -> None:
    crew = ProcessCrew([Survived()], torch=False)
    forks: list[tuple[int, int]] = []
    revived: list[int] = []
    try:
        crew.tell(0, 1)
        forks += collect(crew, 1)

        def replaced() -> bool:
            assert crew.wait(0.1) == []
            revived.extend(crew.revived())
            return bool(revived)

        assert eventually(replaced, 8)
        crew.tell(0, 2)
        assert collect(crew, 1) == [(0, 2)]
        begin = time.monotonic()
        crew.tell(0, 1)
        assert crew.ask(0, "anything", timeout=30) is None
        assert time.monotonic() - begin < 8
    finally:
        forks += crew.wait(0.1)
        for _, fork in forks:
            os.kill(fork, signal.SIGKILL)
        crew.close()


@pytest.mark.skipif(not hasattr(signal, "SIGRTMIN"), reason="real-time signals")
def test_a_role_killed_by_a_signal_without_a_name_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LIMIT", 0)
    crew = ProcessCrew([Echo()], torch=False)
    try:
        crew.tell(0, 1)
        collect(crew, 1)
        os.kill(crew.pids()[0] or 0, signal.SIGRTMIN + 3)
        with pytest.raises(RunError, match=rf"killed by signal {signal.SIGRTMIN + 3}$"):
            collect(crew, 1)
    finally:
        crew.close()


class SocketsOnly(selectors.SelectSelector):
    """What Windows can wait for."""

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        assert isinstance(fileobj, socket.socket)
        return super().register(fileobj, events, data)


def test_a_crew_needs_nothing_that_windows_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selectors, "DefaultSelector", SocketsOnly)
    for module, name in ((socket, "MSG_DONTWAIT"), (os, "eventfd")):
        monkeypatch.delattr(module, name, raising=False)
    crew = ProcessCrew([Echo()], torch=False)
    try:
        crew.tell(0, 1)
        assert collect(crew, 1) == [(0, 2)]
        for number in range(3):
            threading.Timer(0.1, crew.post, (number,)).start()
        assert sorted(collect(crew, 3)) == [(-1, 0), (-1, 1), (-1, 2)]
        assert crew.wait(0.0) == []
    finally:
        crew.close()


class Starter:
    """Starts programs as environments do, and tells how they ended when they were told to by SIGTERM."""

    name = "starter"

    def run(self, port: Port) -> None:
        assert port.get() == REQUEST
        port.request()
        program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        fork = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        fork.start()
        program.terminate()
        fork.terminate()
        fork.join(5)
        port.answer([program.wait(5), fork.exitcode])
        port.get()


def test_a_sigterm_to_everyone_leaves_roles_to_their_main_role() -> None:
    crew = ProcessCrew([Echo()], torch=False)
    try:
        for number in (1, 2):  # while it starts, and when it waits
            role = crew.pids()[0]
            assert role is not None
            os.kill(role, signal.SIGTERM)
            crew.tell(0, number)
            assert collect(crew, 1) == [(0, number + 1)]
        assert crew.events() == {}
    finally:
        crew.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_what_a_role_starts_can_be_ended_by_sigterm() -> None:
    crew = ProcessCrew([Starter()], torch=False)
    try:
        assert crew.ask(0, "codes", timeout=40) == [-signal.SIGTERM, -signal.SIGTERM]
    finally:
        crew.close()


def leave_unclosed() -> None:
    crew = ProcessCrew([Echo()], torch=False)
    crew.tell(0, 1)
    print(collect(crew, 1), flush=True)


def test_python_exits_though_nobody_closed_the_crew() -> None:
    script = "from tests.runtime.crew.test_crew import leave_unclosed; leave_unclosed()"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=40).returncode == 0


class Stuck:
    """Says which process it is, then looks at nothing any more: as in an environment's step that hangs."""

    name = "stuck"

    def run(self, port: Port) -> None:
        print(os.getpid(), flush=True)
        time.sleep(3600)


def start_stuck() -> None:
    crew = ProcessCrew([Stuck()], torch=False)
    crew.wait(3600)


def test_a_role_stuck_in_a_step_does_not_outlive_a_killed_main_process() -> None:
    script = "from tests.runtime.crew.test_crew import start_stuck; start_stuck()"
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE) as main:
        assert main.stdout is not None
        role = int(main.stdout.readline())
        main.kill()
        main.wait()
        try:
            assert eventually(lambda: not alive(role), 10)
        finally:
            if alive(role):
                os.kill(role, signal.SIGKILL)
