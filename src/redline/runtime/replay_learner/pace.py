"""How many updates may happen, and whether actors must wait for them. Knows numbers only."""

from __future__ import annotations

from typing import Any


class Pace:
    """Counts agent steps in and updates out.

    Of an algorithm that is *paced* each batch of agent steps makes so many updates due: the learner waits for steps,
    and actors wait for a learner that is a round of slots behind. Any other learner goes at its own rate from the end
    of its warm-up on, held back by nothing but a bound on the replay ratio, if there is one; its actors never wait.
    """

    def __init__(self, algorithm: Any, *, paced: bool, round_steps: int, ratio: float | None) -> None:
        """round_steps: agent steps of one slot from every actor.   ratio: most samples consumed per sample produced
        (after the warm-up); None: no bound."""
        self.algorithm, self.paced, self.ratio, self.round_steps = algorithm, paced, ratio, round_steps
        self.batch: int = algorithm.config.batch
        self.warm_up: int = algorithm.config.learning_starts
        self.owed = 0  # updates due and not yet done (paced)
        self.produced = 0  # transitions that came into this replay
        self.consumed = 0  # samples learned from since then
        self._filling = 0  # transitions that had come when the replay was last empty

    def came(self, steps: int, count: int) -> None:
        """``count`` agent steps brought the run's total to ``steps``."""
        self.produced += count
        if self.paced and self._filled():
            self.owed += self.algorithm.due(steps, count)

    def may_update(self) -> bool:
        """Whether the learner may take a batch now."""
        if not self._filled():
            return False
        if self.paced:
            return self.owed > 0
        allowed = None if self.ratio is None else self.ratio * (self.produced - self.warm_up)
        return allowed is None or self.consumed + self.batch <= allowed

    def emptied(self) -> None:
        """What the replay held is lost: it fills again, as at first, before there are more updates."""
        self._filling, self.owed = self.produced, 0

    def _filled(self) -> bool:
        return self.produced - self._filling >= (self.warm_up if self._filling or not self.paced else 0)

    def updated(self) -> None:
        """An update is done."""
        self.consumed += self.batch
        self.owed = max(self.owed - 1, 0)

    def may_act(self) -> bool:
        """Whether actors may have their slots back."""
        if not self.paced or self.owed == 0:
            return True
        late = self.warm_up + 1_000 * self.round_steps  # any time after the warm-up
        return self.owed <= self.algorithm.due(late, self.round_steps)

    @property
    def replay_ratio(self) -> float:
        """Samples consumed per sample produced, all told."""
        return self.consumed / max(self.produced, 1)

    def state(self) -> dict[str, int]:
        """For a checkpoint."""
        return {
            "owed": self.owed,
            "produced": self.produced,
            "consumed": self.consumed,
            "filling": self._filling,
        }

    def load_state(self, state: dict[str, int]) -> None:
        """Put back what ``state`` gave."""
        self.owed, self.produced, self.consumed = state["owed"], state["produced"], state["consumed"]
        self._filling = state.get("filling", 0)
