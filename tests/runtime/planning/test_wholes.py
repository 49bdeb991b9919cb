"""What arrangements that train tell beyond their pieces. The training itself is put in its place."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from redline import environments, recipes
from redline.architectures.config import ParallelConfig
from redline.planner.choose import predict
from redline.planner.costs import Work
from redline.planner.measured import Costs
from redline.planner.options import Option
from redline.planner.profiles import published, with_gpu
from redline.runtime.experiment import Experiment
from redline.runtime.planning import wholes
from redline.runtime.planning.pieces import Round
from redline.runtime.planning.together import Budget
from redline.runtime.planning.trial import shortened
from redline.runtime.planning.wholes import Seen, looks, with_wholes
from redline.types import RunError
from tests.planner.sample import COSTS

RATES = {"threads": 1000.0, "processes": 400.0}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Option]:
    """Plans that train reach ``RATES``; which plans were run."""
    run: list[Option] = []

    plans = wholes._plans

    def chosen(*args: Any) -> dict[str, tuple[Experiment, Option]]:
        found = plans(*args)
        run.extend(option for _, option in found.values())
        return found

    def reached(experiments: dict[str, Experiment], seconds: float, known: Any) -> dict[str, Seen]:
        return {runtime: Seen(RATES[runtime], core=1.5e-3) for runtime in experiments}

    monkeypatch.setattr(wholes, "_plans", chosen)
    monkeypatch.setattr(wholes, "_trained", reached)
    return run


def seen(room: Any, costs: Costs, *names: str) -> Costs:
    """With what looks of those names tell."""
    return with_wholes(room, costs, [look for look in looks(room) if look.name in names])


def made_up(recipe: str, cores: int, envs: int) -> tuple[Any, Costs]:
    """A bench and its costs, with numbers made up."""
    made = recipes.find(recipe, "CartPole-v1")
    algorithm: Any = made.algorithm
    algorithm = algorithm if recipe == "dqn" else replace(algorithm, unroll=20)
    made = replace(made, algorithm=algorithm, sampler=replace(made.sampler, num_envs=envs))
    costs = replace(COSTS, machine=replace(COSTS.machine, cores=cores), envs=envs, algorithm=recipe)
    parts = SimpleNamespace(
        algorithm=SimpleNamespace(max_lag={"ppo": 1, "impala": None, "dqn": None}[recipe]),
        spec=environments.probe(made.environment),
    )
    found = SimpleNamespace(
        experiment=made,
        cores=cores,
        budget=Budget(),
        round=lambda count: Round(COSTS.step[1], 1e-3, 1e-4),
        parts=parts,
        place="cpu fp32",
        replays=recipe == "dqn",
    )
    return found, costs


@pytest.mark.parametrize("runtime", ["threads", "processes"])
def test_copies_that_were_seen_to_train_are_predicted_to_go_as_they_did(
    trained: list[Option], runtime: str
) -> None:
    room, costs = made_up("impala", cores=2, envs=32)
    found = seen(room, costs, "copies")
    assert {(each.architecture, each.copies, each.environments) for each in trained} == {
        ("accel_sync", 2, 16)
    }
    option = next(each for each in trained if each.runtime == runtime)
    assert predict(option, found, found.machine).steps_per_second == pytest.approx(RATES[runtime], rel=0.05)
    assert predict(option, costs, costs.machine).steps_per_second > 1.5 * RATES[runtime]


def test_who_waits_for_the_learner_is_predicted_to_go_as_it_did(trained: list[Option]) -> None:
    room, costs = made_up("ppo", cores=2, envs=32)
    found = seen(room, costs, "step", "served step")
    run = {(each.architecture, each.runtime) for each in trained}
    assert run == {(name, runtime) for name in ("impala", "seed") for runtime in ("threads", "processes")}
    for option in trained:
        assert (option.copies, option.queue) == (2, 0)
        rate = predict(option, found, found.machine).steps_per_second
        assert rate == pytest.approx(RATES[option.runtime], rel=0.05)
    assert not {"step", "served step"} & {look.name for look in looks(made_up("impala", 2, 32)[0])}, (
        "nobody waits"
    )


def test_a_crowd_of_workers_that_wait_is_seen_at_work(trained: list[Option]) -> None:
    room, costs = made_up("impala", cores=2, envs=16)
    waits = Work(core=1e-4, wait=4e-3)
    room.round = lambda count: Round(waits, 1e-4, 1e-5)
    found = seen(room, replace(costs, step={1: waits}), "served crowd")
    assert {each.copies for each in trained} == {16}
    assert set(found.drag) == {"threads served crowd", "processes served crowd"}
    assert found.drag["processes served crowd"] == pytest.approx(
        2.5 * found.drag["threads served crowd"], rel=0.1
    )


def test_on_many_cores_copies_are_not_tried() -> None:
    room, _ = made_up("impala", cores=16, envs=32)
    assert [look.name for look in looks(room)] == ["beside"]


@pytest.mark.parametrize("runtime", ["threads", "processes"])
def test_an_actor_beside_a_learner_is_predicted_to_go_as_it_did(trained: list[Option], runtime: str) -> None:
    room, costs = made_up("impala", cores=2, envs=32)
    costs = replace(costs, learn={"cpu fp32": {1: 5e-3}})
    found = seen(room, costs, "beside")
    assert {(each.architecture, each.copies, each.environments) for each in trained} == {("impala", 1, 32)}
    option = next(each for each in trained if each.runtime == runtime)
    assert predict(option, found, found.machine).steps_per_second == pytest.approx(RATES[runtime], rel=0.05)
    two = replace(option, copies=2, environments=16)
    rates = [predict(two, each, costs.machine).steps_per_second for each in (costs, found)]
    assert rates[1] / rates[0] == pytest.approx(1 / found.drag[f"{runtime} beside"], rel=0.1), (
        "so do more of them"
    )


def test_beside_a_learner_of_long_batches_an_actor_in_a_process_goes_as_its_pieces_tell(
    trained: list[Option],
) -> None:
    room, costs = made_up("impala", cores=2, envs=32)
    found = seen(room, replace(costs, learn={"cpu fp32": {1: 20e-3}}), "beside")
    assert [each.runtime for each in trained] == ["threads"]
    assert "processes beside" not in found.drag


def test_beside_a_replay_copies_alone_are_looked_at() -> None:
    assert [look.name for look in looks(made_up("dqn", cores=2, envs=8)[0])] == ["copies"]


def test_what_a_learner_does_besides_learning_belongs_to_the_batch(
    trained: list[Option], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 1.5 ms of its core a batch takes 1.2, beside an actor, and a publication 0.1."""
    room, costs = made_up("impala", cores=2, envs=32)
    costs = replace(costs, learn={"cpu fp32": {1: 1e-3}}, publish=0.1e-3, drag={"processes learner": 1.2})
    found = seen(room, costs, "beside")
    assert found.besides == pytest.approx(0.2e-3 - costs.hand["processes"])
    assert found.hand == costs.hand
    monkeypatch.setattr(wholes, "SHORT", 1.1e-3)
    assert seen(room, costs, "beside").besides == 0.0, "beside a long batch it is nothing"


