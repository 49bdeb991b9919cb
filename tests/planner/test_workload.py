"""What an option and measured costs make of it: stepping on many cores; a loop on a GPU, beyond its pieces."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from redline.planner.costs import GPU, Curve, Machine, Work, Workload
from redline.planner.machines import carried_over
from redline.planner.options import Option
from redline.planner.workload import spread, workload
from tests.planner.sample import COSTS

BIG = Machine("server", cores=16, gpus=GPU("h100", 1))
ON_BIG = replace(COSTS, machine=BIG, threaded=True, envs=8)
STEP = Work(core=8e-3)


def seconds(step: Work) -> float:
    """How long stepping takes where the cores are free."""
    return step.core / step.width + step.wait


def test_an_environment_is_not_spread_over_cores() -> None:
    assert seconds(spread(STEP, ON_BIG, 16, 8)) == pytest.approx(1e-3)
    assert seconds(spread(STEP, ON_BIG, 16, 32)) == pytest.approx(0.5e-3)
    assert seconds(spread(STEP, ON_BIG, 4, 8)) == pytest.approx(2e-3)
    assert spread(STEP, ON_BIG, 16, 1) == STEP


def test_environments_that_step_in_python_stay_on_one_core() -> None:
    assert spread(STEP, replace(ON_BIG, threaded=False), 16, 8) == STEP


def test_threads_that_step_together_wait_for_each_other_as_measured() -> None:
    costs = replace(ON_BIG, together=2.7)
    assert seconds(spread(STEP, costs, 16, 8)) == pytest.approx(2.7e-3)
    assert seconds(spread(STEP, costs, 2, 8)) == pytest.approx(
        4e-3 * (1 + 1.7 / 7)
    )  # two of them, a seventh of it
    assert seconds(spread(STEP, replace(ON_BIG, together=50.0), 16, 8)) == pytest.approx(
        8e-3
    )  # as one core, at worst


@pytest.mark.parametrize(
    ("place", "own", "expected"),
    [("cpu fp32", 0.5, 0.1), ("cuda bf16", 0.02, 0.02), ("cuda bf16", None, 0.1)],
)
def test_what_a_loop_costs_beyond_its_pieces_is_that_of_its_device(
    place: str, own: float | None, expected: float
) -> None:
    costs = replace(
        ON_BIG,
        between=0.1,
        between_gpu=own,
        learn={"cpu fp32": {1: 0.36}, "cuda bf16": {1: 0.015}},
        act=COSTS.act | {"cuda bf16": Curve.of([(1, 2e-4)])},
    )
    option = Option("synchronous", "in_process", 1, 8, 20, act_on=place, learn_on=place)
    learn = workload(option, costs, BIG).learn
    beyond = learn.core - (0.36 if place.startswith("cpu") else 0.0)
    assert beyond == pytest.approx(expected)


DRAGS = {
    "processes actor": 1.1,
    "processes learner": 1.2,
    "processes full actor": 1.5,
    "processes full learner": 1.6,
}


@pytest.mark.parametrize(
    ("copies", "drag", "expected"),
    [
        (1, DRAGS, (1.1, 1.2)),
        (3, DRAGS, (1.1, 1.2)),
        (4, DRAGS, (1.5, 1.6)),  # one for every core
        (9, DRAGS, (1.5, 1.6)),
        (4, {name: value for name, value in DRAGS.items() if "full" not in name}, (1.1, 1.2)),  # not measured
    ],
)
def test_actors_and_their_learner_are_slowed_as_the_crowd_like_theirs_was(
    copies: int, drag: dict[str, float], expected: tuple[float, float]
) -> None:
    costs = replace(COSTS, drag=drag)  # four cores
    load = workload(Option("impala", "processes", copies, 32, 20, queue=1, lag_bound=1), costs, costs.machine)
    assert (load.step.drag, load.learn.drag) == expected


def test_actors_in_lock_step_with_their_learner_are_slowed_as_they_were_seen_to() -> None:
    costs = replace(COSTS, drag=DRAGS | {"processes step": 1.9})
    for queue, copies, longer in ((0, 2, 1.9), (0, 1, 1.0), (1, 2, 1.0)):
        option = Option("impala", "processes", copies, 32, 20, queue=queue)
        load = workload(option, costs, costs.machine)
        plain = workload(option, replace(costs, drag=DRAGS), costs.machine)
        for name in ("step", "act", "learn"):
            seen, known = getattr(load, name), getattr(plain, name)
            assert (seen.alone, seen.drag) == (pytest.approx(longer * known.alone), known.drag)


def test_simulators_that_need_no_interpreter_hold_each_other_up_in_threads_as_in_processes() -> None:
    option = Option("impala", "threads", 4, 32, 20, queue=1, lag_bound=1)
    for threaded, slow in ((True, 1.5), (False, 1.0)):
        costs = replace(COSTS, drag=DRAGS, threaded=threaded)
        assert workload(option, costs, costs.machine).step.drag == slow


def test_a_server_works_beside_its_workers_and_waits_for_nobody_while_they_wake() -> None:
    costs = replace(COSTS, serve={"processes": Curve.of([(1, 1e-3)])}, latency={"processes": 2e-3})
    load = workload(Option("seed", "processes", 2, 8, 20, queue=1), costs, costs.machine)
    plain = workload(
        Option("seed", "processes", 2, 8, 20, queue=1), replace(costs, latency={}), costs.machine
    )
    assert load.step.wait - plain.step.wait == pytest.approx(2e-3)
    assert load.serve == plain.serve


def test_in_lock_step_a_servers_rounds_are_as_long_as_they_were_seen_to_be() -> None:
    costs = replace(COSTS, latency={"processes": 2e-3}, drag={"processes served step": 0.5})
    (free, lock) = (
        workload(Option("seed", "processes", 2, 8, 20, queue=q), costs, costs.machine) for q in (1, 0)
    )
    assert lock.step.alone == pytest.approx(0.5 * free.step.alone)
    assert lock.serve is not None
    assert free.serve is not None
    assert lock.serve.at(16) == pytest.approx(0.5 * free.serve.at(16))
    assert lock.learn.core == pytest.approx(0.5 * free.learn.core)


def test_in_lock_step_workers_of_every_size_wait_for_the_interpreter_as_threads_were_seen_to() -> None:
    costs = replace(
        COSTS, drag={"threads": 1.9, "processes": 1.1, "threads served step": 1.0}, threaded=False
    )
    for copies, each in ((2, 4), (2, 8)):
        option = Option("seed", "threads", copies, each, 20, queue=0)
        assert workload(option, costs, costs.machine).step.drag == 1.9
        assert workload(replace(option, runtime="processes"), costs, costs.machine).step.drag == 1.1
        # One that does not rest was measured at work, batch and step together.
        assert workload(replace(option, queue=1), costs, costs.machine).step.drag == 1.0


def test_in_lock_step_a_server_on_a_gpu_too_takes_as_long_as_it_was_seen_to() -> None:
    gpu = replace(COSTS, act=COSTS.act | {"cuda bf16": Curve.of([(1, 0.2e-3), (64, 0.4e-3)])})
    costs = replace(gpu, drag={"processes served step": 0.5})
    option = Option("seed", "processes", 2, 8, 20, queue=0, act_on="cuda bf16")
    seen, plain = (workload(option, each, each.machine) for each in (costs, gpu))
    assert seen.serve_gpu is not None
    assert plain.serve_gpu is not None
    assert seen.serve_gpu.at(8) == pytest.approx(0.5 * plain.serve_gpu.at(8))


def test_plans_of_an_experiment_whose_actors_do_not_give_way_are_of_equals() -> None:
    option = Option("impala", "threads", 2, 16, 20, queue=1)
    assert workload(option, COSTS, COSTS.machine).polite
    assert not workload(replace(option, polite=False), COSTS, COSTS.machine).polite


def test_what_a_batch_costs_besides_is_paid_once_however_many_messages_it_is_of() -> None:
    costs = replace(COSTS, besides=1e-3)
    for copies in (1, 4):
        for name in ("impala", "seed"):
            option = Option(name, "processes", copies, 8, 20, queue=1)
            load, plain = (workload(option, each, each.machine) for each in (costs, COSTS))
            assert load.learn.core - plain.learn.core == pytest.approx(1e-3)
            assert load.hand == plain.hand


def test_many_copies_get_in_each_others_way_as_many_actors_do() -> None:
    costs = replace(COSTS, drag={"threads": 1.0, "threads crowd": 4.0})  # four cores, 32 environments
    paces = []
    for copies in (4, 32):
        option = Option("accel_sync", "threads", copies, 1, 20)
        load, plain = (workload(option, each, each.machine) for each in (costs, replace(costs, drag={})))
        paces.append(load.step.alone / plain.step.alone)
    assert paces[0] == pytest.approx(1.0), "so many were seen"
    fewest = 3  # beside a learner: where the measured line begins
    root = math.sqrt
    seen = 1.0 + 3.0 * (root(4) - root(fewest)) / (root(32) - root(fewest))
    assert paces[1] == pytest.approx(4.0 / seen)


class TestWorkerProcesses:
    def test_the_slowest_of_them_is_waited_for(self) -> None:
        """One round in eight takes 8 ms and the others nothing: of two workers one is slow in 15 of 64."""
        wait = Work(0.0, wait=1e-3, tail=(0.0,) * 7 + (8.0,))
        costs = replace(COSTS, step={n: wait.scaled(n / 8) for n in (4, 8)})
        one, two = (
            workload(Option("synchronous", "in_process", 1, 8, 20, workers=n), costs, costs.machine).step
            for n in (1, 2)
        )
        assert one.wait == pytest.approx(1e-3)
        assert two.wait == pytest.approx(4e-3 * 2 / 8)  # in bins of an eighth: two of eight
        assert sorted(two.tail) == pytest.approx([0.0] * 6 + [4.0] * 2)

    def test_workers_that_always_wait_alike_wait_side_by_side(self) -> None:
        costs = replace(COSTS, step={n: Work(1e-4 * n, wait=1e-3 * n) for n in (1, 8)})
        option = Option("synchronous", "in_process", 1, 8, 20, workers=4)
        step = workload(option, costs, costs.machine).step
        assert step.wait == pytest.approx(2e-3)
        assert step.width == 4


def test_copies_go_as_they_were_seen_to() -> None:
    option = Option("accel_sync", "threads", 2, 16, 20)
    actors = {"threads": 1.4, "threads learner": 1.2}
    costs = replace(COSTS, drag=actors)
    load = workload(option, costs, costs.machine)
    seen = workload(option, replace(costs, drag=actors | {"threads copies": 0.9}), costs.machine)
    for name in ("step", "act", "learn", "publish"):
        found, known = getattr(seen, name), getattr(load, name)
        assert (found.alone, found.drag) == (pytest.approx(0.9 * known.alone), 1.0)
    assert (load.step.drag, load.learn.drag) == (1.4, 1.2), "or else as actors do, and a learner beside them"


@pytest.mark.parametrize(("copies", "longer"), [(4, 1.0), (32, 2.0), (64, 1.0 + 4 / 3)])
def test_the_more_workers_wait_the_more_it_goes_as_a_crowd_did(copies: int, longer: float) -> None:
    costs = replace(COSTS, drag={"threads served crowd": 2.0})  # four cores, 32 environments
    option = Option("seed", "threads", copies, 1, 20, queue=1)
    load, plain = (workload(option, each, each.machine) for each in (costs, replace(costs, drag={})))
    assert load.step.alone == pytest.approx(longer * plain.step.alone)


def test_few_workers_go_as_they_were_seen_to_and_more_as_a_crowd_did() -> None:
    """Between the two by the logarithm of their number (32 environments, four cores)."""
    costs = replace(COSTS, drag={"threads served": 1.2, "threads served crowd": 2.0})
    for copies, longer in ((2, 1.2), (4, 1.2), (32, 2.0), (8, 1.2 + 0.8 / 3)):
        option = Option("seed", "threads", copies, 1, 20, queue=1)
        load, plain = (workload(option, each, each.machine) for each in (costs, replace(costs, drag={})))
        assert load.step.alone == pytest.approx(longer * plain.step.alone), copies
        assert load.learn.core == pytest.approx(longer * plain.learn.core), copies
    there = workload(Option("seed", "processes", 2, 1, 20, queue=1), costs, costs.machine)
    assert there.step.alone < load.step.alone


@pytest.mark.parametrize("cores", [2, 8, 64])
def test_a_crowd_that_was_measured_is_no_crowd_where_each_has_a_core(cores: int) -> None:
    waits = replace(COSTS, machine=Machine("here", 2), envs=8, drag={"threads served crowd": 3.0})
    there = carried_over(waits, Machine("there", cores))
    option = Option("seed", "threads", 8, 1, 20, queue=1)
    paced, plain = (workload(option, each, there.machine) for each in (there, replace(there, drag={})))
    assert paced.step.core / plain.step.core == pytest.approx(3.0 if cores == 2 else 1.0)


def test_a_crowd_of_two_is_one() -> None:
    seen = replace(COSTS, machine=Machine("here", 2), envs=2, drag={"threads served crowd": 3.0})
    option = Option("seed", "threads", 2, 1, 20, queue=1)
    paced, plain = (workload(option, each, each.machine) for each in (seen, replace(seen, drag={})))
    assert paced.step.core == pytest.approx(3.0 * plain.step.core)


@pytest.mark.parametrize("cores", [2, 64])
def test_what_threads_lose_together_is_as_it_was_measured_on_any_number_of_cores(cores: int) -> None:
    costs = replace(ON_BIG, envs=32, together=2.0)  # measured on 16 cores
    there = carried_over(costs, Machine("there", cores))
    assert spread(STEP, there, 2, 8).width == pytest.approx(spread(STEP, costs, 2, 8).width)


@pytest.mark.parametrize(("copies", "waits"), [(4, 0.0), (8, 10e-3 / 3), (32, 10e-3)])
def test_a_learner_queues_for_the_interpreter_of_a_crowd(copies: int, waits: float) -> None:
    """Four cores, 32 environments: 10 ms a batch among as many threads."""
    costs = replace(COSTS, queueing=10e-3, drag={"threads learner": 1.5})
    plain = replace(costs, queueing=0.0)
    for name, runtime in (("impala", "threads"), ("seed", "threads"), ("impala", "processes")):
        option = Option(name, runtime, copies, 1, 20, queue=1)
        found, known = (workload(option, each, each.machine).learn for each in (costs, plain))
        if (name, runtime) != ("impala", "threads") or not waits:
            assert found == known
        else:
            assert found.wait - known.wait == pytest.approx(waits)
            assert (found.core, found.drag) == (known.core, 1.0), "it does not compute meanwhile"


@pytest.mark.parametrize("seconds", [float("nan"), float("inf")])
def test_work_that_takes_no_known_time_is_refused(seconds: float) -> None:
    """The simulator would go on for ever without its clock moving."""
    with pytest.raises(ValueError, match="learn must take a finite time"):
        Workload(2, 5, 1, step=Work(1e-3), act=Work(1e-3), learn=Work(seconds))
    with pytest.raises(ValueError, match="nothing to simulate"):
        Workload(2, 5, 1, step=Work(), act=Work(), learn=Work())


def test_each_group_is_acted_for_by_itself() -> None:
    """A pass has a fixed cost, of which two groups pay two."""
    level = replace(ON_BIG, act={"cpu fp32": Curve.of([(1, 1e-3), (64, 1e-3)])}, record=Curve.of([(1, 0.0)]))
    one, two = (
        workload(Option("synchronous", "in_process", 1, 16, 20, groups=groups), level, BIG).act.core
        for groups in (1, 2)
    )
    assert two == pytest.approx(2 * one)


def test_bundles_draw_whole_batches_and_copies_in_lock_step_share_one() -> None:
    costs = replace(COSTS, batch=32, minibatch=32, train={"cpu fp32": Curve.of([(1, 1e-4), (32, 3.2e-3)])})
    loads = {
        name: workload(Option(name, "threads", 4, 1, 1, ratio=8.0), costs, costs.machine)
        for name in ("gorila", "accel_sync")
    }
    assert (loads["gorila"].samples, loads["accel_sync"].samples) == (32, 8)
    assert loads["accel_sync"].learn.core < 0.5 * loads["gorila"].learn.core


def test_only_copies_that_share_gradients_use_a_second_gpu() -> None:
    two = replace(BIG, gpus=GPU("h100", 2))
    gpus = {
        name: workload(Option(name, runtime, 4, 2, 20), ON_BIG, two).gpus
        for name, runtime in (("synchronous", "in_process"), ("impala", "threads"), ("accel_sync", "threads"))
    }
    assert gpus == {"synchronous": 1, "impala": 1, "accel_sync": 2}
