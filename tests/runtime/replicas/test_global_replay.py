"""Gorila's global replay: one memory of all bundles, whoever of them, or itself, dies."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import redline
from redline import api
from redline.algorithms.dqn import DQNConfig
from redline.replay.config import ReplayConfig
from redline.runs.checkpoint import load_newest
from redline.runtime.crew.threads import ThreadCrew
from redline.runtime.experiment import Experiment
from redline.runtime.pool import one_thread_each
from redline.runtime.replicas.global_replay import Desk, GlobalReplay, GlobalReplayJob
from redline.runtime.replicas.memory import Memory
from redline.types import Interruption, Progress, Spec, UserError
from tests.leaks import eventually
from tests.runtime.replicas.test_replicas import go, make

BATCH = 32
SPEC = Spec("any", gymnasium.spaces.Box(-1e6, 1e6, (1,), np.float32), gymnasium.spaces.Discrete(2))


class Scene:
    """A desk of two bundles with two environments each, and a replay at work behind it."""

    def __init__(self, prioritized: bool = False) -> None:
        replay = ReplayConfig(capacity=1000, prioritized=prioritized, n_step=2)
        self.config = replay
        self.experiment = Experiment("any", DQNConfig(batch=BATCH, learning_starts=40), replay=replay)
        self.desk, self.memory = Desk(SPEC, BATCH, [2, 2], shared=False), Memory(2, 1, shared=False)
        self.gone = False

    def job(self) -> GlobalReplayJob:
        return GlobalReplayJob("replay", 2, self.experiment, SPEC, self.memory, self.desk)

    def bundle(self, number: int, *, waits: bool = True) -> GlobalReplay:
        return GlobalReplay(self.desk, number, self.config, lambda: self.gone, waits=waits)

    @contextmanager
    def serving(self) -> Iterator[Any]:
        """One life of the replay; yields its crew."""
        lives = int(self.desk.arrays["lives"][0])
        crew, over = ThreadCrew([self.job()]), threading.Event()

        def pump() -> None:
            crew.tell(0, 0)
            while not over.is_set():
                for _ in crew.wait(0.01):
                    crew.tell(0, 0)

        thread = threading.Thread(target=pump)
        thread.start()
        try:
            assert eventually(lambda: self.desk.arrays["lives"][0] > lives, 10)
            yield crew
        finally:
            over.set()
            thread.join()
            crew.close()


def store(replay: GlobalReplay, first: int, count: int, sign: float = 1.0) -> None:
    """``count`` steps whose observations count up from ``first``, in the one environment above, in the other below
    1,000."""
    for step in range(first, first + count):
        at = np.array([[step], [1000 + step]], np.float32) * np.float32(sign)
        none = np.zeros(2, bool)
        replay.add(at, np.zeros(2, np.int64), np.full(2, sign, np.float32), none, none, at)


def drawn(replay: GlobalReplay, batches: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Observations and next observations [N] of several batches."""
    seen = [replay.sample(BATCH).map(torch.clone) for _ in range(batches)]
    before = torch.cat([batch.observation for batch in seen])
    after = torch.cat([batch.next_observation for batch in seen])
    return before.numpy()[:, 0], after.numpy()[:, 0]


@pytest.mark.parametrize("waits", [True, False])
def test_a_bundle_learns_from_what_the_others_saw(waits: bool) -> None:
    scene = Scene()
    with scene.serving():
        one, other = scene.bundle(0, waits=waits), scene.bundle(1, waits=waits)
        store(one, 0, 30)
        store(other, 0, 30, -1.0)
        assert eventually(lambda: len(one) == len(other) == 4 * 28, 10)
        assert one.added == other.added == 60
        for each in (one, other):
            before, after = drawn(each)
            assert 0.3 < (before < 0).mean() < 0.7
            np.testing.assert_array_equal(np.abs(after), np.abs(before) + 2)
        assert eventually(lambda: not scene.desk.waiting(), 10)


def test_errors_of_one_bundle_become_priorities_of_all() -> None:
    scene = Scene(prioritized=True)
    with scene.serving():
        one, other = scene.bundle(0), scene.bundle(1)
        store(one, 0, 50)
        store(other, 0, 50, -1.0)
        for _ in range(60):  # nothing is worth as much as step 7 of the other bundle
            batch = one.sample(BATCH)
            errors = torch.where(batch.observation[:, 0] == -7.0, 1e6, 1e-6)
            one.update_priorities(batch.index, errors)
        before, _ = drawn(other, 5)
        assert (before == -7.0).mean() > 0.9


def test_a_bundle_that_starts_anew_leaves_no_window_across_the_break() -> None:
    scene = Scene()
    with scene.serving():
        store(scene.bundle(0), 0, 20)
        again = scene.bundle(0)
        store(again, 500, 20)
        before, after = drawn(again, 40)
        assert set((after - before).tolist()) <= {0.0, 1.0, 2.0}
        assert {1.0, 2.0} <= set((after - before).tolist()), "windows end at the break"
        store(again, 520, 3)  # what follows in order is no break
        before, after = drawn(again, 200)
        assert (520.0, 522.0) in set(zip(before.tolist(), after.tolist(), strict=True))


