"""Starting a process: what it is given travels in a file; a script from which none can be started, because it starts
one while it is imported or cannot be imported at all, is told so; and signals that a whole group of processes is sent
are left to the one that the user started.

Python hands a spawned process its arguments through a pipe that holds 64 KiB, and keeps the pipe's other end open. A
child that dies before it has read more than that leaves its parent writing for ever; and the commonest mistake of a
first script, no ``if __name__ == "__main__":``, kills every child just then.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
from multiprocessing import context, reduction
from multiprocessing.process import ORIGINAL_DIR, BaseProcess  # type: ignore[attr-defined]
from pathlib import Path
from typing import IO, Any

from redline.types import UserError

IMPORTED = 64  # exit code of a child that began to train while it imported the script that its parent runs
ADVICE = (
    "this script trains whenever it is imported, and worker processes import it: put the call under "
    'if __name__ == "__main__":'
)


class CannotSpawn(UserError):
    """A script from which no process can be started."""


class Unguarded(CannotSpawn):
    """A script that would train again in every process it starts."""

    def __init__(self) -> None:
        super().__init__(ADVICE)


def has_script() -> bool:
    """Whether processes that are spawned import what this one's main module defines."""
    script = sys.modules.get("__main__")
    return getattr(script, "__spec__", None) is not None or getattr(script, "__file__", None) is not None


def check_script() -> None:
    """Refuse to start a process that could not import this process's script, and would die of that without a word.

    Python's ``spawn`` imports it by its module's name or by its path; what has neither, as a notebook or ``python -c``,
    it leaves alone. ``python - < script`` has a path at which there is nothing.

    Raises: CannotSpawn.
    """
    script = sys.modules.get("__main__")
    path = getattr(script, "__file__", None)
    if path is None or getattr(script, "__spec__", None) is not None:
        return
    if Path(ORIGINAL_DIR or "", path).exists():
        return
    what = "was read from standard input" if path == "<stdin>" else f"is not where it was ({path})"
    raise CannotSpawn(
        f"this script {what}, and worker processes import it: save it to a file, or keep to one process by "
        "parallel.runtime=threads and environment.backend=inline"
    )


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


def leave_signals_to_parent() -> None:
    """In a child: neither Ctrl-C nor SIGTERM ends it, only its parent does, once it is not asked anything more.

    SIGTERM gets a handler and is not blocked any more: programs that an environment starts would inherit that it is
    ignored or blocked, and could not be ended by it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: None)
    if hasattr(signal, "pthread_sigmask"):
        signal.siginterrupt(signal.SIGTERM, False)
        _mask(signal.SIG_UNBLOCK)
        os.register_at_fork(
            before=lambda: _mask(signal.SIG_BLOCK),
            after_in_parent=lambda: _mask(signal.SIG_UNBLOCK),
            after_in_child=_heed_sigterm,
        )


def _mask(how: int) -> None:
    signal.pthread_sigmask(how, {signal.SIGTERM})


def _heed_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _mask(signal.SIG_UNBLOCK)


def end_with_interpreter(process: BaseProcess) -> None:
    """In the parent: Python sends daemons a SIGTERM at its exit, and waits; those that do not heed it are killed."""
    popen = process._popen  # type: ignore[attr-defined]
    popen.terminate = popen.kill


def leave_if_imported() -> None:
    """End this process where it is a child that has got here by importing its parent's script; the parent says why."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(IMPORTED)
