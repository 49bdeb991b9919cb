"""Dense tanh layers in f32 on a CPU, each stack one node of the graph, with its own gradients.

At batch 256 a graph of single operations costs as much in upkeep as in arithmetic. And libm-accurate tanh costs, on
some processors, as much as the matrix products, where torch's sigmoid costs a fifth of it: so tanh z is computed as
2 sigmoid(2 z) - 1 (absolute error below 2e-7).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


def tanh_layers(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """x f32[C, N, inputs], weights [C, inputs, units], biases [C, 1, units], by layer -> f32[C, N, units]."""
    if torch.is_grad_enabled():
        return _Layers.apply(x, *weights, *biases)
    return _outputs(x, weights, biases)[-1]


def tanh_policy_value(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], policy: nn.Linear, value: nn.Linear
) -> tuple[Tensor, Tensor]:
    """``tanh_layers`` with C = 2, then the heads: policy f32[N, P] from copy 0, value f32[N, 1] from copy 1."""
    heads = (policy.weight, policy.bias, value.weight, value.bias)
    if torch.is_grad_enabled():
        return _LayersAndHeads.apply(x, *weights, *biases, *heads)
    return _apply_heads(_outputs(x, weights, biases)[-1], heads)


def _outputs(h: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> list[Tensor]:
    """Every layer's output [C, N, units]; the factor 2 inside sigmoid rides on the product for free."""
    outputs = []
    for weight, bias in zip(weights, biases, strict=True):
        h = torch.baddbmm(bias, h, weight, beta=2, alpha=2).sigmoid_().mul_(2).sub_(1)
        outputs.append(h)
    return outputs


def _apply_heads(top: Tensor, heads: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    return functional.linear(top[0], heads[0], heads[1]), functional.linear(top[1], heads[2], heads[3])


def _through_layers(
    grad: Tensor, x: Tensor, weights: Sequence[Tensor], outputs: Sequence[Tensor], wants_below: bool
) -> tuple[Tensor | None, ...]:
    """Gradients of x, weights and biases from that of the last output, which is overwritten."""
    for_weights, for_biases = [], []
    below: Tensor | None = None
    for layer in reversed(range(len(weights))):
        torch.ops.aten.tanh_backward.grad_input(grad, outputs[layer], grad_input=grad)
        inputs = outputs[layer - 1] if layer else x
        for_weights.append(torch.bmm(inputs.mT, grad))
        for_biases.append(grad.sum(1, keepdim=True))
        if layer:
            grad = torch.bmm(grad, weights[layer].mT)
        elif wants_below:
            below = torch.bmm(grad, weights[0].mT)
    return (below, *reversed(for_weights), *reversed(for_biases))


class _Layers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        depth = len(parameters) // 2
        outputs = _outputs(x, parameters[:depth], parameters[depth:])
        ctx.save_for_backward(x, *parameters[:depth], *outputs)
        return outputs[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        depth = len(saved) // 2
        grad = grad.clone(memory_format=torch.contiguous_format)
        return _through_layers(grad, x, saved[:depth], saved[depth:], ctx.needs_input_grad[0])


class _LayersAndHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        *layers, _, _, _, _ = parameters
        heads, depth = parameters[-4:], len(layers) // 2
        outputs = _outputs(x, layers[:depth], layers[depth:])
        ctx.save_for_backward(x, heads[0], heads[2], *layers[:depth], *outputs)
        return _apply_heads(outputs[-1], heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, for_policy: Tensor, for_value: Tensor) -> tuple[Tensor | None, ...]:
        x, policy, value, *saved = ctx.saved_tensors
        depth = len(saved) // 2
        top = saved[-1]
        grad = torch.empty_like(top)
        for_heads: list[Tensor] = []
        for copy, (slope, weight) in enumerate(((for_policy, policy), (for_value, value))):
            torch.mm(slope, weight, out=grad[copy])
            for_heads += [slope.t().mm(top[copy]), slope.sum(0)]
        return *_through_layers(grad, x, saved[:depth], saved[depth:], ctx.needs_input_grad[0]), *for_heads
