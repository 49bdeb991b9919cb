"""What a test may leave behind: nothing. Processes, threads and shared memory are looked for after every test.

A process is known by an environment variable that it inherits, so an orphan whose parent was killed is found as well.
Shared memory is ours when it is new and no foreign process has it mapped.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

TAG = "REDLINE_TEST_ID"
PROC = Path("/proc")
SHARED_MEMORY = Path("/dev/shm")
# Helpers of Python and torch that end by themselves with the process that they serve.
HARMLESS_PROCESSES = ("resource_tracker", "compile_worker")
HARMLESS_THREADS = ("execnet", "pytest", "InductorSubproc", "SubprocPool")


def tagged_processes(tag: str) -> dict[int, str]:
    """Living processes other than this one whose environment has ``TAG`` beginning with ``tag``: id -> command."""
    found = {}
    needle = f"{TAG}={tag}".encode()
    for folder in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environment = (folder / "environ").read_bytes()
            if int(folder.name) == os.getpid() or not any(
                entry.startswith(needle) for entry in environment.split(b"\0")
            ):
                continue
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            if not any(word in command for word in HARMLESS_PROCESSES):
                found[int(folder.name)] = command
    return found


def segments() -> set[str]:
    """Names of the shared memory segments of this machine; empty where the platform does not list them."""
    return set(os.listdir(SHARED_MEMORY)) if SHARED_MEMORY.is_dir() else set()


def foreign(names: set[str], own: set[int]) -> set[str]:
    """Those of ``names`` that a living process outside ``own`` has mapped."""
    mapped: set[str] = set()
    for folder in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(folder.name) not in own:
                text = (folder / "maps").read_text(errors="replace")
                mapped |= {name for name in names - mapped if f"{SHARED_MEMORY}/{name}" in text}
    return mapped


class Watch:
    """Notes what is there; ``leaks`` says, in words, what has been added since."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.threads = set(threading.enumerate())
        self.children = {child.pid for child in multiprocessing.active_children()}
        self.segments = segments()

    def leaks(self, patience: float = 3.0) -> list[str]:
        """One line for each thing left over, once ``patience`` seconds to end by itself are up."""
        deadline = time.monotonic() + patience
        while (found := self._look()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    def _look(self) -> list[str]:
        processes = tagged_processes(self.tag)
        for child in multiprocessing.active_children():  # reaps the ended ones
            if child.pid is not None and child.pid not in self.children:
                processes.setdefault(child.pid, child.name)
        found = [f"process {pid}: {command}" for pid, command in sorted(processes.items())]
        threads = sorted(
            thread.name for thread in set(threading.enumerate()) - self.threads if thread.is_alive()
        )
        found += [f"thread {name}" for name in threads if not name.startswith(HARMLESS_THREADS)]
        new = segments() - self.segments
        if new:
            new -= foreign(new, {os.getpid(), *processes})
        return found + [f"shared memory {name}" for name in sorted(new)]


def eventually(condition: Callable[[], bool], patience: float = 5.0) -> bool:
    """Whether ``condition`` came true within ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
