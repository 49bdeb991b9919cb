"""What a replay holds and how it draws: one frozen dataclass, checked when it is made."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from redline.types import UserError

COMPRESSIONS = ("none", "lz4")
MAX_N_STEP = 255  # the length of a window is kept in one byte


@dataclass(frozen=True)
class ReplayConfig:
    """Replay settings; defaults of DQN (Mnih et al. 2015) and prioritised replay (Schaul et al. 2016)."""

    capacity: int = 1_000_000  # transitions (agent steps of one environment), shared by all environments
    prioritized: bool = False  # draw by TD error instead of uniformly
    alpha: float = 0.6  # P(i) = p_i^alpha / sum p^alpha; 0 is uniform
    beta: float = 0.4  # exponent of the importance weights at the run's start
    beta_final: float = 1.0  # and at its end (linear in between)
    priority_epsilon: float = (
        1e-6  # added to |TD error|, so that nothing starves (proportional variant, section 3.3)
    )
    n_step: int = 1  # rewards summed before bootstrapping
    compression: str = "none"  # "lz4": compress uint8 frames; slower to draw, much smaller on plain screens
    memory_map: str | None = None  # folder for the observations, instead of memory

    def __post_init__(self) -> None:
        _check("capacity", self.capacity, self.capacity >= 1, "at least 1")
        _check("alpha", self.alpha, 0.0 <= self.alpha <= 1.0, "from 0 to 1")
        _check("beta", self.beta, 0.0 <= self.beta <= 1.0, "from 0 to 1")
        _check("beta_final", self.beta_final, 0.0 <= self.beta_final <= 1.0, "from 0 to 1")
        _check(
            "priority_epsilon", self.priority_epsilon, 0.0 < self.priority_epsilon < 1.0, "over 0 and under 1"
        )
        _check("n_step", self.n_step, 1 <= self.n_step <= MAX_N_STEP, f"from 1 to {MAX_N_STEP}")
        if self.compression not in COMPRESSIONS:
            near = difflib.get_close_matches(str(self.compression), COMPRESSIONS, n=1, cutoff=0.0)[0]
            raise UserError(f"replay.compression is {self.compression!r}: did you mean {near!r}?")
        if self.memory_map is not None and self.compression != "none":
            raise UserError("replay.memory_map and replay.compression exclude each other: choose one")

    def beta_at(self, progress: float) -> float:
        """The importance exponent at ``progress`` (0 at the run's start, 1 at its end)."""
        return self.beta + (self.beta_final - self.beta) * min(max(progress, 0.0), 1.0)


def _check(name: str, value: float, valid: bool, allowed: str) -> None:
    if not valid:  # NaN fails every comparison, so lands here too
        raise UserError(f"replay.{name} is {value}: it must be {allowed}")
