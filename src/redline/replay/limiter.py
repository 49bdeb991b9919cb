"""When to draw from replay: not before enough has been seen, then so many batches for so many steps."""

from __future__ import annotations

from dataclasses import dataclass

from redline.types import UserError


@dataclass
class Limiter:
    """Ties drawing to adding. DQN: ``Limiter(50_000, every=4)``: each transition is drawn 32 / 4 = 8 times.

    Samples consumed over samples produced is kept exactly, whatever the number of environments.
    """

    warmup: int  # agent steps added before the first batch
    every: float  # agent steps added per batch
    added: int = 0  # agent steps so far
    drawn: int = 0  # batches so far

    def __post_init__(self) -> None:
        if self.warmup < 0 or not self.every > 0:
            raise UserError(f"replay needs warmup >= 0 and every > 0, not {self.warmup} and {self.every}")

    def add(self, steps: int) -> int:
        """Count ``steps`` more agent steps; return how many batches are due now (and count them as drawn)."""
        self.added += steps
        due = int(max(self.added - self.warmup, 0) / self.every) - self.drawn
        self.drawn += due
        return due

    def state(self) -> dict[str, int]:
        """Counters for a checkpoint."""
        return {"added": self.added, "drawn": self.drawn}

    def load_state(self, state: dict[str, int]) -> None:
        """Put the counters back."""
        self.added, self.drawn = int(state["added"]), int(state["drawn"])
