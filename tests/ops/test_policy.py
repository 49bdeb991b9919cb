"""Policy losses against their formulas, element by element, gradients included."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from redline.ops import policy

number = st.floats(-2, 2, width=32)


@given(number, number, number, st.sampled_from([0.1, 0.2]))
@settings(max_examples=200, deadline=None)
def test_ppo_clip_loss_by_cases(log_prob: float, old: float, advantage: float, clip: float) -> None:
    """Equation 7 by its four cases: it is flat exactly where the ratio has already moved far enough."""
    x = torch.tensor([log_prob], dtype=torch.float64, requires_grad=True)
    loss = policy.ppo_clip_loss(
        x, torch.tensor([old], dtype=torch.float64), torch.tensor([advantage], dtype=torch.float64), clip
    )
    loss.sum().backward()
    assert x.grad is not None
    ratio = math.exp(log_prob - old)
    far = ratio > 1 + clip if advantage > 0 else ratio < 1 - clip
    bound = 1 + clip if advantage > 0 else 1 - clip
    assert float(loss.detach()) == pytest.approx(-(bound if far else ratio) * advantage, abs=1e-9)
    assert float(x.grad) == pytest.approx(0.0 if far else -ratio * advantage, abs=1e-9)


def test_ppo_clip_loss_gradient_is_autograds() -> None:
    x, old, advantage = torch.randn(500, requires_grad=True), torch.randn(500), torch.randn(500)
    ratio = (x - old).exp()
    plain = -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    weight = torch.randn(500)
    (expected,) = torch.autograd.grad((plain * weight).sum(), x)
    (found,) = torch.autograd.grad((policy.ppo_clip_loss(x, old, advantage, 0.2) * weight).sum(), x)
    torch.testing.assert_close(found, expected)


def test_policy_gradient_loss_holds_the_advantage_constant() -> None:
    log_prob, advantage = torch.randn(4, requires_grad=True), torch.randn(4, requires_grad=True)
    policy.policy_gradient_loss(log_prob, advantage).sum().backward()
    assert log_prob.grad is not None
    torch.testing.assert_close(log_prob.grad, -advantage.detach())
    assert advantage.grad is None


def test_value_loss() -> None:
    value = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = policy.value_loss(value, torch.tensor([0.0, 5.0]))
    torch.testing.assert_close(loss, torch.tensor([0.5, 4.5]))
    loss.sum().backward()
    assert value.grad is not None
    torch.testing.assert_close(value.grad, torch.tensor([1.0, -3.0]))


def test_clipped_value_loss_takes_the_worse() -> None:
    old, target = torch.zeros(3), torch.tensor([2.0, 2.0, -2.0])
    value = torch.tensor([1.0, 0.1, 1.0], requires_grad=True)
    loss = policy.value_loss(value, target, old, clip=0.5)
    # moved 1 towards the target: held at 0.5, error 1.5; within the clip: plain; away from it: plain, 3
    torch.testing.assert_close(loss, torch.tensor([1.5**2 / 2, 1.9**2 / 2, 3.0**2 / 2]))
    loss.sum().backward()
    assert value.grad is not None
    torch.testing.assert_close(value.grad, torch.tensor([0.0, -1.9, 3.0]))
    with pytest.raises(ValueError, match="needs old_value"):
        policy.value_loss(value, target, clip=0.5)


def test_kl_estimate_is_the_divergence_in_the_mean() -> None:
    old, new = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.4, 0.4, 0.2])
    action = torch.multinomial(old, 200_000, replacement=True)
    found = policy.approximate_kl(new.log()[action], old.log()[action])
    assert float(found) == pytest.approx(float((old * (old / new).log()).sum()), abs=2e-3)
    assert float(policy.approximate_kl(torch.ones(3), torch.ones(3))) == 0.0


def test_clip_fraction() -> None:
    ratio = torch.tensor([0.7, 0.85, 1.0, 1.15, 1.3])
    assert float(policy.clip_fraction(ratio.log(), torch.zeros(5), 0.2)) == pytest.approx(0.4)


def test_normalize_advantage() -> None:
    found = policy.normalize_advantage(torch.randn(8, 16) * 5 + 3)
    assert float(found.mean()) == pytest.approx(0, abs=1e-6)
    assert float(found.std()) == pytest.approx(1, abs=1e-5)
    whole = torch.randn(8, 16)
    moments = policy.advantage_moments(whole)
    torch.testing.assert_close(
        policy.normalize_advantage(whole[:3], moments), policy.normalize_advantage(whole)[:3]
    )


def test_a_single_advantage_stays_as_it_is() -> None:
    assert float(policy.normalize_advantage(torch.tensor([[-2.5]]))) == -2.5


def test_refuses_shapes_that_would_broadcast() -> None:
    a, b = torch.zeros(4), torch.zeros(4, 1)
    for call in (
        lambda: policy.ppo_clip_loss(a, b, a, 0.2),
        lambda: policy.ppo_clip_loss(a, a, b, 0.2),
        lambda: policy.policy_gradient_loss(a, b),
        lambda: policy.value_loss(a, b),
        lambda: policy.value_loss(a, a, b, 0.1),
        lambda: policy.approximate_kl(a, b),
        lambda: policy.clip_fraction(a, b, 0.2),
    ):
        with pytest.raises(ValueError, match=r"has shape \[4, 1\]"):
            call()
