"""A replay in a process of its own: the same learning, nothing lost, and what its death costs."""

from __future__ import annotations

import os
import signal
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from redline.runs.checkpoint import load_checkpoint, save_checkpoint
from redline.runtime.parts import assemble
from redline.runtime.replay_learner import ReplayLearnerLoop, apart
from redline.runtime.replay_learner.apart import Distant
from redline.runtime.replay_learner.job import Numbers
from redline.types import UserError
from tests.runtime.test_replay_learner import drive, experiment
from tests.runtime.test_replay_learner import running as run_loop

pytestmark = pytest.mark.slow

APART = {"runtime": "processes", "replay": "process"}


def running(**changes: Any) -> AbstractContextManager[ReplayLearnerLoop]:
    return run_loop(experiment(parallel=APART, **changes))


def saved_replay(loop: ReplayLearnerLoop) -> Any:
    return loop.state()["replay"]


def stored(replay: Any) -> int:
    """Transitions that came into a replay, by its saved state."""
    return sum(shard["storage"]["head"] * shard["storage"]["layout"][1] for shard in replay["shards"])


@pytest.mark.parametrize("prioritized", [True, False])
def test_learner_and_actors_are_served(prioritized: bool) -> None:
    """Every step comes in once; batches are what the replay drew; priorities come back; lag is known."""
    with running(replay={"prioritized": prioritized}) as loop:
        assert isinstance(loop.feeder, Distant)
        assert len(loop.muster.crew.pids()) == 3  # type: ignore[attr-defined]
        batches: list[Any] = []
        draw = loop.feeder.draw

        def watch(fraction: float, version: int) -> Any:
            batch = draw(fraction, version)
            batches.append(batch.map(torch.clone))
            return batch

        learned = loop.feeder.learned
        loop.feeder.draw = watch  # type: ignore[method-assign]
        loop.feeder.learned = lambda index, errors: learned(index, errors * 0 + 1234)  # type: ignore[method-assign]
        drive(loop, lambda: loop.parts.learner.version >= 30 and loop.intake.total > 3_000)
        gauges = loop.gauges()
        replay = saved_replay(loop)
        assert stored(replay) == loop.intake.total
        assert gauges.roles["replay"] > 0
        assert gauges.queues["replay"] > 1_000
        assert gauges.lag["mean"] >= 0
        for batch in batches:
            assert (batch.reward > 0).all()  # CartPole pays for every step
            assert torch.equal(batch.observation, torch.from_numpy(_kept(replay, batch.index.numpy())))
        if prioritized:
            largest = [float(np.max(shard["sampler"]["priority"])) for shard in replay["shards"]]
            assert largest == pytest.approx([1234**0.6] * 2, rel=1e-3)
        assert len({int(index) for batch in batches for index in batch.index}) > 100
        assert (min(float(batch.weight.min()) for batch in batches) < 1.0) == prioritized


def test_a_checkpoint_holds_the_replay_and_another_run_goes_on_with_it(tmp_path: Path) -> None:
    with running() as loop:
        drive(loop, lambda: loop.parts.learner.version >= 5)
        state = loop.state()
        total = loop.intake.total
        save_checkpoint(tmp_path, total, {"loop": state})
    [path] = [path for path in tmp_path.iterdir() if path.is_dir()]
    with running() as other:
        other.load_state(load_checkpoint(path)["loop"])
        assert _same(saved_replay(other), state["replay"])
        before = other.parts.learner.version
        drive(other, lambda: other.parts.learner.version >= before + 5, total)


def test_killed_it_begins_anew_and_the_run_goes_on() -> None:
    """No slot is lost: actors go on. The learner waits until there is as much in it as at first."""
    with running() as loop:
        steps = drive(loop, lambda: loop.parts.learner.version >= 20)
        victim = loop.muster.crew.pids()[-1]  # type: ignore[attr-defined]
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        steps = drive(loop, lambda: loop.events().get("restarts") == 1, steps)
        steps = drive(loop, lambda: loop.pace.state()["filling"] > 0, steps)
        fallen, updates = loop.pace.state()["filling"], loop.parts.learner.version
        steps = drive(loop, lambda: loop.intake.total >= fallen + 1_000, steps)
        drive(loop, lambda: loop.parts.learner.version >= updates + 20, steps)
        after = saved_replay(loop)
        assert stored(after) <= loop.intake.total - 200
        held = loop.intake._out | set(loop.intake._idle)
        slots = {(actor, slot) for actor in range(2) for slot in range(len(loop.muster.slots[actor]))}
        assert held | loop.feeder._told == slots  # type: ignore[union-attr]


def test_an_actors_death_breaks_its_episodes_there_too() -> None:
    with running() as loop:
        steps = drive(loop, lambda: loop.parts.learner.version >= 5)
        victim = loop.muster.crew.pids()[0]  # type: ignore[attr-defined]
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        steps = drive(loop, lambda: loop.events().get("restarts") == 1, steps)
        updates = loop.parts.learner.version
        drive(loop, lambda: loop.parts.learner.version >= updates + 20, steps)
        assert loop.pace.state()["filling"] == 0


def test_a_new_beginning_is_told_after_all_that_was_handed_in_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else its predecessor's last steps would go on into the successor's first."""
    monkeypatch.setattr(apart, "UNDER_WAY", 1)
    told: list[int] = []
    crew: Any = SimpleNamespace(tell=lambda role, number: told.append(number))
    slots: Any = [SimpleNamespace(unrolls=[SimpleNamespace(reward=torch.zeros(4))] * 3)] * 2
    numbers = Numbers(actors=2, slots=3)
    config = experiment(parallel=APART).replay
    distant = Distant(config, slots, None, numbers, crew)  # type: ignore[arg-type]
    for slot in range(2):
        distant.add(1, slot)
    distant.break_episodes(1)
    distant.add(1, 2)
    assert told == [3]
    for number in (3, 4):
        distant.hear(number)
    assert told == [3, 4, numbers.anew(1), 5]
    assert distant.freed() == [(1, 0), (1, 1)]
    distant.hear(5)
    distant.break_episodes(0)
    assert told[-1] == numbers.anew(0)
    distant.add(0, 0)
    distant.break_episodes(0)
    distant._shelves = SimpleNamespace(numbers={"size": [0]})  # type: ignore[assignment]
    distant.freed()
    distant.revived()
    assert distant.freed() == [(0, 0)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"architecture": "synchronous", "runtime": "auto"},
            "architecture synchronous the replay is no role",
        ),
        ({"runtime": "threads"}, "parallel.replay=process with parallel.runtime=threads"),
        ({"queue": 0}, "parallel.replay=process with parallel.queue=0"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        assemble(experiment(parallel=APART | changes)).close()


def _kept(replay: Any, index: np.ndarray) -> np.ndarray:
    """Observations [N, 4] of transitions i64[N], from a replay's saved state."""
    found = np.zeros((len(index), 4), np.float32)
    for row, (number, shard) in enumerate(zip(*np.divmod(index, 2), strict=True)):
        storage = replay["shards"][shard]["storage"]
        found[row] = storage["observation"]["0"]["column"]["steps"][number // 4, number % 4]
    return found


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, np.ndarray | torch.Tensor):
        return np.array_equal(np.asarray(one), np.asarray(other), equal_nan=True)
    return bool(one == other)
