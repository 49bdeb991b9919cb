"""What-ifs as typed, costs carried over to machines that are not here, and machines in files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from redline.planner.costs import GPU, Curve, Machine, Work
from redline.planner.machines import (
    WhatIf,
    carried_over,
    cost_per_million,
    load_machine,
    parse_what_if,
    save_machine,
    uncertainty,
)
from redline.planner.measured import Costs
from redline.planner.profiles import (
    BACKWARD,
    BACKWARD_FLOPS,
    COPY,
    ERROR,
    KERNELS,
    PUBLISHED,
    TENSOR_EFFICIENCY,
    kind,
    published,
    rated,
    sample_passes,
    with_gpu,
)
from redline.types import RunError, UserError
from tests.planner.sample import COSTS, MACHINE, OPTION


def test_a_whole_what_if_is_read() -> None:
    asked = parse_what_if(
        "cores=64, gpu=h100x2, env=3x slower, clock=4.2, memory=256GB, network=10Gb, price=2.5"
    )
    assert (asked.cores, asked.clock, asked.memory, asked.price) == (64, 4.2, 256 * 10**9, 2.5)
    assert asked.gpu is not None
    assert (asked.gpu.name, asked.gpu.count) == ("h100", 2)
    assert asked.environment == 3.0
    assert asked.network == pytest.approx(1.25e9)


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("env=2x faster", "environment", 0.5),
        ("environment = 1.5xslower", "environment", 1.5),
        ("net=1GB", "network", 1e9),
        ("network=100Mbit/s", "network", 12.5e6),
        ("memory=64GiB", "memory", 64 * 2**30),
        ("clock=3.5GHz", "clock", 3.5),
        ("gpu=none", "without_gpu", True),
        ("gpu=none", "gpu", None),
        ("gpu=rtx4090", "gpu", published("rtx4090")),
        ("gpu=RTX 4090x4", "gpu", published("rtx4090", 4)),
        ("cores=8, cores=8", "cores", 8),
    ],
)
def test_other_spellings(text: str, name: str, value: object) -> None:
    assert getattr(parse_what_if(text), name) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("env=2x slower, environment=3x slower", "env is both '2x slower' and '3x slower'"),
        ("gpu=h100x0", "expected 1 to"),
        ("gpu=h800x2", "GPU 'h800' has no published profile: did you mean 'h200'?"),
        ("clock=40", "clock=40: expected GHz"),
        ("price=-1", "price=-1: expected the price"),
        ("cores=four", "cores=four"),
        ("network=10", "network=10Gb (bits/s) or network=1GB"),
        ("", "--what-if is empty"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(text: str, words: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_what_if(text)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_cores_change_the_machine_and_leave_the_costs() -> None:
    costs, machine = WhatIf(text="cores=4", cores=4, price=2.0).apply(COSTS, MACHINE)
    assert (machine.cores, machine.price, machine.clock) == (4, 2.0, MACHINE.clock)
    assert costs == replace(COSTS, machine=machine, cores=MACHINE.cores)
    assert uncertainty(OPTION, costs) == 0.0


def test_a_slower_environment_costs_more_to_step_and_nothing_else() -> None:
    costs, _ = parse_what_if("env=3x slower").apply(
        replace(COSTS, step={16: Work(core=1e-3, wait=2e-3, gpu=1e-3)}, reset=(0.1, 1.0)), MACHINE
    )
    step = costs.step[16]
    assert (step.core, step.wait, step.gpu) == pytest.approx((3e-3, 6e-3, 3e-3))
    assert costs.reset == pytest.approx((0.3, 3.0))
    assert (costs.act, costs.learn, costs.train) == (COSTS.act, COSTS.learn, COSTS.train)


def test_a_network_is_kept_and_said_to_change_nothing() -> None:
    costs, machine = parse_what_if("network=10Gb").apply(COSTS, MACHINE)
    assert machine.network == pytest.approx(1.25e9)
    assert [note for note in costs.notes if "network" in note]
    assert replace(costs, notes=COSTS.notes, machine=COSTS.machine, cores=0) == COSTS


def test_a_clock_scales_what_cores_do_and_not_what_is_waited_for() -> None:
    before = replace(COSTS, step={1: Work(core=1e-3, wait=5e-3)}, exchange={"a3c": 1e-3}, between=3e-3)
    costs, machine = parse_what_if("clock=1.5").apply(before, MACHINE)
    assert machine.clock == 1.5
    assert costs.step[1].core == pytest.approx(2e-3)
    assert costs.step[1].wait == 5e-3
    assert costs.act["cpu fp32"].at(16) == pytest.approx(2 * before.act["cpu fp32"].at(16))
    assert costs.learn["cpu fp32"][2] == pytest.approx(2 * before.learn["cpu fp32"][2])
    assert costs.exchange["a3c"] == pytest.approx(2e-3)
    assert costs.between == pytest.approx(6e-3)
    assert uncertainty(OPTION, costs) > 0
    again = carried_over(costs, machine)  # they hold for that machine now: nothing is scaled twice
    assert again.learn == costs.learn


def test_a_clock_cannot_be_compared_with_none() -> None:
    unknown = replace(COSTS, machine=replace(MACHINE, clock=0.0))
    with pytest.raises(UserError, match=r"clock=4 cannot be compared: the clock of laptop is not known"):
        parse_what_if("clock=4").apply(unknown, unknown.machine)
    other = carried_over(unknown, Machine("server", cores=2, clock=2.0))
    assert uncertainty(OPTION, other) > 0
    assert any("server" in note for note in other.notes)


def test_a_gpu_that_was_not_measured_is_reckoned_from_its_published_rate() -> None:
    costs, machine = parse_what_if("gpu=h100x2").apply(COSTS, MACHINE)
    assert machine.gpus is not None
    assert machine.gpus.count == 2
    rate = 989e12 * TENSOR_EFFICIENCY
    moved = COSTS.observation_bytes / machine.gpus.transfer
    for size in (1, 100, 4096):
        expected = KERNELS * 5e-6 + COPY + size * COSTS.flops / rate
        assert costs.act["cuda bf16"].at(size) == pytest.approx(expected)
        expected = BACKWARD * KERNELS * 5e-6 + size * BACKWARD_FLOPS * COSTS.flops / rate
        assert costs.train["cuda bf16"].at(size) == pytest.approx(expected)
    assert costs.act["cuda fp32"].at(4096) > costs.act["cuda bf16"].at(4096)
    assert costs.transfer is not None
    assert costs.transfer.at(1e8) == pytest.approx(COPY + 1e8 / machine.gpus.transfer)
    passes = sample_passes(COSTS)
    arithmetic = (BACKWARD_FLOPS * passes * COSTS.batch) * COSTS.flops / rate
    expected = BACKWARD * KERNELS * 5e-6 + arithmetic + COPY + COSTS.batch * moved
    expected += costs.act["cuda bf16"].at(COSTS.batch)  # values to estimate returns from
    assert costs.learn["cuda bf16"][1] == pytest.approx(expected)
    assert costs.act["cpu fp32"] == COSTS.act["cpu fp32"]
    on_gpu = replace(OPTION, learn_on="cuda bf16")
    assert (uncertainty(OPTION, costs), uncertainty(on_gpu, costs)) == (0.0, ERROR)
    assert any("not measured" in note for note in costs.notes)


def test_a_gpu_without_bf16_offers_none() -> None:
    costs, _ = parse_what_if("gpu=t4").apply(COSTS, MACHINE)
    assert {"cpu fp32", "cpu bf16", "cuda fp32"} == costs.act.keys()


def test_unknown_flops_are_said() -> None:
    costs, _ = parse_what_if("gpu=l4").apply(replace(COSTS, flops=0.0), MACHINE)
    assert any("FLOPs were not counted" in note for note in costs.notes)


def test_epochs_count() -> None:
    four = replace(COSTS, updates=16.0, minibatch=160)
    assert sample_passes(four) == pytest.approx(4.0)
    gpu, _ = parse_what_if("gpu=h100").apply(four, MACHINE)
    single, _ = parse_what_if("gpu=h100").apply(COSTS, MACHINE)
    more = 15 * BACKWARD * KERNELS * 5e-6  # launches
    flops = BACKWARD_FLOPS * COSTS.flops * 640 * (4 - sample_passes(COSTS))
    more += flops / (989e12 * TENSOR_EFFICIENCY)
    assert gpu.learn["cuda bf16"][1] - single.learn["cuda bf16"][1] == pytest.approx(more)


def test_a_target_networks_pass_is_seen_in_what_an_update_costs() -> None:
    one = COSTS.train["cpu fp32"]
    each = (one.at(640) - one.at(32)) / (640 - 32)
    fixed = one.at(32) - 32 * each
    third = replace(COSTS, estimate=0.1, learn={"cpu fp32": {1: (fixed + 1.33 * 640 * each) / 0.9}})
    assert sample_passes(third) == pytest.approx(1.33)
    much_else = replace(COSTS, learn={"cpu fp32": {1: 10.0}})
    assert sample_passes(much_else) == 2.0


def test_a_measured_gpu_keeps_its_figures_and_may_go() -> None:
    gpu = GPU("NVIDIA H100 80GB HBM3", 1, tflops=900.0, measured=True)
    here = replace(MACHINE, gpus=gpu)
    curve = COSTS.act["cpu fp32"].scaled(0.1)
    measured = replace(
        COSTS,
        machine=here,
        act={**COSTS.act, "cuda bf16": curve},
        learn={**COSTS.learn, "cuda bf16": {1: 0.01}},
    )
    more, machine = parse_what_if("gpu=h100x4").apply(measured, here)
    assert machine.gpus == replace(gpu, count=4)
    assert more.act["cuda bf16"] == curve
    none, machine = parse_what_if("gpu=none").apply(measured, here)
    assert machine.gpus is None
    assert none.act.keys() == {"cpu fp32", "cpu bf16"}
    assert none.learn.keys() == {"cpu fp32"}
    other, _ = parse_what_if("gpu=t4").apply(measured, here)
    assert "cuda bf16" not in other.act


def test_more_learner_threads_follow_amdahl() -> None:
    costs, _ = parse_what_if("cores=8").apply(COSTS, MACHINE)
    times = costs.learn["cpu fp32"]
    assert set(times) == {1, 2, 4, 8}
    assert times[1] == COSTS.learn["cpu fp32"][1]
    # 0.36 = a + b, 0.21 = a + b / 2
    assert times[8] == pytest.approx(0.06 + 0.30 / 8)
    assert uncertainty(replace(OPTION, threads=8), costs) > 0


def test_costs_survive_json_with_what_was_reckoned() -> None:
    costs, _ = parse_what_if("gpu=a100, cores=16, clock=2").apply(COSTS, MACHINE)
    assert Costs.of(json.loads(json.dumps(costs.as_dict()))) == costs


def test_every_profile_is_whole() -> None:
    for name in PUBLISHED:
        gpu = published(name)
        assert kind(gpu) == name
        assert gpu.tflops > 1
        assert gpu.memory >= 16 * 10**9
        assert 1e9 < gpu.transfer < 100e9
    assert kind(GPU("Radeon")) is None
    assert kind(GPU("NVIDIA GeForce RTX 4090")) == "rtx4090"
    assert kind(GPU("Tesla T4")) == "t4"


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_a_machine_goes_through_a_file(tmp_path: Path, suffix: str) -> None:
    machine = Machine("big", 64, 3.5, 256 * 10**9, published("h100", 2), 1.25e9, 4.0)
    assert load_machine(save_machine(machine, tmp_path / "deep" / f"m.{suffix}")) == machine
    assert load_machine(save_machine(MACHINE, tmp_path / f"n.{suffix}")) == MACHINE


def test_a_machine_with_a_gpu_of_its_own_goes_through_a_file(tmp_path: Path) -> None:
    """The driver tells its name and memory, and no rates: those are published, or what a network reached there."""
    gpu = GPU("NVIDIA H200", memory=150 * 10**9, measured=True)
    here = Machine("box", 16, gpus=gpu)
    back = load_machine(save_machine(here, tmp_path / "box.yaml")).gpus
    assert back is not None
    assert (back.name, back.memory, back.tflops) == ("NVIDIA H200", gpu.memory, published("h200").tflops)
    slow = Curve.of([(1, 2e-3), (512, 4e-3), (2048, 10e-3)])
    seen = replace(COSTS, machine=here, train=COSTS.train | {"cuda bf16": slow})
    for name in ("NVIDIA H200", "NVIDIA L40S"):  # one of them with no published profile
        machine = replace(here, gpus=replace(gpu, name=name))
        saved = load_machine(save_machine(rated(machine, seen), tmp_path / f"{name}.yaml")).gpus
        assert saved is not None
        there = with_gpu(COSTS, saved)
        more = there.train["cuda bf16"].at(2048) - there.train["cuda bf16"].at(512)
        assert more == pytest.approx(6e-3)
        assert "another network" in there.notes[0]
    assert rated(here, COSTS) == here  # no GPU was seen at work
    assert rated(here, with_gpu(COSTS, published("h200"))) == here  # nor was this one: it was reckoned


def test_a_short_machine_file_is_enough(tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    file.write_text("cores: 32\nmemory: 128e9\ngpus: a100x8\n")
    assert load_machine(file) == Machine("node", 32, memory=128 * 10**9, gpus=published("a100", 8))
    file.write_text("cores: 32\ngpus: {name: a100, count: 2, launch: 1e-5}\n")
    assert load_machine(file).gpus == replace(published("a100", 2), launch=1e-5)
    file.write_text("cores: 32\ngpus: {name: h100, tflops: 494.5}\n")
    half = carried_over(COSTS, load_machine(file)).act["cuda bf16"].at(4096)
    moved = 4096 * COSTS.flops / (989e12 * TENSOR_EFFICIENCY)
    whole = parse_what_if("gpu=h100").apply(COSTS, MACHINE)[0].act["cuda bf16"].at(4096)
    assert half - whole == pytest.approx(moved)  # the arithmetic takes twice as long
    file.write_text("cores: 32\ngpus: {name: mine, tflops: 50}\n")
    costs = carried_over(COSTS, load_machine(file))
    assert costs.act["cuda bf16"].at(4096) < costs.act["cuda fp32"].at(4096)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- 4", "needs at least 'cores: N'"),
        ("cores: 0", "cores must be 1 to"),
        ("cores: true", "cores must be a whole number"),
        ("cores: 4\nmemory: lots", "memory must be a whole number of 0 or more, got 'lots'"),
        ("cores: 4\nprice: -1", "price must be a number of 0 or more, got -1"),
        ("cores: 4\ngpus: 7", "gpus needs a name"),
        ("cores: 4\ngpus: h800", "did you mean 'h200'?"),
        ("cores: 4\ngpus: {name: h100, count: 0}", "gpus.count must be 1 to"),
        ("cores: 4\ngpus: {name: h100, tflop: 3}", "gpus: unknown key 'tflop': did you mean 'tflops'?"),
        ("cores: .nan", "cores must be a whole number"),
    ],
)
def test_a_bad_machine_file_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "m.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as refused:
        load_machine(file)
    assert words in str(refused.value)
    assert "m.yaml" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_machine_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write the machine"):
        save_machine(MACHINE, tmp_path / "file" / "m.yaml")


def test_cost_of_a_million_steps() -> None:
    assert cost_per_million(replace(MACHINE, price=3.6), 1000.0) == pytest.approx(1.0)
    assert cost_per_million(MACHINE, 1000.0) is None
