"""Columns: one array of every step of every environment, in memory, in a mapped file, or compressed.

A column has ``slots`` rows for each of B environments, an environment's rows side by side (row
``environment * slots + slot``): the frames of a stack then lie next to each other, which makes drawing a third
faster than time-major order. One row more, the last, is always zero: stacks that reach past an episode's start
are gathered from it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import weakref
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from redline.runs.provenance import CGROUP, memory_limit
from redline.types import RunError, UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

OTHER_FILES = "the checkpoint's replay is in memory-mapped files: set replay.memory_map to their folder"


class Column(Protocol):
    """Rows of one shape and dtype."""

    shape: tuple[int, ...]  # of one row
    dtype: np.dtype

    def write(self, slot: int, values: np.ndarray) -> None:
        """Set one row of every environment; values [B, *shape]."""

    def write_many(self, slot: int, values: np.ndarray) -> None:
        """Set rows ``slot`` and following (none past the last) of every environment; values [k, B, *shape]."""

    def gather(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Copy rows i64[M] into out [M, *shape] (contiguous)."""

    def nbytes(self) -> int:
        """Bytes taken, those reserved for rows not yet written included."""

    def state(self, used: int) -> dict[str, Any]:
        """The first ``used`` slots, as views where possible: valid until the next write."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what ``state`` gave."""


class ArrayColumn:
    """A column in one array: in memory, committed when first touched, or in a memory-mapped file."""

    def __init__(
        self, num_envs: int, slots: int, shape: tuple[int, ...], dtype: np.dtype, path: Path | None = None
    ) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        full = (num_envs * slots + 1, *shape)
        self._file: np.memmap | None = None
        if path is None:
            size = int(np.prod(full, dtype=np.int64)) * self.dtype.itemsize
            try:
                self._rows = np.empty(full, self.dtype)
            except MemoryError:
                raise RunError(
                    f"replay needs {gib(size)} of memory for one array, which the system refuses"
                ) from None
        else:
            self._rows = self._file = _map_file(path, full, self.dtype)
        self._rows[-1] = 0
        self._steps = self._rows[:-1].reshape(num_envs, slots, *shape).swapaxes(0, 1)  # [slots, B, *shape]

    def write(self, slot: int, values: np.ndarray) -> None:
        self._steps[slot] = values

    def write_many(self, slot: int, values: np.ndarray) -> None:
        self._steps[slot : slot + len(values)] = values

    def gather(self, rows: np.ndarray, out: np.ndarray) -> None:
        # Rows are in range; mode="clip" makes NumPy write into ``out`` without a buffer of its own.
        np.take(self._rows, rows, axis=0, out=out, mode="clip")

    def nbytes(self) -> int:
        return self._rows.nbytes

    def state(self, used: int) -> dict[str, Any]:
        if self._file is not None:
            self._file.flush()
            return {}
        return {"steps": self._steps[:used]}

    def load_state(self, state: dict[str, Any]) -> None:
        if "steps" in state:
            self._steps[: len(state["steps"])] = state["steps"]
        elif self._file is None:
            raise RunError(OTHER_FILES)


