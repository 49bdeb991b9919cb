"""Checkpoints: a folder each, written aside and renamed into place, so that a kill never leaves half of one.

``checkpoints/00007-step-1228800/`` holds ``checkpoint.json`` (format, versions, step, and size and checksum
of the other two), ``state.json`` (plain values) and ``state.safetensors`` (tensors and arrays). Numbered in
the order they were written, since a run that resumes from an older one writes lower steps later. ``best-...``
is kept apart. One process writes to such a folder at a time: the lock of the run folder sees to that.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import zlib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from redline.runs.files import disk_errors, sync_folder
from redline.runs.tensors import read_tensors, write_tensors
from redline.runs.tree import join, split
from redline.types import RunError

FORMAT = "redline checkpoint"
FORMAT_VERSION = 1
HEADER = "checkpoint.json"
VALUES = "state.json"
TENSORS = "state.safetensors"

_NAME = re.compile(r"(?P<best>best-)?(?P<number>\d{5,})-step-(?P<step>\d+)")


class CorruptError(RunError):
    """A checkpoint that was damaged after it was written; an older one may be whole."""


@dataclass(frozen=True)
class Loaded:
    """What ``load_newest`` found."""

    path: Path
    step: int  # agent steps
    state: dict[str, Any]
    messages: tuple[str, ...] = ()  # one line for each newer checkpoint that had to be passed over


def save_checkpoint(
    folder: Path, step: int, state: dict[str, Any], *, keep: int = 2, best: bool = False
) -> Path:
    """Write ``state`` durably, then remove what is older than the newest ``keep`` checkpoints.

    Args:
      folder: the run's ``checkpoints/``; made if missing.
      step: agent steps done.
      state: a tree of dicts, lists, tuples, tensors, numpy arrays and scalars, and plain values.
      keep: how many to keep, this one included.
      best: keep it also as ``best-...`` in place of the last best, whatever ``keep`` removes later. Costs no
        second writing, and no room until then, where the file system has hard links.

    Raises:
      RunError: the disk is full or the folder cannot be written; earlier checkpoints are untouched.
      TypeError: ``state`` holds something that is not data.
    """
    values, leaves = split(state)
    with disk_errors("write a checkpoint in", folder):
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        number = max((_number(path) for path in _all(folder)), default=0) + 1
        path = folder / f"{number:05d}-step-{step}"
        temporary = folder / f".{path.name}.tmp"
        try:
            temporary.mkdir()
            _write_files(temporary, step, values, leaves)
            if best:  # first, so that no checkpoint on disk knows of a best that is not there
                _link(temporary, folder / f"best-{path.name}")
            os.rename(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_folder(folder)
        for old in list_checkpoints(folder)[: -max(1, keep)] + list_checkpoints(folder, best=True)[:-1]:
            _remove(old)
    return path


def load_checkpoint(path: Path | str) -> dict[str, Any]:
    """The state that ``save_checkpoint`` was given; tensors are on the CPU.

    Raises:
      RunError: no such checkpoint, not one of Redline's, or another version's.
      CorruptError: damaged since it was written.
    """
    path = Path(path)
    header = read_header(path)
    with disk_errors("read the checkpoint", path):
        for name in (VALUES, TENSORS):
            _check_size(path, name, header)
        content = (path / VALUES).read_bytes()
        if zlib.crc32(content) != header["files"][VALUES]["crc32"]:
            raise CorruptError(f"the checkpoint {path} is damaged: {VALUES} has changed since it was written")
        with open(path / TENSORS, "rb", buffering=0) as file:
            try:
                leaves, checksum = read_tensors(file)
            except RunError as error:
                raise CorruptError(f"the checkpoint {path} is damaged: {error}") from error
        if checksum != header["files"][TENSORS]["crc32"]:
            raise CorruptError(
                f"the checkpoint {path} is damaged: {TENSORS} has changed since it was written"
            )
    return join(json.loads(content), leaves)


def load_newest(folder: Path) -> Loaded | None:
    """The newest checkpoint that is whole, passing over damaged ones with a message each; None where there is
    none.

    Raises:
      RunError: the newest is foreign or another version's (the line names an older one that is usable), or
        every checkpoint is damaged.
    """
    paths = list_checkpoints(folder)
    messages: list[str] = []
    for index in reversed(range(len(paths))):
        path = paths[index]
        try:
            state = load_checkpoint(path)
        except CorruptError as error:
            messages.append(str(error))
            continue
        except RunError as error:
            raise RunError(f"{error}; {_usable(paths[:index])}") from error
        if messages:
            messages.append(f"going on from {path.name}")
        return Loaded(path, _step(path), state, tuple(messages))
    if messages:
        raise RunError(f"no checkpoint in {folder} is usable: {messages[0]}")
    return None


def best_checkpoint(folder: Path) -> Path | None:
    """The checkpoint kept as best, or None."""
    paths = list_checkpoints(folder, best=True)
    return paths[-1] if paths else None


def list_checkpoints(folder: Path, *, best: bool = False) -> list[Path]:
    """The checkpoints of a folder, oldest first: the rotated ones, or those kept as best."""
    found = [path for path in _all(folder) if (_match(path)["best"] is not None) == best]
    return sorted(found, key=_number)


def read_header(path: Path) -> dict[str, Any]:
    """The contents of ``checkpoint.json``: format, versions, step, files. Cheap: the state is not read.

    Raises:
      RunError: not a checkpoint of Redline's, or another version's.
      CorruptError: damaged.
    """
    if not path.is_dir():
        raise RunError(f"there is no checkpoint {path}")
    with disk_errors("read the checkpoint", path):
        try:
            header = json.loads((path / HEADER).read_bytes())
        except FileNotFoundError:
            raise RunError(f"{path} is not a checkpoint of Redline's: it has no {HEADER}") from None
        except ValueError:
            raise CorruptError(f"the checkpoint {path} is damaged: {HEADER} is not readable") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise RunError(f"{path} is not a checkpoint of Redline's: its {HEADER} says so")
    if header.get("format_version") != FORMAT_VERSION:
        raise RunError(
            f"the checkpoint {path} was written by Redline {header.get('redline')} in format"
            f" {header.get('format_version')}; this is Redline {redline_version()}, which reads format"
            f" {FORMAT_VERSION}"
        )
    checksum = header.pop("crc32", None)
    if checksum != _header_checksum(header):
        raise CorruptError(f"the checkpoint {path} is damaged: {HEADER} has changed since it was written")
    return header


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left half written or half removed."""
    if folder.is_dir():
        for path in folder.glob(".*.tmp"):
            shutil.rmtree(path, ignore_errors=True)


