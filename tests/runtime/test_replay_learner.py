"""Ape-X's arrangement: who may wait for whom, what actors are told, what a checkpoint and a death leave whole."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import redline
from redline import recipes
from redline.algorithms.apex import Apex
from redline.algorithms.dqn import DQN
from redline.environments import probe
from redline.environments.cartpole import CartPole
from redline.ops.exploration import epsilon_ladder
from redline.replay.storage import GOING, TRUNCATED
from redline.runs.checkpoint import load_checkpoint, save_checkpoint
from redline.runtime.evaluate import evaluate
from redline.runtime.experiment import Experiment
from redline.runtime.in_process import make_loop as make_in_process
from redline.runtime.launch import make_loop
from redline.runtime.parts import assemble
from redline.runtime.plan import resolve
from redline.runtime.replay_learner import ReplayLearnerLoop
from redline.runtime.replay_learner.pace import Pace
from redline.runtime.replicas.share import share_parts
from redline.types import ActInput, UserError

REPLAY = {"prioritized": True, "n_step": 3, "alpha": 0.6}


def never() -> bool:
    return False


def experiment(recipe: str = "apex", **changes: dict[str, Any]) -> Experiment:
    """A small one on CartPole: two actors in threads."""
    base = recipes.find(recipe, "CartPole-v1")
    wanted: dict[str, dict[str, Any]] = {
        "environment": {"id": "CartPole-v1"},
        "network": {"hidden": (16,)},
        "learner": {"precision": "fp32", "threads": 1},
        "algorithm": {"batch": 16, "learning_starts": 200},
        "parallel": {"architecture": "apex", "runtime": "threads", "copies": 2},
        "run": {"steps": 100_000},
    }
    for part, values in changes.items():
        wanted[part] = wanted.get(part, {}) | values
    return replace(base, **{part: replace(getattr(base, part), **values) for part, values in wanted.items()})


@contextmanager
def running(settings: Experiment) -> Iterator[ReplayLearnerLoop]:
    parts = assemble(settings)
    loop = make_loop(parts)
    assert isinstance(loop, ReplayLearnerLoop)
    try:
        yield loop
    finally:
        loop.close()
        parts.close()


def drive(loop: ReplayLearnerLoop, until: Callable[[], bool], steps: int = 0, patience: float = 60.0) -> int:
    """Iterate until something holds; returns agent steps."""
    deadline = time.monotonic() + patience
    while not until():
        assert time.monotonic() < deadline, "it never came"
        steps += loop.iterate(steps, 0.0, never)[0]
    return steps


class Gate:
    """Environments of all actors stop at a closed gate."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.open.set()
        step = CartPole.recv

        def recv(environment: Any) -> Any:
            self.open.wait(60)
            return step(environment)

        monkeypatch.setattr(CartPole, "recv", recv)


def test_check_1_each_environment_keeps_its_rung_of_the_ladder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ape-X, check 1: epsilon of the 8 environments of both actors, the same from first to last step."""
    seen: dict[int, set[tuple[float, ...]]] = {}
    right = Apex.epsilons

    def watch(self: Apex, x: Any) -> torch.Tensor:
        found = right(self, x)
        seen.setdefault(x.first_environment, set()).add(tuple(found.tolist()))
        return found

    monkeypatch.setattr(Apex, "epsilons", watch)
    with running(experiment()) as loop:
        drive(loop, lambda: loop.intake.total > 2_000)
    assert seen.keys() == {0, 4}
    assert all(len(each) == 1 for each in seen.values())
    ladder = [value for first in (0, 4) for value in next(iter(seen[first]))]
    assert ladder == pytest.approx([0.4, 0.16, 0.064, 0.0256, 0.01024, 0.004096, 0.0016384, 0.00065536])
    assert ladder == epsilon_ladder(0, 8, 8).tolist()


def test_check_5_the_learner_goes_on_while_no_experience_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ape-X, check 5: actors throttled to nothing; the learner's updates do not wait for them."""
    gate = Gate(monkeypatch)
    with running(experiment()) as loop:
        learner = loop.parts.learner
        steps = drive(loop, lambda: learner.version >= 10)
        gate.open.clear()
        try:
            drive(loop, lambda: loop.intake.waited[-1] >= 0 and not _growing(loop), steps)
            before, total = learner.version, loop.intake.total
            drive(loop, lambda: learner.version >= before + 200, total)
            assert loop.intake.total == total
        finally:
            gate.open.set()


def _growing(loop: ReplayLearnerLoop) -> bool:
    """Whether steps still come from slots that were full before."""
    total = loop.intake.total
    time.sleep(0.3)
    return loop.intake.total > total


