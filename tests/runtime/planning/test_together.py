"""What is made of roles that were timed side by side. The timing itself is put in its place."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from redline import environments, recipes
from redline.planner.choose import predict
from redline.planner.costs import Curve, Work
from redline.planner.measured import Costs
from redline.planner.options import Measured, Option
from redline.runtime.planning import together
from redline.runtime.planning.crews import Company, in_turn
from redline.runtime.planning.pieces import Round
from redline.runtime.planning.together import Budget, fair, with_copies, with_servers, with_workers
from tests.planner.sample import COSTS

ROUND = Round(Work(core=4e-3), act=1e-3, record=1e-3)


def test_what_threads_lose_by_waiting_is_part_of_their_fair_share() -> None:
    found = fair(ROUND, cores=4, actors=1, width=2, learners=1, lost=1.5)
    assert (found.round, found.learner) == (pytest.approx(3e-3 + 2e-3), 1.0)


def test_polite_actors_leave_the_learner_a_core() -> None:
    found = fair(ROUND, cores=2, actors=2, width=1, learners=1, polite=True)
    assert (found.round, found.learner) == (pytest.approx(12e-3), 1.0)
    rude = fair(ROUND, cores=2, actors=2, width=1, learners=1)
    assert (rude.round, rude.learner) == (pytest.approx(9e-3), pytest.approx(1.5))


def bench(cores: int, envs: int, rounds: dict[int, Round]) -> Any:
    made = recipes.find("ppo", "CartPole-v1")
    experiment = replace(made, sampler=replace(made.sampler, num_envs=envs))
    parts = SimpleNamespace(algorithm=SimpleNamespace(max_lag=1))
    return SimpleNamespace(
        experiment=experiment, cores=cores, budget=Budget(), round=rounds.__getitem__, parts=parts
    )


@pytest.fixture
def at_work(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Servers reach 2,000 steps/s in threads and 4,000 in processes, 1.6 ms a batch of four; on which device, and in
    which runtime."""
    seen: list[tuple[str, str]] = []

    def server(experiment: Any, runtime: str, workers: int) -> Any:
        seen.append((experiment.learner.device, runtime))
        found = Company({"threads": 2000.0, "processes": 4000.0}[runtime], core=1e-4, serving=0.4e-3)
        return SimpleNamespace(
            ready=lambda: None,
            close=lambda: None,
            drive=lambda seconds: found,
        )

    monkeypatch.setattr(together.crews, "server", server)
    return seen


def test_a_server_costs_what_a_batch_takes_beyond_the_pass(at_work: list[tuple[str, str]]) -> None:
    """Eight environments, four a batch, of whose 1.6 ms 1 ms is known. A round takes 4 ms in threads, steps 0.1."""
    rounds = {4: Round(Work(core=1e-4), 0.8e-3, 0.2e-3), 1: Round(Work(core=0.1e-3), 0.5e-3, 0.1e-3)}
    found = with_servers(bench(8, 8, rounds), COSTS)
    assert found.serve["threads"].at(4) == found.serve["processes"].at(4) == pytest.approx(0.6e-3)
    assert found.latency["threads"] == pytest.approx(4e-3 - 0.1e-3 - 1.6e-3)
    assert found.latency["processes"] == 0.0, (
        "two batches take longer than a round: the server is always at work"
    )
    assert sorted(at_work) == [("auto", "processes"), ("auto", "threads")]


def test_where_there_is_a_gpu_servers_are_timed_on_it(at_work: list[tuple[str, str]]) -> None:
    rounds = {4: Round(Work(core=1e-4), 5e-3, 0.2e-3), 1: Round(Work(core=0.1e-3), 5e-3, 0.1e-3)}
    costs = replace(COSTS, act=COSTS.act | {"cuda bf16": Curve.of([(1, 0.3e-3)])})
    found = with_servers(bench(8, 8, rounds), costs)
    assert found.serve["threads"].at(4) == pytest.approx(1.1e-3)
    assert sorted(at_work) == [("cuda", "processes"), ("cuda", "threads")]


