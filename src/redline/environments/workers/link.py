"""The parent's end of one worker process: start it, wake it, wait for it, end it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from redline.environments.config import EnvironmentConfig
from redline.environments.workers.memory import SharedMemory
from redline.environments.workers.process import CONTROL, CRASH, DONE, RESULT, SLOTS, USAGE, Share, main
from redline.environments.workers.spawning import (
    IMPORTED,
    Parcel,
    Unguarded,
    check_script,
    end_with_interpreter,
    leave_if_imported,
)
from redline.types import RunError, Spec, UserError

START_TIMEOUT = 120.0  # seconds for imports, constructors and resets of a worker's environments, at least
CLOSE_TIMEOUT = 2.0  # seconds for workers to leave by themselves
LATE_TIMEOUT = 0.05  # seconds given to the others once one worker has used up the step's time


class Lost(Exception):
    """A worker is gone or must go: its environment raised, its process died, or it hung."""

    def __init__(self, text: str, hung: bool = False) -> None:
        super().__init__(text)
        self.hung = hung


class Link:
    """One worker process and the two channels to it: a socket for single bytes, a pipe for rare requests."""

    def __init__(
        self,
        config: EnvironmentConfig,
        spec: Spec,
        num_envs: int,
        span: tuple[int, int],
        memory: SharedMemory,
    ) -> None:
        """``span``: first and last (exclusive) environment of the batch of ``num_envs`` that this worker steps."""
        self.first, self.last = span
        self.failures = 0  # in a row, without a successful step
        self.generation = 0  # how often this worker has been replaced
        self._config, self._spec, self._num_envs, self._memory = config, spec, num_envs, memory
        self._timeout = config.step_timeout
        self.process: BaseProcess | None = None
        self._doorbell: socket.socket | None = None
        self._connection: Connection | None = None

    def start(self) -> None:
        """Spawn the process; ``answer`` waits until its environments are made."""
        leave_if_imported()
        check_script()
        context = multiprocessing.get_context("spawn")
        self._doorbell, doorbell = socket.socketpair()
        self._connection, connection = context.Pipe()
        self._doorbell.settimeout(self._timeout)
        share = Share(
            self._config,
            self._spec,
            self._num_envs,
            self.first,
            self.last,
            self._memory,
            doorbell,
            connection,
        )
        self.process = context.Process(
            target=main, args=(Parcel(share),), daemon=True, name=f"redline-worker-{self.first}"
        )
        with child_settings():
            self.process.start()
        end_with_interpreter(self.process)
        # With the last copy of its ends in the child, its death closes them, and is heard here at once.
        doorbell.close()
        connection.close()

    def ring(self, slot: int) -> None:
        """Start a step into ``slot``. A dead worker is noticed by ``wait``."""
        assert self._doorbell is not None
        with contextlib.suppress(OSError):
            self._doorbell.send(SLOTS[slot])

    def wait(self, patient: bool = True) -> None:
        """Wait for the step; raises Lost, or RunError where the environment broke its promises."""
        assert self._doorbell is not None
        if not patient:
            self._doorbell.settimeout(LATE_TIMEOUT)
        try:
            answer = self._doorbell.recv(1)
        except TimeoutError:
            raise Lost(f"no answer within {self._timeout:g} s", hung=True) from None
        except OSError:
            answer = b""
        if not patient:
            self._doorbell.settimeout(self._timeout)
        if answer != DONE:
            self.answer()
        self.failures = 0

    def tell(self, method: str, slot: int, argument: Any) -> None:
        """Start a request that ``answer`` waits for."""
        assert self._doorbell is not None
        assert self._connection is not None
        with contextlib.suppress(OSError):
            self._doorbell.send(CONTROL)  # first: a large argument is read while it is being sent
            self._connection.send((method, slot, argument))

    def answer(self) -> Any:
        """The result of the request; raises Lost, or what the worker refused with."""
        assert self._connection is not None
        limit = max(START_TIMEOUT, self._timeout)
        try:
            if not self._connection.poll(limit):
                raise Lost(f"no answer within {limit:g} s", hung=True)
            kind, result = self._connection.recv()
        except (EOFError, OSError):
            raise Lost(self._epitaph()) from None
        if kind == RESULT:
            return result
        if kind == CRASH:
            raise Lost(result)
        raise UserError(result) if kind == USAGE else RunError(result)

    def end(self) -> None:
        """Kill the process and close the channels. Safe to call twice."""
        self.hang_up()
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process.close()
            self.process = None

    def hang_up(self) -> None:
        """Close the channels: the worker leaves once it is done with its step."""
        for channel in (self._doorbell, self._connection):
            if channel is not None:
                channel.close()

    def _epitaph(self) -> str:
        where = f"environment {self._spec.name!r} numbers {self.first} to {self.last - 1}"
        code = None
        if self.process is not None:
            self.process.join(1.0)
            code = self.process.exitcode
        if code == IMPORTED:
            raise Unguarded from None
        if code is not None and code < 0:
            return f"{where}: the worker was killed by {signal_name(-code)}"
        return f"{where}: the worker exited with code {code}"


def release(links: Sequence[Link], memory: SharedMemory) -> None:
    """End all workers, politely for ``CLOSE_TIMEOUT`` seconds altogether, and free the memory."""
    for link in links:
        link.hang_up()
    deadline = time.monotonic() + CLOSE_TIMEOUT
    for link in links:
        if link.process is not None:
            link.process.join(max(deadline - time.monotonic(), 0.0))
        link.end()
    memory.close()


@contextlib.contextmanager
def child_settings() -> Iterator[None]:
    """What a child inherits: no signals until it has seen to them (``leave_signals_to_parent``), and one compute thread
    (workers are the threads).
    """
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    blocks = hasattr(signal, "pthread_sigmask")  # not on Windows: a Ctrl-C may print a child's traceback
    if blocks:
        resource_tracker.ensure_running()  # started by the first spawn otherwise, it unblocks both behind us
    both = {signal.SIGINT, signal.SIGTERM}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, both) if blocks else set()
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if blocks:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def signal_name(number: int) -> str:
    """SIGKILL for 9; real-time signals have none but their number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
