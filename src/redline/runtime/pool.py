"""Threads that run tasks side by side. Stepping in C++ and compute in torch release the interpreter's lock."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

Task = Callable[[], Any]


class Pool:
    """``pool(tasks)`` runs the tasks side by side, the first on the calling thread, and returns their results in order.

    Threads are daemons that block on a queue: nothing to poll, and nothing that keeps a process alive.
    """

    def __init__(self, threads: int) -> None:
        self._inboxes: list[queue.SimpleQueue[Task | None]] = [
            queue.SimpleQueue() for _ in range(threads - 1)
        ]
        self._outboxes: list[queue.SimpleQueue[tuple[bool, Any]]] = [
            queue.SimpleQueue() for _ in self._inboxes
        ]
        for number, boxes in enumerate(zip(self._inboxes, self._outboxes, strict=True), start=1):
            threading.Thread(target=_work, args=boxes, name=f"redline-{number}", daemon=True).start()

    def __call__(self, tasks: Sequence[Task]) -> list[Any]:
        """Run ``tasks``; if any raised, wait for all and raise the first's exception."""
        helped = min(len(tasks) - 1, len(self._inboxes))
        for inbox, task in zip(self._inboxes, tasks[1 : 1 + helped], strict=False):
            inbox.put(task)
        answers = [_try(task) for task in (tasks[0], *tasks[1 + helped :])]
        others = [outbox.get() for outbox in self._outboxes[:helped]]
        answers = [answers[0], *others, *answers[1:]]
        for good, value in answers:
            if not good:
                raise value
        return [value for _, value in answers]

    def close(self) -> None:
        """Let the threads end. Safe to call twice."""
        for inbox in self._inboxes:
            inbox.put(None)


def _try(task: Task) -> tuple[bool, Any]:
    try:
        return True, task()
    except BaseException as error:
        return False, error


def _work(inbox: queue.SimpleQueue[Task | None], outbox: queue.SimpleQueue[tuple[bool, Any]]) -> None:
    torch.set_num_threads(1)  # OpenMP keeps this per thread: a new one would start a team of its own
    while (task := inbox.get()) is not None:
        outbox.put(_try(task))


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Our threads are our parallelism: torch's own would fight them for the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
