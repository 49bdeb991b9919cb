"""Acting passes in bf16 on a CPU: rectified inside oneDNN's kernels, by weights that lie as these want them.

A pass for a handful of observations is bound by what surrounds its arithmetic: each of two dozen operations comes back
for the interpreter's lock, which other threads hold, and weights are widened or put in order for the matrix units anew
every time. So operations are joined; and where somebody says when the weights change, they are prepared once, if they
last: whoever acts a few times between two updates would pay and not gain.

The numbers are the layers' own, bit for bit. A processor may have kernels for which that is not so: the first pass of
each batch size is held to the layers, which go on if it differs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from redline.networks import blocks

MANY = 8  # passes with the same weights that are worth preparing them for
SIDES, ONES = [0, 0], [1, 1]  # padding; dilation, and the stride of the first convolution over blocks


class Prepared:
    """What a layer keeps of its weights for passes without gradients."""

    def __init__(self) -> None:
        self.watched = False  # ``changed`` is called whenever the weights change
        self.passes = 0  # with the present weights
        self.lasted = 0  # passes with the weights before
        self.kept: Any = None  # made of the present weights

    def __deepcopy__(self, memo: dict[int, Any]) -> Prepared:
        """A copied layer has other weights."""
        return type(self)()

    def changed(self) -> None:
        """The weights are no longer what they were."""
        self.lasted = self.passes or self.lasted  # several updates in a row are one change
        self.passes, self.kept = 0, None

    def counted(self) -> bool:
        """Count a pass; whether to prepare the weights now, since they seem to last."""
        self.passes += 1
        return (
            self.watched and self.kept is None and self.passes > 1 and max(self.passes, self.lasted) >= MANY
        )


class Widened(Prepared):
    """The f32 copies of a bf16 layer's weights and biases."""

    def of(self, *weights: Tensor) -> tuple[Tensor, ...]:
        """Those kept, or new ones."""
        if self.counted():
            self.kept = tuple(weight.float() for weight in weights)
        return self.kept or tuple(weight.float() for weight in weights)


class _Layer(NamedTuple):
    weight: Tensor
    bias: Tensor
    stride: list[int] | None  # None: a dense layer


class Packed(Prepared):
    """The layers of a torso: convolutions and, maybe, a dense layer, each followed by a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self._layers: list[_Layer] | None = None
        self._equal: dict[tuple[bool, int], bool] = {}  # (packed, batch size) -> whether the layers agreed

    def features(
        self, layers: Sequence[nn.Module], x: Tensor, plain: Callable[[Tensor], Tensor]
    ) -> Tensor | None:
        """Features of images x u8[N, C, H, W], or None where ``plain``, the layers' own pass, shall do it."""
        if not _possible(layers[0], x):
            return None
        if self._layers is None:
            self._layers = [_layer(k, layer) for k, layer in enumerate(layers)]
        if self.counted():
            self.kept = _pack(self._layers, x)
        weights = self.kept
        key = (weights is not None, len(x))
        agreed = self._equal.get(key)
        if agreed is False:
            return None
        found = _pass(self._layers, weights or _weights(self._layers), x)
        if agreed is None:
            wanted = plain(x)
            self._equal[key] = torch.equal(found, wanted)
            return wanted
        return found


def watch(network: nn.Module) -> list[Prepared]:
    """What a network's layers keep, to call ``changed`` of whenever its weights change, as the caller promises."""
    kept = [
        part for module in network.modules() for part in vars(module).values() if isinstance(part, Prepared)
    ]
    for part in kept:
        part.watched = True
    return kept


def tell(watching: Sequence[Prepared]) -> None:
    """Say to what ``watch`` gave that the weights have changed."""
    for part in watching:
        part.changed()


def _possible(first: Any, x: Tensor) -> bool:
    return (
        first.weight.dtype == torch.bfloat16
        and not x.is_cuda
        and len(x) > 0
        and blocks.fit(first, x)
        and not torch.is_autocast_enabled("cpu")
        and _has_kernels()
    )


def _has_kernels() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


def _layer(number: int, layer: Any) -> _Layer:
    stride = list(layer.stride) if isinstance(layer, nn.Conv2d) else None
    return _Layer(layer.weight, layer.bias, stride if number else ONES)


def _weights(layers: Sequence[_Layer]) -> list[Tensor]:
    return [blocks.weights(layers[0].weight), *(layer.weight for layer in layers[1:])]


def _pass(layers: Sequence[_Layer], weights: Sequence[Tensor], x: Tensor) -> Tensor:
    convolve, h = torch.ops.mkldnn._convolution_pointwise, blocks.pixels(x, torch.bfloat16)
    for (_, bias, stride), weight in zip(layers, weights, strict=True):
        if stride is None:
            flat = h.permute(0, 2, 3, 1).flatten(1)
            return torch.ops.mkldnn._linear_pointwise(flat, weight, bias, "relu", [], "")
        h = convolve(h, weight, bias, SIDES, stride, ONES, 1, "relu", [], "")
    return h.permute(0, 2, 3, 1).flatten(1)


def _pack(layers: Sequence[_Layer], x: Tensor) -> list[Tensor]:
    packed, shape = [], list(blocks.pixels(x, torch.bfloat16).shape)
    for layer, weight in zip(layers, _weights(layers), strict=True):
        if layer.stride is None:
            packed.append(torch.ops.mkldnn._reorder_linear_weight(weight, len(x)))
            break
        packed.append(
            torch.ops.mkldnn._reorder_convolution_weight(weight, SIDES, layer.stride, ONES, 1, shape)
        )
        pairs = zip(shape[2:], weight.shape[2:], layer.stride, strict=True)
        shape = [len(x), len(weight), *((size - kernel) // step + 1 for size, kernel, step in pairs)]
    return packed
