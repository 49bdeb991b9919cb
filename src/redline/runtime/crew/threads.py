"""Roles as threads of this process: for environments that step in C++ and networks that compute in torch."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from redline.runtime.crew.board import Patience
from redline.runtime.crew.ports import FAILED, REQUEST, Port, ThreadPort
from redline.types import Interruption, RunError

CLOSE_TIMEOUT = 5.0  # seconds for threads to reach the end of a step
LOOK = 0.25  # seconds between looks for roles that hang, or died unheard


class Job(Protocol):
    """What a role does, from its first number to its last."""

    name: str

    def run(self, port: Port) -> None:
        """Work until ``port.get`` raises Interruption. Answers requests."""


class Crew(Protocol):
    """Roles at work, as their main role sees them."""

    def tell(self, role: int, number: int) -> None:
        """Send a number, such as that of a free slot."""

    def wait(self, timeout: float) -> list[tuple[int, int]]:
        """(role, number) of all that came; empty after ``timeout`` seconds. Raises what stopped a role."""

    def post(self, number: int) -> None:
        """A number for ``wait`` to find, as of role -1: from another thread of the main role."""

    def kill(self, role: int) -> None:
        """End a role that hangs, by force; it is started again. RunError where there is no such force."""

    def ask(self, role: int, what: str, argument: Any = None, timeout: float = 10.0) -> Any:
        """The answer to a request; None where none came in time."""

    def revived(self) -> list[int]:
        """Roles that died and have been started again since the last call: what they were given is lost."""

    def events(self) -> dict[str, int]:
        """Counts of what went wrong and was mended."""

    def close(self) -> None:
        """End all roles. Safe to call twice."""


class ThreadCrew:
    """One thread a job. A job that raises ends the run: what went wrong in shared memory cannot be undone."""

    def __init__(self, jobs: Sequence[Job], *, patience: Patience | None = None) -> None:
        """patience: see ``ProcessCrew``."""
        self._patience, self._look = patience, 0.0
        self._outbox: queue.SimpleQueue[tuple[int, int, Any]] = queue.SimpleQueue()
        self._ports = [ThreadPort(role, self._outbox) for role in range(len(jobs))]
        self._arrived: deque[tuple[int, int]] = deque()
        self._answers: dict[int, Any] = {}
        self._threads = [
            threading.Thread(target=_work, args=(job, port), name=f"redline-{job.name}", daemon=True)
            for job, port in zip(jobs, self._ports, strict=True)
        ]
        for role, thread in enumerate(self._threads):
            if patience is not None:
                patience.begin(role)
            thread.start()

    def tell(self, role: int, number: int) -> None:
        self._ports[role].inbox.put((number, None))

    def post(self, number: int) -> None:
        self._outbox.put((-1, number, None))

    def kill(self, role: int) -> None:
        name = self._threads[role].name.removeprefix("redline-")
        raise RunError(f"{name} hangs, and a thread cannot be killed: use parallel.runtime=processes")

    def wait(self, timeout: float) -> list[tuple[int, int]]:
        if not self._arrived:
            self._receive(timeout)
        self._look_after()
        while self._receive(0.0):
            pass
        arrived = list(self._arrived)
        self._arrived.clear()
        return arrived

    def _look_after(self) -> None:
        """Now and then, whatever the others have to say: roles that hang."""
        now = time.monotonic()
        if self._patience is None or now < self._look:
            return
        self._look = now + LOOK
        for role in self._patience.exhausted():
            self.kill(role)

    def _receive(self, timeout: float) -> bool:
        try:
            role, number, value = self._outbox.get(timeout > 0, timeout or None)
        except queue.Empty:
            return False
        if number == FAILED:
            raise value
        if number == REQUEST:
            self._answers[role] = value
        else:
            self._arrived.append((role, number))
        return True

    def ask(self, role: int, what: str, argument: Any = None, timeout: float = 10.0) -> Any:
        self._answers.pop(role, None)
        self._ports[role].inbox.put((REQUEST, (what, argument)))
        deadline = time.monotonic() + timeout
        while role not in self._answers and (left := deadline - time.monotonic()) > 0:
            self._receive(left)
        return self._answers.pop(role, None)

    def revived(self) -> list[int]:
        return []

    def events(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        for port in self._ports:
            port.inbox.put((FAILED, None))
        deadline = time.monotonic() + CLOSE_TIMEOUT
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))


def _work(job: Job, port: Port) -> None:
    import torch  # not above: processes that compute nothing read this file too

    torch.set_num_threads(1)  # OpenMP keeps this per thread: a new one would start a team of its own
    work(job, port)


def work(job: Job, port: Port) -> None:
    """Run a job to its end; what it raises goes to the main role."""
    try:
        job.run(port)
    except Interruption:
        pass
    except BaseException as error:
        refusal = error if isinstance(error, RunError) else RunError(f"{job.name} failed: {describe(error)}")
        with contextlib.suppress(Interruption):
            port.answer(refusal, FAILED)
    finally:
        port.close()


def describe(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
