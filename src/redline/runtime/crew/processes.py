"""Roles as processes: for environments in Python, and for parameters shared without a lock.

A process that dies is heard at once (its socket closes), and another takes its place after a pause that doubles each
time. When the main process dies, by whatever signal, the sockets close too, and the roles leave.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import selectors
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from redline.environments.workers.kept import kept_or
from redline.environments.workers.link import child_settings, signal_name
from redline.environments.workers.process import die_with_parent
from redline.environments.workers.spawning import (
    IMPORTED,
    Parcel,
    Unguarded,
    check_script,
    end_with_interpreter,
    leave_if_imported,
    leave_signals_to_parent,
)
from redline.runtime.crew.board import Patience
from redline.runtime.crew.ports import FAILED, NUMBER, REQUEST, ProcessPort, receive, send
from redline.runtime.crew.threads import LOOK, Job, work
from redline.types import RunError

CLOSE_TIMEOUT = 3.0  # seconds for roles to leave by themselves
PAUSE = 0.25  # seconds before a role is started again; doubles with each failure in a row
LIMIT = 5  # failures in a row after which the run ends


class _Link:
    """One process and its channels."""

    def __init__(self, job: Job, torch: bool) -> None:
        self.job, self.torch = job, torch
        self.failures = 0
        self.due: float | None = None  # when to start it again
        self.partial = b""
        self.process: BaseProcess | None = None
        self.bell: Any = None
        self.pipe: Any = None

    def start(self) -> None:
        leave_if_imported()
        check_script()
        context = multiprocessing.get_context("spawn")
        self.bell, bell = socket.socketpair()
        self.pipe, pipe = context.Pipe()
        self.partial, self.due = b"", None
        arguments = (Parcel(self.job), bell, pipe, os.getpid(), self.torch)

        def spawned() -> BaseProcess:
            process = context.Process(
                target=main, args=arguments, daemon=True, name=f"redline-{self.job.name}"
            )
            with child_settings():
                process.start()
            end_with_interpreter(process)
            return process

        self.process = kept_or(spawned, run, arguments)
        # With the last copy of its ends in the child, its death closes them, and is heard here at once.
        bell.close()
        pipe.close()

    def numbers(self) -> list[int] | None:
        """Numbers that have come, now that something has; None when the process is gone."""
        try:
            data = self.bell.recv(4096)
        except OSError:
            return None
        if not data:
            return None
        data = self.partial + data
        whole = len(data) // NUMBER.size * NUMBER.size
        self.partial = data[whole:]
        return [number for (number,) in NUMBER.iter_unpack(data[:whole])]

    def ended(self) -> bool:
        return self.process is not None and self.process.exitcode is not None

    def hang_up(self) -> None:
        for channel in (self.bell, self.pipe):
            if channel is not None:
                channel.close()

    def end(self) -> str:
        """Kill and reap; returns how it ended."""
        self.hang_up()
        if self.process is None:
            return "it never started"
        self.process.join(0.5)
        code = self.process.exitcode
        self.process.kill()
        self.process.join()
        self.process.close()
        self.process = None
        if code is None:
            return "it closed its channel"
        return f"killed by {signal_name(-code)}" if code < 0 else f"it exited with code {code}"


class ProcessCrew:
    """One spawned process a job. See ``Crew``."""

    def __init__(self, jobs: Sequence[Job], *, torch: bool = True, patience: Patience | None = None) -> None:
        """torch: whether the jobs compute; those that do not start in a fraction of the time and memory.

        patience: with jobs whose environments hang; None: none has any.
        """
        self._selector = selectors.DefaultSelector()
        self._arrived: deque[tuple[int, int]] = deque()
        self._answers: dict[int, Any] = {}
        self._revived: list[int] = []
        self.restarts = self.hangs = 0
        self._patience, self._look = patience, 0.0
        self._links = [_Link(job, torch) for job in jobs]
        self._closed = False
        self._wake, self._ring = socket.socketpair()  # Windows can wait for nothing else
        self._ring.setblocking(False)  # where it is full, it has been rung
        self._selector.register(self._wake, selectors.EVENT_READ, None)
        try:
            for role in range(len(jobs)):
                self._start(role)
        except BaseException:
            self.close()
            raise

    def pids(self) -> list[int | None]:
        """Process ids, role by role; None for one that waits to be started again."""
        return [None if link.process is None else link.process.pid for link in self._links]

    def _start(self, role: int) -> None:
        if self._patience is not None:
            self._patience.begin(role)
        self._links[role].start()
        self._selector.register(self._links[role].bell, selectors.EVENT_READ, role)

    def tell(self, role: int, number: int) -> None:
        link = self._links[role]
        if link.process is not None:
            with contextlib.suppress(OSError):  # a dead role is noticed by ``wait``
                link.bell.sendall(NUMBER.pack(number))

    def post(self, number: int) -> None:
        self._arrived.append((-1, number))
        with contextlib.suppress(OSError):
            self._ring.send(b"!")

    def kill(self, role: int) -> None:
        process = self._links[role].process
        if process is not None:
            process.kill()  # noticed by ``wait``

    def wait(self, timeout: float) -> list[tuple[int, int]]:
        deadline = time.monotonic() + timeout
        while True:
            self._restart_due()
            self._look_after()
            left = max(deadline - time.monotonic(), 0.0)
            self._pump(0.0 if self._arrived or self._revived else min(left, self._until_due(), LOOK))
            if self._arrived or self._revived or time.monotonic() >= deadline:
                # One by one: other threads post meanwhile.
                return [self._arrived.popleft() for _ in range(len(self._arrived))]

    def _look_after(self) -> None:
        """Now and then: roles that died unheard, their bell held by a process that they forked, and those that hang."""
        now = time.monotonic()
        if now < self._look:
            return
        self._look = now + LOOK
        dead = [role for role, link in enumerate(self._links) if link.ended()]
        if dead:
            self._pump(0.0)  # what they had said, and whose bells have closed
        for role in dead:
            if self._links[role].process is not None:
                self._bury(role)
        for role in self._patience.exhausted() if self._patience is not None else ():
            process = self._links[role].process
            if process is not None and process.is_alive():
                self.hangs += 1
                self.kill(role)

    def _until_due(self) -> float:
        waits = [link.due - time.monotonic() for link in self._links if link.due is not None]
        return max(min(waits, default=3600.0), 0.0)

    def _restart_due(self) -> None:
        for role, link in enumerate(self._links):
            if link.due is not None and time.monotonic() >= link.due:
                self._start(role)
                self._revived.append(role)

    def _pump(self, timeout: float) -> None:
        for key, _ in self._selector.select(timeout):
            role = key.data
            if role is None:
                self._wake.recv(4096)
                continue
            link = self._links[role]
            numbers = link.numbers()
            for number in numbers or ():
                if number in (REQUEST, FAILED):
                    self._hear(role, number)
                else:
                    link.failures = 0
                    self._arrived.append((role, number))
            if numbers is None:
                self._bury(role)

    def _hear(self, role: int, number: int) -> None:
        link = self._links[role]
        try:
            value = receive(link.pipe)
        except (EOFError, OSError):
            return  # died while it spoke: heard again as a closed socket
        if number == FAILED:
            raise value
        self._answers[role] = value

    def _bury(self, role: int) -> None:
        link = self._links[role]
        self._selector.unregister(link.bell)
        epitaph = link.end()
        if epitaph.endswith(f"code {IMPORTED}"):
            raise Unguarded
        link.failures += 1
        self.restarts += 1
        if link.failures > LIMIT:
            raise RunError(f"{link.job.name} died {link.failures} times in a row, the last time {epitaph}")
        link.due = time.monotonic() + PAUSE * 2 ** (link.failures - 1)

    def ask(self, role: int, what: str, argument: Any = None, timeout: float = 10.0) -> Any:
        link = self._links[role]
        self._answers.pop(role, None)
        if link.process is None:
            return None
        with contextlib.suppress(OSError):
            link.bell.sendall(NUMBER.pack(REQUEST))  # first: a large argument is read while it is being sent
            send(link.pipe, (what, argument))
        deadline, buried = time.monotonic() + timeout, self.restarts
        while role not in self._answers and time.monotonic() < deadline and self.restarts == buried:
            self._look_after()
            self._pump(min(max(deadline - time.monotonic(), 0.0), LOOK))
        return self._answers.pop(role, None)

    def revived(self) -> list[int]:
        roles, self._revived = self._revived, []
        return roles

    def events(self) -> dict[str, int]:
        counts = {"restarts": self.restarts, "hangs": self.hangs}
        return {name: count for name, count in counts.items() if count}

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for link in self._links:
            link.hang_up()
        deadline = time.monotonic() + CLOSE_TIMEOUT
        for link in self._links:
            if link.process is not None:
                link.process.join(max(deadline - time.monotonic(), 0.0))
            link.end()
        self._selector.close()
        self._wake.close()
        self._ring.close()


def _show_name(name: str) -> None:
    """What `ps` and `top` call this process, where the system has such names: Linux, 15 characters."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name[:15])


def main(job: Job, bell: socket.socket, pipe: Connection, parent: int, computes: bool) -> None:
    """What a role's process runs."""
    leave_signals_to_parent()
    threading.Thread(target=die_with_parent, daemon=True).start()
    # Daemons, which end with their parent, may not have children by default; a role's environments may need some.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    run(job, bell, pipe, parent, computes)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(
        0
    )  # its job has closed all it had; taking torch apart in order would cost each role half a second


def run(job: Job, bell: socket.socket, pipe: Connection, parent: int, computes: bool) -> None:
    """A role, from its first number to its last."""
    _show_name(job.name)
    if computes:
        import torch

        torch.set_num_threads(1)
    work(job, ProcessPort(bell, pipe, parent))
