"""What is made of roles that were timed side by side. The timing itself is put in its place."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from redline import recipes
from redline.planner.costs import Curve, Work
from redline.runtime.planning import together
from redline.runtime.planning.crews import Company, in_turn
from redline.runtime.planning.pieces import Round
from redline.runtime.planning.together import Budget, fair, with_servers
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
