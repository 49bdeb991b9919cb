"""Dense tanh layers in f32 on a CPU, each stack one node of the graph, with its own gradients.

At batch 256 a graph of single operations costs as much in upkeep as in arithmetic. And libm-accurate tanh costs, on
some processors, as much as the matrix products; ``ops.compiled.tanh`` costs a fifth of them (error below 3e-7).
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


class PolicyValue:
    """Two stacks of tanh layers with a head each, computed forward and back without a graph.

    Copy 0 of weights [2, inputs, units] and biases [2, 1, units], by layer, carries the policy; copy 1 the value.
    """

    def __init__(
        self, weights: Sequence[Tensor], biases: Sequence[Tensor], policy: nn.Linear, value: nn.Linear
    ) -> None:
        self.weights, self.biases = weights, biases
        self.heads = (policy.weight, policy.bias, value.weight, value.bias)
        self._x: Tensor | None = None
        self._outputs: list[Tensor] = []

    def outputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x f32[N, inputs] -> policy f32[N, P], value f32[N, 1]; differentiable where gradients are on."""
        h = x.expand(2, *x.shape)
        if torch.is_grad_enabled():
            return _LayersAndHeads.apply(h, *self.weights, *self.biases, *self.heads)
        return _apply_heads(_outputs(h, self.weights, self.biases)[-1], self.heads)

    @torch.no_grad()
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As ``outputs``, without a graph; what ``backward`` needs is kept."""
        self._x = x.expand(2, *x.shape)
        self._outputs = _outputs(self._x, self.weights, self.biases)
        return _apply_heads(self._outputs[-1], self.heads)

    @torch.no_grad()
    def backward(self, for_policy: Tensor, for_value: Tensor) -> tuple[Tensor, ...]:
        """Slopes of a loss in the outputs of ``forward`` -> its gradients: weights and biases layer by layer, heads."""
        assert self._x is not None, "forward comes first"
        grad, for_heads = _through_heads(for_policy, for_value, self._outputs[-1], self.heads)
        _, *layers = _through_layers(grad, self._x, self.weights, self._outputs, False)
        depth = len(self.weights)
        pairs = zip(layers[:depth], layers[depth:], strict=True)
        return tuple(gradient for pair in pairs for gradient in pair if gradient is not None) + for_heads


def _outputs(h: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> list[Tensor]:
    """Every layer's output [C, N, units]."""
    from redline.ops import compiled  # late: Numba takes half a second to import

    outputs = []
    for weight, bias in zip(weights, biases, strict=True):
        h = torch.baddbmm(bias, h, weight)
        compiled.tanh(h.detach().numpy().reshape(-1))  # in place
        outputs.append(h)
    return outputs


def _apply_heads(top: Tensor, heads: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    return functional.linear(top[0], heads[0], heads[1]), functional.linear(top[1], heads[2], heads[3])


def _through_heads(
    for_policy: Tensor, for_value: Tensor, top: Tensor, heads: Sequence[Tensor]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Gradient of the last layer's output, and those of the heads."""
    grad = torch.empty_like(top)
    torch.mm(for_policy, heads[0], out=grad[0])
    torch.mm(for_value, heads[2], out=grad[1])
    policy = (for_policy.t().mm(top[0]), for_policy.sum(0))
    return grad, (*policy, for_value.t().mm(top[1]), for_value.sum(0))


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
        layers, heads = parameters[:-4], parameters[-4:]
        depth = len(layers) // 2
        outputs = _outputs(x, layers[:depth], layers[depth:])
        ctx.save_for_backward(x, *heads, *layers[:depth], *outputs)
        return _apply_heads(outputs[-1], heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, for_policy: Tensor, for_value: Tensor) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        heads, layers = saved[:4], saved[4:]
        depth = len(layers) // 2
        grad, for_heads = _through_heads(for_policy, for_value, layers[-1], heads)
        return *_through_layers(grad, x, layers[:depth], layers[depth:], ctx.needs_input_grad[0]), *for_heads