def test_check_5_actors_go_on_while_the_learner_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ape-X, check 5: one update takes for ever; the actors fill many times the slots that there are."""
    with running(experiment()) as loop:
        steps = drive(loop, lambda: loop.parts.learner.version >= 1)
        total, slot = loop.intake.total, loop.parts.experiment.parallel.slot * 4
        update, came = DQN.update, [0]

        def stuck(self: DQN, learner: Any, batch: Any) -> Any:
            deadline = time.monotonic() + 60
            while loop.intake.total < total + 20 * slot and time.monotonic() < deadline:
                time.sleep(0.01)
            came[0] = max(came[0], loop.intake.total - total)
            return update(self, learner, batch)

        monkeypatch.setattr(DQN, "update", stuck)
        loop.iterate(steps, 0.0, never)
        assert came[0] >= 20 * slot  # four slots is all that there is room for


def test_dqn_keeps_its_ratio_of_updates_to_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Updates are counted by agent steps: neither side runs away from the other."""
    settings = experiment("dqn", algorithm={"update_every": 4}, replay=REPLAY, sampler={"num_envs": 8})
    with running(settings) as loop:
        learner = loop.parts.learner
        steps = drive(loop, lambda: learner.version >= 100)
        behind = (loop.intake.total - 200) / 4 - learner.version
        assert 0 <= behind <= loop.pace.round_steps / 4 * (2 + loop.parts.experiment.parallel.queue)
        gate = Gate(monkeypatch)
        gate.open.clear()
        try:
            drive(loop, lambda: not _growing(loop) and loop.pace.owed == 0, steps)
            assert learner.version == (loop.intake.total - 200) // 4
        finally:
            gate.open.set()


def test_check_2_slow_updates_miss_no_copy_to_the_target_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps come in during an update, and between two iterations: their multiples count too."""
    update, copies = DQN.update, []

    def slow(self: DQN, *args: Any) -> Any:
        time.sleep(0.12)
        return update(self, *args)

    monkeypatch.setattr(DQN, "update", slow)
    every = 200
    changes = {"batch": 16, "learning_starts": 0, "update_every": every, "target_every": every}
    with running(experiment("dqn", algorithm=changes)) as loop:
        learner = loop.parts.learner
        monkeypatch.setattr(learner, "copy_target", lambda: copies.append(loop.intake.total))
        steps = drive(loop, lambda: loop.intake.total >= 20 * every)
    apart = np.diff([0, *copies, steps])
    assert apart.max() < 4 * every, apart


def test_a_bound_on_the_replay_ratio_pauses_the_learner_only() -> None:
    with running(experiment(parallel={"replay_ratio": 0.5})) as loop:

        def close_to_it() -> bool:
            produced = loop.intake.total - 200
            assert loop.pace.consumed <= 0.5 * max(produced, 0)
            # At once, unless others are busy here.
            return produced > 2_000 and loop.pace.consumed > 0.4 * produced

        drive(loop, close_to_it)
        gauges = loop.gauges()
        assert gauges.replay_ratio == pytest.approx(loop.pace.consumed / loop.intake.total, rel=0.05)


@pytest.mark.parametrize("seed", range(20))
def test_pace_never_owes_more_than_a_round_and_loses_none(seed: int) -> None:
    rng = np.random.default_rng(seed)
    algorithm = assemble_dqn(update_every=int(rng.integers(1, 9)), learning_starts=100)
    pace = Pace(algorithm, paced=True, round_steps=64, ratio=None)
    total = updates = 0
    for _ in range(2_000):
        if pace.may_act() and rng.random() < 0.5:
            total += 16
            pace.came(total, 16)
        elif pace.may_update():
            updates += 1
            pace.updated()
        assert updates + pace.owed == max(
            total // algorithm.config.update_every - 100 // algorithm.config.update_every, 0
        )
        assert pace.owed <= (64 + 16) / algorithm.config.update_every + 1
    assert updates > 0


def assemble_dqn(**numbers: int) -> DQN:
    settings = experiment("dqn", algorithm={"batch": 32, **numbers})
    parts = assemble(settings)
    parts.close()
    assert isinstance(parts.algorithm, DQN)
    return parts.algorithm


def test_actors_priorities_enter_the_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the first rows of an actor have a priority of their own, none the largest seen."""
    with running(experiment(algorithm={"learning_starts": 10**6})) as loop:
        drive(loop, lambda: loop.intake.total > 1_000)
        loop.intake.pause()
        for shard in loop.feeder.replay.shards:
            first, past = shard.storage.live()
            leaves = np.asarray(shard.sampler.state()["priority"])[first:past]
            assert len(np.unique(leaves)) > 0.5 * len(leaves)
            assert (leaves > 0).all()


