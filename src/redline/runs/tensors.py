"""Reads and writes safetensors files leaf by leaf, so that a replay of several GiB is never in memory twice.

The safetensors library builds the whole file in memory from numpy; this writes each leaf straight from where
it lies (format: https://huggingface.co/docs/safetensors#format) and keeps a checksum as it goes. The library
can read the result: what its types lack (complex numbers, text, structures) is stored as bytes, with the true
type in the metadata.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
import torch

from redline.types import RunError

Leaf = torch.Tensor | np.ndarray

_BLOCK = 64 * 2**20  # bytes copied at a time where a leaf is not contiguous or not on the CPU
_LARGEST_HEADER = 100 * 2**20  # the limit of the safetensors library

_TORCH_CODES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.uint16: "U16",
    torch.uint32: "U32",
    torch.uint64: "U64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}
_TORCH_TYPES = {str(dtype).removeprefix("torch."): dtype for dtype in _TORCH_CODES} | {
    "complex64": torch.complex64,
    "complex128": torch.complex128,
}
_NUMPY_CODES = {
    "|b1": "BOOL",
    "|u1": "U8",
    "|i1": "I8",
    "<i2": "I16",
    "<i4": "I32",
    "<i8": "I64",
    "<u2": "U16",
    "<u4": "U32",
    "<u8": "U64",
    "<f2": "F16",
    "<f4": "F32",
    "<f8": "F64",
}


def write_tensors(file: BinaryIO, leaves: Mapping[str, Leaf]) -> int:
    """Write ``leaves`` as one safetensors file and return the CRC-32 of its bytes.

    Tensors are written without their device and gradient; they come back on the CPU.

    Raises:
      TypeError: a sparse or quantised tensor.
      OSError: as the file raises it.
    """
    # Wide types first keeps every leaf aligned to its own size without holes, which the format forbids.
    ordered = sorted(leaves.items(), key=lambda item: -_item_bytes(item[1]))
    table: dict[str, Any] = {"__metadata__": {name: _describe(leaf) for name, leaf in ordered}}
    end = 0
    for name, leaf in ordered:
        code, shape = _stored_as(leaf)
        start, end = end, end + _item_bytes(leaf) * _item_count(leaf)
        table[name] = {"dtype": code, "shape": shape, "data_offsets": [start, end]}
    header = json.dumps(table, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    checksum = _write(file, len(header).to_bytes(8, "little") + header, 0)
    for _, leaf in ordered:
        for block in _blocks(leaf):
            checksum = _write(file, block, checksum)
    return checksum


def read_tensors(file: BinaryIO) -> tuple[dict[str, Leaf], int]:
    """The leaves of a file that ``write_tensors`` wrote, as they were, and the CRC-32 of its bytes.

    Raises:
      RunError: not such a file, or cut short.
    """
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > _LARGEST_HEADER:
        raise RunError("its tensors are not a safetensors file")
    header = file.read(length)
    checksum = zlib.crc32(header, zlib.crc32(prefix))
    try:
        table = json.loads(header)
        kinds = table.pop("__metadata__", {})
        entries = sorted(table.items(), key=lambda item: item[1]["data_offsets"])
        leaves: dict[str, Leaf] = {}
        for name, entry in entries:
            start, end = entry["data_offsets"]
            buffer, checksum = _read(file, end - start, checksum)
            leaves[name] = _restore(buffer, kinds[name])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError("its tensors are not laid out as Redline writes them") from error
    return leaves, checksum


def _write(file: BinaryIO, data: bytes | memoryview, checksum: int) -> int:
    view = memoryview(data)
    written = 0
    while written < len(view):  # an unbuffered write may take a part only (Linux: 2 GiB at most)
        written += file.write(view[written:])
    return zlib.crc32(view, checksum)


def _read(file: BinaryIO, size: int, checksum: int) -> tuple[np.ndarray, int]:
    buffer = np.empty(size, np.uint8)
    view = buffer.data
    done = 0
    while done < size:
        count = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise RunError("its tensors are cut short")
        done += count
    return buffer, zlib.crc32(view, checksum)


def _item_bytes(leaf: Leaf) -> int:
    return leaf.element_size() if isinstance(leaf, torch.Tensor) else leaf.dtype.itemsize


def _item_count(leaf: Leaf) -> int:
    return leaf.numel() if isinstance(leaf, torch.Tensor) else leaf.size


def _describe(leaf: Leaf) -> str:
    """What the leaf was, as text: ``["torch", "bfloat16", [2, 3]]`` or ``["numpy", "<f4", [2, 3]]``."""
    if isinstance(leaf, torch.Tensor):
        if leaf.layout != torch.strided or leaf.is_quantized:
            raise TypeError(f"a checkpoint cannot hold a tensor of layout {leaf.layout}")
        name = str(leaf.dtype).removeprefix("torch.")
        if name not in _TORCH_TYPES:
            raise TypeError(f"a checkpoint cannot hold a tensor of type {leaf.dtype}")
        return json.dumps(["torch", name, list(leaf.shape)])
    return json.dumps(["numpy", np.lib.format.dtype_to_descr(leaf.dtype), list(leaf.shape)])


def _stored_as(leaf: Leaf) -> tuple[str, list[int]]:
    """The safetensors type and shape; bytes where the format has no such type."""
    if isinstance(leaf, torch.Tensor):
        code = _TORCH_CODES.get(leaf.dtype)
    else:
        code = _NUMPY_CODES.get(leaf.dtype.str) if leaf.dtype.names is None else None
    if code is not None:
        return code, list(leaf.shape)
    return "U8", [_item_bytes(leaf) * _item_count(leaf)]


def _blocks(leaf: Leaf) -> Iterator[memoryview]:
    """The leaf's bytes in C order: as they lie where they are contiguous, else in copied blocks of rows."""
    if not _item_bytes(leaf) * _item_count(leaf):
        return
    if isinstance(leaf, torch.Tensor):
        leaf = leaf.detach()
        if leaf.is_cpu and leaf.is_contiguous() and not leaf.is_conj() and not leaf.is_neg():
            yield _tensor_bytes(leaf)
            return
    elif leaf.flags.c_contiguous:
        yield leaf.reshape(-1).view(np.uint8).data
        return
    row = leaf[0] if leaf.ndim else leaf
    rows = max(1, _BLOCK // max(1, _item_bytes(row) * _item_count(row)))
    for start in range(0, len(leaf) if leaf.ndim else 1, rows):
        part = leaf[start : start + rows] if leaf.ndim else leaf
        if isinstance(part, torch.Tensor):
            yield _tensor_bytes(part.cpu().resolve_conj().resolve_neg().contiguous())
        else:
            yield np.ascontiguousarray(part).reshape(-1).view(np.uint8).data


def _tensor_bytes(tensor: torch.Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _restore(buffer: np.ndarray, description: str) -> Leaf:
    library, name, shape = json.loads(description)
    if library == "torch":
        kind = _TORCH_TYPES[name]
        # An empty buffer has no alignment to view; there is nothing to copy either.
        return (
            torch.from_numpy(buffer).view(kind).reshape(shape)
            if len(buffer)
            else torch.empty(shape, dtype=kind)
        )
    dtype = np.lib.format.descr_to_dtype(_tuples(name))
    if dtype.hasobject:
        raise ValueError("an array of Python objects")
    return np.ndarray(shape, dtype, buffer) if len(buffer) else np.zeros(shape, dtype)


def _tuples(descr: Any) -> Any:
    """JSON turns numpy's structure descriptions into lists of lists; numpy insists on lists of tuples."""
    if not isinstance(descr, list):
        return descr
    return [
        tuple(_tuples(part) if isinstance(part, list) and i == 1 else part for i, part in enumerate(f))
        for f in descr
    ]
