"""Explanations of plans: each figure against one reckoned by hand, and the words that are made of them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from redline.planner.costs import GPU, Curve, Machine, Prediction, Work
from redline.planner.explaining.explain import (
    amdahl,
    bottleneck,
    crossover,
    explain,
    first_ahead,
    learning_batch,
    where_time_goes,
)
from redline.planner.explaining.telling import answer, as_data, describe, lines, names
from redline.planner.explaining.variants import OFF, Point, grown, helps, knee, scaling
from redline.planner.machines import parse_what_if
from redline.planner.measured import Costs
from redline.planner.options import Option, Plan, Ranked
from tests.planner.sample import COSTS, MACHINE, OPTION, predict, sample_plan


def test_where_a_steps_time_goes() -> None:
    where = where_time_goes(OPTION, COSTS, predict(OPTION, COSTS, MACHINE))
    assert where.micros["stepping"] == pytest.approx(4800 / 16)
    assert where.micros["acting"] == pytest.approx(2600 / 16 * 21 / 20)  # and the value after an unroll
    assert where.micros["bookkeeping"] == pytest.approx(60 / 16 + 60 / (16 * 20))
    assert where.micros["estimating"] == pytest.approx(0.05 * 360_000 / 640)
    assert where.micros["improving"] == pytest.approx(0.95 * 360_000 / 640 + 300 / 640)
    assert sum(where.shares.values()) == pytest.approx(1.0)
    assert where.questions["estimate return"] == where.shares["estimating"]
    assert sum(where.questions.values()) == pytest.approx(1.0)


def test_learning_from_replay_counts_as_often_as_a_sample_is_used() -> None:
    once = where_time_goes(OPTION, COSTS, predict(OPTION, COSTS, MACHINE))
    prediction = replace(predict(OPTION, COSTS, MACHINE), replay_ratio=8.0)
    often = where_time_goes(OPTION, COSTS, prediction)
    assert often.micros["improving"] == pytest.approx(8 * once.micros["improving"])
    assert often.micros["stepping"] == once.micros["stepping"]


def test_actor_threads_and_groups_divide_what_steps_together() -> None:
    loop = replace(OPTION, architecture="synchronous", runtime="in_process", copies=1, shards=16)
    where = where_time_goes(loop, COSTS, predict(OPTION, COSTS, MACHINE))
    assert where.micros["stepping"] == pytest.approx(400)  # one by one
    assert where.micros["acting"] == pytest.approx(500 * 21 / 20)


def test_waiting_is_no_work() -> None:
    slow = replace(COSTS, step={16: Work(core=1.6e-3, wait=16e-3)})
    where = where_time_goes(OPTION, slow, predict(OPTION, COSTS, MACHINE))
    assert where.micros["stepping"] == pytest.approx(100)
    assert where.waiting == pytest.approx(1000)


def test_amdahls_bounds() -> None:
    where = where_time_goes(OPTION, COSTS, predict(OPTION, COSTS, MACHINE))
    total = sum(where.micros.values())
    bounds = amdahl(where)
    assert bounds["stepping"] == pytest.approx(total / (total - where.micros["stepping"]))
    learning = where.micros["estimating"] + where.micros["improving"]
    assert bounds["learning"] == pytest.approx(total / (total - learning))
    only = replace(where, shares={**dict.fromkeys(where.shares, 0.0), "acting": 1.0})
    assert amdahl(only)["acting"] is None


def test_the_crossover_is_the_first_batch_from_which_the_gpu_stays_ahead() -> None:
    cpu = [Curve.of([(1, 1e-4), (2, 2e-4)])]  # 1e-4 a sample
    gpu = [Curve.of([(1, 1.001e-3), (1001, 2.001e-3)])]  # 1e-3 + 1e-6 a sample
    # 1e-4 n > 1e-3 + 1e-6 n from n = 10.1 on
    assert first_ahead(cpu, gpu) == 11
    # Four cores take a quarter each: 0.25e-4 n > 1e-3 + 1e-6 n from n = 41.7 on
    assert first_ahead(cpu, gpu, cores=4) == 42
    assert first_ahead(gpu, cpu) is None
    assert first_ahead([cpu[0].scaled(100)], gpu) == 1


def test_without_a_gpu_there_is_no_crossover_and_the_answer_says_how_to_ask() -> None:
    found = crossover(COSTS, MACHINE, "act", 16)
    assert (found.cpu, found.cpu_place) == (pytest.approx(1.8e-3), "cpu bf16")
    assert (found.gpu, found.margin, found.from_batch) == (None, None, None)
    plan = sample_plan()
    text = "\n".join(answer(plan, explain(plan, predict)))
    assert "no GPU" in text
    assert "--what-if gpu=h100" in text


def test_the_margin_is_told_at_the_plans_own_batch() -> None:
    costs, machine = parse_what_if("gpu=h100").apply(COSTS, MACHINE)
    found = crossover(costs, machine, "train", 640)
    assert found.gpu_place == "cuda bf16"
    assert costs.transfer is not None
    gpu = costs.train["cuda bf16"].at(640) + costs.transfer.at(640 * COSTS.observation_bytes)
    assert found.gpu == pytest.approx(gpu, rel=1e-3)
    assert found.margin == pytest.approx(0.340 / gpu, rel=1e-3)
    assert found.estimated


def test_the_learning_batch_is_a_minibatch() -> None:
    assert learning_batch(OPTION, COSTS) == 640
    assert learning_batch(replace(OPTION, threads=2), COSTS) == 320
    assert learning_batch(OPTION, replace(COSTS, updates=10.0, minibatch=64)) == 64


def test_the_knee() -> None:
    def points(*rates: float) -> list[Point]:
        return [Point(index + 1, rate) for index, rate in enumerate(rates)]

    assert knee(points(100, 200, 290, 300, 301)) == 3
    assert knee(points(100, 200, 300, 400)) is None
    assert knee(points(100, 90)) == 1
    # Of many copies each is a small part of the whole: 64 after 48 is no knee while throughput is proportional.
    assert knee([Point(n, 10.0 * n) for n in (32, 48, 64, 96)]) is None
    assert knee([Point(32, 320), Point(48, 480), Point(64, 500)]) == 48


def test_more_copies_cut_the_same_batch_otherwise() -> None:
    for number in (1, 3, 4, 5, 8, 16, 32, 64):
        changed = grown(OPTION, number)
        assert changed is not None, number
        samples = changed.copies * changed.environments * changed.unroll
        assert samples == pytest.approx(640, rel=OFF)
        assert changed.unroll >= 5
    assert grown(OPTION, 4) == replace(OPTION, copies=4, environments=8)
    assert grown(OPTION, 64) == replace(OPTION, copies=64, environments=1, unroll=10)
    assert grown(OPTION, 100) is None  # six steps each are 600
    assert grown(OPTION, 200) is None  # three steps each are too short
    assert grown(OPTION, 2) == OPTION
    assert grown(OPTION, 8, shorter=True) == replace(OPTION, copies=8, unroll=5)
    assert grown(OPTION, 16, shorter=True) is None


def test_actors_that_fill_a_replay_keep_their_environments() -> None:
    replays = replace(OPTION, architecture="apex")
    assert grown(replays, 50) == replace(replays, copies=50)
    paced = replace(OPTION, architecture="gorila", ratio=8.0)
    assert grown(paced, 7) == replace(paced, copies=7)


def test_a_loop_gets_threads_or_processes_as_far_as_it_has_environments() -> None:
    loop = replace(OPTION, architecture="synchronous", runtime="in_process", copies=1, groups=2)
    assert grown(loop, 3) == replace(loop, shards=3)
    assert grown(loop, 9) is None  # two groups of 16 environments
    assert grown(replace(loop, ratio=8.0), 2) is None  # from replay it learns with one actor
    stepped = replace(loop, workers=4)
    assert grown(stepped, 16) == replace(stepped, workers=16)
    assert grown(stepped, 17) is None
    light = replace(COSTS, learn={"cpu fp32": {1: 1e-3}})
    found = scaling(loop, light, MACHINE, predict)
    assert (found.what, found.own, found.points[-1].copies) == ("actor threads", 1, 8)
    found = scaling(stepped, light, MACHINE, predict)
    assert (found.what, found.own, found.points[-1].copies) == ("worker processes", 4, 8)


def test_scaling() -> None:
    light = replace(COSTS, learn={"cpu fp32": {1: 1e-3}}, act={"cpu fp32": Curve.of([(1, 1e-4), (2, 2e-4)])})
    found = scaling(OPTION, light, MACHINE, predict)
    assert (found.what, found.own) == ("copies", 2)
    assert [point.copies for point in found.points] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert found.knee == 4  # as many as there are cores
    assert found.points[1].lag_mean == 1.0
    big = scaling(OPTION, light, replace(MACHINE, cores=256), predict)
    assert big.points[-1].copies >= 96
    assert len(big.points) < 25


def test_what_would_help_is_ranked_and_adapts_the_plan() -> None:
    light = replace(COSTS, learn={"cpu fp32": {1: 1e-3}}, act={"cpu fp32": Curve.of([(1, 1e-4), (2, 2e-4)])})
    machine = replace(MACHINE, cores=2)
    ranked = helps(OPTION, light, machine, predict)
    found = {each.name: each for each in ranked}
    gains = [each.gain for each in ranked]
    assert gains == sorted(gains, reverse=True)
    assert found["one more core"].gain == pytest.approx(0.5, abs=0.01)  # with an actor more
    assert found["twice the cores (4)"].gain == pytest.approx(1.0, abs=0.01)
    assert found["4 times the cores (8)"].gain == pytest.approx(3.0, abs=0.03)
    work = 300 + 100  # microseconds: a step and its action
    assert found["an environment twice as fast"].gain == pytest.approx(work / (work - 150) - 1, abs=0.01)
    gpu = found["a GPU (H100)"]
    assert gpu.estimated
    assert gpu.low <= gpu.gain <= gpu.high
    assert not any(each.name.startswith("a GPU") for each in helps(OPTION, *with_gpu(), predict))


def test_more_cores_may_get_more_environments_with_shorter_unrolls() -> None:
    def by_environments(option: Option, costs: Costs, machine: Machine) -> Prediction:
        return replace(predict(option, costs, machine), steps_per_second=option.copies * option.environments)

    found = {each.name: each.gain for each in helps(OPTION, COSTS, MACHINE, by_environments)}
    assert found["4 times the cores (16)"] == pytest.approx(3.0)  # eight actors of 16


def test_only_what_may_move_goes_to_a_gpu() -> None:
    asked: list[Option] = []

    def seen(option: Option, costs: Costs, machine: Machine) -> Prediction:
        asked.append(option)
        return predict(option, costs, machine)

    helps(OPTION, COSTS, MACHINE, seen)
    assert {each.act_on for each in asked} == {"cpu fp32"}  # actors stay
    assert {each.learn_on for each in asked} == {"cpu fp32", "cuda bf16"}
    asked.clear()
    loop = replace(OPTION, architecture="synchronous", runtime="in_process", copies=1)
    helps(loop, COSTS, MACHINE, seen)
    assert {(each.act_on, each.learn_on) for each in asked} == {
        ("cpu fp32", "cpu fp32"),
        ("cuda bf16", "cuda bf16"),
    }


def with_gpu() -> tuple[Costs, Machine]:
    return parse_what_if("gpu=h100").apply(COSTS, MACHINE)


def test_a_learner_that_holds_up_gains_from_threads_and_from_a_gpu_not_from_a_faster_environment() -> None:
    found = {each.name: each.gain for each in helps(OPTION, COSTS, MACHINE, predict)}
    assert found["an environment twice as fast"] == pytest.approx(0.0, abs=1e-9)
    assert found["twice the cores (8)"] == pytest.approx(0.36 / 0.21 - 1)
    assert found["a GPU (H100)"] > 2


def test_the_interval_of_a_gpu_is_that_of_its_rates_where_these_decide() -> None:
    slow = replace(COSTS, kernels=5_000)  # on the GPU too the learner holds everything up
    option, machine = replace(OPTION, copies=8), replace(MACHINE, cores=16)
    found = next(each for each in helps(option, slow, machine, predict) if each.estimated)
    assert found.gain > 1
    assert 1 + found.high == pytest.approx(2 * (1 + found.gain), rel=0.15)
    assert 1 + found.low < 0.6 * (1 + found.gain)


def prediction(cores_busy: float, gpu_busy: float = 0.0, **busy: float) -> Prediction:
    return Prediction(1000.0, 1.0, busy, cores_busy, gpu_busy)


@pytest.mark.parametrize(
    ("found", "role", "words"),
    [
        (prediction(1.5, actor=0.3, learner=0.97), "learner", "more learner threads"),
        (prediction(1.5, actor=0.99, learner=0.4), "actor", "The actors are the bottleneck"),
        (prediction(3.9, actor=0.9, learner=0.9), "cores", "All 4 cores are used up"),
        (prediction(1.0, actor=0.5, learner=0.5), "", "wait for each other"),
        (prediction(1.0, 0.97, actor=0.5), "gpu", "The GPU is used up"),
    ],
)
def test_the_bottleneck_names_the_role_and_what_relieves_it(found: Prediction, role: str, words: str) -> None:
    where = where_time_goes(OPTION, COSTS, found)
    machine = replace(MACHINE, gpus=GPU("h100"))
    told = bottleneck(OPTION, found, machine, where)
    assert told[0] == role
    assert words in told[1]


def test_copies_that_learn_by_themselves_are_relieved_of_what_is_most_of_their_work() -> None:
    option = replace(OPTION, architecture="accel_sync", copies=2)
    found = prediction(2.0, replica=0.97)
    told = bottleneck(option, found, MACHINE, where_time_goes(option, COSTS, found))
    assert told[0] == "replica"
    assert "more learner threads or fewer epochs" in told[1]


def test_who_learns_on_a_gpu_already_is_not_told_to_get_one() -> None:
    costs, machine = with_gpu()
    option = replace(OPTION, learn_on="cuda bf16", threads=1)
    found = prediction(1.5, 0.5, actor=0.3, learner=0.97)
    told = bottleneck(option, found, machine, where_time_goes(option, costs, found))
    assert "a GPU" not in told[1].replace("a faster GPU", "")
    assert "larger batches" in told[1]
    loop = replace(option, architecture="synchronous", runtime="in_process", copies=1, act_on="cuda bf16")
    slow = replace(costs, learn={**costs.learn, "cuda bf16": {1: 1.0}})
    found = prediction(0.5, 0.5, loop=1.0)
    told = bottleneck(loop, found, machine, where_time_goes(loop, slow, found))
    assert "improving the policy: larger minibatches" in told[1]


def test_options_of_one_name_are_told_apart() -> None:
    plan = sample_plan()
    options = [
        OPTION,
        replace(OPTION, unroll=10),
        replace(OPTION, learn_on="cuda bf16"),
        replace(OPTION, learn_on="cuda fp32"),
        replace(OPTION, copies=4),
    ]
    first = plan.ranked[0]
    called = names(replace(plan, ranked=[replace(first, option=each) for each in options]))
    assert called[0] == f"{OPTION.name}, 20 steps an unroll"
    assert called[1] == f"{OPTION.name}, 10 steps an unroll"
    assert called[2] == f"{OPTION.name}, learning on a GPU, learning in cuda bf16"
    assert called[4] == options[4].name
    assert len(set(called)) == 5


def test_one_loop_leaves_cores_idle() -> None:
    loop = replace(OPTION, architecture="synchronous", runtime="in_process", copies=1)
    found = prediction(1.0, loop=1.0)
    told = bottleneck(loop, found, MACHINE, where_time_goes(loop, COSTS, found))
    assert told[0] == "loop"
    assert "leaves 3.0 of 4 cores idle" in told[1]


def test_environments_that_keep_everybody_waiting_are_told_of_and_no_gpu() -> None:
    late = replace(COSTS, step={1: Work(core=10e-6, wait=8e-3), 16: Work(core=160e-6, wait=128e-3)})
    found = prediction(0.2, actor=1.0, learner=0.1)
    role, sentence = bottleneck(OPTION, found, MACHINE, where_time_goes(OPTION, late, found))
    assert role == ""
    assert "keep everybody waiting" in sentence
    assert sentence.endswith("cores and a GPU would not.")


def test_the_start_is_part_of_the_time() -> None:
    plan = sample_plan()
    plan = replace(plan, ranked=[replace(plan.best, start=60.0 / 100_000), *plan.ranked[1:]])
    text = "\n".join(lines(plan, explain(plan, predict), steps=100_000))
    assert "100k agent steps take about 1 min 59 s, 1 min 0 s of it to start." in text


def test_lines_are_an_answer_then_a_table_then_refusals() -> None:
    plan = sample_plan()
    told = lines(plan, explain(plan, predict), steps=10_000_000)
    text = "\n".join(told)
    rate = plan.best.prediction.steps_per_second
    assert told[0].startswith("Train with architecture impala in threads: 2 actors of 16 environments.")
    assert f"Expect {rate:,.0f} agent steps/s ({0.9 * rate:,.0f} to {1.1 * rate:,.0f})" in text
    assert "measured 1,707 over 10.0 s" in text
    assert "10M agent steps take about 1 h 38 min." in text
    assert "What would help: a GPU (H100): +" in text
    assert "refused: apex: on-policy, needs lag <= 1" in told
    header = next(index for index, line in enumerate(told) if line.startswith("plan "))
    assert told[header + 1].startswith("impala, threads, 2 x 16 environments")
    assert "1,707" in told[header + 1]
    assert told[header - 1] == ""


def test_a_what_if_says_first_that_it_is_one_and_tells_the_price() -> None:
    asked = parse_what_if("cores=16, gpu=h100, price=3.6")
    costs, machine = asked.apply(COSTS, MACHINE)
    plan = sample_plan(costs, machine, asked.text)
    option = replace(OPTION, learn_on="cuda bf16", copies=12)
    ranked = Ranked(option, predict(option, costs, machine))
    plan = replace(plan, ranked=[plan.ranked[0], ranked], chosen=1)
    told = answer(plan, explain(plan, predict), steps=1_000_000)
    assert told[0].startswith("If cores=16, gpu=h100, price=3.6: estimated")
    rate = ranked.prediction.steps_per_second
    assert explain(plan, predict).price_per_million == pytest.approx(1000 / rate)
    text = "\n".join(told)
    assert "cost about" in text
    assert "learning on the GPU (batch 640: the GPU is about" in text
    assert "acting on the CPU" in text
    assert lines(plan, explain(plan, predict))[-2:] == list(costs.notes)


def test_what_brings_nothing_is_said_apart() -> None:
    text = "\n".join(lines(sample_plan(), explain(sample_plan(), predict)))
    assert "twice the cores (8): +71%. What would not: one more core, an environment twice as fast." in text


def test_data_is_plain_and_whole() -> None:
    plan = sample_plan()
    data = as_data(plan, explain(plan, predict), 1000)
    again = json.loads(json.dumps(data))
    assert again["plan"]["ranked"][0]["name"] == OPTION.name
    assert again["plan"]["ranked"][0]["measured"]["seconds"] == 10.0
    assert again["explanation"]["scaling"]["points"][0]["copies"] == 1
    assert Costs.of(again["plan"]["costs"]) == COSTS


def test_how_to_train_by_a_plan() -> None:
    option = replace(OPTION, settings={"parallel.copies": 3, "network.hidden": [64, 64], "replay": None})
    assert describe(option) == (
        "--set parallel.architecture=impala --set parallel.runtime=threads --set parallel.copies=3 "
        "--set 'network.hidden=[64, 64]' --set replay=null"
    )


def test_one_environment_and_one_copy_are_explained_too() -> None:
    option = Option("synchronous", "in_process", 1, 1, 1)
    plan = Plan(COSTS, replace(MACHINE, cores=1), [Ranked(option, predict(option, COSTS, MACHINE))])
    found = explain(plan, predict)
    assert len(found.scaling.points) == 1
    assert lines(plan, found)
