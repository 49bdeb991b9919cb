"""Optimisers over the flat buffer against their recursions written out, number by number."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from redline.learners.config import LearnerConfig
from redline.learners.learner import Learner
from redline.learners.optimizers import SGD, Adagrad, InsideRMSprop, make

GRADIENTS = [3.0, -1.0, 0.5, 0.0, 2.0, 2.0, 2.0]


def steps(**settings: Any) -> list[float]:
    """A single weight, moved by a learner along ``GRADIENTS``: where it is after each."""
    config = LearnerConfig(device="cpu", precision="fp32", max_grad_norm=None, learning_rate=0.1, **settings)
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    learner, places = Learner(model, config, seed=0, num_envs=1, gamma=0.99), []
    for gradient in GRADIENTS:
        learner.step(lambda net, x: (net(x).sum(), {}), [partial(torch.full, (1, 1), gradient)])
        places.append(float(learner.flat))
    return places


def rmsprop(
    epsilon: float, *, inside: bool, centered: bool, momentum: float, decay: float = 0.9
) -> list[float]:
    place = square = mean = buffer = 0.0
    places = []
    for d in GRADIENTS:
        square = decay * square + (1 - decay) * d * d
        mean = decay * mean + (1 - decay) * d
        spread = square - mean * mean if centered else square
        below = math.sqrt(spread + epsilon) if inside else math.sqrt(spread) + epsilon
        buffer = momentum * buffer + d / below
        place -= 0.1 * buffer
        places.append(place)
    return places


@pytest.mark.parametrize("momentum", [0.0, 0.7])
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_rmsprop_is_its_recursion(inside: bool, centered: bool, momentum: float) -> None:
    found = steps(
        optimizer="rmsprop",
        epsilon=0.05,
        decay=0.9,
        epsilon_inside=inside,
        centered=centered,
        momentum=momentum,
    )
    expected = rmsprop(0.05, inside=inside, centered=centered, momentum=momentum)
    assert found == pytest.approx(expected, rel=1e-5)


def test_first_step_tells_where_epsilon_is() -> None:
    # g = 0.1 d^2: inside, a step of lr d / sqrt(0.9 + 0.1); outside, lr d / (sqrt(0.9) + 0.1).
    inside = steps(optimizer="rmsprop", epsilon=0.1, decay=0.9, epsilon_inside=True)[0]
    outside = steps(optimizer="rmsprop", epsilon=0.1, decay=0.9)[0]
    assert inside == pytest.approx(-0.3)
    assert outside == pytest.approx(-0.3 / (math.sqrt(0.9) + 0.1))


def test_adagrad_is_its_closed_form() -> None:
    found, place, total = steps(optimizer="adagrad", epsilon=0.01), 0.0, 0.0
    for now, d in zip(found, GRADIENTS, strict=True):
        total += d * d
        place -= 0.1 * d / (math.sqrt(total) + 0.01)
        assert now == pytest.approx(place, rel=1e-5)


def test_adagrad_is_torchs() -> None:
    torch.manual_seed(0)
    mine, theirs = (nn.Parameter(torch.zeros(50)) for _ in range(2))
    optimizers = [Adagrad([mine], 0.3, epsilon=1e-3), torch.optim.Adagrad([theirs], lr=0.3, eps=1e-3)]
    for _ in range(20):
        mine.grad = torch.randn(50)
        theirs.grad = mine.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(mine, theirs)


INSIDE = LearnerConfig(optimizer="rmsprop", epsilon_inside=True, centered=True, momentum=0.9)


# Torch's own choose other kernels for stand-ins than for tensors on a GPU.
@pytest.mark.parametrize(
    "config",
    [LearnerConfig(optimizer="sgd"), LearnerConfig(optimizer="adagrad"), INSIDE],
    ids=["sgd", "adagrad", "rmsprop"],
)
def test_no_step_waits_for_a_number_from_the_device(config: LearnerConfig) -> None:
    """Recording forbids it. Stand-ins for tensors on a GPU have none to give, and say so."""
    with FakeTensorMode():
        weights = nn.Parameter(torch.zeros(10, device="cuda"))
        weights.grad = torch.zeros(10, device="cuda")
        optimizer = make(config, weights, torch.tensor(1e-3, device="cuda"), capturable=True)
        for _ in range(2):
            optimizer.step()


@pytest.mark.parametrize("make", [InsideRMSprop, Adagrad, SGD])
def test_a_rate_in_a_tensor_moves_the_weights_alike(make: Any) -> None:
    torch.manual_seed(0)
    pair = [nn.Parameter(torch.ones(9)) for _ in range(2)]
    for weights, rate in zip(pair, (0.2, torch.tensor(0.2)), strict=True):
        optimizer = make([weights], rate)
        for k in range(3):
            weights.grad = torch.arange(9.0) - k
            optimizer.step()
    torch.testing.assert_close(pair[0], pair[1])


def test_centred_variance_never_falls_below_nought() -> None:
    weights = nn.Parameter(torch.zeros(1))
    optimizer = InsideRMSprop([weights], 1.0, decay=0.5, epsilon=1e-20, centered=True)
    for _ in range(200):  # a constant gradient: the difference is rounding alone
        weights.grad = torch.full((1,), 1.1)
        optimizer.step()
    assert torch.isfinite(weights).all()


def test_gorila_check_3_slices_step_as_the_whole() -> None:
    # systems.md section 5 check 3: accumulators are per coordinate, so pieces of the buffer step as the whole does.
    whole, pieces = torch.randn(40), None
    gradients = [torch.randn(40) for _ in range(5)]
    for cuts in (1, 2, 3, 8):
        parts = [nn.Parameter(part.clone()) for part in whole.tensor_split(cuts)]
        optimizers = [Adagrad([part], 0.1) for part in parts]
        for gradient in gradients:
            for part, grad, optimizer in zip(parts, gradient.tensor_split(cuts), optimizers, strict=True):
                part.grad = grad
                optimizer.step()
        joined = torch.cat([part.detach() for part in parts])
        pieces = joined if pieces is None else pieces
        assert torch.equal(joined, pieces)
    assert not torch.equal(joined, whole)


def test_momentum_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\), got 1.5"):
        LearnerConfig(momentum=1.5)
