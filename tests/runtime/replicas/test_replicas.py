"""Copies at work: staleness is counted, checkpoints bring them to rest, runs resume, bad choices are refused."""

from __future__ import annotations

import copy
import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import redline
from redline import api
from redline.learners.exchanges.parameter_server import Shard, ToServers
from redline.replay import Replay
from redline.runs.checkpoint import load_newest
from redline.runtime.launch import make_loop
from redline.runtime.parts import assemble
from redline.runtime.pool import one_thread_each
from redline.runtime.replicas import job
from redline.runtime.replicas.job import ReplicaJob
from redline.runtime.replicas.lockstep import SynchronousLoop
from redline.runtime.replicas.loop import ReplicaLoop
from redline.runtime.replicas.memory import Memory
from redline.runtime.replicas.reducers import TorchReducer
from redline.runtime.replicas.share import share_of
from redline.types import Interruption, Progress, RunError, UserError
from tests.leaks import eventually

COMMON = ["run.tensorboard=false", "learner.precision=fp32"]


def on(architecture: str, copies: int, **numbers: Any) -> list[str]:
    values = {"architecture": architecture, "runtime": "threads", "copies": copies} | numbers
    return [*COMMON, *(f"parallel.{name}={value}" for name, value in values.items())]


def make(recipe: str, overrides: list[str], steps: int = 10**9) -> Any:
    """A loop of an experiment that will not end by itself, and its parts."""
    parts = assemble(api.make_experiment("CartPole-v1", recipe, overrides=[*overrides, f"run.steps={steps}"]))
    return make_loop(parts), parts


def go(loop: Any, until: Any, patience: float = 60.0) -> int:
    """Iterate until a condition holds; returns agent steps taken."""
    taken = 0

    def enough() -> bool:
        nonlocal taken
        taken += loop.iterate(taken, 0.0, bool)[0]
        return bool(until())

    assert eventually(enough, patience)
    return taken


@pytest.mark.parametrize(("architecture", "bound"), [("a3c", None), ("gorila", 5)])
def test_a_bound_on_staleness_is_shown_only_where_it_is_kept(architecture: str, bound: int | None) -> None:
    with one_thread_each():
        loop, parts = make("a2c", [*on(architecture, 2, max_staleness=5), "sampler.num_envs=2"])
        try:
            assert loop.gauges().lag_bound == bound
        finally:
            loop.close()
            parts.close()


# DistBelief, check 2
@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["a3c", "accel_async", "gorila"])
def test_staleness_is_recorded_and_its_mean_is_about_the_number_of_other_copies(architecture: str) -> None:
    copies = 3
    with one_thread_each():
        loop, parts = make("a2c", [*on(architecture, copies, queue=0), "sampler.num_envs=3"])
        try:
            go(loop, lambda: loop.updates > 1500)
            lags = loop.lags
            assert lags.total() >= 1500
            assert lags.total() > lags[0], "not all gradients were fresh"
            mean = sum(lag * count for lag, count in lags.items()) / lags.total()
            if (
                architecture == "gorila"
            ):  # what is applied while a bundle wakes up to fetch makes nothing stale
                assert 0.1 < mean <= copies - 1 + 0.2
            else:  # every update of another falls between just one pull and its push
                assert mean == pytest.approx(copies - 1, abs=0.3)
            assert loop.gauges().lag["mean"] == pytest.approx(mean, abs=0.2)
        finally:
            loop.close()
            parts.close()


