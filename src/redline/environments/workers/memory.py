"""Memory shared between processes that nothing can leave behind, and the arrays in it."""

from __future__ import annotations

import mmap
import os
import tempfile
from multiprocessing import reduction, shared_memory
from typing import Any

import numpy as np

ALIGN = 64  # bytes: arrays start on cache lines of their own, so that no two workers share one


class SharedMemory:
    """A block of zeroed bytes that a spawned process can map too.

    POSIX: an anonymous file, known by its descriptor only, so the kernel frees it with its last user, whatever kills
    them. Windows: named memory, which its kernel counts likewise. Pickles only while a process is being spawned.
    """

    def __init__(self, size: int) -> None:
        """``size`` bytes."""
        self.size = max(size, 1)
        if os.name == "nt":
            self._block = shared_memory.SharedMemory(create=True, size=self.size)
            self.buffer: Any = self._block.buf
        else:
            self._map(_anonymous_file(self.size))

    def _map(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.buffer = mmap.mmap(descriptor, self.size)

    @property
    def descriptor(self) -> int:
        """The anonymous file's descriptor in this process (POSIX)."""
        return self._descriptor

    def close(self) -> None:
        """Give up this process's hold; the arrays in it stay valid while they are referenced. Safe to call twice."""
        if os.name == "nt":
            return  # mapped until the arrays are gone, then released by SharedMemory itself
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __getstate__(self) -> dict[str, Any]:
        if os.name == "nt":
            return {"size": self.size, "name": self._block.name}
        return {"size": self.size, "descriptor": reduction.DupFd(self._descriptor)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.size = state["size"]
        if os.name == "nt":
            self._block = shared_memory.SharedMemory(name=state["name"])
            self.buffer = self._block.buf
        else:
            self._map(state["descriptor"].detach())


def _anonymous_file(size: int) -> int:
    if hasattr(os, "memfd_create"):  # Linux: no file system involved
        descriptor = os.memfd_create("redline")
    else:
        with tempfile.TemporaryFile() as file:  # deleted from its folder before anything is written to it
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


class Layout:
    """Hands out consecutive aligned arrays; without a block it only measures how many bytes they need."""

    def __init__(self, memory: SharedMemory | None = None) -> None:
        self._memory = memory
        self.size = 0

    def array(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """The next array. The same calls in the same order give the same places in every process."""
        count = int(np.prod(shape))
        start, self.size = self.size, self.size + -(-count * np.dtype(dtype).itemsize // ALIGN) * ALIGN
        if self._memory is None:
            return np.zeros(shape, dtype)
        return np.frombuffer(self._memory.buffer, dtype, count, start).reshape(shape)
