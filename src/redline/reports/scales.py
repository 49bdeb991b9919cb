"""Axes and numbers for people: round ticks, short numbers, durations, fewer points."""

from __future__ import annotations

import math

import numpy as np

NONE = "\u2013"  # an en dash, for what is not there
# From which size on, the unit, and its letter: 9,999 is as short as 10k.
_UNITS = ((999.5e9, 1e12, "T"), (999.5e6, 1e9, "G"), (999.5e3, 1e6, "M"), (9999.5, 1e3, "k"))


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers (1, 2 or 5 times a power of ten apart) between ``low`` and ``high``."""
    if not high > low:
        return [low]
    rough = (high - low) / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def log_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers between ``low`` and ``high`` (both above 0), evenly spaced by their logarithm: powers of ten, or of
    a thousand, where there are many; 1, 2 and 5 times those where there are few."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    for factors, step in (((1, 2, 5), 1), ((1,), 1), ((1,), 3)):
        found = [
            factor * 10.0**power
            for power in range(first, last + 1)
            if power % step == 0
            for factor in factors
            if low * 0.999 <= factor * 10.0**power <= high * 1.001
        ]
        if len(found) <= max(count + 2, 3):
            break
    return found or [low]


def bounds(
    values: np.ndarray, *, from_zero: bool = False, robust: bool = False, margin: float = 0.06
) -> tuple[float, float]:
    """The part of an axis that shows ``values`` with a little room; ``robust`` leaves out the outermost 1%.

    An axis is never empty: a constant gets room on both sides.
    """
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    low, high = (
        float(x) for x in (np.percentile(values, (0.5, 99.5)) if robust else (values.min(), values.max()))
    )
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    room = (high - low) * margin or abs(high) * 0.1 or 1.0
    bottom = low if from_zero and low == 0.0 else low - room
    return bottom, high + room


def thin(x: np.ndarray, columns: list[np.ndarray], most: int = 400) -> tuple[np.ndarray, list[np.ndarray]]:
    """At most ``most`` points: the mean of each stretch of equal length, first and last point kept as they are."""
    if len(x) <= most:
        return x, columns
    edges = np.linspace(1, len(x) - 1, most - 1).astype(int)
    counts = np.diff(edges)

    def shrink(values: np.ndarray) -> np.ndarray:
        inner = np.add.reduceat(values[: edges[-1]], edges[:-1]) / counts
        return np.concatenate([values[:1], inner, values[-1:]])

    return shrink(x), [shrink(column) for column in columns]


def short(value: float | None, digits: int = 3) -> str:
    """A number to be read at a glance: 1.23M, 12.5k, 487, 0.25, 2.5e-4; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return NONE
    size = abs(value)
    for least, unit, letter in _UNITS:
        if size >= least:
            return f"{_fixed(value / unit, digits)}{letter}"
    if size >= 1000:
        return f"{value:,.0f}"
    if size and size < 1e-3:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(exponent)}"
    return _fixed(value, digits)


def duration(seconds: float | None) -> str:
    """``9.8 s``, ``3 min 20 s``, ``2 h 14 min``, ``3 d 4 h``."""
    if seconds is None or not math.isfinite(seconds):
        return NONE
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


def _fixed(value: float, digits: int) -> str:
    before = (
        math.floor(math.log10(abs(value))) + 1 if value else 1
    )  # digits before the point; zeros after count down
    text = f"{value:.{max(digits - before, 0)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
