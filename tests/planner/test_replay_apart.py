"""A replay with a process of its own, as the planner sees it: who does what then, and what it is called."""

from __future__ import annotations

from dataclasses import replace

import pytest

from redline.architectures.catalogue import APEX
from redline.planner.choose import choose, predict, rank
from redline.planner.costs import Machine, Prediction, Work, Workload
from redline.planner.explaining.explain import explain, where_time_goes
from redline.planner.explaining.telling import describe, lines
from redline.planner.machines import WhatIf
from redline.planner.options import Option, Plan, Ranked
from redline.planner.simulate import simulate
from redline.planner.workload import SHELVES, workload
from redline.runtime.replay_learner import job
from tests.planner import test_simulate
from tests.planner.sample import COSTS

LOAD = replace(
    test_simulate.LOAD,
    learn=Work(core=7e-3),
    publish=Work(core=1e-3),
    samples=64,
    draw=Work(core=2e-3),
    shelves=3,
)
REMEMBERS = replace(
    COSTS,
    batch=32,
    minibatch=32,
    envs=1,
    learn={"cpu fp32": {1: 10e-3}},
    draw=1e-3,
    store=50e-6,
    between=1e-3,
)
TOGETHER = Option("apex", "processes", 1, 1, 50, queue=2, ratio=8.0)
APART = replace(TOGETHER, apart=True)


def quick(load: Workload, copies: int = 2) -> Prediction:
    return simulate(APEX.sized(copies), load, seconds=4.0, warm=1.0)


# Simulated


def test_batches_are_drawn_beside_the_update() -> None:
    """Drawing hides behind learning, and takes the replay's time instead of the learner's."""
    found = quick(LOAD)
    assert found.updates_per_second == pytest.approx(1 / 8e-3, rel=2e-3)
    assert found.utilisation["learner"] == pytest.approx(1.0, rel=0.01)
    assert found.utilisation["replay"] == pytest.approx(2 / 8, rel=0.02)


def test_a_learner_waits_for_a_replay_that_draws_more_slowly() -> None:
    found = quick(replace(LOAD, draw=Work(core=20e-3)))
    assert found.updates_per_second == pytest.approx(1 / 20e-3, rel=0.01)
    assert found.utilisation["replay"] == pytest.approx(1.0, rel=0.01)
    assert found.utilisation["learner"] == pytest.approx(8 / 20, rel=0.02)


def test_no_more_batches_are_drawn_ahead_than_there_are_shelves() -> None:
    """With one, the next batch is begun when the last has been learned from: only publishing goes on beside it."""
    found = quick(replace(LOAD, shelves=1))
    assert found.updates_per_second == pytest.approx(1 / (7e-3 + 2e-3), rel=0.01)


def test_storing_and_drawing_are_one_after_the_other() -> None:
    """Slots of 40 steps, 5 ms to store each; five updates for each of them, 2 ms to draw for."""
    busy = replace(LOAD, hand=Work(core=5e-3), learn=Work(core=1e-4), publish=Work(), ratio=8.0, paced=True)
    found = quick(busy, copies=8)
    assert found.steps_per_second == pytest.approx(40 / (5e-3 + 5 * 2e-3), rel=0.02)


# What an option makes of measured costs


def test_drawing_and_storing_leave_the_learner() -> None:
    one, two = (workload(option, REMEMBERS, REMEMBERS.machine) for option in (TOGETHER, APART))
    hand = REMEMBERS.hand["processes"]
    assert (one.shelves, two.shelves) == (0, SHELVES)
    assert one.learn.core - two.learn.core == pytest.approx(REMEMBERS.draw)
    assert two.draw.core == pytest.approx(REMEMBERS.draw + 2 * hand)
    assert two.hand.core == pytest.approx(2 * hand + 50 * REMEMBERS.store)
    assert (two.step, two.act, two.paced) == (one.step, one.act, one.paced)


