"""The fused step equals torch's: sums of shards, Adam, rounding, and states that either path can go on from."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from redline.learners import optimizers
from redline.learners.config import LearnerConfig
from redline.learners.exchange import clip
from redline.learners.fused import FusedAdam, add_shards
from redline.learners.learner import Learner

CONFIG = LearnerConfig(device="cpu", precision="bf16", learning_rate=1e-3, threads=2)


def make(config: LearnerConfig) -> Learner:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(4, 16, 3), nn.Flatten(), nn.Linear(16 * 16, 300), nn.Linear(300, 3))
    return Learner(network, config, seed=0, num_envs=1, gamma=0.99)


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a fused learner and one that keeps to torch."""

    def both(config: LearnerConfig) -> tuple[Learner, Learner]:
        fused = make(config)
        with monkeypatch.context() as patch:
            patch.setattr(optimizers, "kernels_for", lambda *_: None)
            plain = make(config)
        assert fused._fused is not None
        assert plain._fused is None
        return fused, plain

    return both


def gradients(learner: Learner, shards: int) -> list[tuple[Tensor, ...]]:
    """Random gradients, the convolution's laid out as the weights are, or not, by turns."""
    made = []
    for shard in range(shards):
        each = [torch.randn_like(p).detach() for p in learner.network.parameters()]
        made.append(tuple(g.contiguous() if shard and torch.rand(()) < 0.5 else g for g in each))
    return made


def apply(learner: Learner, parts: list[tuple[Tensor, ...]]) -> Tensor:
    """One step by the sum of shards' gradients; returns its norm."""
    norm = learner._gather(parts)
    learner.clip_and_step(norm)
    return norm


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("limit", [None, 0.5, 1e9])
def test_fifty_steps_equal_torchs(
    pair: Any, limit: float | None, threads: int, shards: int, precision: Any
) -> None:
    if shards > threads:
        pytest.skip("no more shards than threads")
    fused, plain = pair(replace(CONFIG, max_grad_norm=limit, threads=threads, precision=precision))
    for _ in range(50):
        parts = gradients(fused, shards)
        norm = apply(fused, parts)
        torch.testing.assert_close(norm, apply(plain, parts), atol=0, rtol=1e-5)
    torch.testing.assert_close(fused.flat, plain.flat, atol=1e-6, rtol=0)
    assert torch.equal(fused.compute, fused.flat.to(fused.compute.dtype))


RMSPROPS = [
    {"epsilon_inside": inside, "centered": centered, "momentum": momentum}
    for inside in (False, True)
    for centered in (False, True)
    for momentum in (0.0, 0.9)
]


