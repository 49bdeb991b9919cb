"""Ports: what a role holds of its channel to the main role. Small numbers travel, and rarely a request with its answer.

Between threads two queues; between processes a socket for the numbers, which notices a dead peer at once, and a pipe
for requests.
"""

from __future__ import annotations

import os
import pickle
import queue
import socket
import struct
from multiprocessing.connection import Connection
from typing import Any, Protocol

from redline.types import Interruption

NUMBER = struct.Struct("<i")
REQUEST = -1  # to the role: a request follows.   From the role: its answer follows
FAILED = -2  # from the role: what stopped it follows


class Port(Protocol):
    """A role's end."""

    def get(self) -> int:
        """The next number, or ``REQUEST``. Blocks. Raises Interruption when the run ends or its main role is gone."""

    def put(self, number: int) -> None:
        """Send a number."""

    def request(self) -> tuple[str, Any]:
        """After ``REQUEST``: what is asked, and its argument."""

    def answer(self, value: Any, number: int = REQUEST) -> None:
        """Answer a request (or say, with ``FAILED``, what went wrong)."""

    def orphaned(self) -> bool:
        """Whether the main role is gone."""

    def close(self) -> None:
        """Hang up."""


class ThreadPort:
    """Both ends of a channel between two threads; ``inbox`` is the role's own, ``outbox`` is shared by all roles."""

    def __init__(self, role: int, outbox: queue.SimpleQueue[tuple[int, int, Any]]) -> None:
        self.role, self.outbox = role, outbox
        self.inbox: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self._asked: Any = None

    def get(self) -> int:
        number, self._asked = self.inbox.get()
        if number == FAILED:
            raise Interruption
        return number

    def put(self, number: int) -> None:
        self.outbox.put((self.role, number, None))

    def request(self) -> tuple[str, Any]:
        return self._asked

    def answer(self, value: Any, number: int = REQUEST) -> None:
        self.outbox.put((self.role, number, value))

    def orphaned(self) -> bool:
        return False

    def close(self) -> None:
        pass


class ProcessPort:
    """The end that a process is given when it is spawned."""

    def __init__(self, bell: socket.socket, pipe: Connection, parent: int) -> None:
        self._bell, self._pipe, self._parent = bell, pipe, parent

    def get(self) -> int:
        data = b""
        while len(data) < NUMBER.size:
            try:
                piece = self._bell.recv(NUMBER.size - len(data))
            except OSError:
                piece = b""
            if not piece:
                raise Interruption
            data += piece
        return NUMBER.unpack(data)[0]

    def put(self, number: int) -> None:
        try:
            self._bell.sendall(NUMBER.pack(number))
        except OSError:
            raise Interruption from None

    def request(self) -> tuple[str, Any]:
        return receive(self._pipe)

    def answer(self, value: Any, number: int = REQUEST) -> None:
        self.put(number)
        try:
            send(self._pipe, value)
        except OSError:
            raise Interruption from None

    def orphaned(self) -> bool:
        return os.getppid() != self._parent

    def close(self) -> None:
        self._bell.close()
        self._pipe.close()


def send(pipe: Connection, value: Any) -> None:
    """Send any value as plain bytes: multiprocessing's own way would share tensors, which die with their sender."""
    pipe.send_bytes(pickle.dumps(value))


def receive(pipe: Connection) -> Any:
    """What ``send`` sent. Only ever between processes of one run: never from a file or a network."""
    return pickle.loads(pipe.recv_bytes())
