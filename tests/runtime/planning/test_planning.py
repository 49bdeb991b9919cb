"""From measurements to a plan: the cache, the choice, trials, and what is said where something is wrong."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from redline import api
from redline.environments import probe as probe_of
from redline.planner.choose import choose, rank, samples_needed, speed_of
from redline.planner.costs import Prediction, Work
from redline.planner.explaining.live import beside
from redline.planner.measured import Costs
from redline.planner.options import Measured, Option, Ranked
from redline.runs import provenance
from redline.runs.provenance import usable_cores
from redline.runtime.crew.shares import Shares
from redline.runtime.plan import resolve
from redline.runtime.planning import cache, crews, machine, planning, probe, trial
from redline.runtime.planning.candidates import Search, configure, options
from redline.runtime.planning.expected import expectation
from redline.runtime.planning.machine import this_machine
from redline.runtime.planning.pieces import TAIL, Collecting, Round, tail_of
from redline.runtime.planning.planning import to_try
from redline.runtime.planning.together import Budget, fair
from redline.runtime.planning.trial import try_out
from redline.types import Expected, Gauges, RunError, UserError
from tests.runtime.planning.costs import MACHINE, costs_for

HASTE = Budget(round=0.02, learn=0.02, network=0.05, crew=0.05)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDLINE_CACHE", str(tmp_path / "cache"))


def experiment_of(recipe: str = "ppo", *overrides: str) -> Any:
    return api.make_experiment("CartPole-v1", recipe, overrides=overrides)


class TestCache:
    def test_costs_come_back_as_they_were(self) -> None:
        costs = costs_for(experiment_of())
        assert Costs.of(json.loads(json.dumps(costs.as_dict()))) == costs
        assert cache.save("k", costs) is None
        assert cache.load("k") == costs
        assert cache.load("other") is None

    def test_what_costs_something_else_is_measured_again_and_what_plans_differ_in_is_not(self) -> None:
        key = cache.key_of(experiment_of(), MACHINE)
        for changed in (
            experiment_of("ppo", "network.hidden=[32]"),
            experiment_of("ppo", "algorithm.unroll=64"),
            experiment_of("a2c"),
            experiment_of("ppo", "learner.precision=bf16"),
            experiment_of("ppo", "learner.reward=normalize"),
            experiment_of("ppo", "learner.compile=true"),
            experiment_of("ppo", "environment.backend=envpool"),
            experiment_of(
                "ppo", "sampler.num_envs=16", "algorithm.unroll=16"
            ),  # what is of one for each environment
        ):
            assert cache.key_of(changed, MACHINE) != key
        replayed = cache.key_of(experiment_of("dqn"), MACHINE)
        for changed in ("replay.prioritized=true", "replay.n_step=3", "sampler.num_envs=64"):
            assert cache.key_of(experiment_of("dqn", changed), MACHINE) != replayed
        assert cache.key_of(experiment_of("dqn", "replay.capacity=5000"), MACHINE) == replayed
        assert cache.key_of(experiment_of(), replace(MACHINE, cores=8)) != key
        for same in (
            experiment_of("ppo", "parallel.architecture=impala", "learner.threads=2"),
            experiment_of("ppo", "run.seed=5"),
            experiment_of("ppo", "learner.learning_rate=0.1", "learner.anneal=false", "learner.device=cpu"),
            experiment_of("ppo", "environment.backend=workers", "environment.workers=2"),
        ):
            assert cache.key_of(same, MACHINE) == key

    def test_an_environment_of_ones_own_is_known_by_its_text(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / "worlds_of_mine.py").write_text("def make(): return 1\n")
        before = cache.identity_of("worlds_of_mine:make")
        assert cache.identity_of("worlds_of_mine:make") == before
        (tmp_path / "worlds_of_mine.py").write_text("def make(): return 2\n")
        assert cache.identity_of("worlds_of_mine:make") != before
        assert cache.identity_of("CartPole-v1") == ("CartPole-v1",)
        assert cache.identity_of(Falls) == cache.identity_of(Falls)
        one, two = (lambda n=n: n for n in (1, 2))
        assert cache.identity_of(one) != cache.identity_of(two)

        def capture(n: int) -> Any:
            return lambda: n

        captured = [capture(1), capture(2)]
        assert cache.identity_of(captured[0]) != cache.identity_of(captured[1])
        monkeypatch.setattr(cache, "STARTED", 0.0)  # another process
        assert cache.identity_of(Falls) == cache.identity_of(Falls)

    def test_what_an_environment_is_made_with_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        key = cache.key_of(experiment_of(), MACHINE)
        assert cache.key_of(experiment_of(), MACHINE) == key
        monkeypatch.setattr(cache, "versions", lambda: {"gymnasium": "0.0"})
        assert cache.key_of(experiment_of(), MACHINE) != key

    def test_a_damaged_file_is_as_good_as_none(self) -> None:
        cache.save("k", costs_for(experiment_of()))
        path = cache.folder() / "k.json"
        path.write_text(path.read_text()[:100])
        assert cache.load("k") is None

    def test_an_unwritable_folder_is_told_in_a_line_and_stops_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("REDLINE_CACHE", str(tmp_path / "file" / "cache"))
        sentence = cache.save("k", costs_for(experiment_of()))
        assert sentence is not None
        assert "REDLINE_CACHE" in sentence


class TestChoice:
    def ranked(self, rates: list[float], complexity: list[int], measured: list[float | None]) -> list[Ranked]:
        runtimes = ("in_process", "threads", "processes")
        return [
            Ranked(
                Option("synchronous", runtimes[level], 1, 8, 32),
                Prediction(rate, 1.0, {}, 1.0, error=0.06),
                measured=None if did is None else Measured(did, 1.0, 4.0),
            )
            for rate, level, did in zip(rates, complexity, measured, strict=True)
        ]

    def test_of_plans_as_good_the_simpler_is_taken(self) -> None:
        assert choose(self.ranked([1000, 980], [2, 0], [None, None])) == 1
        assert choose(self.ranked([1000, 800], [2, 0], [None, None])) == 0

    def test_what_was_run_counts_before_what_was_predicted(self) -> None:
        assert choose(self.ranked([1000, 900, 2000], [0, 0, 0], [700, 900, None])) == 1
        assert choose(self.ranked([1000, 900], [2, 0], [900, 880])) == 1

    def test_lag_costs_samples_where_nothing_corrects_for_it(self) -> None:
        costs = costs_for(experiment_of())
        stale = Prediction(1.0, 1.0, {}, 1.0, lag={"mean": 2.0})
        option = Option("impala", "threads", 1, 8, 32)
        plain = samples_needed(option, stale, replace(costs, algorithm="ppo"), 32)
        corrected = samples_needed(option, stale, replace(costs, algorithm="impala"), 32)
        assert 1.0 < corrected < plain
        assert samples_needed(replace(option, unroll=16), stale, costs, 32) > plain

    def test_the_fastest_to_learn_comes_first(self) -> None:
        costs = costs_for(experiment_of())
        slow, fast = Option("synchronous", "in_process", 1, 8, 32), Option("impala", "threads", 2, 4, 32)

        def predictor(option: Option, *_: Any) -> Prediction:
            return Prediction(100.0 if option is fast else 90.0, 1.0, {}, 1.0)

        assert [each.option for each in rank([slow, fast], costs, MACHINE, 32, predictor)] == [fast, slow]

    def test_the_best_of_each_kind_are_tried_and_one_that_is_as_good_as_the_best(self) -> None:
        kinds = [
            ("impala", "processes"),
            ("impala", "processes"),
            ("impala", "processes"),
            ("impala", "threads"),
        ]
        kinds += [("accel_sync", "processes"), ("seed", "threads"), ("synchronous", "in_process")]

        def ranked(rates: list[float]) -> list[Ranked]:
            pairs = zip(kinds, rates, strict=True)
            return [Ranked(Option(*kind, 1, 8, 32), Prediction(rate, 1.0, {}, 1.0)) for kind, rate in pairs]

        assert to_try(ranked([1000, 990, 985, 900, 800, 700, 600])) == [0, 3, 4, 1, 6]
        assert to_try(ranked([1000, 960, 950, 900, 800, 700, 600])) == [0, 3, 4, 6]

    def test_what_takes_long_to_start_pays_in_long_runs_only(self) -> None:
        costs = replace(costs_for(experiment_of()), start={"processes": 2.0, "threads": 0.0})
        loop, apart = Option("synchronous", "in_process", 1, 8, 32), Option("impala", "processes", 2, 4, 32)

        def predictor(option: Option, *_: Any) -> Prediction:
            return Prediction(1200.0 if option is apart else 1000.0, 1.0, {}, 1.0)

        for steps, first in ((2_000, loop), (23_000, loop), (25_000, apart), (0, apart)):
            found = rank([loop, apart], costs, MACHINE, 32, predictor, steps=steps)
            assert found[0].option is first
        done = rank([apart], costs, MACHINE, 32, predictor, steps=24_000)[0]  # learned after half of them
        assert done.speed == pytest.approx(12_000 / (2.0 + 12_000 / 1200.0))
        done = replace(done, measured=Measured(600.0, 1.0, 4.0))
        assert speed_of(done) == pytest.approx(12_000 / (2.0 + 12_000 / 600.0))


def test_tails_keep_the_mean_and_the_weight_of_the_slowest() -> None:
    durations = [0.001] * 990 + [0.5] * 10
    tail = tail_of(durations)
    assert len(tail) == TAIL
    assert np.mean(tail) == pytest.approx(1.0, abs=1e-4)
    assert max(tail) > 10
    assert tail_of(durations[:3]) == ()


def test_stepping_is_never_for_nothing_however_long_others_had_the_core() -> None:
    room: Any = SimpleNamespace(
        actor=SimpleNamespace(clock={"stepping": 0.1, "acting": 0.1}),
        parts=SimpleNamespace(algorithm=SimpleNamespace(experience="replay")),
        watch=SimpleNamespace(durations=[]),
        length=4,
    )
    assert Collecting._round(room, rounds=10, wall=1.0, core=0.1, quiet=1.0).step.core > 0


class TestFairShares:
    """A round of 8 ms of stepping, 2 of waiting, 3 of acting and 1 of the rest, on two cores."""

    ROUND = Round(Work(0.008, wait=0.002), act=0.003, record=0.001)

    @pytest.mark.parametrize(
        ("actors", "width", "learners", "wanted", "learner"),
        [
            (1, 1, 0, 0.014, 1.0),  # alone
            (1, 1, 1, 0.014, 1.0),  # a core each
            (1, 2, 0, 0.010, 1.0),  # both cores step
            (1, 2, 1, 0.012, 1.25),  # three threads on two cores for half of the round
            (2, 1, 1, 0.020, 1.0 + 0.5 * 0.018 / 0.020),  # three threads but while an environment waits
        ],
    )
    def test_roles_that_share_cores_only(
        self, actors: int, width: int, learners: int, wanted: float, learner: float
    ) -> None:
        found = fair(self.ROUND, 2, actors, width, learners)
        assert (found.round, found.learner) == pytest.approx((wanted, learner))


@pytest.mark.parametrize("runtime", ["threads", "processes"])
def test_how_long_roles_take_to_start_is_measured(runtime: str) -> None:
    began = time.perf_counter()
    with closing(crews.actors(experiment_of(), runtime, 1)) as team:
        found = team.drive(0.05)
    assert found.steps_per_second > 0
    assert 0 <= found.start < time.perf_counter() - began
    assert found.start > 0.1 or runtime == "threads"  # a process imports torch


def test_actors_stay_from_one_phase_to_the_next() -> None:
    calls = 0

    def learn() -> None:
        nonlocal calls
        calls += 1

    with closing(crews.actors(experiment_of(), "threads", 2, slots=8)) as team:
        alone, beside = team.drive(0.05), team.drive(0.05, learn)
    assert alone.learned == 0
    assert alone.steps_per_second > 0
    assert beside.learned > 0
    assert beside.steps_per_second > 0
    assert calls > 1


@pytest.mark.parametrize("learning", [False, True])
def test_a_role_that_dies_while_it_is_timed_ends_the_measurement(learning: bool) -> None:
    """Its successor has no slot; what the others reach is not what all would."""
    with closing(crews.actors(experiment_of(), "processes", 2)) as team:
        team.ready()
        victim: Any = team.muster.crew
        os.kill(victim.pids()[0], signal.SIGKILL)
        with pytest.raises(RunError, match="died or hung while roles were measured"):
            team.drive(60.0, (lambda: time.sleep(0.01)) if learning else None)


class TestBadAnswersComeBeforeTheMeasuring:
    @pytest.fixture(autouse=True)
    def _no_probe(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def measured(*_: Any) -> Costs:
            raise AssertionError("it was measured first")

        monkeypatch.setattr(planning, "probe", measured)

    @pytest.mark.parametrize(
        ("recipe", "setting", "line"),
        [
            ("ppo", "learner.device=banana", "learner.device=banana: unknown"),
            ("ppo", "parallel.architecture=impla", "did you mean"),
            ("ppo", "parallel.architecture=apex", "cannot run on architecture apex"),
            ("dqn", "parallel.architecture=impala", "cannot run on architecture impala"),
        ],
    )
    def test_one_line(self, recipe: str, setting: str, line: str) -> None:
        with pytest.raises(UserError, match=line):
            api.plan("CartPole-v1", recipe, overrides=[setting])

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
    def test_a_gpu_that_is_not_here_is_refused_unless_it_is_asked_about(self) -> None:
        with pytest.raises(UserError, match="0 CUDA devices"):
            api.plan("CartPole-v1", "ppo", overrides=["learner.device=cuda"])
        with pytest.raises(RunError, match="it was measured first"):
            api.plan("CartPole-v1", "ppo", overrides=["learner.device=cuda"], what_if="gpu=h100")


class TestBesideTheRun:
    EXPECTED = Expected(1000.0, 0.2, {"actor": 0.9, "learner": 0.5})

    def test_a_run_as_predicted_gets_no_advice(self) -> None:
        (sentence,) = beside(self.EXPECTED, 960.0, {"actor": 0.88, "learner": 0.5})
        assert (
            sentence
            == "predicted 1,000 agent steps/s, 4% less now; actor 88% busy (90%), learner 50% busy (50%)"
        )

    def test_advice_follows_the_facts(self) -> None:
        assert "learner takes longer" in beside(self.EXPECTED, 600.0, {"actor": 0.6, "learner": 0.98})[1]
        assert "other programs" in beside(self.EXPECTED, 600.0, {"actor": 0.9, "learner": 0.5})[1]


class Falls(gymnasium.Env[Any, Any]):
    """Steps a while, then raises."""

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros(3, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        if self.steps > 30:
            raise RuntimeError("the floor gave way")
        return np.zeros(3, np.float32), 0.0, False, False, {}


def test_an_environment_that_breaks_while_it_is_timed_is_one_line() -> None:
    experiment = api.make_experiment(Falls, "ppo")
    with pytest.raises((RunError, UserError), match="the floor gave way") as caught:
        planning.costs_of(experiment)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["ppo", "dqn", "n_step_q"])
def test_an_experiment_is_measured_planned_and_expected(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way, in haste: costs that make sense, found again in the cache, a plan, and a run's expectation."""
    real = probe.probe
    monkeypatch.setattr(planning, "probe", lambda experiment, say: real(experiment, say, HASTE))
    said: list[str] = []
    experiment = experiment_of(recipe, "replay.capacity=2000") if recipe == "dqn" else experiment_of(recipe)
    plan = planning.make_plan(experiment, verify=False, say=said.append)
    costs = plan.costs
    assert all(work.core > 0 for work in costs.step.values())
    assert all(seconds > 0 for each in costs.learn.values() for seconds in each.values())
    assert costs.machine == this_machine()
    assert plan.best.prediction.steps_per_second > 0
    assert len({each.option.architecture for each in plan.ranked}) >= 3
    assert planning.costs_of(experiment, say=said.append) == costs
    assert said[-1].startswith("measured before")
    resolved = replace(
        experiment,
        learner=replace(experiment.learner, device="cpu", precision="fp32", threads=1),
        sampler=replace(experiment.sampler, shards=1, groups=1),
        parallel=replace(experiment.parallel, runtime="in_process", copies=1, queue=0),
    )
    expected = expectation(resolved)
    assert expected is not None
    assert expected.steps_per_second > 0


