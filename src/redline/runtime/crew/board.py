"""The notice board: numbers that every role may read at any time, each written by one role only."""

from __future__ import annotations

import numpy as np

from redline.runtime.crew.region import Region

CLOCK = ("stepping", "acting", "learning", "waiting")  # seconds
EVENTS = ("crashes", "hangs", "rejected", "stale", "outliers", "nonfinite", "discarded", "spare_b")  # counts


def working(clock: dict[str, float]) -> float:
    """Seconds of a clock that were not waited."""
    return sum(seconds for name, seconds in clock.items() if name != "waiting")


class Board:
    """Counters and clocks of ``roles`` roles."""

    def __init__(self, roles: int, *, shared: bool) -> None:
        forms = {
            "stop": ((1,), "int64"),
            "steps": ((1,), "int64"),
            "taken": ((roles,), "int64"),
            "clock": ((roles, len(CLOCK)), "float64"),
            "events": ((roles, len(EVENTS)), "int64"),
        }
        self.region = Region(forms, shared=shared)

    @property
    def stopping(self) -> bool:
        """Whether the run ends."""
        return bool(self.region.arrays["stop"][0])

    def stop(self) -> None:
        """Tell every role that the run ends."""
        self.region.arrays["stop"][0] = 1

    @property
    def steps(self) -> int:
        """Agent steps of the whole run that the main role knows of."""
        return int(self.region.arrays["steps"][0])

    @steps.setter
    def steps(self, value: int) -> None:
        """Written by the main role alone."""
        self.region.arrays["steps"][0] = value

    @property
    def taken(self) -> np.ndarray:
        """Agent steps taken by each role, i64[roles]: written by the roles."""
        return self.region.arrays["taken"]

    def write_clock(self, role: int, clock: dict[str, float]) -> None:
        """Seconds that a role has spent so far, by ``CLOCK``'s names."""
        self.region.arrays["clock"][role] = [clock.get(name, 0.0) for name in CLOCK]

    def clock(self, role: int) -> dict[str, float]:
        """Seconds that a role has spent so far."""
        return dict(zip(CLOCK, self.region.arrays["clock"][role].tolist(), strict=True))

    def write_events(self, role: int, events: dict[str, int]) -> None:
        """Counts of a role, by ``EVENTS``'s names."""
        self.region.arrays["events"][role] = [events.get(name, 0) for name in EVENTS]

    def role_events(self, role: int) -> dict[str, int]:
        """Counts of one role."""
        return dict(zip(EVENTS, self.region.arrays["events"][role].tolist(), strict=True))

    def events(self) -> dict[str, int]:
        """Counts of all roles together; those that are zero are left out but for crashes and hangs."""
        totals = dict(zip(EVENTS, self.region.arrays["events"].sum(0).tolist(), strict=True))
        return {name: count for name, count in totals.items() if count or name in ("crashes", "hangs")}

    def close(self) -> None:
        """Give up this process's hold."""
        self.region.close()
