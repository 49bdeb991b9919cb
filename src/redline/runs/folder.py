"""The folder of one run, its names, and the lock that keeps two processes from writing the same run."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import IO, Any

from redline.runs.checkpoint import remove_leftovers
from redline.runs.files import disk_errors, write_atomic
from redline.types import UserError

BASE = "runs"
CONFIG = "config.yaml"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class RunFolder:
    """``runs/NAME/``: where everything of one run lies. Make one with ``create`` or ``open``, then ``lock``
    to write.

    As a context manager it holds the lock::

        with RunFolder.create(environment="CartPole-v1", recipe="ppo") as run:
            save_checkpoint(run.checkpoints, step, state)
    """

    def __init__(self, path: Path) -> None:
        path = path if path.name not in ("", "..") else path.resolve()  # `redline resume .`
        self.path = path
        self.name = path.name
        self.config = path / CONFIG
        self.plan = path / "plan.json"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.videos = path / "videos"
        self.report = path / "report.html"
        self._lock: IO[bytes] | None = None

    @property
    def reference(self) -> str:
        """By what ``open`` finds this run without being told a base: its name in the usual one, else its path."""
        return self.name if self.path == Path(BASE) / self.name else str(self.path)

    @classmethod
    def create(
        cls, name: str | None = None, *, environment: str = "", recipe: str = "", base: Path | str = BASE
    ) -> RunFolder:
        """Make a new run's folder. Without a name it is called after environment and recipe:
        ``pong-v5_ppo_001``.

        Raises:
          UserError: the name is taken, or not fit for a folder.
          RunError: the folder cannot be made.
        """
        base = Path(base)
        with disk_errors("make a run in", base):
            base.mkdir(parents=True, exist_ok=True)
            if name is None:
                return cls(_make_numbered(base, _stem(environment, recipe)))
            if not _NAME.fullmatch(name):
                raise UserError(
                    f"{name!r} is not a name for a run: use letters, digits, '.', '_' and '-', at most 100,"
                    f" such as {_slug(name) or 'my-run'!r}"
                )
            try:
                (base / name).mkdir()
            except FileExistsError:
                there = shlex.quote(cls(base / name).reference)
                raise UserError(
                    f"there is a run {name!r} in {base} already: go on with it by `redline resume {there}`,"
                    " or choose another name"
                ) from None
            return cls(base / name)

    @classmethod
    def open(cls, name: str | Path, *, base: Path | str = BASE) -> RunFolder:
        """The folder of an existing run, by its name in ``base`` or by its path.

        Raises:
          UserError: there is no such run; the line offers the nearest name.
        """
        base = Path(base)
        for path in (base / name, Path(name)):
            if _is_run(path):
                return cls(path)
        known = [path.name for path in list_runs(base)]
        near = difflib.get_close_matches(Path(name).name, known, n=1, cutoff=0.4)
        if near:
            hint = f"did you mean {near[0]!r}?"
        elif known:
            hint = f"the newest is {known[-1]!r}"
        else:
            hint = "there are none yet: `redline train CartPole-v1` makes one"
        raise UserError(f"there is no run {str(name)!r} in {base}: {hint}")

    def lock(self) -> RunFolder:
        """Claim the run for this process until ``unlock`` or its end, and clean up after one that was killed.

        The operating system frees the lock of a process that dies, so no stale lock ever needs removing.

        Raises:
          UserError: another process is writing this run.
          RunError: the folder cannot be written.
        """
        if self._lock is None:
            with disk_errors("write the run", self.path):
                self._lock = _acquire(self.path / "lock", self.name)
                remove_leftovers(self.checkpoints)
        return self

    def unlock(self) -> None:
        """Let other processes write the run. Safe to call twice."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def discard_if_empty(self) -> None:
        """Remove the folder of a run that never got its config.yaml: it could be neither used nor resumed."""
        if not self.config.exists():
            shutil.rmtree(self.path, ignore_errors=True)

    def write_plan(self, plan: dict[str, Any], origin: dict[str, Any], rules: Sequence[str]) -> None:
        """Write ``plan.json`` in one go. Where the run came from stays; what resumes it (``origin``) is added.

        Raises: RunError where the folder cannot be written.
        """
        try:
            before = json.loads(self.plan.read_bytes())
            first, since = before["provenance"], before.get("resumed", [])
        except (OSError, ValueError, TypeError, KeyError):  # a new run, or a file that was cut short
            about: dict[str, Any] = {"plan": plan, "provenance": origin, "rules": list(rules)}
        else:
            about = {"plan": plan, "provenance": first, "resumed": [*since, origin], "rules": list(rules)}
        write_atomic(self.plan, json.dumps(about, indent=2) + "\n")

    def __enter__(self) -> RunFolder:
        return self.lock()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unlock()


def list_runs(base: Path | str = BASE) -> list[Path]:
    """The folders of the runs in ``base``, the one started last at the end."""
    base = Path(base)
    if not base.is_dir():
        return []
    with disk_errors("list the runs in", base):
        found = [path for path in base.iterdir() if _is_run(path)]
        return sorted(found, key=lambda path: ((path / CONFIG).stat().st_mtime_ns, path.name))


def _is_run(path: Path) -> bool:
    return (path / CONFIG).is_file()


def _stem(environment: str, recipe: str) -> str:
    # "ALE/Pong-v5" -> "pong-v5", "my_package.games:make_env" -> "make_env"
    short = re.split(r"[/:]", environment)[-1]
    return "_".join(part for part in (_slug(short), _slug(recipe)) if part) or "run"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:60]


def _make_numbered(base: Path, stem: str) -> Path:
    pattern = re.compile(re.escape(stem) + r"_(\d{3,})")
    taken = [int(match[1]) for path in base.iterdir() if (match := pattern.fullmatch(path.name))]
    number = max(taken, default=0) + 1
    while True:
        path = base / f"{stem}_{number:03d}"
        try:
            path.mkdir()
            return path
        except FileExistsError:  # another process was quicker
            number += 1


def _acquire(path: Path, name: str) -> IO[bytes]:
    file = open(path, "a+b")  # noqa: SIM115
    try:
        _lock_file(file)
    except (BlockingIOError, PermissionError):
        file.seek(0)
        owner = file.read(40).decode(errors="replace").strip()
        file.close()
        raise UserError(
            f"another process (number {owner or 'unknown'}) is writing the run {name!r}: stop it first"
        ) from None
    except OSError:
        # Some network file systems have no locks. A run that cannot be locked is better than none.
        pass
    with contextlib.suppress(OSError):  # a note for whoever finds the lock taken
        file.truncate(0)
        file.write(str(os.getpid()).encode())
        file.flush()
    return file


def _lock_file(file: IO[bytes]) -> None:
    fcntl = _module("fcntl")
    if fcntl is not None:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    msvcrt = _module("msvcrt")
    if msvcrt is not None:
        # Windows locks bytes, and others cannot read locked ones: lock one far behind the note.
        file.seek(1 << 20)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        file.seek(0)


def _module(name: str) -> ModuleType | None:
    """A module that only some operating systems have."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
