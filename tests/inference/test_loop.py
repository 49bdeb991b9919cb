"""What the server's loop makes of news that come together."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from redline.environments.config import EnvironmentConfig
from redline.inference.batcher import ABSENT, ASKING, STEPPING, Crowd, Dynamic
from redline.inference.loop import Heard, InferenceLoop
from redline.inference.worker import CALLS, DONE, FRESH, LOST
from tests.inference.rig import Rig
from tests.inference.worlds import Checked, Counting, Oracle


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
        self.ended: list[int] = []

    def wait(self, timeout: float | None) -> Heard:
        return self.heard.pop()

    def ring(self, workers: Any) -> None:
        pass

    def hung(self, worker: int, seconds: float) -> None:
        self.ended.append(worker)


def _after(heard: Heard) -> list[int]:
    crowd = Crowd(2, np.zeros(2, np.int64))
    crowd.doing[:] = STEPPING
    loop = InferenceLoop(_Server(), Dynamic(crowd, 0, 10.0), crowd, _Channel(heard), 60.0)  # type: ignore[arg-type]
    loop.turn()
    return crowd.doing.tolist()


def test_a_successors_first_call_may_come_with_the_news_of_a_death() -> None:
    """A worker that starts quickly is not forgotten with its predecessor: the run would wait for it for ever."""
    assert _after(Heard(calls=[CALLS * 0 + FRESH], lost=[0])) == [ASKING, STEPPING]


class Crashing(Checked):
    """Raises at its fourth step, the first of all copies to get there."""

    def __init__(self, once: str) -> None:
        super().__init__()
        self.once = Path(once)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.time == 3 and not self.once.exists():
            self.once.touch()
            raise RuntimeError("a crash")
        return super().step(action)


def test_a_worker_is_gone_while_its_environments_are_made_anew(tmp_path: Path) -> None:
    """They may take longer than a step may: the server would end a worker that it takes to be stepping."""
    config = EnvironmentConfig(Crashing, {"once": str(tmp_path / "once")}, backend="inline")
    doing: list[int] = []
    rig = Rig(config, Oracle(), Counting(), workers=1, columns=1)
    [worker] = rig.workers
    make = worker._make

    def slowly(count: int) -> Any:
        time.sleep(0.5 if doing else 0.0)
        doing.append(int(rig.loop.crowd.doing[0]))
        return make(count)

    worker._make = slowly
    with rig:
        rig.collect(3)
    assert doing == [ABSENT, ABSENT]


@pytest.mark.parametrize(("seconds", "ended"), [(100.0, []), (0.0, [0])])
def test_environments_that_are_not_made_anew_in_time_are_hung(
    monkeypatch: pytest.MonkeyPatch, seconds: float, ended: list[int]
) -> None:
    monkeypatch.setattr("redline.inference.loop.START_TIMEOUT", seconds)
    crowd = Crowd(2, np.zeros(2, np.int64))  # the second is not there yet, and may take its time
    crowd.doing[0] = STEPPING
    channel = _Channel(Heard())
    loop = InferenceLoop(_Server(), Dynamic(crowd, 0, 10.0), crowd, channel, 0.01)  # type: ignore[arg-type]
    channel.heard = [Heard(), Heard(calls=[CALLS * 0 + LOST])]
    loop.turn()
    assert channel.ended == []
    time.sleep(0.05)
    loop.turn()
    assert channel.ended == ended


def test_a_last_breath_is_not_heard_as_the_successors() -> None:
    assert _after(Heard(calls=[CALLS * 0 + DONE], lost=[0])) == [0, STEPPING]