def test_lag_is_that_of_the_samples_drawn() -> None:
    """Versions behind grow while old experience is drawn again and again, and are never negative."""
    with running(experiment()) as loop:
        drive(loop, lambda: loop.parts.learner.version >= 50)
        lag = loop.gauges().lag
        assert 0 <= lag["mean"] <= lag["p95"] <= lag["max"] <= loop.parts.learner.version
        assert lag["max"] > 0
        assert loop.gauges().lag_bound is None


def test_weights_are_published_every_so_many_updates() -> None:
    with running(experiment(parallel={"publish_every": 20})) as loop:
        published = set()
        publish = loop.muster.weights.publish

        def watch(sources: Any, version: int) -> None:
            published.add(version)
            publish(sources, version)

        loop.muster.weights.publish = watch  # type: ignore[method-assign]
        drive(loop, lambda: loop.parts.learner.version >= 70)
        last = loop.parts.learner.version // 20 * 20
        assert published == set(range(20, last + 1, 20))


@pytest.mark.parametrize("runtime", ["threads", "processes"])
def test_a_run_goes_on_from_a_checkpoint(tmp_path: Path, runtime: str) -> None:
    """Nothing that was taken in is lost, episodes in progress go on, and steps are counted once."""
    settings = experiment(parallel={"runtime": runtime})
    with running(settings) as loop:
        steps = drive(loop, lambda: loop.parts.learner.version >= 50)
        state = loop.state()
        counted = steps + state["uncounted"]
        assert counted == loop.intake.total == loop.feeder.replay.produced
        path = save_checkpoint(tmp_path, steps, {"loop": state, "learner": loop.parts.learner.state()})
        held = len(loop.feeder.replay)
        drive(loop, lambda: loop.intake.total > counted + 500, steps)  # and this run goes on as well
    with running(settings) as loop:
        saved = load_checkpoint(path)
        loop.parts.learner.load_state(saved["learner"])
        assert loop.load_state(saved["loop"])
        assert len(loop.feeder.replay) == held
        taken, _ = loop.iterate(steps, 0.0, never)
        assert taken >= state["uncounted"]
        steps = drive(loop, lambda: loop.intake.total > counted + 1_000, steps + taken)
        assert loop.feeder.replay.produced == loop.intake.total
        assert loop.parts.learner.version > 50


@pytest.mark.parametrize("recipe", ["apex", "dqn"])
def test_a_replay_that_was_not_saved_fills_again_before_it_is_learned_from(recipe: str) -> None:
    few = {"parallel": {"architecture": "apex"}, "run": {"save_replay": False}}
    settings = experiment(recipe, algorithm={"learning_starts": 1_000}, **few)
    with running(settings) as loop:
        steps = drive(loop, lambda: loop.parts.learner.version >= 20)
        learner, state = loop.parts.learner.state(), loop.state()
        assert state["replay"] is None
        with running(settings) as again:
            again.parts.learner.load_state(learner)
            assert not again.load_state(state)
            before = again.parts.learner.version
            drive(again, lambda: again.parts.learner.version > before, steps)
            assert len(again.feeder.replay) >= 1_000


def test_the_ladder_goes_on_from_copy_to_copy() -> None:
    """Where copies act and learn for themselves, they share one ladder of exploration."""
    settings = experiment(
        parallel={"architecture": "gorila", "copies": 4},
        sampler={"num_envs": 8},
        replay={"prioritized": False},
    )
    spec = probe(settings.environment)
    settings = resolve(settings, spec, 1000)
    ladder = []
    for copy in range(4):
        loop = make_in_process(share_parts(settings, spec, copy, whole=lambda taken: taken))
        try:
            x = ActInput(None, None, torch.zeros(2), None, torch.Generator(), 0)  # type: ignore[arg-type]
            actor = loop.actor  # type: ignore[attr-defined]
            x = x._replace(first_environment=actor.first_environment, num_environments=actor.num_environments)
            ladder += loop.parts.algorithm.epsilons(x).tolist()  # type: ignore[attr-defined]
        finally:
            loop.close()
    assert ladder == pytest.approx(epsilon_ladder(0, 8, 8).tolist())


