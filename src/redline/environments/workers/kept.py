"""Processes that are kept for their next job, for who asks for it: a planner that looks at a dozen arrangements, for a
second each. A spawned process takes two seconds of a core to import what jobs need; one that is kept takes none.

What a job is given travels as it would to a process being spawned: descriptors beside a pickled letter, over a socket
that only parent and child have.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import pickle
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection, context, reduction
from multiprocessing.process import BaseProcess
from typing import Any

from redline.environments.workers.link import child_settings
from redline.environments.workers.process import die_with_parent
from redline.environments.workers.spawning import end_with_interpreter, leave_signals_to_parent

HEAD = struct.Struct("=II")  # bytes of a letter, and descriptors beside it
DONE = b"."  # what a process says when its job has ended in order
MOST = 200  # descriptors that travel together: the system allows 253
LEAVES = 2.0  # seconds for a process without a job to leave

_arrived: dict[int, int] = {}  # in a child: descriptors of the letter that is being opened, by place


class _Arriving:
    """A descriptor on its way: its place among those beside the letter."""

    def __init__(self, place: int) -> None:
        self.place = place

    def detach(self) -> int:
        return _arrived.pop(self.place)


class _Letter:
    """Stands for the process being spawned while what it is given is pickled."""

    DupFd = _Arriving

    def __init__(self) -> None:
        self.descriptors: list[int] = []

    def duplicate_for_child(self, descriptor: int) -> int:
        self.descriptors.append(descriptor)
        return len(self.descriptors) - 1


class Kept:
    """A process with a job, as ``multiprocessing.Process`` shows one: once the job is done it seems to have ended."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._control, control = socket.socketpair()
        self._done = False
        self._process = multiprocessing.get_context("spawn").Process(
            target=_serve, args=(control,), daemon=True
        )
        with child_settings():
            self._process.start()
        end_with_interpreter(self._process)
        control.close()

    def begin(self, target: Callable[..., Any], arguments: Sequence[Any]) -> None:
        """Start a job. One that has died meanwhile is noticed as its channels close."""
        letter = _Letter()
        context.set_spawning_popen(letter)  # type: ignore[arg-type]
        try:
            content = bytes(reduction.ForkingPickler.dumps((target, arguments)))
        finally:
            context.set_spawning_popen(None)
        self._done = False
        with contextlib.suppress(OSError):
            self._control.sendall(HEAD.pack(len(content), len(letter.descriptors)))
            for first in range(0, len(letter.descriptors), MOST):
                socket.send_fds(self._control, [b" "], letter.descriptors[first : first + MOST])
            self._control.sendall(content)

    @property
    def pid(self) -> int | None:
        """Its process id."""
        return self._process.pid

    @property
    def exitcode(self) -> int | None:
        """0 once the job is done; else as of a process."""
        return 0 if self._done else self._process.exitcode

    def is_alive(self) -> bool:
        """Whether its job goes on."""
        return not self._done and self._process.is_alive()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the job's end, or the process's."""
        if self._done:
            return
        if connection.wait([self._control], timeout):
            try:
                self._done = self._control.recv(1) == DONE
            except OSError:
                self._done = False
            if not self._done:
                self._process.join(timeout)

    def kill(self) -> None:
        """End the process, unless its job is done."""
        if not self._done:
            self._process.kill()

    def close(self) -> None:
        """Give it up: for the next job, if this one is done."""
        if not (self._done and self._keeper.keep(self)):
            self.end()

    def end(self) -> None:
        """End the process."""
        self._control.close()
        self._process.join(LEAVES if self._done else 0.0)
        self._process.kill()
        self._process.join()
        self._process.close()


class Keeper:
    """Has the processes that are between jobs."""

    def __init__(self) -> None:
        self._idle: list[Kept] = []
        self._open = True

    def take(self) -> Kept:
        """One that is there, or a new one."""
        while self._idle:
            kept = self._idle.pop()
            if kept._process.is_alive():
                return kept
            kept.end()
        return Kept(self)

    def keep(self, kept: Kept) -> bool:
        """Whether it is kept."""
        if self._open:
            self._idle.append(kept)
        return self._open

    def close(self) -> None:
        """End all that are idle; the others end with their jobs."""
        self._open = False
        for kept in self._idle:
            kept._control.close()  # all leave side by side
        for kept in self._idle:
            kept.end()
        self._idle.clear()


_keeper: Keeper | None = None


@contextlib.contextmanager
def kept_processes() -> Iterator[None]:
    """Within, processes of roles are kept between jobs; then all end. On Linux: elsewhere their priority would stay."""
    global _keeper
    if _keeper is not None or sys.platform != "linux":
        yield
        return
    _keeper = keeper = Keeper()
    try:
        yield
    finally:
        _keeper = None
        keeper.close()


def prepare(count: int) -> None:
    """Have so many at rest, where processes are kept: started together they take less time than one by one."""
    if _keeper is not None:
        for kept in [_keeper.take() for _ in range(count)]:
            _keeper.keep(kept)


def kept_or(start: Callable[[], BaseProcess], target: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    """A process with a job: one that is kept, where they are; else ``start``'s."""
    if _keeper is None:
        return start()
    kept = _keeper.take()
    kept.begin(target, arguments)
    return kept


def _serve(control: socket.socket) -> None:
    """What a kept process runs: job after job, until its parent hangs up."""
    leave_signals_to_parent()
    threading.Thread(target=die_with_parent, daemon=True).start()
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]  # jobs may have children
    while (head := _read(control, HEAD.size)) is not None:
        size, count = HEAD.unpack(head)
        descriptors = _descriptors(control, count)
        content = _read(control, size)
        if content is None:
            break
        seen = {number: _identity(number) for number in descriptors}
        _arrived.update(enumerate(descriptors))
        _run(content)
        gc.collect()  # maps of memory go with their arrays
        for number, identity in seen.items():
            if _identity(number) == identity:  # else the job has closed it, and it may be another's by now
                os.close(number)
        sys.stdout.flush()
        sys.stderr.flush()
        with contextlib.suppress(OSError):
            control.sendall(DONE)
    os._exit(0)


def _run(content: bytes) -> None:
    """One job, on a thread of its own: on Linux priority and affinity are a thread's, and a job that gave way to others
    cannot take that back."""
    done: list[bool] = []

    def work() -> None:
        target, arguments = pickle.loads(
            content
        )  # from the parent process, over a socket that nobody else has
        target(*arguments)
        done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if not done:
        os._exit(1)


def _read(control: socket.socket, size: int) -> bytes | None:
    """So many bytes; None when the parent has hung up."""
    data = bytearray()
    while len(data) < size:
        try:
            piece = control.recv(size - len(data))
        except OSError:
            return None
        if not piece:
            return None
        data += piece
    return bytes(data)


def _descriptors(control: socket.socket, count: int) -> list[int]:
    found: list[int] = []
    while len(found) < count:
        _, some, _, _ = socket.recv_fds(control, 1, min(count - len(found), MOST))
        if not some:
            break
        found += some
    return found


def _identity(descriptor: int) -> tuple[int, int] | None:
    """Which file it is; None where it is closed."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_dev, found.st_ino
