"""TensorBoard event files, written without TensorBoard: importing it costs seconds, and a scalar is a few
bytes.

Formats: ``tensorboard/compat/proto/event.proto`` and ``summary.proto`` for the messages, TFRecord for the
framing.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from redline.runs.files import disk_errors

_FILE_VERSION = b"brain.Event:2"
_SESSION_START = b"\x08\x01"  # SessionLog{status: START}


class EventWriter:
    """Appends scalars to a new event file in ``folder``; TensorBoard finds it there.

    With ``first_step``, TensorBoard forgets what earlier files of the folder say about that step and later
    ones: a resumed run draws one line.
    """

    def __init__(self, folder: Path, first_step: int | None = None) -> None:
        self.path = folder / f"events.out.tfevents.{time.time_ns() // 1000}.redline.{os.getpid()}"
        with disk_errors("write", self.path):
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115
            self._write(_event(_bytes_field(3, _FILE_VERSION), 0))
            if first_step is not None:
                self._write(_event(_bytes_field(7, _SESSION_START), first_step))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append one event holding all ``values``. Raises RunError where the disk is full."""
        summary = b"".join(_bytes_field(1, _value(name, value)) for name, value in values.items())
        with disk_errors("write", self.path):
            self._write(_event(_bytes_field(5, summary), step))

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        self._file.close()

    def _write(self, event: bytes) -> None:
        length = struct.pack("<Q", len(event))
        self._file.write(length + _masked_crc(length) + event + _masked_crc(event))


def _event(content: bytes, step: int) -> bytes:
    # Event{wall_time: double = 1, step: int64 = 2, ...}
    return b"\x09" + struct.pack("<d", time.time()) + b"\x10" + _varint(step) + content


def _value(name: str, value: float) -> bytes:
    # Summary.Value{tag: string = 1, simple_value: float = 2}
    return _bytes_field(1, name.encode()) + b"\x15" + _float32(value)


def _float32(value: float) -> bytes:
    try:
        return struct.pack("<f", value)
    except OverflowError:
        return struct.pack("<f", float("inf") if value > 0 else float("-inf"))


def _bytes_field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)  # CRC-32C (Castagnoli), reflected
        table.append(crc)
    return table


_TABLE = _crc_table()


def _masked_crc(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
