"""The weight store: the newest published weights, one writer and any number of readers, never torn.

Two buffers take turns. Each has a counter that is odd while it is being written; a reader that finds the counter
changed copies again. So the writer never waits for a reader, and a reader hardly ever for the writer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from redline.runtime.crew.region import Region

NEWEST, COUNTERS, VERSIONS = (
    0,
    1,
    3,
)  # places in the header: which buffer is newest; two counters; two versions


class WeightStore:
    """A list of byte arrays under one version number."""

    def __init__(self, sizes: Sequence[int], *, shared: bool) -> None:
        """sizes: bytes of each array."""
        self.sizes = tuple(sizes)
        total = sum(self.sizes)
        self.region = Region({"header": ((5,), "int64"), "data": ((2, total), "uint8")}, shared=shared)
        self.region.arrays["header"][VERSIONS:] = -1

    def publish(self, sources: Sequence[np.ndarray], version: int) -> None:
        """Copy ``sources`` (u8 arrays of the given sizes) in; readers see them, whole, from now on."""
        header, data = self.region.arrays["header"], self.region.arrays["data"]
        which = 1 - int(header[NEWEST])
        # Odd: being written. It is odd already where a writer was killed in here, and its successor goes on.
        header[COUNTERS + which] += 1 + header[COUNTERS + which] % 2
        start = 0
        for source in sources:
            np.copyto(data[which, start : start + source.nbytes], source)
            start += source.nbytes
        header[VERSIONS + which] = version
        header[COUNTERS + which] += 1
        header[NEWEST] = which

    @property
    def version(self) -> int:
        """The newest version published; -1 before the first."""
        header = self.region.arrays["header"]
        return int(header[VERSIONS + int(header[NEWEST])])

    def announce(self, stamp: np.ndarray) -> None:
        """Write into ``stamp`` (i64) how new weights that are read from now on are at least.

        Written, and looked again: whoever publishes and then still finds the old stamp knows that they are newer.
        """
        version = None
        while version != (version := self.version):
            stamp[...] = version

    def read(self, targets: Sequence[np.ndarray]) -> int:
        """Copy the newest weights into ``targets`` (u8 arrays of the given sizes); returns their version."""
        header, data = self.region.arrays["header"], self.region.arrays["data"]
        while True:
            which = int(header[NEWEST])
            before = int(header[COUNTERS + which])
            if before % 2:  # the writer has come round to it again: let it finish
                time.sleep(0)
                continue
            version, start = int(header[VERSIONS + which]), 0
            for target in targets:
                np.copyto(target, data[which, start : start + target.nbytes])
                start += target.nbytes
            if int(header[COUNTERS + which]) == before:
                return version

    def close(self) -> None:
        """Give up this process's hold."""
        self.region.close()


class Publication:
    """What a learner publishes: its computing weights and its network's buffers, on the host."""

    def __init__(self, learner: Any) -> None:
        self._sources = [learner.compute, *learner.network.buffers()]
        self._host = [
            x.detach().cpu() for x in self._sources
        ]  # the tensors themselves where they are there already
        self._views = [_bytes(x) for x in self._host]
        self._copies = learner.device.type != "cpu"

    @property
    def sizes(self) -> list[int]:
        """Bytes of each array."""
        return [view.nbytes for view in self._views]

    def views(self) -> list[np.ndarray]:
        """The newest weights as u8 arrays, valid until the learner's next step."""
        if self._copies:
            for host, source in zip(self._host, self._sources, strict=True):
                host.copy_(source.detach())
        return self._views


def byte_views(flat: Tensor, network: nn.Module) -> list[np.ndarray]:
    """What is published of a network: its flat parameters and each of its buffers, as u8 arrays over their memory."""
    return [_bytes(flat), *(_bytes(buffer) for buffer in network.buffers())]


def _bytes(tensor: Tensor) -> np.ndarray:
    """u8 view of a tensor on the host without gaps."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy()
