"""Dense layers for several networks of one shape at once, and the small pieces that heads need.

Acting with separate policy and value networks on a CPU is bound by the number of kernels, so both are computed as one
batched product; ``networks.tanh`` has what training them is bound by.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from redline.networks.packed import Widened
from redline.networks.tanh import PolicyValue, tanh_layers


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

    @property
    def one_node(self) -> bool:
        """Whether ``networks.tanh`` computes it: tanh in f32 on a CPU."""
        if self.activation != "tanh" or self.layer_norm or not self.depth:
            return False
        weight = self.weight0
        return weight.device.type == "cpu" and compute_dtype(weight) == torch.float32

    def with_heads(self, policy: nn.Linear, value: nn.Linear) -> PolicyValue:
        """Of two copies with ``one_node``: policy from copy 0 and value from copy 1, by one computation."""
        return PolicyValue(self._all("weight"), self._all("bias"), policy, value)

    def _all(self, name: str) -> list[Tensor]:
        return [getattr(self, f"{name}{layer}") for layer in range(self.depth)]

    def forward(self, x: Tensor) -> Tensor:
        h = x.expand(self.copies, *x.shape)
        if not self.depth:
            return h
        weights, biases = self._all("weight"), self._all("bias")
        if self.one_node:
            return tanh_layers(h.float(), weights, biases)
        h = h.to(compute_dtype(weights[0]))
        scales = self._all("scale") if self.layer_norm else [None] * self.depth
        for weight, bias, scale in zip(weights, biases, scales, strict=True):
            if scale is None:
                z = torch.baddbmm(bias, h, weight)
            else:  # the bias takes its usual place after the scale
                z = functional.layer_norm(torch.bmm(h, weight), weight.shape[-1:]) * scale + bias
            h = z.tanh() if self.activation == "tanh" else z.relu_()
        return h


class Head(nn.Linear):
    """A last layer, computed in f32 whatever came before: three digits do not do for logits and values."""

    def __init__(self, inputs: int, outputs: int, gain: float | None) -> None:
        super().__init__(inputs, outputs)
        init_dense(self.weight.data, self.bias.data, gain)
        self.widened = Widened()

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return self.forward(x)
        if x.dtype == self.weight.dtype == torch.float32:
            return functional.linear(x, self.weight, self.bias)
        # A recorded pass would go on reading the copies kept when it was recorded.
        if torch.is_grad_enabled() or x.is_cuda:
            return functional.linear(x.float(), self.weight.float(), self.bias.float())
        return functional.linear(x.float(), *self.widened.of(self.weight, self.bias))


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
