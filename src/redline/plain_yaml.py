"""YAML without its surprises: 1e6 is a number; ``no``, ``1:30`` and dates are text.

PyYAML reads YAML 1.1, in which ``3e-4`` is text and ``1:30`` is ninety. These are YAML 1.2's scalars, with
Python's ``1_000_000`` and ``None`` besides. Only plain values are ever built.
"""

from __future__ import annotations

import re
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """Safe loader with the scalars above."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML fills it, class by class


class _Dumper(yaml.SafeDumper):
    """Quotes exactly the texts that ``_Loader`` would read as something else."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML fills it, class by class


_FLOAT = r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
_SCALARS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9][0-9_]*", list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
    ("null", r"~|null|Null|NULL|None|", ["~", "n", "N", ""]),
    ("merge", r"<<", ["<"]),
)
for _tag, _pattern, _first in _SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)

# YAML 1.1 would read 010 as eight.
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value.replace("_", ""), 10))
_Dumper.add_representer(
    list,
    lambda dumper, items: dumper.represent_sequence(
        "tag:yaml.org,2002:seq",
        items,
        flow_style=not any(isinstance(item, (list, dict)) for item in items),
    ),
)


def load(text: str) -> Any:
    """The plain values that ``text`` spells; raises ``yaml.YAMLError``."""
    try:
        return yaml.load(text, Loader=_Loader)
    except ValueError:  # Python's own limit on the digits of a number
        raise yaml.YAMLError("a number in it has too many digits") from None
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None


def dump(data: Any) -> str:
    """``data`` as YAML that ``load`` gives back unchanged, keys in their order."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=100)