# DistBelief, check 3, and Accel RL, check 1
@pytest.mark.parametrize("collective", ["shared", "torch"])
def test_replicas_in_lockstep_stay_bit_identical(collective: str) -> None:
    with one_thread_each():
        loop, parts = make(
            "ppo",
            [
                *on("accel_sync", 3, collective=collective),
                "algorithm.epochs=5",
                "algorithm.minibatches=4",
                "algorithm.target_kl=0.01",
                "network.normalize_observation=true",
            ],
        )
        assert isinstance(loop, SynchronousLoop)
        try:
            for _ in range(5):
                taken, metrics = loop.iterate(0, 0.0, bool)
                assert taken == 8 * 32
                first, *others = loop.weights()
                assert all(torch.equal(first, other) for other in others)
            assert parts.learner.version >= 50
            assert {"policy_loss", "gradient_norm"} <= metrics.keys()
        finally:
            loop.close()
            parts.close()


def test_copies_map_files_of_their_own(tmp_path: Path) -> None:
    overrides = [*on("gorila", 3), "sampler.shards=1", "sampler.groups=1", f"replay.memory_map={tmp_path}"]
    experiment = api.make_experiment("CartPole-v1", "dqn", overrides=overrides)
    folders = [share_of(experiment, role).replay.memory_map for role in range(3)]  # type: ignore[union-attr]
    assert folders == [str(tmp_path / f"copy-{role}") for role in range(3)]
    alone = replace(experiment, parallel=replace(experiment.parallel, copies=1))
    assert share_of(alone, 0).replay.memory_map == str(tmp_path)  # type: ignore[union-attr]


@pytest.mark.slow
def test_dqn_in_lockstep_consumes_together_what_one_would(tmp_path: Path) -> None:
    numbers = ["algorithm.learning_starts=256", "algorithm.target_every=256"]
    versions = []
    for overrides in ([], on("accel_sync", 2)):
        run = redline.train(
            "CartPole-v1",
            "dqn",
            steps=1024,
            folder=str(tmp_path),
            overrides=[*COMMON, *numbers, *overrides],
        )
        loaded = load_newest(run.path / "checkpoints")
        assert loaded is not None
        versions.append(loaded.state["learner"]["version"])
    assert versions[0] == versions[1] == (1024 - 256) // 4


def test_dqn_apart_makes_as_many_updates_as_one(tmp_path: Path) -> None:
    run = redline.train(
        "CartPole-v1",
        "dqn",
        steps=2048,
        folder=str(tmp_path),
        overrides=[*on("accel_async", 2), "algorithm.learning_starts=256", "network.hidden=[16]"],
    )
    loaded = load_newest(run.path / "checkpoints")
    assert loaded is not None
    assert loaded.state["learner"]["version"] == pytest.approx((run.steps - 256) / 4, rel=0.1)


@pytest.mark.slow
# Accel RL, check 5
@pytest.mark.parametrize("architecture", ["synchronous", "accel_sync", "accel_async"])
@pytest.mark.parametrize("batch", [32, 512])
def test_check_5_the_replay_ratio_stays_8_when_the_batch_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, batch: int
) -> None:
    """With so many more environments, and steps between updates (``accel_sync_dqn_atari`` says so)."""
    drawn: list[int] = []
    sample = Replay.sample

    def counted(replay: Replay, count: int, *rest: Any) -> Any:
        drawn.append(count)
        return sample(replay, count, *rest)

    monkeypatch.setattr(Replay, "sample", counted)
    copies = on(architecture, 2) if architecture != "synchronous" else COMMON
    numbers = [f"algorithm.batch={batch}", f"algorithm.update_every={batch // 8}", "network.hidden=[16]"]
    run = redline.train(
        "CartPole-v1",
        "dqn",
        steps=256 + 2048,
        folder=str(tmp_path),
        overrides=[*copies, *numbers, f"sampler.num_envs={batch // 8}", "algorithm.learning_starts=256"],
    )
    exact = architecture != "accel_async"  # there each copy counts its own steps, and ends where it is
    assert sum(drawn) / (run.steps - 256) == pytest.approx(8, rel=0 if exact else 0.15)


