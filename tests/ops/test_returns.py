"""Return estimators against the papers' definitions and the golden numbers of IMPALA and Ape-X."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from redline.ops import returns
from tests.ops import slow

Unroll = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@st.composite
def unrolls(draw: st.DrawFn) -> Unroll:
    """(log_rhos, rewards, discounts, values) in f64; some steps end an episode."""
    length, batch = draw(st.integers(1, 9)), draw(st.integers(1, 4))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    gamma = draw(st.sampled_from([0.5, 0.99, 1.0]))
    discounts = np.where(random.random((length, batch)) < 0.2, 0.0, gamma)
    shape = (length, batch)
    return (
        random.normal(0, 1, shape),
        random.normal(size=shape),
        discounts,
        random.normal(size=(length + 1, batch)),
    )


def tensors(*arrays: np.ndarray, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [torch.from_numpy(array).to(dtype) for array in arrays]


@given(unrolls(), st.sampled_from([0.0, 0.5, 0.95, 1.0]))
@settings(max_examples=60, deadline=None)
def test_gae(unroll: Unroll, lambda_: float) -> None:
    _, *rest = unroll
    expected = slow.everywhere(slow.generalised_advantage, *rest, lambda_=lambda_)
    np.testing.assert_allclose(returns.gae(*tensors(*rest), lambda_).numpy(), expected, atol=1e-9)


@given(unrolls(), st.sampled_from([0.0, 0.5, 0.95, 1.0]))
@settings(max_examples=60, deadline=None)
def test_lambda_returns(unroll: Unroll, lambda_: float) -> None:
    _, rewards, discounts, values = unroll
    arrays = tensors(rewards, discounts, values)
    found = returns.lambda_returns(*arrays, lambda_)
    # The bootstrap enters the weighted mean through every n-step return, so lambda ** k stays with each.
    expected = slow.everywhere(slow.lambda_return, rewards, discounts, values, lambda_=lambda_)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)
    torch.testing.assert_close(found, returns.gae(*arrays, lambda_) + arrays[2][:-1])


@given(unrolls(), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_n_step_returns(unroll: Unroll, n: int) -> None:
    _, *rest = unroll
    expected = slow.everywhere(slow.n_step_return, *rest, n=n)
    np.testing.assert_allclose(returns.n_step_returns(*tensors(*rest), n).numpy(), expected, atol=1e-9)


@given(unrolls())
@settings(max_examples=30, deadline=None)
def test_bootstrapped_returns_are_the_longest_n_step_returns(unroll: Unroll) -> None:
    _, rewards, discounts, values = tensors(*unroll)
    found = returns.bootstrapped_returns(rewards, discounts, values[-1])
    torch.testing.assert_close(found, returns.n_step_returns(rewards, discounts, values, len(rewards)))


@given(unrolls(), st.sampled_from([(1.0, 1.0, 1.0), (10.0, 1.0, 0.9), (1.5, 0.7, 1.0)]))
@settings(max_examples=60, deadline=None)
def test_vtrace(unroll: Unroll, clips: tuple[float, float, float]) -> None:
    log_rhos, rewards, discounts, values = unroll
    rho_bar, c_bar, lambda_ = clips
    found = returns.vtrace(*tensors(*unroll), rho_bar=rho_bar, c_bar=c_bar, pg_rho_bar=2.0, lambda_=lambda_)
    rhos = np.exp(log_rhos)
    vs = slow.everywhere(
        slow.vtrace_target, rhos, rewards, discounts, values, rho_bar=rho_bar, c_bar=c_bar, lambda_=lambda_
    )
    np.testing.assert_allclose(found.vs.numpy(), vs, atol=1e-9)
    next_vs = np.concatenate([vs[1:], values[-1:]])
    expected = np.minimum(rhos, 2.0) * (rewards + discounts * next_vs - values[:-1])
    np.testing.assert_allclose(found.pg_advantages.numpy(), expected, atol=1e-9)


@given(unrolls(), st.sampled_from([0.0, 0.8, 1.0]))
@settings(max_examples=60, deadline=None)
def test_retrace(unroll: Unroll, lambda_: float) -> None:
    log_rhos, rewards, discounts, values = unroll
    taken = np.random.default_rng(len(rewards)).normal(size=rewards.shape)
    found = returns.retrace(*tensors(*unroll, taken), lambda_)
    expected = slow.everywhere(
        slow.retrace_target, np.exp(log_rhos), rewards, discounts, values, taken, lambda_=lambda_
    )
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)


GOLDEN = {"rewards": [1, 0, 2, -1], "discounts": [0.9] * 4, "values": [0.5, 1, -0.5, 0.2, 0.7]}
RATIOS = [2, 0.5, 1, 0.25]


def golden(**changed: list[float]) -> list[Tensor]:
    """(rewards, discounts, values) of systems.md section 8, as f64[T, 1]."""
    return [torch.tensor(column, dtype=torch.float64)[:, None] for column in (GOLDEN | changed).values()]


def column(x: Tensor) -> list[float]:
    return x[:, 0].tolist()


def log_ratios(ratios: list[float]) -> Tensor:
    return torch.tensor(ratios, dtype=torch.float64)[:, None].log()


def test_impala_check_1_on_policy_is_the_n_step_return() -> None:
    arrays = golden()
    found = returns.vtrace(torch.zeros_like(arrays[0]), *arrays)
    assert column(found.vs) == pytest.approx([2.35027, 1.5003, 1.667, -0.37], abs=1e-12)
    torch.testing.assert_close(found.vs, returns.bootstrapped_returns(arrays[0], arrays[1], arrays[2][-1]))


def test_impala_check_2_off_policy() -> None:
    found = returns.vtrace(log_ratios(RATIOS), *golden())
    assert column(found.vs) == pytest.approx([2.280959, 1.423288, 2.05175, 0.0575], abs=1e-6)
    assert column(found.pg_advantages) == pytest.approx([1.780959, 0.423288, 2.55175, -0.1425], abs=1e-6)


def test_impala_check_3_wide_clips() -> None:
    found = returns.vtrace(log_ratios(RATIOS), *golden(), rho_bar=10, pg_rho_bar=10)
    assert column(found.vs) == pytest.approx([3.680959, 1.423288, 2.05175, 0.0575], abs=1e-6)
    assert column(found.pg_advantages) == pytest.approx([3.561918, 0.423288, 2.55175, -0.1425], abs=1e-6)


def test_impala_check_4_nothing_leaks_across_an_episode_end() -> None:
    found = returns.vtrace(log_ratios(RATIOS), *golden(discounts=[0.9, 0, 0.9, 0.9]))
    assert column(found.vs) == pytest.approx([1.45, 0.5, 2.05175, 0.0575], abs=1e-6)


def test_impala_check_5_fixed_point_of_a_one_state_problem() -> None:
    """systems.md section 8, check 5: with rho_bar 1 the value is that of pi_rho = [.4, .4, .2]."""
    behaviour, target = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.2, 0.5, 0.3])
    reward_of, gamma = torch.tensor([1.0, -2.0, 5.0]), 0.5
    action = torch.multinomial(behaviour, 400_000, replacement=True)
    log_rhos = (target / behaviour).log()[action][None]
    rewards = reward_of[action][None]
    value = torch.zeros(())
    for _ in range(40):
        values = value.expand(2, action.numel())
        value = returns.vtrace(log_rhos, rewards, torch.full_like(rewards, gamma), values).vs.mean()
    clipped = torch.minimum(behaviour, target)
    expected = (clipped / clipped.sum() * reward_of).sum() / (1 - gamma)
    assert (clipped / clipped.sum()).tolist() == pytest.approx([0.4, 0.4, 0.2])
    assert float(value) == pytest.approx(float(expected), abs=0.02)


def test_n_step_golden_of_apex() -> None:
    """systems.md section 7, check 3: r = [1, 0, 2], gamma .99, max Q(S_{t+3}) = 1.5."""
    rewards = torch.tensor([[1.0], [0.0], [2.0]], dtype=torch.float64)
    values = torch.tensor([[2.0], [0.0], [0.0], [1.5]], dtype=torch.float64)
    found = returns.n_step_returns(rewards, torch.full_like(rewards, 0.99), values, 3)
    assert float(found[0]) == pytest.approx(4.4156485, abs=1e-9)


def test_a3c_check_3_returns_closed_form() -> None:
    """systems.md section 6, check 3: five steps, the longest return for each; a terminal one has no bootstrap."""
    rewards, gamma = torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0]]), 0.9
    discounts = torch.full_like(rewards, gamma)
    found = returns.bootstrapped_returns(rewards, discounts, torch.tensor([10.0]))
    for t in range(5):
        expected = sum(gamma ** (k - t) * (k + 1) for k in range(t, 5)) + gamma ** (5 - t) * 10
        assert float(found[t]) == pytest.approx(expected, rel=1e-6)
    discounts[-1] = 0
    assert float(returns.bootstrapped_returns(rewards, discounts, torch.tensor([10.0]))[-1]) == 5.0


def test_episode_ends_tells_truncation_from_termination() -> None:
    """systems.md section 2, check 5, and both flags at once."""
    reward = torch.tensor([[1.0, 1.0, 1.0, 1.0]])
    terminated = torch.tensor([[False, True, False, True]])
    truncated = torch.tensor([[False, False, True, True]])
    final_value = torch.tensor([[float("nan"), float("nan"), 7.0, 7.0]])
    found, discount = returns.episode_ends(reward, terminated, truncated, final_value, 0.9)
    torch.testing.assert_close(found, torch.tensor([[1.0, 1.0, 1.0 + 0.9 * 7, 1.0]]))
    torch.testing.assert_close(discount, torch.tensor([[0.9, 0.0, 0.0, 0.0]]))


def test_nothing_leaks_across_an_episode_end() -> None:
    rewards, discounts, values = torch.randn(6, 3), torch.full((6, 3), 0.99), torch.randn(7, 3)
    discounts[2] = 0
    before = returns.gae(rewards, discounts, values, 0.95)
    rewards[3:], values[3:] = torch.randn(3, 3), torch.randn(4, 3)
    after = returns.gae(rewards, discounts, values, 0.95)
    assert torch.equal(before[:3], after[:3])
    assert not torch.equal(before[3:], after[3:])


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 128])
def test_both_scans_agree_and_each_repeats_itself(length: int) -> None:
    addend, factor, initial = torch.randn(length, 8), torch.rand(length, 8), torch.randn(8)
    rows = returns._scan_rows(addend, factor, initial)
    doubled = returns._scan_doubling(addend, factor, initial)
    torch.testing.assert_close(rows, doubled, atol=1e-5, rtol=1e-5)
    assert torch.equal(rows, returns.reverse_scan(addend, factor, initial))
    assert torch.equal(doubled, returns._scan_doubling(addend, factor, initial))


def test_scan_takes_views_and_leaves_its_input_alone() -> None:
    addend = torch.randn(4, 5).t()
    factor, initial = torch.rand(6, 8)[::1, ::2][:5], torch.randn(8)[::2]
    copies = addend.clone(), factor.clone(), initial.clone()
    found = returns.reverse_scan(addend, factor, initial)
    torch.testing.assert_close(found, returns._scan_doubling(*copies))
    assert torch.equal(addend, copies[0])
    assert torch.equal(initial, copies[2])


def test_estimators_are_constants_to_the_gradient() -> None:
    values = torch.randn(4, 2, requires_grad=True)
    rewards, discounts = torch.randn(3, 2), torch.full((3, 2), 0.9)
    assert not returns.gae(rewards, discounts, values, 0.9).requires_grad
    assert not returns.bootstrapped_returns(rewards, discounts, values[-1]).requires_grad
    assert not returns.bootstrapped_returns(
        rewards, discounts, torch.ones(2, requires_grad=True)
    ).requires_grad
    assert not returns.vtrace(
        torch.zeros(3, 2, requires_grad=True), rewards, discounts, values
    ).vs.requires_grad


def test_half_precision_is_taken() -> None:
    half = [torch.randn(n, 2).bfloat16() for n in (3, 3, 4)]
    assert returns.gae(*half, 0.9).dtype == torch.bfloat16


T, B = 3, 2
GOOD: dict[str, tuple[int, ...]] = {"rewards": (T, B), "discounts": (T, B), "values": (T + 1, B)}


@pytest.mark.parametrize(
    "estimator",
    [
        lambda *x: returns.gae(*x, 0.9),
        lambda *x: returns.lambda_returns(*x, 0.9),
        lambda *x: returns.n_step_returns(*x, 2),
        lambda *x: returns.vtrace(torch.zeros(T, B), *x),
        lambda *x: returns.retrace(torch.zeros(T, B), *x, torch.zeros(T, B)),
    ],
)
@pytest.mark.parametrize(
    "wrong", [{"discounts": (T, 1)}, {"values": (T, B)}, {"values": (T + 1,)}, {"rewards": (B,)}]
)
def test_refuses_shapes_that_would_broadcast(estimator: Callable[..., Any], wrong: dict[str, Any]) -> None:
    arrays = [torch.zeros(shape) for shape in (GOOD | wrong).values()]
    with pytest.raises(ValueError, match="has shape"):
        estimator(*arrays)


def test_refuses_no_steps() -> None:
    with pytest.raises(ValueError, match="n is 0, expected at least 1"):
        returns.n_step_returns(torch.zeros(T, B), torch.zeros(T, B), torch.zeros(T + 1, B), 0)
