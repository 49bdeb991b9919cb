"""Convolutional torsos: Nature CNN (Mnih et al. 2015) and IMPALA's residual network (Espeholt et al. 2018).

Images are u8[N, C, H, W] and stay so until they are here: one pass converts them to the computing type with channels
last, and the division by 255 is folded into the first convolution's weights (0..255 are exact even in bf16).
Features are flattened rows first, channels last, so that flattening copies nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from redline.networks import blocks
from redline.networks.layers import compute_dtype, init_dense
from redline.networks.packed import Packed


class NatureCNN(nn.Module):
    """Three convolutions and, with ``dense``, a layer of 512 (Mnih et al. 2015, "Model architecture").

    u8[N, C, H, W] -> [N, features]; H and W at least 36.
    """

    units = 512

    def __init__(self, shape: Sequence[int], *, dense: bool = True, orthogonal: bool = False) -> None:
        super().__init__()
        channels, height, width = shape
        self.first = nn.Conv2d(channels, 32, 8, 4)
        self.second = nn.Conv2d(32, 64, 4, 2)
        self.third = nn.Conv2d(64, 64, 3, 1)
        rows, columns = (((size - 8) // 4 + 1 - 4) // 2 + 1 - 2 for size in (height, width))
        self.features = 64 * rows * columns
        self.dense = nn.Linear(self.features, self.units) if dense else None
        self.features = self.units if dense else self.features
        _init(self, orthogonal)
        layers = (self.first, self.second, self.third, self.dense)
        self.layers = tuple(layer for layer in layers if layer is not None)
        self.packed = Packed()

    def forward(self, x: Tensor) -> Tensor:
        found = None if torch.is_grad_enabled() else self.packed.features(self.layers, x, self._forward)
        return self._forward(x) if found is None else found

    def _forward(self, x: Tensor) -> Tensor:
        h = _first_convolution(x, self.first).relu_()
        h = self.second(h).relu_()
        h = self.third(h).relu_()
        h = _flatten(h)
        return h if self.dense is None else self.dense(h).relu_()


class ImpalaCNN(nn.Module):
    """Stages of a convolution, a pool and two residual blocks, then, with ``dense``, a layer of 256 (figure 3, right).

    u8[N, C, H, W] -> [N, features]; any H and W.
    """

    units = 256

    def __init__(
        self, shape: Sequence[int], sizes: Sequence[int], *, dense: bool = True, orthogonal: bool = False
    ) -> None:
        super().__init__()
        channels, height, width = shape
        stages = []
        for out in sizes:
            stages.append(_Stage(channels, out))
            channels, height, width = out, (height + 1) // 2, (width + 1) // 2
        self.first, self.others = stages[0], nn.ModuleList(stages[1:])
        self.features = channels * height * width
        self.dense = nn.Linear(self.features, self.units) if dense else None
        self.features = self.units if dense else self.features
        _init(self, orthogonal)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first.blocks(_first_convolution(x, self.first.entry))
        for stage in self.others:
            h = stage(h)
        h = _flatten(h.relu_())
        return h if self.dense is None else self.dense(h).relu_()


class _Stage(nn.Module):
    """A convolution, a pool that halves the map, and two residual blocks."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.entry = nn.Conv2d(channels, out, 3, padding=1)
        self.inner = nn.ModuleList(nn.Conv2d(out, out, 3, padding=1) for _ in range(2))
        self.outer = nn.ModuleList(nn.Conv2d(out, out, 3, padding=1) for _ in range(2))

    def blocks(self, h: Tensor) -> Tensor:
        """What follows the convolution."""
        h = functional.max_pool2d(h, 3, 2, padding=1)
        for inner, outer in zip(self.inner, self.outer, strict=True):
            h = h + outer(inner(h.relu()).relu_())
        return h

    def forward(self, h: Tensor) -> Tensor:
        return self.blocks(self.entry(h))


def _init(module: nn.Module, orthogonal: bool) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert layer.bias is not None
            init_dense(layer.weight.data, layer.bias.data, math.sqrt(2) if orthogonal else None)
            if layer.weight.dim() == 4:
                layer.weight.data = layer.weight.data.to(memory_format=torch.channels_last)


def _flatten(h: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, H W C]: no copy for channels-last maps."""
    return h.permute(0, 2, 3, 1).flatten(1)


def _first_convolution(x: Tensor, convolution: nn.Conv2d) -> Tensor:
    """The convolution of x / 255, x u8[N, C, H, W], without ever making x / 255."""
    dtype = compute_dtype(convolution.weight)
    if x.device.type == "cpu" and blocks.fit(convolution, x):
        return functional.conv2d(
            blocks.pixels(x, dtype), blocks.weights(convolution.weight), convolution.bias
        )
    pixels, weight = x.to(dtype, memory_format=torch.channels_last), convolution.weight * blocks.PIXEL
    return functional.conv2d(pixels, weight, convolution.bias, convolution.stride, convolution.padding)