def test_teams_start_side_by_side_and_are_driven_alone() -> None:
    told: list[str] = []

    def make(runtime: str) -> Any:
        told.append(f"make {runtime}")
        return SimpleNamespace(
            ready=lambda: told.append(f"ready {runtime}"), close=lambda: told.append(f"close {runtime}")
        )

    for runtime, _ in in_turn(make):
        told.append(f"drive {runtime}")
    assert told[:4] == ["make processes", "make threads", "ready processes", "ready threads"]
    assert told[4:8] == ["drive threads", "close threads", "drive processes", "close processes"]


RATES = {"threads": 1000.0, "processes": 400.0}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Option]:
    """Plans that train reach ``RATES``; which plans were run."""
    run: list[Option] = []

    def seen(experiment: Any, plans: dict[str, Option], seconds: float) -> dict[str, Measured]:
        run.extend(plans.values())
        return {runtime: Measured(RATES[runtime], 1.0, seconds) for runtime in plans}

    monkeypatch.setattr(together, "_trained", seen)
    return run


def pong(recipe: str, cores: int, envs: int) -> tuple[Any, Costs]:
    """A bench and its costs: pieces of numbers made up, environments of the sample's kind."""
    made = recipes.find(recipe, "CartPole-v1")
    algorithm = replace(made.algorithm, unroll=20)  # type: ignore[call-arg]
    made = replace(made, algorithm=algorithm, sampler=replace(made.sampler, num_envs=envs))  # type: ignore[arg-type]
    costs = replace(COSTS, machine=replace(COSTS.machine, cores=cores), envs=envs, algorithm=recipe)
    parts = SimpleNamespace(
        algorithm=SimpleNamespace(max_lag={"ppo": 1, "impala": None}[recipe]),
        spec=environments.probe(made.environment),
    )
    found = SimpleNamespace(
        experiment=made,
        cores=cores,
        budget=Budget(),
        round=lambda count: Round(COSTS.step[1], 1e-3, 1e-4),
        parts=parts,
        place="cpu fp32",
    )
    return found, costs


@pytest.mark.parametrize("runtime", ["threads", "processes"])
def test_copies_that_were_seen_to_train_are_predicted_to_go_as_they_did(
    trained: list[Option], runtime: str
) -> None:
    room, costs = pong("impala", cores=2, envs=32)
    found = with_copies(room, costs)
    assert {(each.architecture, each.copies, each.environments) for each in trained} == {
        ("accel_sync", 2, 16)
    }
    option = next(each for each in trained if each.runtime == runtime)
    assert predict(option, found, found.machine).steps_per_second == pytest.approx(RATES[runtime], rel=0.05)
    assert predict(option, costs, costs.machine).steps_per_second > 1.5 * RATES[runtime]


def test_a_server_in_lock_step_is_predicted_to_go_as_it_did(trained: list[Option]) -> None:
    room, costs = pong("ppo", cores=2, envs=32)
    found = with_workers(room, costs)
    for option in trained:
        assert (option.architecture, option.copies, option.queue) == ("seed", 2, 0)
        rate = predict(option, found, found.machine).steps_per_second
        assert rate == pytest.approx(RATES[option.runtime], rel=0.05)
    assert len(trained) == 2
    assert with_workers(*pong("impala", cores=2, envs=32)).drag == {}, "it does not wait, nor do its workers"


def test_a_crowd_of_workers_that_wait_is_seen_at_work(trained: list[Option]) -> None:
    room, costs = pong("impala", cores=2, envs=16)
    waits = Work(core=1e-4, wait=4e-3)
    room.round = lambda count: Round(waits, 1e-4, 1e-5)
    found = with_workers(room, replace(costs, step={1: waits}))
    assert {each.copies for each in trained} == {16}
    assert set(found.drag) == {"threads served crowd", "processes served crowd"}
    assert found.drag["processes served crowd"] == pytest.approx(
        2.5 * found.drag["threads served crowd"], rel=0.1
    )


def test_on_many_cores_copies_are_not_tried(trained: list[Option]) -> None:
    room, costs = pong("impala", cores=16, envs=32)
    assert with_copies(room, costs) is costs
    assert not trained
