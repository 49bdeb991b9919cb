"""From plain data to the types that a dataclass declares, or one line that says what was expected where.

Understood: ``int``, ``float``, ``bool``, ``str``, ``None``, ``Any``, ``Literal``, ``tuple``, ``list``,
``dict``, ``Callable``, dataclasses, and unions of all these. The classes of a union of dataclasses are told
apart by a ``kind`` key.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import difflib
import functools
import importlib
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import yaml

from redline import plain_yaml
from redline.types import UserError

KIND = "kind"  # the key that tells the classes of a union apart
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "none"}
_MAPPINGS = (dict, collections.abc.Mapping)


class Typed(str):
    """A value as the user typed it after ``--set key=``; what it means depends on the field."""

    def parse(self, path: str) -> Any:
        """The text read as YAML."""
        try:
            return plain_yaml.load(self)
        except yaml.YAMLError:
            message = f"{path}: cannot read {show(self)} as a value; close its brackets or quote it"
            raise UserError(message) from None


class _Mismatch(Exception):
    """This member of the annotation does not take the value; another may."""


def build(cls: Any, data: Any, path: str) -> Any:
    """The dataclass ``cls`` from keys and values; ``path`` is where it stands, for the error lines."""
    if not isinstance(data, Mapping):
        raise UserError(f"{path or 'the configuration'}: expected keys and values, got {show(data)}")
    at = f"{path}." if path else ""
    hints = field_hints(cls)
    known = {item.name: item for item in dataclasses.fields(cls) if item.init}
    for key in data:
        if key not in known:
            raise UserError(f"unknown key '{at}{key}': {suggest(str(key), known, at)}")
    for name, item in known.items():
        no_default = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if name not in data and no_default:
            raise UserError(f"missing key '{at}{name}': expected {describe(hints[name])}")
    values = {name: convert(hints[name], data[name], at + name) for name in known if name in data}
    try:
        return cls(**values)
    except (ValueError, UserError) as error:
        text = one_line(error)
        if not path or text.startswith(at):
            raise UserError(text) from None
        names_field = text.split(" ")[0].strip("'\"`:,") in known
        raise UserError(f"{at if names_field else path + ': '}{text}") from None


def convert(annotation: Any, value: Any, path: str) -> Any:
    """``value`` as ``annotation`` wants it, or a UserError that names path, expectation and value."""
    if isinstance(value, Typed):
        return _convert_typed(annotation, value, path)
    value = value.item() if isinstance(value, np.generic) else value
    members = union_members(annotation)
    if Any in members:
        return _untyped(value, path)
    if isinstance(value, Mapping) and not any(_origin(member) in _MAPPINGS for member in members):
        return _build_member(annotation, dict(value), path)
    # A member of the value's very type first, so that 1 stays an int in ``float | int``.
    for member in sorted(members, key=lambda member: member is not type(value)):
        try:
            return _convert_member(member, value, path)
        except _Mismatch:
            continue
    raise UserError(
        f"{path}: expected {describe(annotation)}, got {show(value)}{_near_choice(members, value)}"
    )


def _convert_member(member: Any, value: Any, path: str) -> Any:
    origin, arguments = _origin(member), typing.get_args(member)
    if origin is Literal:
        for choice in arguments:
            if choice == value and type(choice) is type(value):
                return choice
    elif origin in (tuple, list):
        return _convert_sequence(origin, arguments, value, path)
    elif origin in _MAPPINGS:
        if isinstance(value, Mapping):
            inner = arguments[1] if arguments else Any
            return {str(key): convert(inner, item, f"{path}.{key}") for key, item in value.items()}
    elif origin is collections.abc.Callable:
        if callable(value):
            return value
    elif member in (int, float):
        return _convert_number(member, value)
    elif isinstance(member, type) and isinstance(value, member):
        return value
    raise _Mismatch


def _convert_number(kind: type, value: Any) -> int | float:
    """Whole floats such as 1e6 count as whole numbers; true, false and nan are no numbers."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise _Mismatch
    if kind is int and isinstance(value, float) and not value.is_integer():
        raise _Mismatch
    return int(value) if kind is int else float(value)


def _convert_sequence(origin: Any, arguments: tuple[Any, ...], value: Any, path: str) -> Any:
    if not isinstance(value, (list, tuple)):
        raise _Mismatch
    inner: Sequence[Any] = arguments or (Any, ...)
    if origin is list or inner[-1] is Ellipsis:
        inner = [inner[0]] * len(value)
    if len(inner) != len(value):
        raise UserError(f"{path}: expected {len(inner)} values, got {len(value)}: {show(list(value))}")
    pairs = enumerate(zip(inner, value, strict=True))
    return origin(convert(kind, item, f"{path}[{index}]") for index, (kind, item) in pairs)


