"""Starting a process: what it is given travels in a file, and a script that starts one while it is imported is told so.

Python hands a spawned process its arguments through a pipe that holds 64 KiB, and keeps the pipe's other end open. A
child that dies before it has read more than that leaves its parent writing for ever; and the commonest mistake of a
first script, no ``if __name__ == "__main__":``, kills every child just then.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
from multiprocessing import context, reduction
from typing import IO, Any

from redline.types import UserError

IMPORTED = 64  # exit code of a child that began to train while it imported the script that its parent runs
ADVICE = (
    "this script trains whenever it is imported, and worker processes import it: put the call under "
    'if __name__ == "__main__":'
)


class Unguarded(UserError):
    """A script that would train again in every process it starts."""

    def __init__(self) -> None:
        super().__init__(ADVICE)


class Parcel:
    """An argument of a process to be spawned; the process is given ``content`` itself."""

    def __init__(self, content: Any) -> None:
        self.content = content
        self._file: IO[bytes] | None = None  # open until the process has its own

    def __reduce__(self) -> tuple[Any, ...]:
        if os.name != "posix" or context.get_spawning_popen() is None:
            return _same, (self.content,)
        self._file = _memory()
        reduction.ForkingPickler(self._file, pickle.HIGHEST_PROTOCOL).dump(self.content)
        self._file.flush()
        return _open, (reduction.DupFd(self._file.fileno()),)


def _memory() -> IO[bytes]:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("redline"), "w+b")
    return tempfile.TemporaryFile()


def _same(content: Any) -> Any:
    return content


def _open(number: Any) -> Any:
    with os.fdopen(number.detach(), "rb") as file:
        file.seek(0)
        return pickle.load(file)  # from the parent process, by inheritance: nobody else can write it


def leave_if_imported() -> None:
    """End this process where it is a child that has got here by importing its parent's script; the parent says why."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(IMPORTED)