def test_an_iteration_counts_on_where_nobody_else_is_counting() -> None:
    with running(experiment()) as loop:
        intake, holds = loop.intake, threading.Event()

        def take_in() -> None:
            with intake.lock:
                before = intake.total
                holds.set()
                time.sleep(0.3)
                intake.total = before + 100

        thread = threading.Thread(target=take_in)
        thread.start()
        holds.wait()
        loop.iterate(5_000, 0.0, lambda: True)  # of a run that was restored
        thread.join()
        assert loop._counted >= 5_000


def test_slots_enter_the_replay_in_the_order_they_were_filled() -> None:
    """An actor that fills its second slot before its first is handed in once more: rows go on from one to the next."""
    with running(experiment()) as loop:
        intake, added = loop.intake, []
        steps = drive(loop, lambda: intake.total > 400)
        intake.pause()
        intake.muster.crew.wait = lambda timeout: [(1, 0), (0, 1), (1, 1), (0, 0)]
        intake.feeder.add = lambda actor, slot: added.append((actor, slot)) or 0
        intake.take_in(0.0)
        del intake.muster.crew.wait, intake.feeder.add
    assert steps > 0
    assert added == [(0, 1), (0, 0), (1, 0), (1, 1)]


def test_stacks_of_frames_come_in_whole(tmp_path: Path) -> None:
    """Pong's frames are stored once, and stacks that do not continue are refused: a gap or a swap would be seen."""
    overrides = ["replay.capacity=8000", "algorithm.learning_starts=256", "algorithm.batch=16"]
    overrides += ["run.checkpoint_every=256", "run.tensorboard=false", "parallel.runtime=threads"]
    overrides += ["learner.precision=fp32", "sampler.num_envs=8"]  # an emulator takes long to start
    run = redline.train("ALE/Pong-v5", "apex_atari", steps=1024, folder=tmp_path, overrides=overrides)
    assert run.steps >= 1024


@pytest.mark.slow
def test_what_a_killed_actor_had_announced_is_kept() -> None:
    """Kill -9: only slots in flight are lost, open episodes end as truncated, a successor fills the same shard."""
    with running(experiment(parallel={"runtime": "processes"}, algorithm={"learning_starts": 10**6})) as loop:
        replay = loop.feeder.replay
        steps = drive(loop, lambda: replay.shards[0].storage.head > 50)
        crew: Any = loop.muster.crew
        os.kill(crew.pids()[0], signal.SIGKILL)
        steps = drive(loop, lambda: crew.restarts == 1 and crew.pids()[0] is not None, steps)
        reached = replay.shards[0].storage.head
        drive(loop, lambda: replay.shards[0].storage.head > reached + 100, steps)
        loop.intake.pause()
        assert replay.produced == loop.intake.total - 4  # the row whose step nobody will ever tell
        assert loop.events()["restarts"] == 1
        end = replay.shards[0].storage.end
        broken = (end != GOING).all(1)  # a row after which every episode begins anew
        assert (end[broken] == TRUNCATED).any()
        assert not (replay.shards[1].storage.end[: replay.shards[1].storage.head] == TRUNCATED).any()


@pytest.mark.slow
def test_ape_x_balances_the_pole() -> None:
    """One actor beside the learner; counted in updates, whatever the machine makes of either's speed."""
    settings = experiment(
        network={"hidden": (128, 128)},
        algorithm={"batch": 128, "learning_starts": 500, "target_every_updates": 50, "gamma": 0.98},
        parallel={"copies": 1},
    )
    returns: list[float] = []
    with running(settings) as loop:
        parts, steps = loop.parts, 0
        while max(returns, default=0.0) < 195 and parts.learner.version < 8_000:
            goal = parts.learner.version + 250
            steps = drive(loop, lambda goal=goal: parts.learner.version >= goal, steps, 300)  # type: ignore[misc]
            episodes = evaluate(settings, parts.algorithm, parts.learner.acting, 10, 1_000)
            returns.append(float(np.mean([episode.episode_return for episode in episodes])))
    assert returns[0] < 100  # it was not given
    assert max(returns) >= 195


def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    def refusal(recipe: str, *overrides: str) -> str:
        with pytest.raises(UserError) as caught:
            redline.train("CartPole-v1", recipe, steps=100, folder=tmp_path, overrides=list(overrides))
        return str(caught.value)

    assert "ppo cannot run on architecture apex" in refusal("ppo", "parallel.architecture=apex")
    assert "parallel.slot=8: with parallel.queue=0" in refusal("apex", "parallel.queue=0", "parallel.slot=8")
    assert "replay_ratio must be above 0" in refusal("apex", "parallel.replay_ratio=0")
    assert "has roles side by side" in refusal("apex", "parallel.runtime=in_process")