def _convert_typed(annotation: Any, typed: Typed, path: str) -> Any:
    """Try the text as YAML, then as comma-separated values, then as the text it is (a name such as 123)."""
    members = union_members(annotation)
    takes_list = any(_origin(member) in (tuple, list) for member in members)
    errors: list[UserError] = []
    for reading in ("yaml", "list", "none", "text"):
        try:
            if reading == "yaml":
                parsed = typed.parse(path)
                if not (takes_list and isinstance(parsed, str) and "," in parsed):
                    return convert(annotation, parsed, path)
            elif reading == "list" and takes_list and not typed.startswith(("[", "{")):
                return convert(annotation, Typed(f"[{typed}]").parse(path), path)
            elif reading == "none" and type(None) in members and typed.lower() == "none":
                return None
            elif reading == "text" and str in members:
                return str(typed)
        except UserError as error:
            errors.append(error)
    # The element that is wrong says more than the whole.
    raise errors[-1] if "," in typed else errors[0]


def _untyped(value: Any, path: str) -> Any:
    """A value of any type, with what the user typed inside it read as YAML."""
    if isinstance(value, dict):
        return {key: _untyped(item, f"{path}.{key}") for key, item in value.items()}
    return value.parse(path) if isinstance(value, Typed) else value


def _build_member(annotation: Any, data: dict[str, Any], path: str) -> Any:
    """Build the dataclass of a union that ``kind`` names; a union of one needs no name."""
    members = union_members(annotation)
    classes = [member for member in members if dataclasses.is_dataclass(member)]
    if len(classes) == 1 and (KIND not in data or KIND in field_hints(classes[0])):
        return build(classes[0], data, path)
    if not classes and KIND not in data:
        raise UserError(f"{path}: expected {describe(annotation)}, got {show(data)}")
    kind = data.pop(KIND, None)
    kinds = {dataclass_kind(cls, members): cls for cls in classes}
    if isinstance(kind, str) and ":" in kind:
        return build(_import_config(kind, path), data, path)
    if kind is None:
        raise UserError(f"missing key '{path}.{KIND}': expected one of {', '.join(sorted(kinds))}")
    if kind not in kinds:
        raise UserError(f"{path}.{KIND}: unknown kind {show(kind)}; {suggest(str(kind), kinds)}")
    return build(kinds[kind], data, path)


def _import_config(name: str, path: str) -> type:
    """The dataclass ``module:Class``: how an algorithm from outside Redline is written in config.yaml."""
    module, _, attribute = name.partition(":")
    try:
        cls = functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{path}.{KIND}: cannot import '{name}': {one_line(error)}") from None
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise UserError(f"{path}.{KIND}: '{name}' is not a dataclass")
    return cls


def field_hints(cls: Any) -> dict[str, Any]:
    """The resolved annotations of a dataclass."""
    return typing.get_type_hints(cls)


def union_members(annotation: Any) -> list[Any]:
    """The alternatives of a (nested) union, in order; a single annotation is a union of one."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [member for part in typing.get_args(annotation) for member in union_members(part)]
    return [annotation]


def _origin(member: Any) -> Any:
    """``tuple`` of ``tuple[int, ...]``; a class as it is."""
    return typing.get_origin(member) or member


def dataclass_kind(cls: Any, members: Sequence[Any]) -> str:
    """``PPOConfig`` is ``ppo``; a class from outside the union is ``module:Class``."""
    if cls in members:
        return str(cls.__name__).removesuffix("Config").lower()
    return f"{cls.__module__}:{cls.__qualname__}"


def describe(annotation: Any) -> str:
    """An annotation in words: ``a whole number or none``."""
    words: list[str] = []
    for member in union_members(annotation):
        origin, arguments = _origin(member), typing.get_args(member)
        if origin is Literal:
            words.append("one of " + ", ".join(str(choice) for choice in arguments))
        elif origin in (tuple, list):
            words.append(
                f"a list of {_WORDS[arguments[0]][2:]}s" if arguments[:1] in ((int,), (float,)) else "a list"
            )
        elif origin in _MAPPINGS or dataclasses.is_dataclass(member):
            words.append("keys and values")
        else:
            words.append(_WORDS.get(member, str(getattr(member, "__name__", member))))
    return " or ".join(dict.fromkeys(words))


def suggest(word: str, choices: Iterable[str], prefix: str = "") -> str:
    """``did you mean 'gamma'?``, or the choices where none is near: the tail of an error line."""
    choices = sorted(choices)
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{prefix}{near[0]}'?"
    return f"valid: {', '.join(prefix + choice for choice in choices)}" if choices else "there are none"


def show(value: Any) -> str:
    """A value for an error line: quoted where it is text, cut where it is long."""
    text = repr(str(value) if isinstance(value, str) else value)
    return text if len(text) <= 60 else text[:57] + "..."


def one_line(error: Exception) -> str:
    """The error's text without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def _near_choice(members: list[Any], value: Any) -> str:
    literals = [typing.get_args(member) for member in members if typing.get_origin(member) is Literal]
    near = difflib.get_close_matches(str(value), [str(choice) for group in literals for choice in group], n=1)
    return f"; did you mean '{near[0]}'?" if near else ""
