"""Charts as HTML: lines in an SVG that stretches with the page, labels in HTML so that text never stretches.

Colours are names of CSS variables (``--c1`` ...), so that a chart follows the page into the dark.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from redline.reports.scales import bounds, log_ticks, short, thin, ticks

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
class Mark:
    """An upright line at ``x`` with a few words beside it."""

    x: float
    name: str
    color: str = "c0"


@dataclass(frozen=True)
class Axes:
    """The part of the plane a chart shows; with ``log`` both axes are logarithmic, and all bounds above 0."""

    x: tuple[float, float]
    y: tuple[float, float]
    log: bool = False

    def across(self, values: np.ndarray) -> np.ndarray:
        """SVG units from the left."""
        return self._share(values, self.x) * _SIDE

    def down(self, values: np.ndarray) -> np.ndarray:
        """SVG units from the top; far outside stays at the edge's far side, so that paths stay short numbers."""
        return np.clip(1.0 - self._share(values, self.y), -1, 2) * _SIDE

    def _share(self, values: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
        if self.log:
            values, ends = np.log10(values), (float(np.log10(ends[0])), float(np.log10(ends[1])))
        return np.asarray((values - ends[0]) / (ends[1] - ends[0]))


def chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_name: str = "agent steps",
    note: str = "",
    from_zero: bool = False,
    robust: bool = False,
    small: bool = False,
    marks: Sequence[Mark] = (),
) -> str:
    """A figure with ``lines``; an empty one says that there is nothing yet.

    Args:
      title: above the chart.   x_name: below it.   note: one sentence under the title.
      from_zero: the y axis begins at zero.   robust: it leaves out extremes.   small: one of a grid.
      marks: upright lines.
    """
    lines = [_thinned(line) for line in lines if len(line.x)]
    if not lines:
        return _figure(title, note, "", '<p class="empty">Nothing recorded yet.</p>', small)
    shown = [part for line in lines for part in (line.y, line.low, line.high) if part is not None]
    axes = Axes(
        _x_bounds([line.x for line in lines]),
        bounds(np.concatenate(shown), from_zero=from_zero, robust=robust),
    )
    return _drawn(axes, lines, marks, (title, note, x_name), small=small)


def log_chart(
    title: str, lines: Sequence[Line], *, x_name: str, note: str = "", marks: Sequence[Mark] = ()
) -> str:
    """A figure with both axes logarithmic; points that are not above 0 are left out."""
    lines = [_positive(line) for line in lines]
    lines = [line for line in lines if len(line.x)]
    if not lines:
        return _figure(title, note, "", '<p class="empty">Nothing measured.</p>', False)
    x = np.concatenate([line.x for line in lines])
    y = np.concatenate([line.y for line in lines])
    ends = [(float(each.min()), float(each.max())) for each in (x, y)]
    ends = [(low, high) if high > low else (low / 2, high * 2) for low, high in ends]
    axes = Axes(ends[0], (ends[1][0] / 1.3, ends[1][1] * 1.3), log=True)
    return _drawn(axes, lines, marks, (title, note, x_name))


def _positive(line: Line) -> Line:
    keep = (line.x > 0) & (line.y > 0)
    return Line(line.name, line.x[keep], line.y[keep], line.color, faint=line.faint, dots=line.dots)


def _drawn(
    axes: Axes,
    lines: Sequence[Line],
    marks: Sequence[Mark],
    words: tuple[str, str, str],
    *,
    small: bool = False,
) -> str:
    """The figure; ``words``: title, note, name of the x axis."""
    title, note, x_name = words
    marks = [mark for mark in marks if axes.x[0] <= mark.x <= axes.x[1]]
    drawing = "".join(_upright(mark, axes) for mark in marks)
    drawing += "".join(_band(line, axes) for line in lines) + "".join(_curve(line, axes) for line in lines)
    named = [line for line in lines if not line.faint]
    overlay = "".join(_dots(line, axes) for line in lines if line.dots)
    overlay += "".join(_caption(mark, axes, row) for row, mark in enumerate(marks))
    body = _plot(axes, drawing, overlay, _hover(named, axes), x_name, percent=False)
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


PADDING, LETTER = 8, 7.5  # pixels, of a cut's text


def bar(shares: Mapping[str, float], colors: Mapping[str, str], pixels: int = 900) -> str:
    """One bar cut into shares of its length, with names and figures in it where they fit into about ``pixels``."""
    total = sum(shares.values())
    if total <= 0:
        return ""
    cuts = []
    for name, share in shares.items():
        part = share / total
        narrow = ' class="narrow"' if part < 0.25 else ""
        room = part * pixels - 2 * PADDING
        label = f"<em{narrow}>{escape(name)} </em>" if room >= (len(name) + 5) * LETTER else ""
        label += f"{part:.0%}" if room >= 4 * LETTER else ""
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


def _upright(mark: Mark, axes: Axes) -> str:
    left = float(axes.across(np.array([mark.x]))[0])
    return f'<path class="mark {mark.color}" d="M{left:.1f} 0V{_SIDE}"/>'


def _caption(mark: Mark, axes: Axes, row: int) -> str:
    """Words at a mark's head, on the side with more room; each on a row of its own."""
    left = float(axes.across(np.array([mark.x]))[0]) / _SIDE
    side = " before" if left > 0.6 else ""
    return f'<span class="mk{side} {mark.color}" style="left:{left:.2%};top:{row * 18}px">{escape(mark.name)}</span>'


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
    spaced = log_ticks if axes.log else ticks
    marks = [0.0, 0.25, 0.5, 0.75, 1.0] if percent else spaced(*axes.y, 6)
    for value in marks:
        top = float(axes.down(np.array([value]))[0]) / _SIDE
        grid.append(f'<path class="grid" d="M0 {top * _SIDE:.1f}H{_SIDE}"/>')
        text = f"{value:.0%}" if percent else short(value) if axes.log else _tick(value, marks)
        labels.append(f'<span class="yt" style="top:{top:.2%}">{text}</span>')
    across = spaced(*axes.x, 6)
    for value in across:
        left = float(axes.across(np.array([value]))[0]) / _SIDE
        edge = " first" if left < 0.02 else " last" if left > 0.98 else ""
        text = short(value) if axes.log else _tick(value, across)
        labels.append(f'<span class="xt{edge}" style="left:{left:.2%}">{text}</span>')
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
