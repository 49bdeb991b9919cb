"""Numbers as people read them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

BARS = " ▁▂▃▄▅▆▇█"


def count(value: float) -> str:
    """``950``, ``12,400``, ``1.24M``: at most about five digits."""
    if abs(value) >= 1e9:
        return f"{value / 1e9:.2f}G"
    if abs(value) >= 1e6:
        return f"{value / 1e6:.2f}M"
    return f"{value:,.0f}"


def rate(value: float) -> str:
    """Like ``count``, with decimals where they matter: ``3.4``, ``812``."""
    return f"{value:.1f}" if abs(value) < 100 else count(value)


def number(value: float) -> str:
    """A return: three or four digits that tell."""
    size = abs(value)
    if not math.isfinite(value):
        return str(value)
    if size >= 100_000:
        return count(value)
    if size >= 1000 or float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:.3g}" if size < 1 else f"{value:.1f}"


def duration(seconds: float) -> str:
    """``48 s``, ``4 min 12 s``, ``3 h 05 min``, ``2 d 4 h``."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def time_left(steps: float, total: int, steps_per_second: float) -> str:
    """``4 min 12 s left``, or an empty string before the speed is known."""
    if steps >= total or steps_per_second <= 0:
        return ""
    return f"{duration((total - steps) / steps_per_second)} left"


def sparkline(values: Sequence[float], width: int) -> str:
    """``values`` as at most ``width`` bars between their lowest and highest; each bar is a mean."""
    if not values or width < 1:
        return ""
    width = min(width, len(values))
    edges = [round(index * len(values) / width) for index in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    if high - low <= 1e-9 * max(abs(high), 1.0):
        return BARS[4] * width
    return "".join(BARS[1 + round((mean - low) / (high - low) * 7)] for mean in means)


class History:
    """Mean returns over the whole run in bounded memory: where it is full, neighbours are averaged."""

    def __init__(self, capacity: int = 512) -> None:
        self.values: list[float] = []
        self._capacity, self._stride = capacity, 1
        self._sum, self._held = 0.0, 0

    def add(self, value: float) -> None:
        """Append one value; a curve has no place for nan and infinity."""
        if not math.isfinite(value):
            return
        self._sum, self._held = self._sum + value, self._held + 1
        if self._held < self._stride:
            return
        self.values.append(self._sum / self._held)
        self._sum, self._held = 0.0, 0
        if len(self.values) >= self._capacity:
            self.values = [(a + b) / 2 for a, b in zip(self.values[::2], self.values[1::2], strict=True)]
            self._stride *= 2
