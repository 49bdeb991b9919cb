"""What is not for others to see: values whose key says that they are secret, such as ``api_key``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
_WORDS = r"token|secret|password|passwd|api[_-]?key|credential"
_KEY = re.compile(rf"(?i){_WORDS}")
# In an argument: ``api_key=...`` behind whatever else, or ``{api_key: ...`` in a mapping.
_ASSIGNED = re.compile(rf"(?i)(?:{_WORDS})[^=]*=|[{{,][^{{}},:]*(?:{_WORDS})[^{{}},:]*:")


def is_secret(key: str) -> bool:
    """Whether the value of ``key`` is to be hidden."""
    return _KEY.search(key) is not None


def without_secrets(tree: Any) -> Any:
    """Nested plain values, those of secret keys hidden."""
    if isinstance(tree, Mapping):
        return {
            key: HIDDEN if is_secret(str(key)) and value is not None else without_secrets(value)
            for key, value in tree.items()
        }
    return [without_secrets(item) for item in tree] if isinstance(tree, list | tuple) else tree


def hide_assigned(argument: str) -> str | None:
    """A command line's argument up to the first secret that it assigns, the rest hidden; None: it assigns none."""
    found = _ASSIGNED.search(argument)
    return argument[: found.end()] + HIDDEN if found else None
