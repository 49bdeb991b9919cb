"""What a run has done so far: agent steps, episodes, and the returns of the last ones."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

RECENT = 100  # episodes whose mean return is reported
FEWEST = 20  # episodes whose mean return can be the best


@dataclass
class Counters:
    """What has been done so far; saved in every checkpoint."""

    steps: int = 0  # agent steps
    episodes: int = 0
    best: float = -float("inf")  # mean return of ``RECENT`` episodes at the checkpoint that is kept as best
    elapsed: float = 0.0  # seconds, over all processes that took part in the run
    returns: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    lengths: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT))

    def at_best(self) -> bool:
        """Whether a checkpoint written now would be the best of the run."""
        return len(self.returns) >= FEWEST and float(np.mean(self.returns)) > self.best

    def state(self) -> dict[str, Any]:
        """Plain values."""
        best = None if self.best == -float("inf") else self.best
        counts = {"steps": self.steps, "episodes": self.episodes, "best": best, "elapsed": self.elapsed}
        return counts | {"returns": list(self.returns), "lengths": list(self.lengths)}

    def metrics(self) -> dict[str, float]:
        """Of the last episodes; nothing before the first has ended."""
        if not self.returns:
            return {}
        returns = np.asarray(self.returns)
        spread = {"mean": returns.mean(), "min": returns.min(), "max": returns.max()}
        lengths = {"length/mean": float(np.mean(self.lengths))}
        return {f"return/{name}": value for name, value in spread.items()} | lengths

    @classmethod
    def of(cls, state: dict[str, Any]) -> Counters:
        """The counters that ``state`` gave."""
        best = -float("inf") if state["best"] is None else state["best"]
        made = cls(state["steps"], state["episodes"], best, state["elapsed"])
        made.returns.extend(state["returns"])
        made.lengths.extend(state["lengths"])
        return made
