"""Pixels in blocks of four: a stride-4 convolution of few channels as a stride-1 one of many.

Each 4 x 4 block of an image becomes channels (c, row, column) of one place, and the weights are moved alike. Processors
compute that several times faster.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PIXEL = 1 / 255


def fit(convolution: nn.Conv2d, x: Tensor) -> bool:
    """Whether this convolution of these images can be taken in blocks of four."""
    kernel = convolution.kernel_size[0]
    return (
        x.dtype == torch.uint8
        and convolution.stride == (4, 4)
        and kernel % 4 == 0
        and x.shape[2] % 4 == 0
        and x.shape[3] % 4 == 0
    )


def pixels(x: Tensor, dtype: torch.dtype) -> Tensor:
    """u8[N, C, H, W] on the CPU -> ``dtype``[N, 16 C, H/4, W/4], channels last; 0..255 are exact in every type."""
    kernel = _kernel() if dtype in _BITS else None
    if kernel is None:
        return _moved(x).to(dtype).permute(0, 3, 1, 2)
    count, channels, height, width = x.shape
    out = torch.empty((count, height // 4, width // 4, 16 * channels), dtype=dtype)
    kernel(x.contiguous().numpy(), _table(dtype), out.view(_BITS[dtype]).numpy())
    return out.permute(0, 3, 1, 2)


def weights(weight: Tensor) -> Tensor:
    """[O, C, K, K] for x / 255 -> [O, 16 C, K/4, K/4] for ``pixels`` of x, channels last."""
    out, channels, kernel, _ = weight.shape
    cells = (weight * PIXEL).reshape(out, channels, kernel // 4, 4, kernel // 4, 4).permute(0, 2, 4, 1, 3, 5)
    return cells.reshape(out, kernel // 4, kernel // 4, 16 * channels).permute(0, 3, 1, 2)


_BITS = {torch.float32: torch.uint32, torch.bfloat16: torch.uint16}


@functools.cache
def _table(dtype: torch.dtype) -> np.ndarray:
    """The bits of 0..255 in a type."""
    return torch.arange(256).to(dtype).view(_BITS[dtype]).numpy()


@functools.cache
def _kernel() -> Callable[..., Any] | None:
    """The compiled copy, or None without Numba (late: it takes half a second to import)."""
    try:
        from redline.ops.compiled import blocks_of_four
    except ImportError:
        return None
    return blocks_of_four


def _moved(x: Tensor) -> Tensor:
    """u8[N, C, H, W] -> u8[N, H/4, W/4, 16 C]. Four neighbouring pixels of a row move as one 32-bit word."""
    count, channels, height, width = x.shape
    words = x.contiguous().view(torch.int32).view(count, channels, height // 4, 4, width // 4)
    # Whole rows first, then a plain transposition: a third of the time of one general permutation.
    rows = words.transpose(1, 2).reshape(-1, channels * 4, width // 4)
    moved = rows.transpose(1, 2).contiguous()
    return moved.view(torch.uint8).view(count, height // 4, width // 4, 16 * channels)