@pytest.mark.parametrize(("envs", "rounds"), [(1, 1.0), (4, 1.0), (8, 0.5)])
def test_what_comes_with_every_round_of_a_loop_is_not_the_learners(envs: int, rounds: float) -> None:
    """An update every fourth step: of a loop of one environment four rounds, of eight half of one."""
    costs = replace(REMEMBERS, envs=envs)
    plain = workload(TOGETHER, replace(costs, between=0.0), costs.machine).learn.core
    assert workload(TOGETHER, costs, costs.machine).learn.core - plain == pytest.approx(
        rounds * costs.between
    )


def test_a_learners_threads_are_all_free_of_the_drawing() -> None:
    costs = replace(REMEMBERS, learn={"cpu fp32": {1: 10e-3, 2: 6e-3}})
    one, two = (
        workload(replace(option, threads=2), costs, costs.machine).learn for option in (TOGETHER, APART)
    )
    assert one.alone - two.alone == pytest.approx(costs.draw)


def test_there_are_as_many_shelves_as_the_runtime_has() -> None:
    assert SHELVES == job.SHELVES


def test_costs_of_a_replay_follow_the_clock() -> None:
    slow = replace(REMEMBERS, machine=replace(REMEMBERS.machine, clock=2.0))
    costs, _ = WhatIf(clock=4.0).apply(slow, slow.machine)
    assert (costs.draw, costs.store) == (pytest.approx(0.5e-3), pytest.approx(25e-6))


def test_it_is_predicted_to_be_faster_where_there_is_a_core_for_it() -> None:
    machine = replace(REMEMBERS.machine, cores=3)
    one, two = (predict(option, REMEMBERS, machine).steps_per_second for option in (TOGETHER, APART))
    assert 1.05 < two / one < 1.15  # the drawing is a tenth of an update


# Chosen and told


def test_it_counts_as_one_thing_more() -> None:
    assert APART.name == f"{TOGETHER.name}, replay apart"
    assert APART.complexity == TOGETHER.complexity + 1
    rate = Prediction(1000.0, 10.0, {}, 2.0, error=0.06)
    assert choose([Ranked(APART, replace(rate, steps_per_second=1010.0)), Ranked(TOGETHER, rate)]) == 1
    assert choose([Ranked(APART, replace(rate, steps_per_second=1200.0)), Ranked(TOGETHER, rate)]) == 0


def test_it_is_predicted_however_little_the_bound_promises() -> None:
    loop = Option("synchronous", "in_process", 1, 1, 1, ratio=8.0)

    def predictor(option: Option, *_: object) -> Prediction:
        return Prediction(1e9 if option is APART else 100.0, 10.0, {}, 2.0)

    found = rank([loop, TOGETHER, APART], REMEMBERS, Machine("m", 4), 0, predictor)
    assert sorted(each.option.name for each in found) == sorted(o.name for o in (loop, TOGETHER, APART))


def test_an_answer_says_where_the_replay_is() -> None:
    option = replace(APART, settings={"parallel.copies": 1, "parallel.replay": "process"})
    rate = Prediction(1000.0, 10.0, {"actor": 1.0, "learner": 0.5}, 2.0)
    plan = Plan(REMEMBERS, REMEMBERS.machine, [Ranked(each, rate) for each in (option, TOGETHER)])
    said = "\n".join(lines(plan, explain(plan, lambda *_: rate)))  # what it is called hangs on no number
    assert "in processes: 1 actor of 1 environments, the replay in a process of its own." in said
    assert "apex, processes, 1 x 1 environments, replay apart" in said
    assert "--set parallel.replay=process" in describe(option)


def test_storing_is_bookkeeping_of_its_own() -> None:
    found = predict(APART, REMEMBERS, REMEMBERS.machine)
    one, two = (where_time_goes(option, REMEMBERS, found).micros for option in (TOGETHER, APART))
    assert two["bookkeeping"] - one["bookkeeping"] == pytest.approx(1e6 * REMEMBERS.store)