class Lz4Column:
    """A column of rows compressed one by one (LZ4 block format): small, at some microseconds a row."""

    def __init__(self, num_envs: int, slots: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._num_envs, self._slots = num_envs, slots
        self._lz4 = _import_lz4()
        self._size = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
        self._rows: list[bytes] = [b""] * (num_envs * slots)
        self._rows.append(self._pack(np.zeros(shape, dtype)))
        self._stored = 0

    def _pack(self, row: np.ndarray) -> bytes:
        return self._lz4.compress(np.ascontiguousarray(row, self.dtype), store_size=False)

    def _set(self, row: int, packed: bytes) -> None:
        self._stored += len(packed) - len(self._rows[row])
        self._rows[row] = packed

    def write(self, slot: int, values: np.ndarray) -> None:
        for env, value in enumerate(values):
            self._set(env * self._slots + slot, self._pack(value))

    def write_many(self, slot: int, values: np.ndarray) -> None:
        for row, each in enumerate(values):
            self.write(slot + row, each)

    def gather(self, rows: np.ndarray, out: np.ndarray) -> None:
        flat = out.reshape(len(rows), -1).view(np.uint8)
        for index, row in enumerate(rows.tolist()):
            raw = self._lz4.decompress(self._rows[row], uncompressed_size=self._size)
            flat[index] = np.frombuffer(raw, np.uint8)

    def nbytes(self) -> int:
        per_object = 8 + 33 + 8  # pointer in the list, header of a bytes object, rounding by the allocator
        return self._stored + per_object * len(self._rows)

    def _order(self, used: int) -> list[int]:
        """Rows of the first ``used`` slots, environment by environment."""
        return [env * self._slots + slot for env in range(self._num_envs) for slot in range(used)]

    def state(self, used: int) -> dict[str, Any]:
        rows = [self._rows[row] for row in self._order(used)]
        lengths = np.fromiter((len(row) for row in rows), np.int64, len(rows))
        return {"lz4": np.frombuffer(b"".join(rows), np.uint8), "lengths": lengths}

    def load_state(self, state: dict[str, Any]) -> None:
        if "steps" in state:
            for slot, values in enumerate(state["steps"]):
                self.write(slot, values)
            return
        if "lz4" not in state:
            raise RunError(OTHER_FILES)
        packed, ends = np.asarray(state["lz4"]).data, np.cumsum(np.asarray(state["lengths"])).tolist()
        first = 0
        for row, end in zip(self._order(len(ends) // self._num_envs), ends, strict=True):
            self._set(row, bytes(packed[first:end]))
            first = end


class Mark:
    """How far memory-mapped rows have been written, and by which replay, kept in a small file beside them.

    A checkpoint refers to mapped rows in place. The mark tells on resume which of them were overwritten after
    it.
    """

    def __init__(self, folder: Path) -> None:
        self._data = _map_file(folder / "mark.npy", (2,), np.dtype(np.int64))  # owner, rows ever written
        self._owner = secrets.randbits(62)

    def write(self, head: int) -> None:
        """Rows up to ``head`` are about to be in the files."""
        if self._data[0] != self._owner:  # files of an earlier run: from now on they are ours
            self._data[:] = self._owner, head
        self._data[1] = max(int(self._data[1]), head)

    def state(self) -> int:
        """Who owns the rows."""
        return self._owner

    def load_state(self, owner: int) -> int:
        """Take the rows over again; return how many were ever written."""
        if int(self._data[0]) != owner:
            raise RunError("the memory-mapped replay's files are not those that the checkpoint was made with")
        self._owner = owner
        return int(self._data[1])


def make_column(
    num_envs: int, slots: int, shape: tuple[int, ...], dtype: np.dtype, compression: str, path: Path | None
) -> Column:
    """The column that suits: compression is for pictures (uint8, over 1 KB), everything else stays plain."""
    pictures = np.dtype(dtype) == np.uint8 and int(np.prod(shape, dtype=np.int64)) > 1024
    if compression == "lz4" and pictures:
        return Lz4Column(num_envs, slots, shape, dtype)
    return ArrayColumn(num_envs, slots, shape, dtype, path)


def take_folder(folder: Path, owner: Any) -> None:
    """Let no other process map files in a folder while ``owner`` lives. A lock there falls with the process, too."""
    if fcntl is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:  # told of when the first file is mapped
        return
    weakref.finalize(owner, os.close, descriptor)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunError(
            f"replay.memory_map: another process keeps its replay in {folder}; choose another folder"
        ) from None
    except OSError:  # a file system without locks
        pass


def gib(size: float) -> str:
    """1610612736 -> '1.5 GiB'."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.1f} MiB"


def available_memory() -> int | None:
    """Bytes that can be taken without swapping or passing the container's limit (Linux); None elsewhere."""
    available = _fields(Path("/proc/meminfo")).get("MemAvailable:")
    if available is None:
        return None
    available *= 1024
    limit = memory_limit()
    if limit is None:
        return available
    return min(available, limit - _fields(CGROUP / "memory.stat").get("anon", 0))


def _fields(path: Path) -> dict[str, int]:
    """Lines of "name number ..." of a file of the kernel's; nothing where there is none."""
    try:
        lines = [line.split() for line in path.read_text(encoding="ascii").splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdigit()}


def _import_lz4() -> ModuleType:
    try:
        import lz4.block
    except ImportError:
        raise UserError("replay.compression 'lz4' needs a package: pip install redline[lz4]") from None
    return lz4.block


def _map_file(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.memmap:
    """Map a .npy file: the one there if it fits (its rows are kept), else a new one, its blocks reserved."""
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            try:
                there = np.lib.format.open_memmap(path, mode="r+")
                if there.shape == shape and there.dtype == dtype:
                    return there
                del there
            except ValueError:  # not a .npy file, or cut short: of no use to anyone
                pass
            path.unlink()
        free = shutil.disk_usage(path.parent).free
        if size > free:
            raise RunError(f"replay needs {gib(size)} on disk, but {path.parent} has {gib(free)} left")
        mapped = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        _reserve(path)
    except OSError as error:
        raise RunError(f"replay cannot map {gib(size)} at {path}: {error.strerror or error}") from None
    return mapped


def _reserve(path: Path) -> None:
    """Take the file's blocks now: a disk full later would kill the process without a word (SIGBUS)."""
    if not hasattr(os, "posix_fallocate"):  # macOS, Windows
        return
    with open(path, "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
