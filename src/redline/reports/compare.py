"""One page for several runs: median and range over the seeds of each experiment."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from redline.reports.curves import Line, chart
from redline.reports.html import save_page, steps_per_second
from redline.reports.load import Record, load_run
from redline.reports.page import page
from redline.reports.parts import header, plain, table, tiles
from redline.reports.scales import NONE, duration, short
from redline.types import UserError

_COLORS = ("c1", "c2", "c3", "c4", "c5", "c6")
_POINTS = 200  # where the median is taken
_NAMED = 3  # differences that a group's name tells
# What runs of one experiment may differ in: the seed, what is written down when, and what a machine's plan chooses
# that changes no result but by rounding.
_BESIDE = {
    *(f"run.{name}" for name in ("seed", "log_every", "checkpoint_every", "keep", "save_replay", "debug")),
    *(f"run.{name}" for name in ("evaluate_every", "evaluate_episodes", "tensorboard", "wandb")),
    *(f"learner.{name}" for name in ("device", "precision", "threads")),
    *("sampler.shards", "sampler.groups", "environment.workers", "parallel.hosts"),
}


def compare_report(run_folders: Sequence[Path | str], path: Path | str | None = None) -> Path:
    """Write one page comparing runs and return its path.

    Runs whose configurations differ in nothing but the seed (and what a machine chooses) are taken for seeds of one
    another: their median and range are drawn. Groups of one recipe are named by what they differ in.

    Args:
      path: where to write; ``comparison.html`` beside the runs if None.

    Raises:
      UserError: no runs were given, or one does not exist.
      RunError: the page cannot be written.
    """
    if not run_folders:
        raise UserError("there is nothing to compare: name one run or more")
    records = [load_run(folder) for folder in run_folders]
    if path is None:
        path = (
            Path(os.path.commonpath([record.path.resolve().parent for record in records])) / "comparison.html"
        )
    return save_page(Path(path), render_comparison(records))


def render_comparison(records: Sequence[Record]) -> str:
    """The page of several runs."""
    groups = _grouped(records)
    environments = sorted({record.environment for record in records if record.environment})
    title = " and ".join(environments) or "Comparison"
    meta = [_many(len(records), "run"), _many(len({record.recipe for record in records}), "recipe")]
    if len(groups) > len({(record.recipe, record.environment) for record in records}):
        meta.append(_many(len(groups), "experiment"))
    by_steps = [line for group in _drawn(groups, by_time=False) for line in group]
    by_time = [line for group in _drawn(groups, by_time=True) for line in group]
    note = "median return; shaded: range over runs; thin: single runs"
    body = [
        header(title, meta),
        tiles(_figures(groups)),
        f'<div class="hero">{chart("Learning curves", by_steps, note=note)}</div>',
        f'<div class="hero">{chart("Return over time", by_time, x_name="seconds", note=note)}</div>',
        "<h2>Runs</h2>",
        table(
            ("run", "recipe", "seed", "final return", "best return", "agent steps", "wall clock", "steps/s"),
            [_row(record) for group in groups.values() for record in group],
        ),
    ]
    return page(f"{title} · Redline", "\n".join(body))


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count > 1 else ''}"


def median_and_range(
    curves: Sequence[tuple[np.ndarray, np.ndarray]], points: int = _POINTS
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Median, lowest and highest of several curves (x f64[N], y f64[N]) at ``points`` places that all of them reach.

    Returns:
      x, median, low, high, each f64[points]; empty where the curves have no stretch in common.
    """
    curves = [(x, y) for x, y in curves if len(x)]
    start = max((x[0] for x, _ in curves), default=0.0)
    end = min((x[-1] for x, _ in curves), default=0.0)
    if not curves or end < start:
        empty = np.empty(0)
        return empty, empty, empty, empty
    grid = np.linspace(start, end, points if end > start else 1)
    values = np.stack([np.interp(grid, x, y) for x, y in curves])
    return grid, np.median(values, 0), values.min(0), values.max(0)


def _grouped(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Runs that are seeds of one another, by recipe (and environment, of several) and what sets them apart from others
    of it."""
    several = len({record.environment for record in records}) > 1
    kinds: dict[str, dict[str, list[Record]]] = {}
    for record in records:
        parts = (record.recipe, record.environment if several else "")
        kind = kinds.setdefault(" · ".join(part for part in parts if part) or "runs", {})
        kind.setdefault(repr(sorted(_numbers(record).items(), key=repr)), []).append(record)
    groups: dict[str, list[Record]] = {}
    for name, kind in kinds.items():
        for members, difference in zip(kind.values(), _differences(list(kind.values())), strict=True):
            groups[f"{name} ({difference})" if difference else name] = members
    return groups


def _differences(groups: list[list[Record]]) -> list[str]:
    """Of each group, the values of what they differ in."""
    numbers = [_numbers(group[0]) for group in groups]
    names = sorted({name for each in numbers for name in each})
    differ = [name for name in names if len({repr(each.get(name)) for each in numbers}) > 1]
    more = f" and {len(differ) - _NAMED} more" if len(differ) > _NAMED else ""
    found = [
        ", ".join(f"{name}={plain(each.get(name))}" for name in differ[:_NAMED]) + more for each in numbers
    ]
    # Beyond those named two groups may be alike.
    return [each if found.count(each) == 1 else f"{each}, group {k}" for k, each in enumerate(found, start=1)]


def _numbers(record: Record) -> dict[str, Any]:
    """What makes a run's experiment, ``part.name`` -> value."""

    def leaves(tree: dict[str, Any], path: str) -> Iterator[tuple[str, Any]]:
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from leaves(value, f"{path}{key}.")
            else:
                yield f"{path}{key}", value

    return {name: value for name, value in leaves(record.config, "") if name not in _BESIDE}


def _drawn(groups: dict[str, list[Record]], *, by_time: bool) -> list[list[Line]]:
    drawn = []
    for index, (name, records) in enumerate(groups.items()):
        color = _COLORS[index % len(_COLORS)]
        curves = [_curve(record, by_time) for record in records]
        x, median, low, high = median_and_range(curves)
        label = f"{name} ({len(records)})" if len(records) > 1 else name
        lines = [Line(name, *curve, color, faint=True) for curve in curves] if len(records) > 1 else []
        drawn.append([*lines, Line(label, x, median, color, low, high)])
    return drawn


def _curve(record: Record, by_time: bool) -> tuple[np.ndarray, np.ndarray]:
    if not by_time:
        return record.series("return/mean")
    lines = [line for line in record.lines if "return/mean" in line and "time/elapsed" in line]
    time = np.array([line["time/elapsed"] for line in lines], np.float64)
    return np.maximum.accumulate(time), np.array([line["return/mean"] for line in lines], np.float64)


def _figures(groups: dict[str, list[Record]]) -> list[tuple[str, str, str]]:
    figures = []
    for name, records in groups.items():
        finals = [final for record in records if (final := record.last("return/mean")) is not None]
        median = short(float(np.median(finals))) if finals else NONE
        span = (
            f"from {short(min(finals))} to {short(max(finals))}, {len(finals)} runs"
            if len(finals) > 1
            else ""
        )
        figures.append((f"{name}: final return", median, f"median; {span}" if span else ""))
    return figures


def _row(record: Record) -> tuple[str, ...]:
    return (
        record.name,
        record.recipe or NONE,
        plain(record.setting("run", "seed")),
        short(record.last("return/mean")),
        short(record.best("return/mean")),
        short(record.lines[-1]["step"] if record.lines else None),
        duration(record.last("time/elapsed")),
        short(steps_per_second(record)),
    )
