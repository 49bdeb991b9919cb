"""Locks between processes that are free again the moment their holder dies, by whatever signal."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Sequence
from multiprocessing import reduction
from typing import Any

from redline.environments.workers.memory import SharedMemory
from redline.learners.exchanges.chunks import Lock

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class FileLock:
    """One byte of an anonymous file, locked by the kernel on a process's behalf (POSIX record locks).

    Between processes only: threads of one process all hold what one of them has taken.
    """

    def __init__(self, descriptor: int, byte: int) -> None:
        self._descriptor, self._byte = descriptor, byte

    def acquire(self, blocking: bool = True) -> bool:
        """Take it; False where another process has it and ``blocking`` is False."""
        how = fcntl.LOCK_EX if blocking else fcntl.LOCK_EX | fcntl.LOCK_NB
        try:
            fcntl.lockf(self._descriptor, how, 1, self._byte)
        except OSError:
            if blocking:
                raise
            return False
        return True

    def release(self) -> None:
        """Give it back."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, self._byte)


class Locks:
    """``count`` locks for threads, or (``shared``) for processes; pickles while a process is being spawned."""

    def __init__(self, count: int, *, shared: bool) -> None:
        self.count, self.shared = count, shared
        # A file of its own: a process that closes any descriptor of a file loses its locks on it.
        self._memory = SharedMemory(count) if shared else None
        self._each: Sequence[Lock] = self._make()

    def _make(self) -> Sequence[Lock]:
        if self._memory is None:
            return [threading.Lock() for _ in range(self.count)]
        return [FileLock(self._memory.descriptor, k) for k in range(self.count)]

    def __iter__(self) -> Any:
        return iter(self._each)

    def close(self) -> None:
        """Give up this process's hold. Safe to call twice."""
        if self._memory is not None:
            self._memory.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"count": self.count, "memory": self._memory}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.count, self.shared, self._memory = state["count"], True, state["memory"]
        self._each = self._make()


class Doorbell:
    """Rung by any role, waited for by one. Rings that nobody waited for are one ring."""

    def __init__(self, *, shared: bool) -> None:
        self._event = None if shared else threading.Event()
        self._ends: tuple[int, int] | None = None
        if shared:
            self._ends = os.pipe()
            self._settle()

    def _settle(self) -> None:
        assert self._ends is not None
        for end in self._ends:  # a full pipe rings as well as one with room, and nobody may wait for it
            os.set_blocking(end, False)

    def ring(self) -> None:
        """Wake whoever waits, now or next."""
        if self._event is not None:
            self._event.set()
        elif self._ends is not None:
            with contextlib.suppress(OSError):
                os.write(self._ends[1], b"!")

    def wait(self, timeout: float) -> bool:
        """Whether it rang within ``timeout`` seconds, or had before."""
        if self._event is not None:
            rang = self._event.wait(timeout)
            self._event.clear()
            return rang
        assert self._ends is not None
        ready, _, _ = select.select([self._ends[0]], [], [], timeout)
        if ready:
            try:
                os.read(self._ends[0], 4096)
            except BlockingIOError:
                return False
        return bool(ready)

    def close(self) -> None:
        """Give up this process's hold. Safe to call twice."""
        ends, self._ends = self._ends, None
        for end in ends or ():
            os.close(end)

    def __getstate__(self) -> dict[str, Any]:
        assert self._ends is not None, "a bell between threads cannot be sent to a process"
        return {"ends": [reduction.DupFd(end) for end in self._ends]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._event = None
        read, write = (end.detach() for end in state["ends"])
        self._ends = read, write
        self._settle()
