"""Reads what a run left in its folder, as far as it goes: every file may be missing, empty or cut short."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from redline import plain_yaml
from redline.secret import without_secrets
from redline.types import UserError

FILMS = (".mp4", ".webm", ".gif")  # one whose name begins with a dot is not finished


@dataclass(frozen=True)
class Record:
    """One run, as read from its folder."""

    path: Path
    config: dict[str, Any] = field(default_factory=dict)  # config.yaml, without secrets
    about: dict[str, Any] = field(default_factory=dict)  # plan.json: plan, provenance, rules
    lines: tuple[dict[str, float], ...] = ()  # metrics.jsonl, numbers only, each with "step"

    @property
    def name(self) -> str:
        """The run's name: that of its folder."""
        return self.path.resolve().name

    @property
    def environment(self) -> str:
        """The environment's id, or empty."""
        return str(self.setting("environment", "id", default=""))

    @property
    def recipe(self) -> str:
        """The recipe's name, or empty."""
        return str(self.config.get("recipe", ""))

    def setting(self, *keys: str, default: Any = None) -> Any:
        """A value of the configuration, such as ``setting("run", "seed")``."""
        value: Any = self.config
        for key in keys:
            if not isinstance(value, dict) or key not in value:
                return default
            value = value[key]
        return value

    def names(self) -> list[str]:
        """The metrics that any line has, in the order of their first appearance, ``step`` apart."""
        seen = dict.fromkeys(name for line in self.lines for name in line)
        return [name for name in seen if name != "step"]

    def series(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Agent steps f64[N] and values f64[N] of one metric, where it was written and finite."""
        pairs = [(line["step"], line[name]) for line in self.lines if name in line]
        steps, values = zip(*pairs, strict=True) if pairs else ((), ())
        return np.array(steps, np.float64), np.array(values, np.float64)

    def last(self, name: str) -> float | None:
        """The newest value of a metric, or None."""
        return next((line[name] for line in reversed(self.lines) if name in line), None)

    def best(self, name: str) -> float | None:
        """The greatest value of a metric, or None."""
        return max((line[name] for line in self.lines if name in line), default=None)


def load_run(folder: Path | str) -> Record:
    """Read a run's folder.

    Raises:
      UserError: there is no such folder, or it cannot be read.
    """
    path = Path(folder)
    if not path.is_dir():
        raise UserError(f"there is no run in {path}: it is not a folder")
    try:
        return Record(
            path,
            without_secrets(_mapping(_read_yaml(path / "config.yaml"))),
            _mapping(_read_json(path / "plan.json")),
            tuple(_read_lines(path / "metrics.jsonl")),
        )
    except OSError as error:
        raise UserError(f"cannot read the run in {path}: {error.strerror}") from error


def newest_video(folder: Path) -> Path | None:
    """The film in the run's ``videos/`` that was made last, or None."""
    videos = folder / "videos"
    if not videos.is_dir():
        return None
    films = [path for path in videos.iterdir() if path.suffix in FILMS and path.name[0] != "."]
    return max(films, key=lambda path: (path.stat().st_mtime_ns, path.name), default=None)


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _read_yaml(path: Path) -> Any:
    try:
        return plain_yaml.load(_read_text(path))
    except yaml.YAMLError:
        return None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(_read_text(path))
    except ValueError:
        return None


def _read_lines(path: Path) -> list[dict[str, float]]:
    """Whole lines only: the last may be torn while a run writes, or since it was killed."""
    lines = []
    for text in _read_text(path).splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and _is_number(line.get("step")):
            lines.append({str(name): float(value) for name, value in line.items() if _is_number(value)})
    return lines


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
