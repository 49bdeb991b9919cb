"""Charts as HTML: lines in an SVG that stretches with the page, labels in HTML so that text never stretches.

Colours are names of CSS variables (``--c1`` ...), so that a chart follows the page into the dark.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from redline.reports.scales import bounds, short, thin, ticks

_SIDE = 1000  # the SVG's own units, both ways


@dataclass(frozen=True)
class Line:
    """One curve: ``y`` over ``x``, with a band from ``low`` to ``high`` where given (all f64[N])."""

    name: str
    x: np.ndarray
    y: np.ndarray
    color: str = "c1"
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    faint: bool = False  # one of many: thin, pale, without legend
    dots: bool = False  # a dot for each point


@dataclass(frozen=True)
class Axes:
    """The part of the plane a chart shows."""

    x: tuple[float, float]
    y: tuple[float, float]

    def across(self, values: np.ndarray) -> np.ndarray:
        """SVG units from the left."""
        return (values - self.x[0]) / (self.x[1] - self.x[0]) * _SIDE

    def down(self, values: np.ndarray) -> np.ndarray:
        """SVG units from the top; far outside stays at the edge's far side, so that paths stay short numbers."""
        return np.clip((self.y[1] - values) / (self.y[1] - self.y[0]), -1, 2) * _SIDE


def chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_name: str = "agent steps",
    note: str = "",
    from_zero: bool = False,
    robust: bool = False,
    small: bool = False,
) -> str:
    """A figure with ``lines``; an empty one says that there is nothing yet.

    Args:
      title: above the chart.   x_name: below it.   note: one sentence under the title.
      from_zero: the y axis begins at zero.   robust: it leaves out extremes.   small: one of a grid.
    """
    lines = [_thinned(line) for line in lines if len(line.x)]
    if not lines:
        return _figure(title, note, "", '<p class="empty">Nothing recorded yet.</p>', small)
    shown = [part for line in lines for part in (line.y, line.low, line.high) if part is not None]
    axes = Axes(
        _x_bounds([line.x for line in lines]),
        bounds(np.concatenate(shown), from_zero=from_zero, robust=robust),
    )
    drawing = "".join(_band(line, axes) for line in lines) + "".join(_curve(line, axes) for line in lines)
    named = [line for line in lines if not line.faint]
    dots = "".join(_dots(line, axes) for line in lines if line.dots)
    body = _plot(axes, drawing, dots, _hover(named, axes), x_name, percent=False)
    return _figure(title, note, _legend([(line.name, line.color) for line in named]), body, small)


def areas(
    title: str, x: np.ndarray, parts: Mapping[str, np.ndarray], colors: Mapping[str, str], note: str = ""
) -> str:
    """A figure of shares (0..1) stacked upon each other over agent steps."""
    if not len(x):
        return _figure(title, note, "", '<p class="empty">Nothing recorded yet.</p>', False)
    x, columns = thin(x, list(parts.values()), most=200)
    axes = Axes(_x_bounds([x]), (0.0, 1.0))
    floor = np.zeros_like(x)
    drawing, hover = [], []
    for name, column in zip(parts, columns, strict=True):
        top = np.minimum(floor + column, 1.0)
        drawing.append(f'<path class="area {colors[name]}" d="{_outline(x, floor, top, axes)}"/>')
        hover.append(Line(name, x, column, colors[name]))
        floor = top
    body = _plot(axes, "".join(drawing), "", _hover(hover, axes, percent=True), "agent steps", percent=True)
    return _figure(title, note, _legend([(name, colors[name]) for name in parts]), body, False)


def bar(shares: Mapping[str, float], colors: Mapping[str, str]) -> str:
    """One bar cut into shares of its length, with the figures in it where they fit."""
    total = sum(shares.values())
    if total <= 0:
        return ""
    cuts = []
    for name, share in shares.items():
        part = share / total
        narrow = ' class="narrow"' if part < 0.25 else ""
        label = f"<em{narrow}>{escape(name)} </em>" if part >= 0.1 else ""
        label += f"{part:.0%}" if part >= 0.06 else ""
        cuts.append(
            f'<span class="{colors[name]}" style="width:{part:.2%}" title="{escape(name)} {part:.1%}">{label}</span>'
        )
    return f'<div class="bar" role="img" aria-label="{_spoken(shares, total)}">{"".join(cuts)}</div>'


def _spoken(shares: Mapping[str, float], total: float) -> str:
    return ", ".join(f"{escape(name)} {share / total:.0%}" for name, share in shares.items())