# Gorila, checks 1 and 2, under load
def test_stale_and_outlying_gradients_are_counted() -> None:
    with one_thread_each():
        loop, parts = make(
            "a2c",
            [*on("gorila", 3, queue=1, max_staleness=0, outlier=1.0, servers=2), "sampler.num_envs=3"],
        )
        try:
            go(loop, lambda: {"stale", "outliers"} <= loop.events().keys() and loop.updates > 20)
            assert loop.lags[0] > 0
            assert set(loop.lags) == {0}
        finally:
            loop.close()
            parts.close()


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["a3c", "accel_async", "accel_sync", "gorila"])
@pytest.mark.parametrize("recipe", ["a2c", "dqn"])
def test_runs_resume_with_all_that_copies_know(tmp_path: Path, architecture: str, recipe: str) -> None:
    said: list[str] = []

    class Listener(api.Quiet):
        def message(self, text: str) -> None:
            said.append(text)

    numbers = ["algorithm.learning_starts=256"] if recipe == "dqn" else []
    run = redline.train(
        "CartPole-v1",
        recipe,
        steps=1024,
        folder=str(tmp_path),
        overrides=[*on(architecture, 2), *numbers, "run.evaluate_every=512", "run.evaluate_episodes=2"],
    )
    before = load_newest(run.path / "checkpoints")
    assert before is not None
    resumed = redline.resume(run.name, steps=3072, folder=str(tmp_path), observer=Listener())
    after = load_newest(run.path / "checkpoints")
    assert after is not None
    assert resumed.steps >= 3072
    assert not [text for text in said if "begin anew" in text]
    assert after.state["learner"]["version"] > before.state["learner"]["version"]
    assert sum(after.state["loop"]["taken"]) == after.state["counters"]["steps"]
    assert resumed.evaluate(2).mean_return > 0


def test_steps_taken_on_the_way_to_rest_count_after_a_restart() -> None:
    """A run that never told of them would wait for its last steps for ever."""
    with one_thread_each():
        loop, parts = make("a2c", on("a3c", 2))
        try:
            counted = go(loop, lambda: loop.updates > 20)
            loop.state()
            loop.memory.board.taken[0] += 8  # by a copy that had not come to rest when the loop last looked
            state = loop.state()
            assert sum(state["taken"]) >= counted + 8
        finally:
            loop.close()
            parts.close()
        loop, parts = make("a2c", on("a3c", 2))
        try:
            loop.load_state(state)
            counted += go(loop, lambda: loop.updates > 40)
            state = loop.state()
            assert counted == sum(state["taken"]) - state["uncounted"]
        finally:
            loop.close()
            parts.close()


