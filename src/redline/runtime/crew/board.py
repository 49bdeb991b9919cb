"""The notice board: numbers that every role may read at any time, each written by one role only."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from redline.environments.workers import Workers
from redline.runtime.crew.region import Region
from redline.types import Environment, Step

T = TypeVar("T")

CLOCK = ("stepping", "acting", "learning", "waiting")  # seconds
START = 120.0  # seconds more than a step's that environments may take to start, as simulators do
SIDES = 8  # environments of a role that may step at the same time; of more, some share a note
EVENTS = ("crashes", "hangs", "stale", "outliers", "discarded")  # counts


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
            "since": ((roles, SIDES), "float64"),
            "lives": ((roles,), "int64"),
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

    def live(self, role: int) -> int:
        """Called by a role as it begins: how many had it before."""
        lives = self.region.arrays["lives"]
        lives[role] += 1
        return int(lives[role]) - 1

    def overdue(self, seconds: float) -> list[int]:
        """Roles in whose environments one step has taken longer than that."""
        since = self.region.arrays["since"].copy()  # read once: others write meanwhile
        late = ((since > 0) & (since < time.monotonic() - seconds)).any(1)
        return np.flatnonzero(late).tolist()

    def begin(self, role: int) -> None:
        """A role starts, whatever its predecessor's environments did: its own may take ``START`` seconds to be made.
        The first of them that is reset clears the note (see ``Watched``), or ``rest``."""
        since = self.region.arrays["since"][role]
        since[:] = 0
        since[0] = time.monotonic() + START

    def rest(self, role: int) -> None:
        """A role waits, and its environments have as long as they like."""
        self.region.arrays["since"][role] = 0

    def close(self) -> None:
        """Give up this process's hold."""
        self.region.close()


def total(*counts: Mapping[str, int]) -> dict[str, int]:
    """Counts of events, name by name."""
    names = dict.fromkeys(name for each in counts for name in each)
    return {name: sum(each.get(name, 0) for each in counts) for name in names}


@dataclass(frozen=True)
class Patience:
    """How long a crew waits for one step of its roles' environments."""

    board: Board
    seconds: float
    first: int = 0  # the board's row of the crew's first role
    roles: int | None = (
        None  # of the crew, that have environments: the first so many; None: all that have a row
    )

    def exhausted(self) -> list[int]:
        """Roles of the crew that hang."""
        return [role - self.first for role in self.board.overdue(self.seconds)]

    def begin(self, role: int) -> None:
        """A role of the crew starts."""
        rows = len(self.board.region.arrays["since"]) - self.first
        if role < (rows if self.roles is None else self.roles):
            self.board.begin(self.first + role)


def patience(board: Board, step_timeout: float, first: int = 0, roles: int | None = None) -> Patience:
    """Half as long again as an environment may step."""
    return Patience(board, 1.5 * step_timeout, first, roles)


class Watched:
    """An environment that notes on the board since when it steps: whoever waits for its role can tell that it hangs.

    Everything else is the environment's own.
    """

    def __init__(self, board: Board, role: int, side: int, environment: Environment) -> None:
        """side: which of the role's environments this is."""
        self._environment = environment
        # Workers end those of them that hang by themselves, and wait for successors as long as those take to start.
        self._grace = START if isinstance(environment, Workers) else 0.0
        self._since = board.region.arrays["since"][role, side % SIDES :][:1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._environment, name)

    def _timed(self, what: Callable[[], T], grace: float) -> T:
        self._since[0] = time.monotonic() + grace
        try:
            return what()
        finally:
            self._since[0] = 0

    def reset(self, seed: int) -> Step:
        """See ``Environment``."""
        return self._timed(lambda: self._environment.reset(seed), START)

    def send(self, action: np.ndarray) -> None:
        """See ``Environment``; some step in here."""
        self._timed(lambda: self._environment.send(action), self._grace)

    def recv(self) -> Step:
        """See ``Environment``."""
        return self._timed(self._environment.recv, self._grace)
