"""What the server's loop makes of news that come together."""

from __future__ import annotations

from typing import Any

import numpy as np

from redline.inference.batcher import ASKING, STEPPING, Crowd, Dynamic
from redline.inference.loop import Heard, InferenceLoop
from redline.inference.worker import CALLS, DONE, FRESH


class _Server:
    """Knows where two workers are, and serves nobody."""

    def __init__(self) -> None:
        self.slot, self.time = np.array([0, 1]), np.array([3, 3])

    def forget(self, worker: int) -> bool:
        self.time[worker] = 0
        return True

    def begin(self, worker: int, slot: int) -> None:
        self.slot[worker] = slot

    def serve(self, batch: list[int], cut: list[int]) -> tuple[list[int], list[int]]:
        return [], []


class _Channel:
    """Says what it was given, once."""

    def __init__(self, heard: Heard) -> None:
        self.heard: list[Heard] = [heard]

    def wait(self, timeout: float | None) -> Heard:
        return self.heard.pop()

    def ring(self, workers: Any) -> None:
        pass


def _after(heard: Heard) -> list[int]:
    crowd = Crowd(2, np.zeros(2, np.int64))
    crowd.doing[:] = STEPPING
    loop = InferenceLoop(_Server(), Dynamic(crowd, 0, 10.0), crowd, _Channel(heard), 60.0)  # type: ignore[arg-type]
    loop.turn()
    return crowd.doing.tolist()


def test_a_successors_first_call_may_come_with_the_news_of_a_death() -> None:
    """A worker that starts quickly is not forgotten with its predecessor: the run would wait for it for ever."""
    assert _after(Heard(calls=[CALLS * 0 + FRESH], lost=[0])) == [ASKING, STEPPING]


def test_a_last_breath_is_not_heard_as_the_successors() -> None:
    assert _after(Heard(calls=[CALLS * 0 + DONE], lost=[0])) == [0, STEPPING]
