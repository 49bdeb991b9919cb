"""A network's parameters as views into one flat buffer: what is published, averaged, clipped and stepped at once."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def flatten_parameters(network: nn.Module) -> Tensor:
    """Move every parameter into one new flat f32[P] buffer and make the parameters views of it.

    Convolution weights keep channels-last strides, so that a kernel that wants them so finds them so.
    """
    parameters = list(network.parameters())
    flat = torch.empty(sum(p.numel() for p in parameters), dtype=parameters[0].dtype, device=parameters[0].device)
    alias_parameters(network, flat, copy_values=True)
    return flat


def alias_parameters(network: nn.Module, flat: Tensor, *, copy_values: bool = False) -> list[Tensor]:
    """Make ``network``'s parameters views of ``flat`` [P], in order; returns the views."""
    views, start = [], 0
    for parameter in network.parameters():
        view = view_like(flat[start : start + parameter.numel()], parameter)
        if copy_values:
            view.copy_(parameter.data)
        parameter.data = view
        views.append(view)
        start += parameter.numel()
    return views


def view_like(piece: Tensor, parameter: Tensor) -> Tensor:
    """A view of a flat piece with the parameter's shape; channels-last strides for 4-d weights."""
    if parameter.dim() == 4:
        out, channels, height, width = parameter.shape
        return piece.view(out, height, width, channels).permute(0, 3, 1, 2)
    return piece.view(parameter.shape)


def replica(network: nn.Module, flat: Tensor) -> nn.Module:
    """A second module over the same parameter and buffer memory: own autograd leaves, no second copy of weights."""
    twin = copy.deepcopy(network)
    alias_parameters(twin, flat)
    for mine, theirs in zip(twin.buffers(), network.buffers(), strict=True):
        mine.data = theirs.data
    return twin


class Snapshot:
    """A copy of a network for inference, in its own precision, that follows the learner's flat buffer.

    At f32 on the learner's device it is no copy at all but shares the learner's memory (``follows`` is then True and
    ``load`` does nothing); in bf16 it keeps its own buffer, so that weights are rounded once a publication and not at
    every forward pass.
    """

    def __init__(self, network: nn.Module, flat: Tensor, dtype: torch.dtype, *, share: bool) -> None:
        self.source, self.flat = network, flat
        self.follows = share and dtype == flat.dtype
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.own = flat if self.follows else flat.to(dtype, copy=True)
        alias_parameters(self.network, self.own)
        for mine, theirs in zip(self.network.buffers(), network.buffers(), strict=True):
            mine.data = theirs.data if self.follows else theirs.data.clone()

    @torch.no_grad()
    def load(self) -> None:
        """Take the learner's newest weights and buffers."""
        if self.follows:
            return
        self.own.copy_(self.flat)
        for mine, theirs in zip(self.network.buffers(), self.source.buffers(), strict=True):
            mine.copy_(theirs)
