"""Dense stacks against plain linear layers, gradients and initial statistics included."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from redline.networks.layers import Dense, Head, scale_gradient


def plain(dense: Dense, number: int, x: Tensor) -> Tensor:
    """Copy ``number`` of the stack, by nn.functional.linear and the activation in full."""
    for layer in range(dense.depth):
        weight, bias = getattr(dense, f"weight{layer}")[number], getattr(dense, f"bias{layer}")[number, 0]
        x = nn.functional.linear(x, weight.t())
        if dense.layer_norm:
            x = nn.functional.layer_norm(x, x.shape[-1:]) * getattr(dense, f"scale{layer}")[number]
        x = x + bias
        x = torch.tanh(x) if dense.activation == "tanh" else torch.relu(x)
    return x


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_forward_and_gradients_are_those_of_linear_layers(
    activation: str, copies: int, layer_norm: bool
) -> None:
    dense = Dense(5, (16, 8), activation=activation, copies=copies, layer_norm=layer_norm)
    x, inputs = torch.randn(10, 5, requires_grad=True), [torch.randn(copies, 10, 8)]
    found = dense(x)
    wanted = torch.stack([plain(dense, number, x) for number in range(copies)])
    assert found.shape == (copies, 10, 8)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)
    leaves = [x, *dense.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad(found, leaves, inputs),
        torch.autograd.grad(wanted, leaves, inputs),
        atol=2e-5,
        rtol=1e-4,
    )
    with torch.no_grad():
        assert torch.equal(dense(x), found)  # acting and learning see one function


def test_tanh_is_accurate_over_its_range() -> None:
    dense = Dense(1, (1,), activation="tanh")
    with torch.no_grad():
        dense.weight0.fill_(1.0)
        dense.bias0.fill_(0.0)
        x = torch.linspace(-20, 20, 100_001)[:, None]
        exact = torch.tanh(x.double())
        assert float((dense(x)[0] - exact).abs().max()) < 3e-7


def test_no_hidden_layer_is_the_identity() -> None:
    x = torch.randn(3, 5)
    assert torch.equal(Dense(5, (), activation="relu")(x)[0], x)


def test_orthogonal_initialisation() -> None:
    dense = Dense(32, (64, 64), activation="tanh", copies=2, orthogonal=True)
    first, second = dense.weight0.detach(), dense.weight1.detach()
    for number in range(2):
        torch.testing.assert_close(first[number] @ first[number].t(), 2 * torch.eye(32), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            second[number] @ second[number].t(), 2 * torch.eye(64), atol=1e-4, rtol=1e-4
        )
    assert not torch.equal(first[0], first[1])
    assert float(dense.bias0.detach().abs().max()) == 0


def test_default_initialisation_is_torchs() -> None:
    dense, linear = Dense(50, (400,), activation="relu"), nn.Linear(50, 400)
    for mine, theirs in ((dense.weight0[0].t(), linear.weight), (dense.bias0[0, 0], linear.bias)):
        bound = 1 / math.sqrt(50)
        assert float(mine.detach().abs().max()) <= bound
        assert float(mine.detach().std()) == pytest.approx(float(theirs.detach().std()), rel=0.1)


def test_one_seed_one_initialisation() -> None:
    torch.manual_seed(5)
    first = Dense(4, (8,), activation="tanh", orthogonal=True)
    torch.manual_seed(5)
    second = Dense(4, (8,), activation="tanh", orthogonal=True)
    assert torch.equal(first.weight0, second.weight0)


def test_copies_and_half_precision() -> None:
    dense = Dense(5, (16, 8), activation="tanh", copies=2)
    x = torch.randn(10, 5)
    half = copy.deepcopy(dense).bfloat16()(x)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), dense(x), atol=0.02, rtol=0.02)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(dense(x).float(), dense(x), atol=0.02, rtol=0.02, check_dtype=False)


def test_head_computes_in_single_precision_under_autocast() -> None:
    head = Head(64, 3, 1.0)
    x = torch.randn(5, 64).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = head(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, nn.functional.linear(x.float(), head.weight, head.bias))


def test_scale_gradient() -> None:
    x = torch.randn(4, requires_grad=True)
    y = scale_gradient(x, 0.25)
    assert torch.equal(x, y)
    (grad,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(grad, torch.full((4,), 0.25))
