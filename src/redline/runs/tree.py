"""Splits a state into what safetensors can hold (arrays, tensors) and what JSON can (everything else), and
back.

Nested dicts, lists and tuples come back as they were, with their key types; nothing is ever pickled. In the
JSON, a dict with a key that starts with ``$`` stands for what JSON lacks: ``{"$leaf": "network/0.weight"}``.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from redline.types import RunError

Leaf = torch.Tensor | np.ndarray

_LARGEST_JSON_INT = 2**63  # other JSON readers, and Python's own limit on digits, stop somewhere above


def split(state: Any) -> tuple[Any, dict[str, Leaf]]:
    """``state`` as a JSON value and the named leaves it refers to (not copied).

    Raises:
      TypeError: a value that is neither array, tensor, number, string, bytes, None, dict, list nor tuple.
    """
    leaves: dict[str, Leaf] = {}
    return _encode(state, "", leaves), leaves


def join(value: Any, leaves: Mapping[str, Leaf]) -> Any:
    """The inverse of ``split``. Raises RunError where the JSON refers to nothing known."""
    if isinstance(value, list):
        return [join(item, leaves) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        (tag,) = value
        if tag.startswith("$"):
            return _decode_tagged(tag, value[tag], leaves)
    return {key: join(item, leaves) for key, item in value.items()}


def _encode(value: Any, path: str, leaves: dict[str, Leaf]) -> Any:
    # Numpy scalars come first: np.float64 is a float too, and must come back as what it was.
    if isinstance(value, torch.Tensor):
        return {"$leaf": _add(value, path, leaves)}
    if isinstance(value, np.ndarray):
        return _encode_array(value, path, leaves)
    if isinstance(value, np.generic):
        return _encode_scalar(value)
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value) if -_LARGEST_JSON_INT <= value < _LARGEST_JSON_INT else {"$int": hex(value)}
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, tuple):
        return {"$tuple": [_encode(item, _join_path(path, i), leaves) for i, item in enumerate(value)]}
    if isinstance(value, list):
        return [_encode(item, _join_path(path, i), leaves) for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        return _encode_dict(value, path, leaves)
    raise TypeError(f"a checkpoint cannot hold {type(value).__name__} (at {path or 'the top'})")


def _encode_dict(value: Mapping[Any, Any], path: str, leaves: dict[str, Leaf]) -> Any:
    if all(isinstance(key, str) and not key.startswith("$") for key in value):
        return {key: _encode(item, _join_path(path, key), leaves) for key, item in value.items()}
    pairs = []
    for key, item in value.items():
        if not (key is None or isinstance(key, (str, int, float, tuple))):
            raise TypeError(
                f"a checkpoint cannot hold a {type(key).__name__} as key (at {path or 'the top'})"
            )
        pairs.append([_encode(key, path, leaves), _encode(item, _join_path(path, key), leaves)])
    return {"$dict": pairs}


def _encode_array(value: np.ndarray, path: str, leaves: dict[str, Leaf]) -> Any:
    if value.dtype.hasobject:
        raise TypeError(f"a checkpoint cannot hold an array of Python objects (at {path or 'the top'})")
    return {"$leaf": _add(value, path, leaves)}


def _encode_scalar(value: np.generic) -> Any:
    if value.dtype.hasobject or value.dtype.names:
        raise TypeError(f"a checkpoint cannot hold a numpy scalar of type {value.dtype}")
    return {"$scalar": [value.dtype.str, base64.b64encode(value.tobytes()).decode()]}


def _add(value: Leaf, path: str, leaves: dict[str, Leaf]) -> str:
    name = path or "value"
    number = 1
    while name in leaves or name == "__metadata__":  # {"a/b": x, "a": {"b": y}}: one path, two leaves
        number += 1
        name = f"{path}#{number}"
    leaves[name] = value
    return name


def _join_path(path: str, key: object) -> str:
    return f"{path}/{key}" if path else str(key)


def _decode_tagged(tag: str, value: Any, leaves: Mapping[str, Leaf]) -> Any:
    if tag == "$leaf":
        if value not in leaves:
            raise RunError(f"the checkpoint names {value!r}, which its tensors lack")
        return leaves[value]
    if tag == "$scalar":
        dtype, data = value
        return np.ndarray((), np.dtype(dtype), base64.b64decode(data))[()]
    if tag == "$int":
        return int(value, 16)
    if tag == "$float":
        return float(value)
    if tag == "$bytes":
        return base64.b64decode(value)
    if tag == "$tuple":
        return tuple(join(item, leaves) for item in value)
    if tag == "$dict":
        return {join(key, leaves): join(item, leaves) for key, item in value}
    raise RunError(f"the checkpoint holds an unknown kind of value, {tag!r}")
