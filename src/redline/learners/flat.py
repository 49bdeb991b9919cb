"""A network's parameters as views into one flat buffer: what is published, averaged, clipped and stepped at once."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn


def flatten_parameters(network: nn.Module) -> Tensor:
    """Move every parameter into one new flat f32[P] buffer and make the parameters views of it.

    Convolution weights keep channels-last strides, so that a kernel that wants them so finds them so.
    """
    parameters = list(network.parameters())
    flat = torch.empty(
        sum(p.numel() for p in parameters), dtype=parameters[0].dtype, device=parameters[0].device
    )
    for view, parameter in zip(parameter_views(network, flat), parameters, strict=True):
        view.copy_(parameter.data)
        parameter.data = view
    return flat


def parameter_views(network: nn.Module, flat: Tensor) -> list[Tensor]:
    """Views of ``flat`` [P] shaped like the network's parameters, in their order."""
    views, start = [], 0
    for parameter in network.parameters():
        piece = flat[start : start + parameter.numel()]
        if parameter.dim() == 4:
            out, channels, height, width = parameter.shape
            views.append(piece.view(out, height, width, channels).permute(0, 3, 1, 2))
        else:
            views.append(piece.view(parameter.shape))
        start += parameter.numel()
    return views


def twin(network: nn.Module, flat: Tensor, *, trainable: bool, share_buffers: bool = True) -> nn.Module:
    """A second module over the weights in ``flat`` [P], of any dtype; buffers are the network's own unless copied."""
    made = copy.deepcopy(network).requires_grad_(trainable)
    for view, parameter in zip(parameter_views(made, flat), made.parameters(), strict=True):
        parameter.data = view
    for mine, theirs in zip(made.buffers(), network.buffers(), strict=True):
        mine.data = theirs.data if share_buffers else theirs.data.clone()
    return made


@dataclass(frozen=True)
class Tile:
    """Rows of one parameter: a contiguous piece of the flat buffer that one thread reduces and steps."""

    parameter: int  # its number
    rows: slice
    start: int  # in the flat buffer
    stop: int


def cut_tiles(network: nn.Module, workers: int) -> list[list[Tile]]:
    """Share the parameters out among ``workers`` in contiguous pieces of about equal size, cutting between rows."""
    shapes = [p.shape for p in network.parameters()]
    total = sum(shape.numel() for shape in shapes)
    shares: list[list[Tile]] = [[] for _ in range(workers)]
    start, worker = 0, 0
    for number, shape in enumerate(shapes):
        count = shape[0] if len(shape) else 1
        width = shape.numel() // max(count, 1)
        row = 0
        while row < count:
            room = total * (worker + 1) // workers - start
            rows = count - row if worker == workers - 1 else min(max(round(room / width), 0), count - row)
            if rows == 0:
                worker += 1
                continue
            shares[worker].append(Tile(number, slice(row, row + rows), start, start + rows * width))
            start, row = start + rows * width, row + rows
    return shares
