"""Distributions against torch.distributions, and masks that no draw gets past."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch import distributions as oracle

from redline.ops import distributions
from redline.ops.distributions import Distribution
from redline.types import UserError

SPACES: dict[str, gymnasium.Space[Any]] = {
    "discrete": spaces.Discrete(5),
    "multi equal": spaces.MultiDiscrete([3, 3]),
    "multi ragged": spaces.MultiDiscrete([2, 5, 3]),
    "binary": spaces.MultiBinary(3),
    "box": spaces.Box(-1, 1, (3,), np.float32),
    "box 2d": spaces.Box(-1, 1, (2, 2), np.float32),
}


def oracle_of(
    space: gymnasium.Space[Any], parameters: Tensor, mask: Tensor | None = None
) -> list[oracle.Distribution]:
    """One torch distribution per independent choice."""
    if isinstance(space, spaces.Box):
        mean, log_std = parameters.chunk(2, -1)
        return [oracle.Independent(oracle.Normal(mean, log_std.exp()), 1)]
    sizes = {
        "Discrete": lambda s: [s.n],
        "MultiDiscrete": lambda s: list(s.nvec),
        "MultiBinary": lambda s: [2] * s.n,
    }
    lengths = [int(n) for n in sizes[type(space).__name__](space)]
    if mask is not None:
        parameters = torch.where(mask, parameters, torch.tensor(-torch.inf))
    return [oracle.Categorical(logits=piece) for piece in parameters.split(lengths, -1)]


def oracle_log_prob(parts: list[oracle.Distribution], action: Tensor) -> Tensor:
    if len(parts) == 1:
        return parts[0].log_prob(action)
    return torch.stack([part.log_prob(action[..., k]) for k, part in enumerate(parts)]).sum(0)


def drawn(name: str, rows: tuple[int, ...] = (7, 4)) -> tuple[Distribution, Tensor, Tensor]:
    """(distribution, parameters [*rows, P], actions sampled with a generator of their own)."""
    distribution = distributions.make(SPACES[name])
    parameters = torch.randn(*rows, distribution.parameters) * 2
    return distribution, parameters, distribution.sample(parameters, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", SPACES)
def test_shapes_and_types(name: str) -> None:
    distribution, parameters, action = drawn(name)
    assert action.shape == (7, 4, *distribution.action_shape)
    assert action.dtype == distribution.action_dtype
    assert distribution.mode(parameters).shape == action.shape
    for x in (distribution.log_prob(parameters, action), distribution.entropy(parameters)):
        assert x.shape == (7, 4)
        assert x.dtype == torch.float32
    half = distribution.log_prob_entropy(parameters.bfloat16(), action)
    assert [x.dtype for x in half] == [torch.float32, torch.float32]


@pytest.mark.parametrize("name", SPACES)
def test_against_torch(name: str) -> None:
    distribution, parameters, action = drawn(name)
    parts = oracle_of(SPACES[name], parameters)
    torch.testing.assert_close(distribution.log_prob(parameters, action), oracle_log_prob(parts, action))
    entropy = torch.stack([part.entropy() for part in parts]).sum(0)
    torch.testing.assert_close(distribution.entropy(parameters), entropy)
    both = distribution.log_prob_entropy(parameters, action)
    torch.testing.assert_close(both[0], distribution.log_prob(parameters, action))
    torch.testing.assert_close(both[1], entropy)


@pytest.mark.parametrize("name", SPACES)
def test_gradient_of_both_at_once_is_autograds(name: str) -> None:
    distribution, parameters, action = drawn(name)
    parameters.requires_grad_()
    weights = torch.randn(2, 7, 4)
    parts = oracle_of(SPACES[name], parameters)
    entropy = torch.stack([part.entropy() for part in parts]).sum(0)
    wanted = (oracle_log_prob(parts, action) * weights[0] + entropy * weights[1]).sum()
    log_prob, found = distribution.log_prob_entropy(parameters, action)
    got = (log_prob * weights[0] + found * weights[1]).sum()
    torch.testing.assert_close(torch.autograd.grad(got, parameters), torch.autograd.grad(wanted, parameters))


@pytest.mark.parametrize("name", ["discrete", "multi ragged"])
def test_masked_against_torch(name: str) -> None:
    distribution, parameters, _ = drawn(name)
    mask = torch.rand(parameters.shape) < 0.5
    mask[..., [0, -1]] = mask[..., [2, -2]] = True  # at least one legal action in every choice
    action = distribution.sample(parameters, None, mask)
    parts = oracle_of(SPACES[name], parameters, mask)
    torch.testing.assert_close(
        distribution.log_prob(parameters, action, mask), oracle_log_prob(parts, action)
    )
    expected = sum(
        -(part.probs * part.logits.clamp(min=-1e9)).sum(-1)
        for part in parts
        if isinstance(part, oracle.Categorical)
    )
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(distribution.entropy(parameters, mask), expected)
    parameters.requires_grad_()
    log_prob, entropy = distribution.log_prob_entropy(parameters, action, mask)
    (grad,) = torch.autograd.grad((log_prob + entropy).sum(), parameters)
    assert bool((grad[~mask] == 0).all())
    assert bool(grad.isfinite().all())


@given(
    st.integers(2, 6).flatmap(
        lambda n: st.tuples(
            st.lists(st.floats(-1e4, 1e4, width=32), min_size=n, max_size=n),
            st.lists(st.booleans(), min_size=n, max_size=n).filter(any),
        )
    ),
    st.integers(0, 2**31),
)
@settings(max_examples=100, deadline=None)
def test_illegal_actions_are_never_taken(case: tuple[list[float], list[bool]], seed: int) -> None:
    logits, legal = torch.tensor(case[0]), torch.tensor(case[1])
    distribution = distributions.Categorical(len(logits))
    rows, mask = logits.expand(64, -1), legal.expand(64, -1)
    action = distribution.sample(rows, torch.Generator().manual_seed(seed), mask)
    assert bool(legal[action].all())
    assert bool(legal[distribution.mode(rows, mask)].all())
    every = torch.arange(len(logits))
    probability = distribution.log_prob(rows[: len(logits)], every, mask[: len(logits)]).exp()
    assert bool((probability[~legal] == 0).all())
    assert float(probability.sum()) == pytest.approx(1, abs=1e-5)
    assert bool(distribution.entropy(rows, mask).isfinite().all())


def test_not_even_the_rarest_noise_lifts_an_illegal_action(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Tensor, "exponential_", lambda self, **_: self.zero_()
    )  # log 0 = -inf: infinite scores
    mask = torch.tensor([[False, True, False]])
    assert int(distributions.Categorical(3).sample(torch.zeros(1, 3), None, mask)) == 1


@pytest.mark.parametrize("name", ["discrete", "multi ragged"])
def test_sampling_frequencies(name: str) -> None:
    distribution = distributions.make(SPACES[name])
    parameters = torch.randn(distribution.parameters)
    action = distribution.sample(parameters.expand(100_000, -1), torch.Generator().manual_seed(3))
    action = action.reshape(100_000, -1)
    for k, part in enumerate(oracle_of(SPACES[name], parameters)):
        assert isinstance(part, oracle.Categorical)
        counts = torch.bincount(action[:, k], minlength=len(part.probs)) / 100_000
        torch.testing.assert_close(counts, part.probs, atol=0.01, rtol=0)


def test_gaussian_sampling_moments() -> None:
    distribution = distributions.make(SPACES["box"])
    mean, log_std = torch.tensor([1.0, -2.0, 0.0]), torch.tensor([0.0, -1.0, 0.5])
    action = distribution.sample(
        torch.cat([mean, log_std]).expand(100_000, -1), torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(action.mean(0), mean, atol=0.03, rtol=0)
    torch.testing.assert_close(action.std(0), log_std.exp(), atol=0.03, rtol=0)


@pytest.mark.parametrize("name", SPACES)
def test_one_generator_state_one_action(name: str) -> None:
    distribution, parameters, action = drawn(name)
    torch.manual_seed(99)  # the global generator has no part in it
    assert torch.equal(action, distribution.sample(parameters, torch.Generator().manual_seed(1)))
    assert not torch.equal(action, distribution.sample(parameters, torch.Generator().manual_seed(2)))


@pytest.mark.parametrize("name", SPACES)
def test_what_the_environment_gets_is_in_its_space(name: str) -> None:
    distribution, _, action = drawn(name, (16,))
    sent = distribution.to_environment(action * 3 if "box" in name else action)
    assert all(SPACES[name].contains(row) for row in sent.astype(SPACES[name].dtype or np.int64))


def test_offset_spaces() -> None:
    assert distributions.make(spaces.Discrete(3, start=-1)).to_environment(torch.tensor([0, 2])).tolist() == [
        -1,
        1,
    ]
    shifted = spaces.MultiDiscrete([2, 3], start=[5, -1])
    assert distributions.make(shifted).to_environment(torch.tensor([[1, 0]])).tolist() == [[6, -1]]


def test_gaussian_clips_for_the_environment_only() -> None:
    box = spaces.Box(np.array([-1, -np.inf], np.float32), np.array([2, 3], np.float32))
    distribution = distributions.make(box)
    action = torch.tensor([[-5.0, -5.0], [5.0, 5.0]])
    assert distribution.to_environment(action).tolist() == [[-1, -5], [2, 3]]
    assert action[0, 0] == -5


def test_refuses_wrong_shapes() -> None:
    distribution, parameters, action = drawn("discrete")
    with pytest.raises(ValueError, match=r"action has shape \[7, 4, 1\], expected \[7, 4\]"):
        distribution.log_prob(parameters, action[..., None])
    with pytest.raises(ValueError, match=r"action has shape \[7, 4, 1\], expected \[7, 4\]"):
        distribution.log_prob_entropy(parameters.requires_grad_(), action[..., None])
    with pytest.raises(ValueError, match=r"mask has shape \[7, 4, 2\], expected \[..., 5\]"):
        distribution.sample(parameters, None, torch.ones(7, 4, 2, dtype=torch.bool))
    gaussian, parameters, _ = drawn("box")
    with pytest.raises(ValueError, match="continuous action space has no action mask"):
        gaussian.sample(parameters, None, torch.ones(7, 4, 3, dtype=torch.bool))


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (spaces.Tuple([spaces.Discrete(2)]), "Tuple is not supported; nearest supported: MultiDiscrete"),
        (spaces.Dict(a=spaces.Discrete(2)), "Dict is not supported; nearest supported: MultiDiscrete"),
        (spaces.Box(0, 9, (2,), np.int64), "holds integers (int64); nearest supported: MultiDiscrete"),
        (
            spaces.MultiDiscrete([[2, 2], [2, 2]]),
            "several axes; nearest supported: a flat MultiDiscrete",
        ),
        (spaces.Text(3), "Text is not supported; nearest supported:"),
    ],
)
def test_refuses_spaces(space: gymnasium.Space[Any], said: str) -> None:
    with pytest.raises(UserError) as refusal:
        distributions.make(space)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "space",
    [spaces.Discrete(5), spaces.MultiDiscrete([2, 3]), spaces.Box(-1, 1, (3,), np.float32)],
    ids=["discrete", "multi", "box"],
)
def test_drawing_with_log_prob_is_drawing_and_then_asking(space: Any, masked: bool) -> None:
    distribution = distributions.make(space)
    if masked and isinstance(space, spaces.Box):
        pytest.skip("no masks for numbers")
    torch.manual_seed(0)
    parameters = 2 * torch.randn(200, distribution.parameters)
    mask = None
    if masked:
        mask = torch.rand(200, distribution.parameters) < 0.5
        mask[:, [0, 1, 2]] = True
    first, second = (torch.Generator().manual_seed(7) for _ in range(2))
    action, log_prob = distribution.sample_log_prob(parameters, first, mask)
    wanted = distribution.sample(parameters, second, mask)
    assert torch.equal(action, wanted)
    torch.testing.assert_close(
        log_prob, distribution.log_prob(parameters, wanted, mask), atol=2e-6, rtol=1e-6
    )
    assert torch.equal(first.get_state(), second.get_state())
