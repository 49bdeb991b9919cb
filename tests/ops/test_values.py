"""Pieces of value learning against closed forms and DQN's and R2D2's golden numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from redline.ops import values


@pytest.mark.parametrize(("error", "slope"), [(3.0, 1.0), (1.0, 1.0), (-5.0, -1.0), (0.4, 0.4), (-0.4, -0.4)])
def test_huber_clips_the_error_not_the_loss(error: float, slope: float) -> None:
    """systems.md section 2, check 1."""
    x = torch.tensor(error, requires_grad=True)
    values.huber(x).backward()
    assert x.grad is not None
    assert float(x.grad) == pytest.approx(slope)


def test_huber_is_quadratic_then_linear() -> None:
    found = values.huber(torch.tensor([0.5, -0.5, 1.0, 3.0]))
    torch.testing.assert_close(found, torch.tensor([0.125, 0.125, 0.5, 2.5]))
    torch.testing.assert_close(values.huber(torch.tensor([3.0]), delta=2.0), torch.tensor([4.0]))


@given(st.floats(-1e6, 1e6))
@settings(max_examples=200, deadline=None)
def test_rescaling_is_the_published_function(x: float) -> None:
    expected = math.copysign(math.sqrt(abs(x) + 1) - 1, x) + 1e-3 * x
    found = values.rescale_value(torch.tensor(x, dtype=torch.float64))
    assert float(found) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(st.floats(-1e4, 1e4))
@settings(max_examples=200, deadline=None)
def test_unrescaling_inverts_in_single_precision(x: float) -> None:
    there = values.rescale_value(torch.tensor(x, dtype=torch.float32))
    assert float(values.unrescale_value(there)) == pytest.approx(x, rel=2e-6, abs=1e-30)


def test_unrescaling_is_the_published_inverse() -> None:
    y, eps = np.linspace(-50, 50, 101), 1e-3
    published = np.sign(y) * (((np.sqrt(1 + 4 * eps * (np.abs(y) + 1 + eps)) - 1) / (2 * eps)) ** 2 - 1)
    np.testing.assert_allclose(
        values.unrescale_value(torch.from_numpy(y)).numpy(), published, rtol=1e-9, atol=1e-9
    )


def test_targets_by_hand() -> None:
    reward, discount = torch.tensor([1.0, 1.0]), torch.tensor([0.9, 0.0])
    online, target = torch.tensor([[3.0, 1.0], [0.0, 1.0]]), torch.tensor([[5.0, 7.0], [9.0, 9.0]])
    torch.testing.assert_close(values.q_target(reward, discount, target), torch.tensor([7.3, 1.0]))
    torch.testing.assert_close(
        values.double_q_target(reward, discount, online, target), torch.tensor([5.5, 1.0])
    )


def test_illegal_actions_are_not_backed_up() -> None:
    reward, discount = torch.zeros(1), torch.ones(1)
    online, target = torch.tensor([[3.0, 1.0]]), torch.tensor([[5.0, 4.0]])
    mask = torch.tensor([[False, True]])
    assert float(values.q_target(reward, discount, target, mask)) == 4.0
    assert float(values.double_q_target(reward, discount, online, target, mask)) == 4.0


def test_targets_are_constants() -> None:
    q = torch.randn(2, 3, requires_grad=True)
    assert not values.q_target(torch.zeros(2), torch.ones(2), q).requires_grad
    assert not values.double_q_target(torch.zeros(2), torch.ones(2), q, q).requires_grad


def test_truncation_bootstraps_and_termination_does_not() -> None:
    """systems.md section 2, check 5: the target changes by gamma max Q."""
    q = torch.tensor([[2.0, 8.0]])
    cut = values.q_target(torch.ones(1), torch.tensor([0.99]), q)
    ended = values.q_target(torch.ones(1), torch.tensor([0.0]), q)
    assert float(cut - ended) == pytest.approx(0.99 * 8)


def test_taken() -> None:
    q = torch.arange(24.0).view(2, 3, 4)
    action = torch.tensor([[0, 1, 2], [3, 0, 1]])
    torch.testing.assert_close(values.taken(q, action), torch.tensor([[0.0, 5.0, 10.0], [15.0, 16.0, 21.0]]))
    with pytest.raises(ValueError, match=r"action has shape \[2, 3, 1\], expected \[2, 3\]"):
        values.taken(q, action[..., None])


ATOMS = torch.linspace(-2, 2, 5)


def test_categorical_projection_golden() -> None:
    """systems.md section 2, check 4."""
    found = values.categorical_projection(
        torch.tensor([0.5]), torch.tensor([0.9]), torch.tensor([[0.1, 0.2, 0.4, 0.2, 0.1]]), ATOMS
    )
    torch.testing.assert_close(found, torch.tensor([[0.03, 0.15, 0.32, 0.32, 0.18]]))


def test_categorical_projection_of_a_terminal_step_is_its_reward() -> None:
    p = torch.softmax(torch.randn(3, 5), -1)
    found = values.categorical_projection(torch.tensor([1.0, -0.25, 9.0]), torch.zeros(3), p, ATOMS)
    expected = torch.tensor([[0, 0, 0, 1, 0], [0, 0.25, 0.75, 0, 0], [0, 0, 0, 0, 1]])
    torch.testing.assert_close(found, expected)


def test_categorical_projection_keeps_mass_and_mean() -> None:
    p = torch.softmax(torch.randn(50, 5), -1)
    reward, discount = torch.rand(50) * 0.4 - 0.2, torch.full((50,), 0.9)  # inside the atoms, always
    found = values.categorical_projection(reward, discount, p, ATOMS)
    torch.testing.assert_close(found.sum(-1), torch.ones(50))
    torch.testing.assert_close(found @ ATOMS, reward + discount * (p @ ATOMS), atol=1e-5, rtol=1e-5)


def test_refuses_shapes_that_would_broadcast() -> None:
    q = torch.zeros(4, 2)
    with pytest.raises(ValueError, match=r"discount has shape \[4, 1\]"):
        values.q_target(torch.zeros(4), torch.zeros(4, 1), q)
    with pytest.raises(ValueError, match=r"next_target has shape \[4, 3\]"):
        values.double_q_target(torch.zeros(4), torch.zeros(4), q, torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"mask has shape \[2\]|mask has shape \[4, 3\]"):
        values.q_target(torch.zeros(4), torch.zeros(4), q, torch.ones(4, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"atoms has shape \[4\]"):
        values.categorical_projection(torch.zeros(2), torch.zeros(2), torch.zeros(2, 5), ATOMS[:4])