def _thinned(line: Line) -> Line:
    optional = [line.low, line.high]
    x, columns = thin(line.x, [line.y, *(part for part in optional if part is not None)])
    rest = iter(columns[1:])
    low, high = (None if part is None else next(rest) for part in optional)
    return Line(line.name, x, columns[0], line.color, low, high, line.faint, line.dots)


def _x_bounds(columns: list[np.ndarray]) -> tuple[float, float]:
    joined = np.concatenate(columns)
    low, high = float(joined.min()), float(joined.max())
    if low > 0 and low < 0.2 * high:
        low = 0.0
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _points(x: np.ndarray, y: np.ndarray, axes: Axes) -> list[str]:
    return [f"{a:.1f} {b:.1f}" for a, b in zip(axes.across(x), axes.down(y), strict=True)]


def _curve(line: Line, axes: Axes) -> str:
    style = f"line {line.color}{' faint' if line.faint else ''}"
    return f'<path class="{style}" d="M{"L".join(_points(line.x, line.y, axes))}"/>'


def _band(line: Line, axes: Axes) -> str:
    if line.low is None or line.high is None:
        return ""
    return f'<path class="band {line.color}" d="{_outline(line.x, line.low, line.high, axes)}"/>'


def _outline(x: np.ndarray, low: np.ndarray, high: np.ndarray, axes: Axes) -> str:
    return "M" + "L".join(_points(x, high, axes) + _points(x, low, axes)[::-1]) + "Z"


def _dots(line: Line, axes: Axes) -> str:
    across, down = axes.across(line.x) / _SIDE, axes.down(line.y) / _SIDE
    return "".join(
        f'<i class="dot {line.color}" style="left:{a:.2%};top:{b:.2%}"></i>'
        for a, b in zip(across, down, strict=True)
        if 0 <= b <= 1
    )


def _hover(lines: Sequence[Line], axes: Axes, *, percent: bool = False) -> str:
    """What the page's script needs to show values under the pointer."""
    form = (lambda value: f"{value:.0%}") if percent else short
    rows = [
        {
            "n": line.name,
            "c": line.color,
            "x": [round(float(a) / _SIDE, 4) for a in axes.across(line.x)],
            "t": [short(float(step), 4) for step in line.x],
            "v": [form(float(value)) for value in line.y],
        }
        for line in lines
    ]
    return escape(json.dumps(rows, separators=(",", ":")), quote=True)


def _plot(axes: Axes, drawing: str, overlay: str, hover: str, x_name: str, *, percent: bool) -> str:
    grid, labels = [], []
    marks = [0.0, 0.25, 0.5, 0.75, 1.0] if percent else ticks(*axes.y, 6)
    for value in marks:
        top = (axes.y[1] - value) / (axes.y[1] - axes.y[0])
        grid.append(f'<path class="grid" d="M0 {top * _SIDE:.1f}H{_SIDE}"/>')
        text = f"{value:.0%}" if percent else _tick(value, marks)
        labels.append(f'<span class="yt" style="top:{top:.2%}">{text}</span>')
    across = ticks(*axes.x, 6)
    for value in across:
        left = (value - axes.x[0]) / (axes.x[1] - axes.x[0])
        edge = " first" if left < 0.02 else " last" if left > 0.98 else ""
        labels.append(f'<span class="xt{edge}" style="left:{left:.2%}">{_tick(value, across)}</span>')
    return (
        f'<div class="plot" data-x="{escape(x_name, quote=True)}" data-chart="{hover}">'
        f'<svg viewBox="0 0 {_SIDE} {_SIDE}" preserveAspectRatio="none" aria-hidden="true">'
        f"{''.join(grid)}{drawing}</svg>{overlay}{''.join(labels)}"
        f'<i class="cursor"></i><div class="tip"></div></div><p class="xname">{escape(x_name)}</p>'
    )


def _tick(value: float, marks: Sequence[float]) -> str:
    largest = max(abs(mark) for mark in marks)
    if abs(value) < largest * 1e-9:
        return "0"
    return short(value, 3 if len(marks) < 2 or abs(value) < 1e3 * (marks[1] - marks[0]) else 5)


def _legend(entries: Sequence[tuple[str, str]]) -> str:
    if len(entries) < 2:
        return ""
    keys = "".join(f'<span><i class="{color}"></i>{escape(name)}</span>' for name, color in entries)
    return f'<div class="legend">{keys}</div>'


def _figure(title: str, note: str, legend: str, body: str, small: bool) -> str:
    about = f"<small>{escape(note)}</small>" if note else ""
    return (
        f'<figure class="card{" small" if small else ""}">'
        f"<figcaption><b>{escape(title)}</b>{about}{legend}</figcaption>{body}</figure>"
    )
