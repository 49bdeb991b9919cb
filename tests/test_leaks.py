"""The guard that watches every test sees what it is meant to see."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from multiprocessing import shared_memory

import pytest

from tests.leaks import SHARED_MEMORY, TAG, Watch, eventually, tagged_processes

linux = pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="looks into /proc and /dev/shm")
SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def watch() -> Watch:
    return Watch(os.environ[TAG])


def seen(watch: Watch) -> list[str]:
    """What is found, once something is: a process that is just being made has no environment to be read."""
    eventually(lambda: bool(watch.leaks(patience=0)))
    return watch.leaks(patience=0)


def test_nothing_done_nothing_found(watch: Watch) -> None:
    assert watch.leaks(patience=0) == []


def test_a_thread_is_seen(watch: Watch) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="forgotten")
    thread.start()
    found = watch.leaks(patience=0)
    stop.set()
    thread.join()
    assert found == ["thread forgotten"]
    assert watch.leaks(patience=0) == []


@linux
def test_a_child_is_seen(watch: Watch) -> None:
    with subprocess.Popen(SLEEP) as child:
        found = seen(watch)
        child.kill()
    assert [line.split(":")[0] for line in found] == [f"process {child.pid}"]
    assert watch.leaks(patience=1) == []


@linux
def test_an_orphan_of_a_killed_parent_is_seen(watch: Watch) -> None:
    code = f"import subprocess, time; print(subprocess.Popen({SLEEP!r}).pid, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        orphan = int(parent.stdout.readline())
        parent.kill()
    found = seen(watch)
    os.kill(orphan, 9)
    assert [line.split(":")[0] for line in found] == [f"process {orphan}"]
    assert eventually(lambda: orphan not in tagged_processes(os.environ[TAG]))


@linux
def test_shared_memory_is_seen(watch: Watch) -> None:
    segment = shared_memory.SharedMemory(create=True, size=64)
    held = watch.leaks(patience=0)
    segment.close()
    forgotten = watch.leaks(patience=0)
    segment.unlink()
    assert held == forgotten == [f"shared memory {segment.name}"]
    assert watch.leaks(patience=0) == []


@linux
def test_shared_memory_of_others_is_not_ours(watch: Watch) -> None:
    code = (
        "from multiprocessing import shared_memory\n"
        "s = shared_memory.SharedMemory(create=True, size=64)\n"
        "print(s.name, flush=True); input(); s.close(); s.unlink()"
    )
    environment = {key: value for key, value in os.environ.items() if key != TAG}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline()
        assert watch.leaks(patience=0) == []
        other.communicate("\n")