def test_long_batches_are_shortened_and_their_minibatches_stay_as_large() -> None:
    room, costs = made_up("ppo", cores=2, envs=32)
    algorithm = replace(room.experiment.algorithm, unroll=512, minibatches=32)
    experiment = replace(room.experiment, algorithm=algorithm)
    short, times, passes = shortened(experiment, seconds=1.6)
    assert (short.algorithm.unroll, short.algorithm.minibatches, times) == (64, 4, 8)  # type: ignore[union-attr]
    assert (short.algorithm.epochs, passes) == (algorithm.epochs, 1.0), "short enough with all epochs"  # type: ignore[union-attr]
    assert shortened(experiment, seconds=0.15) == (experiment, 1, 1.0)
    odd = replace(experiment, algorithm=replace(algorithm, minibatches=3))
    found = shortened(odd, seconds=1.6)
    assert (found.experiment.algorithm.epochs, found.times) == (6, 1), "no other way is left"  # type: ignore[union-attr]
    assert found.passes == pytest.approx(20 / 6)
    recurrent = replace(experiment, network=replace(experiment.network, core="lstm"))
    assert shortened(recurrent, seconds=1.6) == (recurrent, 1, 1.0), "its minibatches are of environments"
    dqn = recipes.find("dqn", "CartPole-v1")
    assert shortened(dqn, seconds=1.6) == (dqn, 1, 1.0)

    costs = replace(costs, batch=64 * 32, updates=40.0, learn={"cpu fp32": {1: 0.2, 2: 0.1}}, between=1e-3)
    whole = costs.longer(times)
    assert (whole.batch, whole.updates, whole.minibatch) == (512 * 32, 320.0, costs.minibatch)
    assert whole.learn["cpu fp32"] == {1: pytest.approx(1.6), 2: pytest.approx(0.8)}
    assert (whole.between, whole.between_gpu) == (pytest.approx(8e-3), None)
    assert costs.longer(1) == costs
    often = replace(costs, estimate=0.4).longer(2, passes=4.0)
    assert (often.batch, often.updates, often.estimate) == (2 * costs.batch, 320.0, 0.1)
    assert (often.learn["cpu fp32"][1], often.between) == (pytest.approx(1.6), pytest.approx(2e-3))