@pytest.mark.slow
def test_a_trial_learns_and_leaves_nothing(tmp_path: Path) -> None:
    before = set(os.listdir(tmp_path))
    measured = try_out(experiment_of("ppo"), 0.2, warm=0.0)
    assert measured.steps_per_second > 0
    assert measured.updates_per_second > 0
    beside_learner = try_out(experiment_of("impala", "parallel.runtime=threads"), 0.2, warm=0.0)
    assert set(beside_learner.utilisation) == {"actor", "learner"}
    assert beside_learner.lag["max"] >= beside_learner.lag["mean"] > 0
    assert set(os.listdir(tmp_path)) == before


def test_a_trial_tells_who_was_at_work_while_it_counted() -> None:
    """A learner that is at work all the time once its roles have started, which takes half a second."""
    shares, busy, learner = Shares(), 0.0, SimpleNamespace(version=0)

    def iterate(*_: Any) -> tuple[int, dict[str, Any]]:
        nonlocal busy
        begin = time.perf_counter()
        time.sleep(0.01)
        learner.version += 1
        busy += time.perf_counter() - begin
        return 10, {}

    loop = SimpleNamespace(iterate=iterate, gauges=lambda: Gauges(roles=shares.of({"learner": busy})))
    time.sleep(0.5)
    assert trial._drive(loop, learner, 10**9, 0.2, 0.02).utilisation["learner"] > 0.8


