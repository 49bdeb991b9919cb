"""Dense layers for several networks of one shape at once, and the small pieces that heads need.

Acting with separate policy and value networks on a CPU is bound by the number of kernels, so both are computed as one
batched product. Training them is bound by tanh: libm-accurate tanh costs as much as the matrix products, and torch's
sigmoid a fifth of it, so on a CPU in f32 tanh z is computed as 2 sigmoid(2 z) - 1 (absolute error below 2e-7).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


def compute_dtype(weight: Tensor) -> torch.dtype:
    """The type in which a layer with this weight computes: autocast's where it is on, else the weight's own."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


class Dense(nn.Module):
    """``copies`` independent stacks of dense layers, all of one shape: [N, inputs] -> [copies, N, hidden[-1]].

    Weights are [copies, inputs, units] per layer, biases [copies, 1, units].
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        *,
        activation: str,
        copies: int = 1,
        layer_norm: bool = False,
        orthogonal: bool = False,
    ) -> None:
        super().__init__()
        self.features = hidden[-1] if hidden else inputs
        self.copies, self.activation = copies, activation
        self.depth, self.layer_norm = len(hidden), layer_norm
        for layer, (rows, units) in enumerate(zip([inputs, *hidden[:-1]], hidden, strict=False)):
            weight = nn.Parameter(torch.empty(copies, rows, units))
            bias = nn.Parameter(torch.zeros(copies, 1, units))
            for single, offset in zip(weight, bias, strict=True):
                init_dense(single.data.t(), offset.data[0], math.sqrt(2) if orthogonal else None)
            self.register_parameter(f"weight{layer}", weight)
            self.register_parameter(f"bias{layer}", bias)
            if layer_norm:
                self.register_parameter(f"scale{layer}", nn.Parameter(torch.ones(copies, 1, units)))

    def _all(self, name: str) -> list[Tensor]:
        return [getattr(self, f"{name}{layer}") for layer in range(self.depth)]

    def forward(self, x: Tensor) -> Tensor:
        h = x.expand(self.copies, *x.shape)
        if not self.depth:
            return h
        weights, biases = self._all("weight"), self._all("bias")
        dtype = compute_dtype(weights[0])
        fast = self.activation == "tanh" and h.device.type == "cpu" and not self.layer_norm
        if fast and dtype == torch.float32:
            h = h.float()
            if torch.is_grad_enabled():
                return _TanhLayers.apply(h, *weights, *biases)
            return _tanh_layers(h, weights, biases)[-1]
        h = h.to(dtype)
        scales = self._all("scale") if self.layer_norm else [None] * self.depth
        for weight, bias, scale in zip(weights, biases, scales, strict=True):
            if scale is None:
                z = torch.baddbmm(bias, h, weight)
            else:  # the bias takes its usual place after the scale
                z = functional.layer_norm(torch.bmm(h, weight), weight.shape[-1:]) * scale + bias
            h = z.tanh() if self.activation == "tanh" else z.relu_()
        return h


def _tanh_layers(h: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> list[Tensor]:
    """Every layer's output [C, N, units]; the factor 2 inside sigmoid rides on the product for free."""
    outputs = []
    for weight, bias in zip(weights, biases, strict=True):
        h = torch.baddbmm(bias, h, weight, beta=2, alpha=2).sigmoid_().mul_(2).sub_(1)
        outputs.append(h)
    return outputs


class _TanhLayers(torch.autograd.Function):
    """All layers as one node of the graph: at batch 256 the graph's own cost is a tenth of the arithmetic's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        depth = len(parameters) // 2
        outputs = _tanh_layers(x, parameters[:depth], parameters[depth:])
        ctx.save_for_backward(x, *parameters[:depth], *outputs)
        return outputs[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        depth = len(saved) // 2
        weights, outputs = saved[:depth], saved[depth:]
        weight_grads, bias_grads = [], []
        below: Tensor | None = None
        for layer in reversed(range(depth)):
            grad = torch.ops.aten.tanh_backward(grad, outputs[layer])
            inputs = outputs[layer - 1] if layer else x
            weight_grads.append(torch.bmm(inputs.mT, grad))
            bias_grads.append(grad.sum(1, keepdim=True))
            if layer:
                grad = torch.bmm(grad, weights[layer].mT)
            elif ctx.needs_input_grad[0]:
                below = torch.bmm(grad, weights[0].mT)
        return (below, *reversed(weight_grads), *reversed(bias_grads))


class Head(nn.Linear):
    """A last layer, computed in f32 whatever came before: three digits do not do for logits and values."""

    def __init__(self, inputs: int, outputs: int, gain: float | None) -> None:
        super().__init__(inputs, outputs)
        init_dense(self.weight.data, self.bias.data, gain)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return self.forward(x)
        if x.dtype == self.weight.dtype == torch.float32:
            return functional.linear(x, self.weight, self.bias)
        return functional.linear(x.float(), self.weight.float(), self.bias.float())


def init_dense(weight: Tensor, bias: Tensor, gain: float | None) -> None:
    """Initialise a weight [outputs, ...inputs] and bias: orthogonal with ``gain`` and zero bias, or torch's own way.

    Torch's own, the one of Lua Torch and of DQN: uniform within 1 / sqrt(inputs), bias too.
    """
    with torch.no_grad():
        if gain is None:
            bound = 1 / math.sqrt(weight[0].numel())
            weight.uniform_(-bound, bound)
            bias.uniform_(-bound, bound)
        else:
            weight.copy_(nn.init.orthogonal_(torch.empty(weight.shape), gain))
            bias.zero_()


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.scale, None


def scale_gradient(x: Tensor, scale: float) -> Tensor:
    """``x`` itself, whose gradient is multiplied by ``scale``."""
    return _ScaleGradient.apply(x, scale)