def test_an_arrangement_that_breaks_tells_nothing(
    trained: list[Option], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(experiments: dict[str, Experiment], seconds: float, known: Any) -> dict[str, Seen]:
        raise RunError("a copy died")

    monkeypatch.setattr(wholes, "_trained", broken)
    room, costs = made_up("ppo", cores=2, envs=32)
    assert with_wholes(room, costs, looks(room)) == costs


def test_simulators_that_step_by_themselves_are_seen_in_threads_alone(trained: list[Option]) -> None:
    room, costs = made_up("impala", cores=2, envs=32)
    room.parts.spec = replace(room.parts.spec, threaded=True)
    for name in ("copies", "beside"):
        found = seen(room, costs, name)
        assert found.drag[f"processes {name}"] == found.drag[f"threads {name}"] > 1.0


def test_processes_are_not_faster_for_what_threads_were_thought_to_lose(
    trained: list[Option], monkeypatch: pytest.MonkeyPatch
) -> None:
    room, costs = made_up("impala", cores=2, envs=32)
    room.parts.spec = replace(room.parts.spec, threaded=True)
    monkeypatch.setitem(RATES, "threads", 1e5)
    found = seen(room, costs, "beside")
    assert found.drag["threads beside"] < found.drag["processes beside"] == 1.0


class Fake:
    """A loop whose first three batches are quick, the first of them not learned from; from then on ten steps take ten
    milliseconds."""

    def __init__(self, queue: int) -> None:
        self.parts: Any = SimpleNamespace(
            learner=SimpleNamespace(version=0),
            experiment=replace(
                recipes.find("impala", "CartPole-v1"), parallel=ParallelConfig("impala", "threads", 1, queue)
            ),
        )
        self.batches = 0

    def iterate(self, steps: int, fraction: float, stop: Any) -> tuple[int, dict[str, Any]]:
        self.batches += 1
        self.parts.learner.version += self.batches > 1
        if self.batches <= 3:
            return 100_000, {}
        time.sleep(0.01)
        return 10, {}


@pytest.mark.parametrize("queue", [0, 1])
def test_a_rate_counts_from_where_it_has_learned_for_a_moment(
    monkeypatch: pytest.MonkeyPatch, queue: int
) -> None:
    monkeypatch.setattr(wholes, "WARM", 0.02)
    loop = Fake(queue)
    seen = wholes._seen(loop.parts, loop, 0.1)
    assert 100 < seen.rate <= 1000
    assert 0.0 <= seen.core < 0.01, "it slept"


def test_a_rate_is_taken_from_arrival_to_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot of a hundred steps comes with every fifth batch of 10 ms: 2,000 a second, wherever the time is up."""
    monkeypatch.setattr(wholes, "WARM", 0.02)
    loop = Fake(queue=1)

    def iterate(*_: Any) -> tuple[int, dict[str, Any]]:
        loop.batches += 1
        loop.parts.learner.version += 1
        time.sleep(0.01)
        return (0 if loop.batches % 5 else 100), {}

    loop.iterate = iterate  # type: ignore[method-assign]
    assert 1000 < wholes._seen(loop.parts, loop, 0.01).rate <= 2000


def test_what_never_learns_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wholes, "STARTS", 0.05)
    loop = Fake(queue=1)
    loop.iterate = lambda *_: (time.sleep(0.01), (1, {}))[1]  # type: ignore[method-assign]
    with pytest.raises(RunError, match="no update within"):
        wholes._seen(loop.parts, loop, 0.1)


def test_beside_a_gpu_a_server_is_seen_at_work_on_it(trained: list[Option]) -> None:
    room, costs = made_up("ppo", cores=2, envs=32)
    own = replace(room.experiment.learner, device="cpu")  # a bench computes there
    room.experiment = replace(room.experiment, learner=own)
    gpu = published("h100")
    costs = with_gpu(replace(costs, machine=replace(costs.machine, gpus=gpu)), gpu)
    seen(room, costs, "served step")
    assert {each.learn_on for each in trained} == {"cuda bf16"}


def test_of_plans_that_differ_in_threads_that_with_one_is_seen(trained: list[Option]) -> None:
    room, costs = made_up("impala", cores=4, envs=32)
    seen(room, costs, "beside")
    assert {each.threads for each in trained} == {1}


@pytest.mark.parametrize(("first", "looks_at"), [(850.0, 1), (600.0, 2)])
def test_what_is_far_slower_than_its_pieces_is_seen_again(
    monkeypatch: pytest.MonkeyPatch, first: float, looks_at: int
) -> None:
    rates, closed = iter([first, 900.0]), []
    loop = SimpleNamespace(iterate=lambda *_: (0, {}), close=lambda: closed.append("loop"))
    monkeypatch.setattr(wholes, "assemble", lambda _: SimpleNamespace(close=lambda: closed.append("parts")))
    monkeypatch.setattr(wholes, "make_loop", lambda _: loop)
    monkeypatch.setattr(wholes, "_seen", lambda *_: Seen(next(rates), core=0.0))
    experiment: Any = None
    found = wholes._trained({"threads": experiment}, 1.0, {"threads": 1000.0})
    assert found["threads"].rate == (first if looks_at == 1 else 900.0)
    assert len(list(rates)) == 2 - looks_at
    assert set(closed) == {"loop", "parts"}


def test_a_server_and_workers_that_want_one_interpreter_are_predicted_to_go_as_they_did(
    trained: list[Option],
) -> None:
    room, costs = made_up("impala", cores=2, envs=16)
    found = seen(room, costs, "served")
    (option,) = trained
    assert (option.runtime, option.copies, option.environments) == ("threads", 2, 8)
    assert option.queue, "not in lock-step"
    rate = predict(option, found, found.machine).steps_per_second
    assert rate == pytest.approx(RATES["threads"], rel=0.05)
    assert "processes served" not in found.drag
    room.parts.spec = replace(room.parts.spec, threaded=True)
    assert "served" not in {look.name for look in looks(room)}, (
        "such simulators leave the interpreter to others"
    )