def test_a_trial_of_what_owes_updates_tells_the_rate_of_the_long_run() -> None:
    found = Measured(steps_per_second=250.0, updates_per_second=48.0, seconds=1.0)
    dqn = experiment_of("dqn", "algorithm.update_every=4").algorithm
    assert trial._in_the_long_run(found, dqn).steps_per_second == 4 * 48.0
    for recipe in ("ppo", "apex"):  # nothing holds Ape-X's updates to its steps
        assert trial._in_the_long_run(found, experiment_of(recipe).algorithm) == found


def test_a_trial_counts_from_arrival_to_arrival() -> None:
    """A slot of a hundred steps comes with every fifth batch of 10 ms: 2,000 a second, wherever the time is up."""
    learner = SimpleNamespace(version=0)

    def iterate(*_: Any) -> tuple[int, dict[str, Any]]:
        time.sleep(0.01)
        learner.version += 1
        return (0 if learner.version % 5 else 100), {}

    loop = SimpleNamespace(iterate=iterate, gauges=Gauges)
    assert 1000 < trial._drive(loop, learner, 10**9, 0.03, 0.02).steps_per_second <= 2000


@pytest.mark.parametrize("recipe", ["ppo", "dqn"])
def test_a_run_is_expected_to_do_what_was_measured_before_its_choices_were_made(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its precision was open then; and a plan may have made eight environments of one."""
    monkeypatch.setenv("REDLINE_CACHE", str(tmp_path))
    few = ["sampler.num_envs=1"] if recipe == "dqn" else []
    asked = experiment_of(recipe, *few)
    here = this_machine()
    assert cache.save(cache.key_of(asked, here), replace(costs_for(asked), machine=here)) is None
    search = Search(asked, probe_of(asked.environment), costs_for(asked), here)
    option = next(
        each
        for each in options(search)[0]
        if each.architecture == "synchronous" and each.environments == (8 if few else asked.sampler.num_envs)
    )
    resolved = resolve(configure(asked, option), search.spec, 1000)
    assert resolved.learner.precision == "fp32"
    assert expectation(resolved) is not None
    other = replace(resolved, learner=replace(resolved.learner, reward="normalize"))
    assert expectation(other) is None


def test_a_run_that_was_never_measured_is_expected_to_do_nothing_in_particular() -> None:
    assert expectation(experiment_of("a2c")) is None
    assert expectation(experiment_of("ppo", "sampler.num_envs=2", "sampler.groups=2")) is None


def test_what_an_older_probe_found_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cache.key_of(experiment_of(), MACHINE)
    monkeypatch.setattr(cache, "REVISION", cache.REVISION + 1)
    assert cache.key_of(experiment_of(), MACHINE) != before


def test_a_clock_is_the_highest_that_the_processor_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it is at this moment changes by the second, and with it would the key of what was measured."""
    most = tmp_path / "most"
    most.write_text("4400000\n")
    monkeypatch.setattr(machine, "MOST", str(most))
    assert this_machine().clock == 4.4


def test_a_container_has_what_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "CGROUP", tmp_path)
    cores, memory = usable_cores(), this_machine().memory
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert (usable_cores(), this_machine().memory) == (cores, memory)
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text(f"{2**30}\n")
    assert (usable_cores(), this_machine().memory) == (1, 2**30)
