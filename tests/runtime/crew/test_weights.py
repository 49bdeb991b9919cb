"""Readers never see half of one version and half of another, under a writer in a tight loop."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from redline.runtime.crew.board import Board
from redline.runtime.crew.ports import Port
from redline.runtime.crew.processes import ProcessCrew
from redline.runtime.crew.region import Region
from redline.runtime.crew.weights import WeightStore

SIZE = 300_000


def fill(value: int) -> np.ndarray:
    return np.full(SIZE, value % 251, np.uint8)


def write(store: WeightStore, board: Board) -> int:
    version = 0
    while not board.stopping:
        version += 1
        store.publish([fill(version), fill(version)[:64]], version)
    return version


class WriterJob:
    name = "writer"

    def __init__(self, store: WeightStore, board: Board) -> None:
        self.store, self.board = store, board

    def run(self, port: Port) -> None:
        port.put(1)
        port.put(write(self.store, self.board))


def read_many(store: WeightStore, reads: int) -> set[int]:
    target, small = np.zeros(SIZE, np.uint8), np.zeros(64, np.uint8)
    versions = set()
    for _ in range(reads):
        version = store.read([target, small])
        assert (target == version % 251).all(), "torn"
        assert (small == version % 251).all(), "torn"
        versions.add(version)
    return versions


@pytest.mark.parametrize("shared", [False, True])
def test_no_read_is_torn(shared: bool) -> None:
    store, board = WeightStore([SIZE, 64], shared=shared), Board(1, shared=shared)
    store.publish([fill(0), fill(0)[:64]], 0)
    writer = None
    if shared:
        crew = ProcessCrew([WriterJob(store, board)])
        while not crew.wait(1.0):
            pass
    else:
        writer = threading.Thread(target=write, args=(store, board))
        writer.start()
    versions, deadline = read_many(store, 1500), time.monotonic() + 30
    while len(versions) <= 10 and time.monotonic() < deadline:  # a busy machine lets the writer write rarely
        versions |= read_many(store, 100)
    board.stop()
    assert len(versions) > 10, "the writer was at work"
    if writer is not None:
        writer.join()
    else:
        crew.close()
    store.close()
    board.close()


def test_the_newest_version_is_known_before_it_is_read() -> None:
    store = WeightStore([4], shared=False)
    assert store.version == -1
    for version in range(5):
        store.publish([np.full(4, version, np.uint8)], version)
        assert store.version == version


def test_what_is_announced_is_no_newer_than_what_is_read_and_not_older_than_what_was_published() -> None:
    """A version that is published while it is written down is seen by looking again."""
    store = WeightStore([4], shared=False)
    store.publish([np.zeros(4, np.uint8)], 1)

    class Stamp:
        written: list[int] = []  # noqa: RUF012

        def __setitem__(self, where: object, version: int) -> None:
            self.written.append(version)
            if version == 1:
                store.publish([np.zeros(4, np.uint8)], 2)

    store.announce(Stamp())  # type: ignore[arg-type]
    assert Stamp.written == [1, 2]


def test_a_region_in_plain_memory_is_not_sent() -> None:
    with pytest.raises(TypeError, match="plain memory"):
        Region({"x": ((2,), "float32")}, shared=False).__getstate__()
