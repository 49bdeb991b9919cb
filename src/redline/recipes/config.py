"""Experiments as plain data: nested frozen dataclasses to and from dicts and YAML, and ``--set a.b=c``.

Generic over dataclasses, so that an algorithm's settings are declared once, beside the algorithm. What a
field may hold is read from its annotation (see ``convert``). Ranges are the dataclass's own business: a
``ValueError`` raised by its ``__post_init__`` becomes one line that names the place.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import yaml

from redline import plain_yaml
from redline.recipes.convert import (
    KIND,
    Typed,
    build,
    dataclass_kind,
    field_hints,
    one_line,
    show,
    suggest,
    union_members,
)
from redline.types import UserError

__all__ = ["from_dict", "load_yaml", "override", "save_yaml", "suggest", "to_dict"]

Config = TypeVar("Config")


def to_dict(config: Any) -> dict[str, Any]:
    """The experiment as nested dicts, lists and plain values, complete and ready for YAML.

    A dataclass in a union field gains the key ``kind`` (``PPOConfig`` is ``ppo``; a class from outside the
    union is ``module:Class``). Functions and classes become ``module:name``.

    Errors:
        UserError: a value has no plain form (an open file in ``environment.kwargs``, say).
    """
    return cast(dict[str, Any], _plain(_unfold(config), ""))


def from_dict(cls: type[Config], data: Mapping[str, Any]) -> Config:
    """Build ``cls`` from nested dicts. Absent keys take their defaults; nothing is guessed or ignored.

    Errors:
        UserError: a key is unknown or missing, a value has the wrong type, or a dataclass refused it.
    """
    return cast(Config, build(cls, data, ""))


def override(config: Config, settings: Sequence[str]) -> Config:
    """The same experiment with ``"algorithm.gamma=0.9"`` and the like applied at once; the last one wins.

    Values are read as YAML (``64``, ``3e-4``, ``true``, ``null``, ``[64, 64]``, ``{a: 1}``); a tuple may
    also be written ``64,64``. A mapping for a group changes the named keys only (``network={hidden:
    [64]}``). Entries of dict fields need not exist before (``environment.kwargs.gravity=5``). Every type is
    checked again, so no settings at all checks an experiment made in Python.
    """
    data = _unfold(config)
    for setting in settings:
        key, equals, text = setting.partition("=")
        keys = [part.strip() for part in key.split(".")]
        if not equals or not all(keys):
            raise UserError(f"cannot read setting '{setting}': write key=value, such as algorithm.gamma=0.99")
        _refuse_unknown(keys, data)
        _assign(data, keys, Typed(text.strip()))
    return from_dict(type(config), data)


def save_yaml(config: Any, path: str | Path) -> None:
    """Write the complete experiment to ``path``, atomically."""
    path = Path(path)
    head = f"# A whole experiment. To run it again: redline train --config {path.name}\n"
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_text(head + plain_yaml.dump(to_dict(config)), encoding="utf-8")
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def load_yaml(cls: type[Config], path: str | Path) -> Config:
    """Read an experiment that ``save_yaml`` or a person wrote; errors name the file and, in it, the key."""
    path = Path(path)
    try:
        data = plain_yaml.load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no configuration file '{path}'{_near_file(path)}") from None
    except OSError as error:
        raise UserError(f"cannot read configuration file '{path}': {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UserError(f"configuration file '{path}' is not text") from None
    except yaml.YAMLError as error:
        raise UserError(f"configuration file '{path}' is not YAML: {_yaml_problem(error)}") from None
    try:
        return from_dict(cls, data)
    except UserError as error:
        raise UserError(f"{error} (in '{path}')") from None


class _Group(dict[str, Any]):
    """The fields of one dataclass, told apart from the entries of a dict field."""


def _unfold(config: Any) -> _Group:
    """Nested groups with the leaves as they are."""
    hints = field_hints(type(config))
    data = _Group()
    for item in dataclasses.fields(config):
        if not item.init:
            continue
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            members = union_members(hints[item.name])
            inner = _unfold(value)
            if [member for member in members if member is not type(None)] != [type(value)]:
                inner = _Group({KIND: dataclass_kind(type(value), members), **inner})
            value = inner
        data[item.name] = _copy(value)
    return data


def _copy(value: Any) -> Any:
    """The same nested dicts, safe to change."""
    if isinstance(value, dict):
        return type(value)((key, _copy(item)) for key, item in value.items())
    return value


def _plain(value: Any, path: str) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{path}.{key}" if path else str(key)) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}:{value.__qualname__}"
    raise UserError(f"{path}: a {type(value).__name__} cannot be written to config.yaml; use plain values")


def _assign(data: dict[str, Any], keys: list[str], value: Typed) -> None:
    """Put ``value`` at ``keys`` inside nested ``data``; unknown keys are left for ``build`` to refuse."""
    here = data
    for depth, key in enumerate(keys[:-1], start=1):
        if not isinstance(here.setdefault(key, {}), dict):
            path, found = ".".join(keys[:depth]), here[key]
            state = "this experiment has none" if found is None else f"it is {show(found)}"
            raise UserError(f"cannot set '{'.'.join(keys)}': '{path}' has no keys, {state}")
        here = here[key]
    last, before = keys[-1], here.get(keys[-1])
    if last == KIND and isinstance(here, _Group) and here.get(KIND) not in (None, value):
        raise UserError(f"cannot set '{'.'.join(keys)}': it is {here[KIND]}; choose another with --recipe")
    parsed = value.parse(".".join(keys)) if isinstance(before, _Group) else None
    here[last] = _merge(before, parsed) if isinstance(before, _Group) and isinstance(parsed, dict) else value


def _merge(group: _Group, changes: Mapping[str, Any]) -> _Group:
    merged = _Group(group)
    for key, change in changes.items():
        before = merged.get(key)
        deeper = isinstance(before, _Group) and isinstance(change, Mapping)
        merged[key] = _merge(before, change) if isinstance(before, _Group) and deeper else change
    return merged


def _refuse_unknown(keys: list[str], data: _Group) -> None:
    """Names are looked for everywhere: ``gamma`` and ``learner.gamma`` both mean ``algorithm.gamma``."""
    here: Any = data
    for key in keys:
        if not isinstance(here, _Group):
            return
        if key not in here:
            break
        here = here[key]
    else:
        return
    path, last, paths = ".".join(keys), keys[-1], list(_leaves(data, ""))
    ends = [known.rpartition(".")[2] for known in paths]
    level = [known for known in paths if known.count(".") == path.count(".")]
    similar = difflib.get_close_matches(path, level, n=1, cutoff=0.8)
    ending = difflib.get_close_matches(last, ends, n=1, cutoff=0.7)
    if last in ends or (ending and not similar):
        similar = [paths[ends.index(last if last in ends else ending[0])]]
    prefix = path[: -len(last)] if isinstance(here, _Group) and here is not data else ""
    tail = f"did you mean '{similar[0]}'?" if similar else suggest(last, here, prefix)
    raise UserError(f"unknown key '{path}': {tail}")


def _leaves(data: Mapping[str, Any], path: str) -> Iterator[str]:
    for key, value in data.items():
        yield path + key
        if isinstance(value, _Group):
            yield from _leaves(value, f"{path}{key}.")


def _near_file(path: Path) -> str:
    try:
        near = difflib.get_close_matches(path.name, [other.name for other in path.parent.iterdir()], n=1)
    except OSError:
        return ""
    return f": did you mean '{path.parent / near[0]}'?" if near else ""


def _yaml_problem(error: yaml.YAMLError) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
    return where + (problem or one_line(error))
