"""Whoever takes a dead role's place begins elsewhere: neither its start states nor its actions come again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from redline import api
from redline.runtime import in_process
from redline.runtime.crew.acting import ActingNetwork, ActorJob
from redline.runtime.crew.board import Board
from redline.runtime.parts import Parts, assemble
from redline.runtime.plan import first_seed
from redline.runtime.replicas import job as jobs
from redline.runtime.replicas.job import ReplicaJob
from redline.runtime.replicas.memory import Memory
from redline.types import Interruption


@pytest.fixture
def parts(request: pytest.FixtureRequest) -> Any:
    recipe, architecture = request.param
    overrides = [f"parallel.architecture={architecture}", "parallel.runtime=threads", "parallel.copies=2"]
    overrides += ["sampler.num_envs=4", "learner.precision=fp32", "run.seed=3"]
    made = assemble(api.make_experiment("CartPole-v1", recipe, overrides=overrides))
    yield made
    made.close()


def first_row(seed: int) -> np.ndarray:
    """What a copy of CartPole begins with."""
    made = assemble(api.make_experiment("CartPole-v1", "a2c", overrides=["sampler.num_envs=1"]))
    [[environment]] = made.make_environments()
    try:
        return environment.reset(seed).observation[0].copy()  # type: ignore[index]
    finally:
        environment.close()
        made.close()


def test_no_life_has_the_seed_of_another() -> None:
    seeds = [first_seed(3, life) for life in range(1000)]
    assert seeds[0] == first_seed(3) == 3000
    assert len(set(seeds)) == 1000
    assert all(0 <= first_seed(2**31 - 1, life) < 2**31 - 100_000 for life in range(5000))


@pytest.mark.parametrize("parts", [("a2c", "impala")], indirect=True)
def test_an_actors_successor_sees_and_does_something_else(parts: Parts) -> None:
    board = Board(2, shared=False)
    job = ActorJob("actor-1", 1, parts.experiment, parts.spec, 2, 2, 1, None, None, board)  # type: ignore[arg-type]
    network = ActingNetwork(parts.experiment, parts.spec, "actor_critic")
    actors = [job._make_actor(network) for _ in range(2)]
    seen = [actor.groups[0].now.observation.copy() for actor in actors]  # type: ignore[union-attr]
    drawn = [torch.rand(4, generator=actor.generator) for actor in actors]
    for actor in actors:
        actor.close()
    np.testing.assert_array_equal(seen[0][0], first_row(3002))  # the first life's, as ever
    assert not np.isclose(seen[0], seen[1]).any()
    assert not torch.isclose(drawn[0], drawn[1]).any()


@pytest.mark.parametrize(
    "parts", [("a2c", "a3c"), ("dqn", "gorila")], indirect=True, ids=["unrolls", "replay"]
)
def test_a_copys_successor_sees_and_does_something_else(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its learner, which draws what it learns from, too."""
    found: list[Any] = []
    make_loop = in_process.make_loop

    def look(parts: Parts, replay: Any) -> Any:
        loop = make_loop(parts, replay)
        actor = loop.actor if isinstance(loop, in_process.ReplayLoop) else loop.actors[0]  # type: ignore[attr-defined]
        now = actor.now if isinstance(loop, in_process.ReplayLoop) else actor.groups[0].now
        generators = [actor.generator, parts.learner.generator]
        found.append((now.observation.copy(), [torch.rand(4, generator=each) for each in generators]))
        loop.close()
        raise Interruption

    monkeypatch.setattr(jobs.in_process, "make_loop", look)
    monkeypatch.setattr(ReplicaJob, "make_exchange", lambda *_: parts.learner.exchange)
    memory = Memory(2, 0, shared=False)
    for _ in range(2):
        with pytest.raises(Interruption):
            ReplicaJob("copy-1", 1, parts.experiment, parts.spec, memory).run(None)  # type: ignore[arg-type]
    (seen, drawn), (again, drawn_again) = found
    np.testing.assert_array_equal(seen[0], first_row(3002))
    assert not np.isclose(seen, again).any()
    for one, other in zip(drawn, drawn_again, strict=True):
        assert not torch.isclose(one, other).any()