def test_a_replay_that_died_fills_again_before_anyone_draws() -> None:
    scene = Scene(prioritized=True)
    with scene.serving():
        one = scene.bundle(0)
        store(one, 0, 30)
        old = one.sample(BATCH)
    waiting: list[type] = []

    def wait() -> None:
        try:
            one.sample(BATCH)
        except Interruption as stop:
            waiting.append(type(stop))

    thread = threading.Thread(target=wait)
    thread.start()
    with scene.serving():
        thread.join(10)
        assert waiting == [Interruption], "a bundle that waits for a batch must not wait for ever"
        assert len(one) == 0
        store(one, 100, 15)
        one.update_priorities(old.index, torch.full((BATCH,), 1e9))  # of transitions that are no more
        assert len(one) == 0
        assert one.added == 30
        store(one, 115, 10)
        assert len(one) == 46, "40 are there again"
        before, _ = drawn(one)
        assert before.min() >= 100
        assert len(np.unique(before)) == 46, "what the old life's errors name would be drawn again and again"
        assert len(scene.bundle(1)) == 46


def test_a_bundle_gives_up_waiting_when_the_run_ends() -> None:
    scene = Scene()
    one = scene.bundle(0, waits=False)
    store(one, 0, 1)
    scene.gone = True
    with pytest.raises(Interruption):
        store(one, 1, 1)


COPIES = ("parallel.architecture=gorila_global", "parallel.copies=2", "sampler.num_envs=4")
SMALL = ("run.tensorboard=false", "learner.precision=fp32", "algorithm.learning_starts=256")


def train(folder: Path, steps: int, *overrides: str, observer: Any = None) -> Any:
    options = [*SMALL, *COPIES, *overrides]
    return redline.train(
        "CartPole-v1",
        "gorila",
        steps=steps,
        seed=3,
        folder=str(folder),
        overrides=options,
        observer=observer or api.Quiet(),
    )


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["threads", "processes"])
def test_a_run_shows_its_replay_and_resumes_with_it(tmp_path: Path, runtime: str) -> None:
    seen: list[Progress] = []
    said: list[str] = []

    class Listener(api.Quiet):
        def update(self, progress: Progress) -> None:
            seen.append(progress)

        def message(self, text: str) -> None:
            said.append(text)

    run = train(tmp_path, 1500, f"parallel.runtime={runtime}", "run.log_every=500", observer=Listener())
    assert set(seen[-1].gauges.roles) == {"bundle", "server", "replay"}
    saved = load_newest(run.path / "checkpoints")
    assert saved is not None
    heads = [shard["storage"]["head"] for shard in saved.state["loop"]["replay"]["shards"]]
    assert 2 * sum(heads) == sum(saved.state["loop"]["taken"]), "every step of every bundle came in once"
    assert seen[-1].gauges.queues["replay"] > 1000
    redline.resume(run, steps=2500, observer=Listener())
    after = load_newest(run.path / "checkpoints")
    assert after is not None
    assert not [text for text in said if "begin anew" in text]
    again = [shard["storage"]["head"] for shard in after.state["loop"]["replay"]["shards"]]
    assert 2 * sum(again) == sum(after.state["loop"]["taken"]) >= 2500
    assert after.state["learner"]["version"] > saved.state["learner"]["version"]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["gorila", "gorila_global"])
@pytest.mark.parametrize("lost", ["replay", "number of bundles", "bundle"])
def test_what_a_resume_lost_fills_again_before_anyone_learns_from_it(architecture: str, lost: str) -> None:
    """A chunk of steps of each bundle is not counted while it is being taken."""
    starts, chunks = 2_000, 2 * 256
    options = [*SMALL, *COPIES, f"parallel.architecture={architecture}", "parallel.runtime=threads"]
    options.append(f"algorithm.learning_starts={starts}")
    with one_thread_each():
        loop, parts = make("gorila", options)
        try:
            steps = go(loop, lambda: loop.updates > 100)
            learner, state = parts.learner.state(), loop.state()
        finally:
            loop.close()
            parts.close()
        if lost == "replay":
            state["replay"] = None
            for copy in state["copies"] if architecture == "gorila" else ():
                copy["loop"]["replay"] = None
        elif lost == "bundle":
            state["copies"][1] = None
        copies = 1 if lost == "number of bundles" else 2
        loop, parts = make("gorila", [*options, f"parallel.copies={copies}"])
        try:
            parts.learner.load_state(learner)
            assert not loop.load_state(state)
            before = loop.updates
            go(loop, lambda: loop.updates > before)
            # The other bundle, or what is in the global replay, is there as before.
            assert (loop.memory.whole >= steps + starts - chunks) == (lost != "bundle")
            go(loop, lambda: loop.updates > before + 20)
        finally:
            loop.close()
            parts.close()


def test_it_is_not_for_algorithms_without_a_replay(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gorila_global: on-policy, needs lag <= 1, and replay"):
        redline.train("CartPole-v1", "a2c", folder=str(tmp_path), overrides=[COPIES[0]])


def test_where_bundles_wait_for_every_answer_one_of_them_resumes_bit_for_bit(tmp_path: Path) -> None:
    still = ["parallel.copies=1", "parallel.queue=0", "algorithm.epsilon_steps=300", "replay.capacity=700"]
    whole = train(tmp_path, 1280, "parallel.runtime=threads", *still)
    half = train(tmp_path, 768, "parallel.runtime=threads", *still)
    again = redline.resume(half, steps=1280)
    weights = [load_newest(run.path / "checkpoints").state["learner"]["weights"] for run in (whole, again)]  # type: ignore[union-attr]
    assert torch.equal(*weights)
