"""The Categorical objective, whose gradients are written by hand, against the general one through autograd."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import pytest
import torch
from torch import Tensor

from redline.ops import distributions, ppo
from redline.ops.ppo import METRICS, categorical_ppo_loss, ppo_loss

ACTIONS = 5


@dataclass
class Batch:
    action: Tensor
    log_prob: Tensor
    value: Tensor
    advantage: Tensor
    target: Tensor
    action_mask: Tensor | None
    clip: Any = 0.2


def make_batch(shape: tuple[int, ...], *, masked: bool) -> tuple[Tensor, Tensor, Batch]:
    """Logits, values and a batch with ratios on both sides of the clip, for advantages of both signs."""
    generator = torch.Generator().manual_seed(3)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    logits, value = normal(*shape, ACTIONS), normal(*shape)
    mask = None
    if masked:
        mask = normal(*shape, ACTIONS) > 0
        mask[..., 2] = True
    distribution = distributions.Categorical(ACTIONS)
    action = distribution.sample(logits, generator, mask)
    acted = distribution.log_prob(logits, action, mask) + 0.3 * normal(*shape)
    batch = Batch(action, acted.double(), value + normal(*shape), normal(*shape), normal(*shape), mask)
    return logits.float().requires_grad_(), value.float().requires_grad_(), single(batch)


def single(batch: Batch) -> Batch:
    for name in ("log_prob", "value", "advantage", "target"):
        setattr(batch, name, getattr(batch, name).float())
    return batch


@pytest.fixture(params=["compiled", "torch"], autouse=True)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both forms of the objective: the compiled one, and the one for devices that have no such thing."""
    if request.param == "torch":
        monkeypatch.setattr(ppo, "_kernel", lambda: None)
    else:
        assert ppo._kernel() is not None
    return str(request.param)


@pytest.mark.parametrize("shape", [(1, 300), (7, 40)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("value_clip", [None, 0.5])
@pytest.mark.parametrize("clip", [0.2, torch.tensor(0.1)])
def test_categorical_loss_is_the_general_one(
    shape: tuple[int, ...], masked: bool, value_clip: float | None, clip: Any
) -> None:
    logits, value, batch = make_batch(shape, masked=masked)
    batch.clip = clip
    costs: dict[str, Any] = {"value_cost": 0.7, "entropy_cost": 0.3, "value_clip": value_clip}
    distribution = distributions.make(gymnasium.spaces.Discrete(ACTIONS))
    expected, expected_metrics = ppo_loss(distribution, logits, value, batch, **costs)
    found, metrics = categorical_ppo_loss(logits, value, batch, **costs)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    assert tuple(metrics) == tuple(expected_metrics) == METRICS
    for name in METRICS:
        torch.testing.assert_close(metrics[name], expected_metrics[name], atol=1e-6, rtol=1e-6)
    assert 0.05 < float(metrics["clip_fraction"]) < 0.95
    # Times 100, so that gradients of means are compared to more than their last digits.
    wanted = torch.autograd.grad(100 * expected, (logits, value))
    given = torch.autograd.grad(100 * found, (logits, value))
    for ours, autograds in zip(given, wanted, strict=True):
        assert float(autograds.abs().max()) > 0.1
        torch.testing.assert_close(ours, autograds, atol=1e-6, rtol=1e-5)
    if batch.action_mask is not None:
        assert not given[0][~batch.action_mask].any()


def test_categorical_loss_leaves_its_inputs_alone_and_can_be_differentiated_twice_over() -> None:
    logits, value, batch = make_batch((1, 50), masked=True)
    before = [x.clone() for x in (logits, value, batch.log_prob, batch.value, batch.advantage, batch.target)]
    total, _ = categorical_ppo_loss(logits, value, batch, value_cost=0.5, entropy_cost=0.01, value_clip=0.2)
    first = torch.autograd.grad(total, (logits, value), retain_graph=True)
    again = torch.autograd.grad(total, (logits, value))
    after = (logits, value, batch.log_prob, batch.value, batch.advantage, batch.target)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_metrics_have_no_gradient() -> None:
    logits, value, batch = make_batch((1, 50), masked=False)
    total, metrics = categorical_ppo_loss(logits, value, batch, value_cost=0.5, entropy_cost=0.01)
    assert total.requires_grad
    assert not any(isinstance(x, Tensor) and x.requires_grad for x in metrics.values())


def test_refuses_shapes_that_would_broadcast() -> None:
    logits, value, batch = make_batch((1, 50), masked=False)
    batch.advantage = batch.advantage.T
    with pytest.raises(ValueError, match=r"advantage has shape \[50, 1\]"):
        categorical_ppo_loss(logits, value, batch, value_cost=0.5, entropy_cost=0.01)
