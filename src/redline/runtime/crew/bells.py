"""Bells: the cheapest way to wake one thread of another process. One system call to ring, one to wait."""

from __future__ import annotations

import contextlib
import os
from multiprocessing import reduction
from typing import Any

from redline.types import UserError

RING = (1).to_bytes(8, "little")  # what an event counter is incremented with; a pipe takes any bytes


class Bell:
    """Rung by anyone, waited for by one. Rings that nobody waited for are one ring. Pickles while spawning.

    An event counter on Linux, a pipe elsewhere; Windows has neither to hand to another process.
    """

    def __init__(self) -> None:
        if hasattr(os, "eventfd"):
            self._reader = self._writer = os.eventfd(0)
        else:
            self._reader, self._writer = os.pipe()

    def ring(self) -> None:
        """Wake whoever waits; whoever comes next does not wait."""
        with contextlib.suppress(OSError):  # closed: nobody waits any more
            os.write(self._writer, RING)

    def wait(self) -> None:
        """Block until the bell is rung."""
        with contextlib.suppress(OSError):
            os.read(self._reader, 8)

    def close(self) -> None:
        """Give up this process's hold. Nobody may be waiting. Safe to call twice."""
        for descriptor in {self._reader, self._writer} - {-1}:
            os.close(descriptor)
        self._reader = self._writer = -1

    def __getstate__(self) -> dict[str, Any]:
        if os.name == "nt":
            raise UserError("parallel.runtime=processes: architecture seed needs Linux or macOS; use threads")
        same = self._reader == self._writer
        writer = None if same else reduction.DupFd(self._writer)
        return {"reader": reduction.DupFd(self._reader), "writer": writer}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._reader = state["reader"].detach()
        self._writer = self._reader if state["writer"] is None else state["writer"].detach()