@pytest.mark.parametrize("settings", RMSPROPS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rmsprop_equals_the_ordinary_one(pair: Any, settings: dict[str, Any], precision: Any) -> None:
    config = replace(
        CONFIG, optimizer="rmsprop", epsilon=0.01, max_grad_norm=0.5, precision=precision, **settings
    )
    fused, plain = pair(config)
    for step in range(30):
        parts = gradients(fused, 2)
        apply(fused, parts)
        apply(plain, parts)
        if step == 15:  # and either goes on from the other's state
            saved = [copy.deepcopy(learner.state()) for learner in (fused, plain)]
            plain.load_state(saved[0])
            fused.load_state(saved[1])
    torch.testing.assert_close(fused.flat, plain.flat, atol=2e-6, rtol=1e-5)
    assert torch.equal(fused.compute, fused.flat.to(fused.compute.dtype))


@pytest.mark.parametrize("settings", [{"optimizer": "adam"}, {"optimizer": "rmsprop", "momentum": 0.9}])
def test_a_gradient_clipped_before_steps_as_one_clipped_on_the_way(settings: dict[str, Any]) -> None:
    """What exchanges do, and a learner alone: the same bits."""
    one, other = (make(replace(CONFIG, max_grad_norm=0.5, **settings)) for _ in range(2))
    kept = {name: torch.zeros_like(other.flat) for name in optimizers.statistics_of(other.config)}
    slope = torch.zeros_like(other.flat)
    shared = optimizers.shared_optimizer(other.config, other.flat, slope, kept)
    for _ in range(10):
        parts = gradients(one, 2)
        norm = apply(one, parts)
        assert norm > 0.5
        other._gather(parts)
        clip(other.gradient, norm, 0.5)
        slope.copy_(other.gradient)
        shared.step()
    assert torch.equal(one.flat, other.flat)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_sums_of_two_shards_in_either_layout(pair: Any, precision: Any) -> None:
    fused, plain = pair(replace(CONFIG, precision=precision))
    parts = gradients(fused, 2)
    for learner in (fused, plain):
        for tiles in learner._tiles:
            learner._reduce(tiles, parts)
    assert torch.equal(fused.gradient, plain.gradient)
    out = torch.zeros(3, 5)
    one, two = torch.randn(2, 3, 5).to(fused.compute.dtype)
    squares = add_shards([one, two], out)
    assert torch.equal(out, one.float() + two.float())
    assert squares == pytest.approx(float(out.square().sum()), rel=1e-6)
    assert add_shards([one], out) is add_shards([one, two.T.contiguous().T], out) is None


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_what_gets_no_gradient_ends_at_zero_and_not_at_the_smallest_numbers(
    pair: Any, optimizer: Any
) -> None:
    """Subnormal averages made an update of a DQN a fifth longer after a thousand updates."""
    fused, plain = pair(replace(CONFIG, optimizer=optimizer, centered=True, momentum=0.9, decay=0.8))
    square, *others = optimizers.statistics_of(fused.config)
    square, others = ("exp_avg_sq", ["exp_avg"]) if optimizer == "adam" else (square, others)
    parts = gradients(fused, 2)
    nothing = [tuple(torch.zeros_like(piece) for piece in shard) for shard in parts]
    for step in range(1_000):
        for learner in (fused, plain):
            apply(learner, nothing if step else parts)
    for each in fused._optimizers:
        state = next(iter(each.state.values()))
        assert all((state[name] == 0).all() for name in others)
    torch.testing.assert_close(fused.flat, plain.flat, atol=1e-6, rtol=0)
    for _ in range(20):
        parts = gradients(fused, 2)
        for learner in (fused, plain):
            apply(learner, parts)
    torch.testing.assert_close(fused.flat, plain.flat, atol=1e-6, rtol=0)
    squares = [next(iter(each.state.values()))[square] for each in fused._optimizers]
    squares[0].fill_(1e-39)
    apply(fused, nothing)
    assert (squares[0] == 0).all()


def test_states_pass_between_the_two_paths(pair: Any) -> None:
    fused, plain = pair(CONFIG)
    for source, other in ((fused, plain), (plain, fused)):
        apply(source, gradients(source, 2))
        other.load_state(copy.deepcopy(source.state()))
        parts = gradients(source, 2)
        apply(source, parts)
        apply(other, parts)
        torch.testing.assert_close(other.flat, source.flat, atol=1e-7, rtol=0)


def test_a_restored_learner_goes_on_bit_for_bit() -> None:
    first, second = make(CONFIG), make(CONFIG)
    apply(first, gradients(first, 2))
    second.load_state(copy.deepcopy(first.state()))
    for _ in range(3):
        parts = gradients(first, 2)
        apply(first, parts)
        apply(second, parts)
    assert torch.equal(first.flat, second.flat)
    assert torch.equal(first.compute, second.compute)


def test_rounds_like_torch() -> None:
    torch.manual_seed(0)
    bits = torch.randint(-(2**31), 2**31 - 1, (9001,)).to(torch.int32)
    bits[:3000] = bits[:3000] & -65536 | 0x8000  # ties
    values = bits.view(torch.float32)
    values = torch.cat([values[values.isfinite()], torch.tensor([0.0, -0.0, torch.inf, -torch.inf])])
    weights = nn.Parameter(values.clone())
    weights.grad = torch.zeros_like(weights)
    rounded = torch.zeros(len(values), dtype=torch.bfloat16)
    FusedAdam([weights], lr=1.0, eps=1.0).sweep(1.0, rounded)
    assert torch.equal(rounded.view(torch.int16), weights.detach().bfloat16().view(torch.int16))


def test_a_gradient_that_is_no_number_shows(pair: Any) -> None:
    fused, _ = pair(CONFIG)
    parts = gradients(fused, 2)
    parts[1][2][0, 0] = torch.nan
    assert apply(fused, parts).isnan()
    assert fused.flat.isnan().any()
    assert torch.equal(fused.flat.isnan(), fused.compute.isnan())