@pytest.mark.parametrize(("servers", "then"), [(1, 3), pytest.param(3, 1, marks=pytest.mark.slow), (2, 2)])
def test_another_number_of_servers_goes_on_where_those_before_stopped(
    servers: int, then: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every slice at its weights' version, every bundle at its own count of steps, with everyone's target network."""
    numbers = ["algorithm.learning_starts=64", "replay.capacity=4000", "sampler.num_envs=2"]
    learned: dict[int, torch.Tensor] = {}
    staleness: list[int | None] = []
    pull, apply = ToServers.pull, Shard.apply

    def look(exchange: ToServers, learner: Any) -> None:
        pull(exchange, learner)
        learned.setdefault(id(exchange), learner._target.clone())

    def count(shard: Shard, *gradient: Any) -> int | None:
        staleness.append(apply(shard, *gradient))
        return staleness[-1]

    with one_thread_each():
        loop, parts = make("dqn", [*on("gorila", 2, servers=servers, target_every=50), *numbers])
        try:
            go(loop, lambda: loop.updates > 60)
            state, learner = copy.deepcopy((loop.state(), parts.learner.state()))
        finally:
            loop.close()
            parts.close()
        if servers == then:  # as if the second had thrown away what made the first refresh its target
            state["target"] = [50, 0]
        # None of these servers refreshes it again.
        loop, parts = make("dqn", [*on("gorila", 2, servers=then, target_every=10**9), *numbers])
        try:
            parts.learner.load_state(learner)
            assert loop.load_state(state)
            assert loop.central.updates.tolist() == [max(state["central"]["updates"])] * then
            assert loop.memory.board.taken[:2].tolist() == state["taken"][:2]
            monkeypatch.setattr(ToServers, "pull", look)
            monkeypatch.setattr(Shard, "apply", count)
            go(loop, lambda: len(learned) == 2 and len(staleness) > 20)
        finally:
            loop.close()
            parts.close()
    assert all(torch.equal(target, state["central"]["target"]) for target in learned.values())
    assert min(each for each in staleness if each is not None) >= 0


def test_lockstep_resumes_where_it_stopped_bit_for_bit(tmp_path: Path) -> None:
    whole = redline.train(
        "CartPole-v1", "ppo", steps=2048, folder=str(tmp_path), overrides=on("accel_sync", 2), name="whole"
    )
    options = [*on("accel_sync", 2), "run.steps=2048", "run.checkpoint_every=1024", "run.keep=5"]
    other = redline.train("CartPole-v1", "ppo", folder=str(tmp_path), overrides=options, name="other")
    for checkpoint in sorted((other.path / "checkpoints").iterdir())[-1:]:
        for file in sorted(checkpoint.iterdir()):
            file.unlink()
        checkpoint.rmdir()
    redline.resume("other", folder=str(tmp_path))
    states = [load_newest(run.path / "checkpoints") for run in (whole, other)]
    assert states[0] is not None
    assert states[1] is not None
    assert torch.equal(states[0].state["learner"]["weights"], states[1].state["learner"]["weights"])


@pytest.mark.parametrize(
    "architecture", ["a3c", pytest.param("accel_async", marks=pytest.mark.slow), "gorila"]
)
def test_one_copy_apart_resumes_where_it_stopped_bit_for_bit(tmp_path: Path, architecture: str) -> None:
    """With Adam, whose moments are shared and whose count of steps is not."""
    numbers = {"queue": 0, "servers": 1} if architecture == "gorila" else {}
    still = ["learner.optimizer=adam", "learner.anneal=false"]
    whole, half = (
        redline.train(
            "CartPole-v1",
            "a2c",
            steps=steps,
            seed=3,
            folder=str(tmp_path),
            overrides=[*on(architecture, 1, **numbers), *still],
        )
        for steps in (1280, 640)
    )
    again = redline.resume(half, steps=1280)
    states = [load_newest(run.path / "checkpoints") for run in (whole, again)]
    assert states[0] is not None
    assert states[1] is not None
    assert torch.equal(states[0].state["learner"]["weights"], states[1].state["learner"]["weights"])


@pytest.mark.parametrize(
    "lost", [pytest.param("a whole copy", marks=pytest.mark.slow), "replays", "the first copy's episodes"]
)
def test_whatever_a_resume_lost_copies_in_lockstep_learn_together(lost: str) -> None:
    """A copy whose replay was empty made no updates, and the others waited for it for ever."""
    starts = 300
    options = [*on("accel_sync", 2), f"algorithm.learning_starts={starts}", "sampler.num_envs=4"]
    with one_thread_each():
        loop, parts = make("dqn", options)
        try:
            steps = go(loop, lambda: parts.learner.version > 100)
            learner, state = parts.learner.state(), loop.state()
            first, other = (copy["loop"] for copy in state["copies"])
            if lost == "a whole copy":
                state["copies"][1] = None
            elif lost == "replays":
                first["replay"] = other["replay"] = None
            else:
                first["actor"]["environment"] = None
            again, parts_again = make("dqn", options)
            try:
                parts_again.learner.load_state(learner)
                assert not again.load_state(state)
                before, end = parts_again.learner.version, time.monotonic() + 20
                begun = steps
                while parts_again.learner.version == before:
                    steps += again.iterate(steps, 0.0, lambda: time.monotonic() > end)[0]
                waited = starts if lost != "the first copy's episodes" else 0
                assert waited < steps - begun <= waited + 256, "a replay that begins empty fills again"
                one, two = again.weights()
                assert torch.equal(one, two)
                assert again.memory.learns_from == again.state()["learns_from"] > begun
            finally:
                again.close()
                parts_again.close()
        finally:
            loop.close()
            parts.close()


def test_a_copy_that_begins_anew_takes_the_moments_of_returns_that_all_share() -> None:
    with one_thread_each():
        loop, parts = make("ppo", [*on("accel_sync", 2), "learner.reward=normalize"])
        try:
            for _ in range(2):
                loop.iterate(0, 0.0, bool)
            first, other = (copy["rewards"] for copy in loop.state()["copies"])
            assert torch.equal(first["moments"], other["moments"])
            parts.learner.rewards.count *= 2.0  # the others have fallen behind, as a successor has
            assert loop._align()
            first, again = (copy["rewards"] for copy in loop.state()["copies"])
            assert torch.equal(first["moments"], again["moments"])
            assert torch.equal(again["returns"], other["returns"]), "each copy's environments have their own"
            assert not torch.equal(first["returns"], other["returns"])
        finally:
            loop.close()
            parts.close()


def test_the_run_shows_roles_and_staleness(tmp_path: Path) -> None:
    seen: list[Progress] = []

    class Listener(api.Quiet):
        def update(self, progress: Progress) -> None:
            seen.append(progress)

    run = redline.train(
        "CartPole-v1",
        "a2c",
        steps=8192,
        folder=str(tmp_path),
        overrides=[*on("gorila", 2, servers=2), "run.log_every=2048"],
        observer=Listener(),
    )
    last = seen[-1]
    assert set(last.gauges.roles) == {"bundle", "server"}
    assert 0 < last.gauges.roles["bundle"] <= 1
    assert {"mean", "p95", "max"} == set(last.gauges.lag)
    assert last.updates > 0
    assert last.episodes > 10
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert "lag/mean" in lines[-1]
    assert "loss/lag_mean" not in lines[-1], "counted twice"
    assert np.isfinite(lines[-1]["loss/policy_loss"])


def test_what_cannot_work_is_refused_in_one_line(tmp_path: Path) -> None:
    def refused(recipe: str, *overrides: str) -> str:
        with pytest.raises(UserError) as caught:
            redline.train("CartPole-v1", recipe, folder=str(tmp_path / "runs"), overrides=overrides)
        text = str(caught.value)
        assert "\n" not in text
        return text

    architecture = "parallel.architecture=a3c"
    assert "use parallel.architecture=accel_sync" in refused(
        "ppo", architecture, "network.normalize_observation=true"
    )
    assert "more than the 8 environments" in refused("ppo", architecture, "parallel.copies=9")
    assert "algorithm.minibatches=200" in refused(
        "ppo", architecture, "parallel.copies=2", "algorithm.minibatches=200"
    )
    assert "algorithm.batch=1 is less than the 2 copies" in refused(
        "dqn", "parallel.architecture=accel_sync", "parallel.copies=2", "algorithm.batch=1"
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("architecture", ["a3c", "accel_async", "accel_sync", "gorila"])
def test_compute_threads_never_outnumber_the_cores(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redline.runtime.plan.usable_cores", lambda: 8)
    parts = assemble(
        api.make_experiment("CartPole-v1", "a2c", overrides=[f"parallel.architecture={architecture}"])
    )
    parallel, learner = parts.experiment.parallel, parts.experiment.learner
    servers = parallel.servers if architecture == "gorila" else 0
    assert parallel.copies * learner.threads + servers <= 8
    assert parallel.copies == (7 if architecture == "gorila" else 8)
    assert parallel.servers == (3 if architecture == "accel_async" else 1)
    parts.close()


def test_what_a_copy_raises_ends_the_run_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ArithmeticError("broken")

    monkeypatch.setattr("redline.learners.exchanges.race.Race.step", broken)
    with pytest.raises(RunError, match=r"worker-\d failed: ArithmeticError: broken"):
        redline.train("CartPole-v1", "a2c", steps=2048, folder=str(tmp_path), overrides=on("a3c", 2))


def test_a_copy_meets_the_others_with_the_device_of_its_own_learner(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL refuses copies that come with the same device, and what the run asks for is the same for all."""
    experiment = api.make_experiment("CartPole-v1", "a2c", overrides=on("accel_sync", 2, collective="torch"))
    experiment = replace(experiment, learner=replace(experiment.learner, device="cuda"))
    copy = ReplicaJob("replica-1", 1, experiment, None, Memory(2, 0, shared=False), meeting=1)  # type: ignore[arg-type]
    learner = SimpleNamespace(device=torch.device("cuda:1"), share=lambda exchange: None)
    part = SimpleNamespace(learner=learner, close=lambda: None)
    monkeypatch.setattr(job, "share_parts", lambda *_, **__: part)
    monkeypatch.setattr(job.in_process, "make_loop", lambda parts, _: parts)

    def ended() -> int:
        raise Interruption

    with pytest.raises(Interruption):
        copy.run(SimpleNamespace(get=ended))  # type: ignore[arg-type]
    assert isinstance(copy.reducer, TorchReducer)
    assert copy.reducer.device == learner.device


def test_the_shared_weights_are_the_runs_learners(tmp_path: Path) -> None:
    with one_thread_each():
        loop, parts = make("a2c", on("a3c", 2))
        assert isinstance(loop, ReplicaLoop)
        try:
            go(loop, lambda: loop.updates > 20)
            state = loop.state()
            assert torch.equal(parts.learner.flat, loop.central.weights)
            assert all(copy is not None for copy in state["copies"])
            updates = loop.updates
            assert not eventually(lambda: loop.updates != updates, 0.3), "copies are at rest"
            go(loop, lambda: loop.updates > updates)
        finally:
            loop.close()
            parts.close()


SMALL = {
    "ppo": [],
    "a2c": [],
    "dqn": ["algorithm.learning_starts=200"],
    "impala": ["algorithm.unroll=10"],
    "appo": ["algorithm.unroll=10", "algorithm.minibatches=2"],
    "n_step_q": ["algorithm.target_every=300"],
    "apex": [
        "algorithm.learning_starts=200",
        "algorithm.update_every=8",
        "algorithm.target_every_updates=20",
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["a3c", "accel_async", "accel_sync", "gorila"])
@pytest.mark.parametrize("recipe", SMALL)
def test_every_algorithm_runs_in_copies(tmp_path: Path, recipe: str, architecture: str) -> None:
    run = redline.train(
        "CartPole-v1",
        recipe,
        steps=1024,
        folder=str(tmp_path),
        overrides=[*on(architecture, 2), *SMALL[recipe]],
    )
    loaded = load_newest(run.path / "checkpoints")
    assert loaded is not None
    learner = loaded.state["learner"]
    assert learner["version"] > 0
    assert torch.isfinite(learner["weights"]).all()
    if learner["target"] is not None:  # it may be as new as the weights: a copy can fall on the last update
        assert torch.isfinite(learner["target"]).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "steps", "least"),
    [("a3c", 300_000, 120), ("gorila", 100_000, 80), ("accel_sync_ppo", 100_000, 120)],
)
def test_copies_learn_to_balance_the_pole(tmp_path: Path, recipe: str, steps: int, least: float) -> None:
    run = redline.train(
        "CartPole-v1",
        recipe,
        steps=steps,
        seed=1,
        folder=str(tmp_path),
        overrides=[*COMMON, "parallel.runtime=threads", "parallel.copies=2", f"run.stop_at_return={least}"],
    )
    assert run.mean_return >= least
