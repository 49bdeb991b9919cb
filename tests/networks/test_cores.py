"""Recurrent cores: an episode's start inside a window forgets what came before, for that environment alone."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from redline.networks.cores import Core
from redline.networks.packed import watch

KINDS = ["lstm", "gru"]


def step_by_step(
    core: Core, x: Tensor, state: dict[str, Tensor], reset: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """One step at a time, one environment at a time."""
    outputs = torch.empty(*x.shape[:2], core.features)
    last = {name: torch.empty_like(part) for name, part in state.items()}
    for b in range(x.shape[1]):
        hidden = [state[name][b : b + 1] for name in core.names]
        for t in range(len(x)):
            if reset[t, b]:
                hidden = [torch.zeros_like(part) for part in hidden]
            packed = [part[None] for part in hidden]
            if len(packed) == 2:
                output, pair = core.rnn(x[t : t + 1, b : b + 1], tuple(packed))
                hidden = [part[0] for part in pair]
            else:
                output, single = core.rnn(x[t : t + 1, b : b + 1], packed[0])
                hidden = [single[0]]
            outputs[t, b] = output[0, 0]
        for name, part in zip(core.names, hidden, strict=True):
            last[name][b] = part[0]
    return outputs, last


@pytest.mark.parametrize("kind", KINDS)
@given(st.integers(1, 6), st.integers(1, 3), st.integers(0, 2**31), st.sampled_from([0.0, 0.2, 1.0]))
@settings(max_examples=25, deadline=None)
def test_a_window_is_its_steps(kind: str, time: int, batch: int, seed: int, share: float) -> None:
    torch.manual_seed(seed)
    core = Core(kind, 3, 5)
    x, reset = torch.randn(time, batch, 3), torch.rand(time, batch) < share
    state = {name: torch.randn(batch, 5) for name in core.names}
    with torch.no_grad():
        found, wanted = core(x, state, reset), step_by_step(core, x, state, reset)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_windows_join(kind: str) -> None:
    """Cutting an unroll anywhere changes nothing when the state is carried over."""
    core, x, reset = Core(kind, 3, 5), torch.randn(7, 2, 3), torch.zeros(7, 2, dtype=torch.bool)
    reset[3, 0] = reset[5, 1] = True
    whole, last = core(x, None, reset)
    first, state = core(x[:4], core.initial_state(2), reset[:4])
    second, end = core(x[4:], state, reset[4:])
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(end, last)


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_and_no_memory_across_a_reset(kind: str) -> None:
    core, x = Core(kind, 3, 5), torch.randn(4, 2, 3, requires_grad=True)
    reset = torch.zeros(4, 2, dtype=torch.bool)
    reset[2, 0] = True
    output, _ = core(x, None, reset)
    (grad,) = torch.autograd.grad(output[2:].sum(), x)
    assert bool((grad[:2, 0] == 0).all())
    assert bool((grad[:2, 1] != 0).any())


@pytest.mark.parametrize("kind", KINDS)
def test_state_is_float_whatever_the_weights(kind: str) -> None:
    core, x, reset = Core(kind, 3, 5), torch.randn(4, 2, 3), torch.zeros(4, 2, dtype=torch.bool)
    wanted, _ = core(x, None, reset)
    found, state = copy.deepcopy(core).bfloat16()(x, core.initial_state(2), reset)
    torch.testing.assert_close(found, wanted, atol=0.03, rtol=0.03)
    assert {part.dtype for part in state.values()} == {torch.float32}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, state = core(x.bfloat16(), core.initial_state(2), reset)
    assert mixed.dtype == torch.float32
    assert {part.dtype for part in state.values()} == {torch.float32}


@pytest.mark.parametrize("watched", [False, True])
def test_small_steps_add_up_where_weights_are_bf16(watched: bool) -> None:
    """A cell that gains 1/800 a step. In bf16 it would stay at 1/2, where that is less than half of a last digit."""
    counter = Core("lstm", 1, 1)
    for parameter in counter.parameters():
        nn.init.zeros_(parameter)
    gates = [-math.log(799.0), 20.0, 8.0, 8.0]  # lets in 1/800, forgets nothing, of what is 1, and shows it
    counter.rnn.bias_ih_l0.data.copy_(torch.tensor(gates))  # type: ignore[operator, union-attr]
    counter.bfloat16()
    if watched:
        watch(counter)
    steps = 1200
    x, reset = torch.zeros(steps, 1, 1), torch.zeros(steps, 1, dtype=torch.bool)
    with torch.no_grad():
        _, whole = counter(x, None, reset)
        state = counter.initial_state(1)
        for t in range(steps):
            _, state = counter(x[t : t + 1], state, reset[t : t + 1])
    for found in (whole, state):
        assert float(found["cell"]) == pytest.approx(steps / 800, rel=0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_weights_in_bf16(kind: str) -> None:
    core, x, reset = Core(kind, 3, 5).bfloat16(), torch.randn(7, 2, 3), torch.zeros(7, 2, dtype=torch.bool)
    reset[3, 0] = True
    grads = []
    for each in (core, copy.deepcopy(core).float()):
        output, _ = each(x, None, reset)
        grads.append(torch.autograd.grad(output.square().sum(), list(each.parameters())))
    for found, wanted in zip(*grads, strict=True):
        assert torch.equal(found, wanted.bfloat16())
        assert bool((found != 0).any())


def test_orthogonal_initialisation() -> None:
    core = Core("lstm", 8, 16, orthogonal=True)
    weights = {name: parameter.detach() for name, parameter in core.rnn.named_parameters()}
    recurrent = weights["weight_hh_l0"]  # [4 H, H]
    torch.testing.assert_close(recurrent.t() @ recurrent, torch.eye(16), atol=1e-4, rtol=1e-4)
    assert float(weights["bias_ih_l0"].abs().max()) == 0