def redline_version() -> str:
    """The installed version of Redline, or ``unknown`` when run from bare source."""
    try:
        return version("redline")
    except PackageNotFoundError:
        return "unknown"


def _write_files(folder: Path, step: int, values: Any, leaves: dict[str, Any]) -> None:
    content = json.dumps(values, allow_nan=False).encode()
    with open(folder / VALUES, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    with open(folder / TENSORS, "wb", buffering=0) as raw:
        checksum = write_tensors(raw, leaves)
        os.fsync(raw.fileno())
        size = raw.tell()
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "redline": redline_version(),
        "step": step,
        "files": {
            VALUES: {"bytes": len(content), "crc32": zlib.crc32(content)},
            TENSORS: {"bytes": size, "crc32": checksum},
        },
    }
    with open(folder / HEADER, "w", encoding="utf-8") as text:
        json.dump({**header, "crc32": _header_checksum(header)}, text, indent=1)
        text.flush()
        os.fsync(text.fileno())
    sync_folder(folder)


def _link(written: Path, path: Path) -> None:
    """A second checkpoint ``path`` with the same files as ``written``."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.mkdir()
        for file in written.iterdir():
            try:
                os.link(file, temporary / file.name)
            except OSError:  # a file system without hard links
                shutil.copyfile(file, temporary / file.name)
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _header_checksum(header: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(header, sort_keys=True).encode())


def _check_size(path: Path, name: str, header: dict[str, Any]) -> None:
    try:
        size = (path / name).stat().st_size
    except FileNotFoundError:
        raise CorruptError(f"the checkpoint {path} is damaged: {name} is missing") from None
    expected = header["files"][name]["bytes"]
    if size != expected:
        raise CorruptError(f"the checkpoint {path} is damaged: {name} has {size} bytes instead of {expected}")


def _usable(older: list[Path]) -> str:
    for path in reversed(older):
        with contextlib.suppress(RunError):
            load_checkpoint(path)
            return f"{path.name} is usable"
    return "there is no older one that is usable"


def _remove(path: Path) -> None:
    # Renamed first: a kill halfway leaves something that no one takes for a checkpoint.
    doomed = path.with_name(f".{path.name}.tmp")
    os.rename(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _all(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []


def _match(path: Path) -> re.Match[str]:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return match


def _number(path: Path) -> int:
    return int(_match(path)["number"])


def _step(path: Path) -> int:
    return int(_match(path)["step"])
