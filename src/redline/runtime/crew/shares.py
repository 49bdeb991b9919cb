"""How busy somebody has been lately, from totals of seconds that only grow."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

WINDOW = 15.0  # seconds that count as lately


def shares_of(totals: Mapping[str, float], before: Mapping[str, float], seconds: float) -> dict[str, float]:
    """Shares in [0, 1] of the ``seconds`` in which ``before`` has become ``totals``.

    A total that has become smaller belongs to somebody who began anew, and counts from zero.
    """
    found = {}
    for name, total in totals.items():
        spent = total - before.get(name, 0.0)
        found[name] = min((spent if spent >= 0.0 else total) / max(seconds, 1e-9), 1.0)
    return found


class Shares:
    """Shares of the last ``WINDOW`` seconds, or of all since the first look; what was true an hour ago tells nothing.

    Nor does what was before the first look, when roles were still being started; that look itself tells of it.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[float, Mapping[str, float]]] = deque([(time.perf_counter(), {})])
        self._first = True

    def of(self, totals: Mapping[str, float]) -> dict[str, float]:
        """From the seconds that each has spent so far: its share of the window, in [0, 1]."""
        now = time.perf_counter()
        while len(self._seen) > 1 and now - self._seen[1][0] >= WINDOW:
            self._seen.popleft()
        then, before = self._seen[0]
        if self._first:
            self._seen.clear()
            self._first = False
        if not self._seen or now - self._seen[-1][0] >= WINDOW / 30:  # looks in quick succession are one
            self._seen.append((now, dict(totals)))
        return shares_of(totals, before, now - then)
