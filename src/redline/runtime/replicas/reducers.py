"""Sums over copies that meet: every copy brings numbers, and every one leaves with the same sum, bit for bit.

In shared memory each copy writes a row, waits for all, and adds the rows in their order. Between machines, and wherever
torch has a faster way, torch.distributed does it (gloo over the loopback interface, NCCL between GPUs).
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor

from redline.runs.provenance import usable_cores
from redline.runtime.crew.region import Region
from redline.types import Interruption

SPINS = 200  # looks at once before the first nap, where every copy has a core
NAP = 5e-5  # seconds between looks, at least
OVERSHOOT = (
    1 / 16
)  # of the time waited so far: a nap, so that many who wait long take no core from who is late
LOOK = 0.01  # seconds between questions whether to give up, and the longest nap
TIMEOUT = timedelta(seconds=60.0)  # for which torch.distributed waits for a copy
HOST = "127.0.0.1"  # the loopback interface: nothing here is for other machines to see


class Abandoned(Interruption):
    """The copies that were waited for will not come: one of them died, or the run stops."""


class Rows:
    """Shared rows to meet at: two sets, used by turns, so that one wait a sum is enough."""

    def __init__(self, copies: int, nbytes: int, *, shared: bool) -> None:
        """nbytes: of the largest sum."""
        self.copies, width = copies, -(-nbytes // 64) * 64
        # Threads without a core each are woken: looking, they would hold the interpreter that the last one needs.
        self.crowded = copies > usable_cores()
        self.bell = threading.Condition() if self.crowded and not shared else None
        self.region = Region(
            {"rows": ((2, copies, width), "uint8"), "rounds": ((copies, 8), "int64")}, shared=shared
        )

    def start_over(self) -> None:
        """Forget all meetings. Only while no copy is at one."""
        self.region.arrays["rounds"][:] = 0

    def close(self) -> None:
        """Give up this process's hold."""
        self.region.close()


class SharedReducer:
    """One copy's end of ``Rows``."""

    def __init__(self, rows: Rows, role: int, give_up: Callable[[], bool]) -> None:
        """give_up: asked now and then while waiting; True raises Abandoned."""
        self.rows, self.role, self._give_up = rows, role, give_up
        self.round = 0
        self._rounds = rows.region.arrays["rounds"][:, 0]
        self._spins = 0 if rows.crowded else SPINS

    def __call__(self, x: Tensor) -> None:
        """Sum ``x`` (f32[N] or f64[N]) over the copies, in place; blocks until all are here."""
        mine = x.numpy()
        rows: np.ndarray = self.rows.region.arrays["rows"][self.round % 2, :, : mine.nbytes].view(mine.dtype)
        np.copyto(rows[self.role], mine)
        self.round += 1
        if self.rows.bell is None:
            self._rounds[self.role] = self.round
            self._look()
        else:
            self._sleep(self.rows.bell)
        np.copyto(mine, rows[0])
        for row in rows[1:]:
            np.add(mine, row, out=mine)

    @property
    def _all_here(self) -> bool:
        return int(self._rounds.min()) >= self.round

    def _sleep(self, bell: threading.Condition) -> None:
        with bell:
            self._rounds[self.role] = self.round
            if self._all_here:
                bell.notify_all()
            while not self._all_here:
                if not bell.wait(LOOK) and self._give_up():
                    raise Abandoned

    def _look(self) -> None:
        looks, begin = 0, time.perf_counter()
        asked = begin
        while not self._all_here:
            looks += 1
            now = time.perf_counter()
            time.sleep(0 if looks < self._spins else min(max((now - begin) * OVERSHOOT, NAP), LOOK))
            if now - asked > LOOK:
                asked = now
                if self._give_up():
                    raise Abandoned

    def start_over(self, generation: int) -> None:
        """Begin anew with all copies, after some were lost."""
        self.round = 0

    def close(self) -> None:
        """Nothing is held."""


class MeetingPlace:
    """Where the copies of a torch process group find each other: a store in the memory of the main process.

    It goes with that process, however it ends, which a file would not.
    """

    def __init__(self) -> None:
        from torch import distributed

        # Left to itself torch listens on every interface of the machine, whatever host it is told.
        with socket.socket() as listener:
            listener.bind((HOST, 0))
            self.port: int = listener.getsockname()[1]
            self._store: Any = distributed.TCPStore(
                HOST,
                self.port,
                is_master=True,
                wait_for_workers=False,
                timeout=TIMEOUT,
                master_listen_fd=listener.detach(),
            )

    def close(self) -> None:
        """Nobody can meet here any more. Safe to call twice."""
        self._store = None


class TorchReducer:
    """One copy's end of a torch process group that meets at ``MeetingPlace`` and talks over the loopback interface.

    The group is this object's own: torch's global default group is left alone.
    """

    def __init__(self, port: int, role: int, copies: int, device: torch.device) -> None:
        """port: of the meeting place."""
        self.port, self.role, self.copies, self.device = port, role, copies, device
        self._group: Any = None
        self._generation = 0

    def _make(self) -> Any:
        from torch import distributed

        if self._nccl:  # unless the user knows better; its own choice is any interface but this one
            os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
        place = distributed.TCPStore(
            HOST, self.port, is_master=False, wait_for_workers=False, timeout=TIMEOUT
        )
        store = distributed.PrefixStore(f"group-{self._generation}", place)
        kind: Any = distributed.ProcessGroupNCCL if self._nccl else distributed.ProcessGroupGloo
        options = kind.Options() if self._nccl else kind._Options()
        options._timeout = TIMEOUT
        if not self._nccl:
            options._devices = [kind.create_device(hostname=HOST)]
        return kind(store, self.role, self.copies, options)

    @property
    def _nccl(self) -> bool:
        return self.device.type == "cuda" and torch.cuda.device_count() >= self.copies

    def __call__(self, x: Tensor) -> None:
        """Sum ``x`` over the copies, in place; blocks until all are here."""
        try:
            if self._group is None:
                self._group = self._make()
            there = x.to(self.device) if self._nccl else x
            self._group.allreduce([there]).wait()
            if there is not x:
                x.copy_(there)
        except RuntimeError as error:
            self.close()
            raise Abandoned(str(error)) from None

    def start_over(self, generation: int) -> None:
        """Begin anew with all copies, after some were lost."""
        self.close()
        self._generation = generation

    def close(self) -> None:
        """Leave the group."""
        self._group = None
