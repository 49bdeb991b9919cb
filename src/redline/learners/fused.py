"""Sums two shards' gradients, and clips, steps by Adam and rounds the weights, each in one sweep over memory.

For a network of millions of weights the step is bound by memory: torch's separate copy, sum, norm, scaling, Adam and
rounding read and write the same buffers again and again. Needs Numba; ``torch.optim.Adam`` is the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from redline.ops.compiled import jit

BLOCK = 4096  # squares summed in f32 before they join the f64 total


@jit
def _widen(bits: Any, shift: Any) -> Any:
    """Bits of a f32 (u32, shift 0) or of a bf16 (u16, shift 16) -> the same number as f32."""
    return np.uint32(np.uint32(bits) << shift).view(np.float32)


@jit
def _round(number: Any) -> Any:
    """A f32 -> bits u16 of the nearest bf16, ties to even. NaNs stay NaNs: theirs are bf16's or the processor's."""
    bits = np.float32(number).view(np.uint32)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


@jit
def _add(first: np.ndarray, second: np.ndarray, shift: Any, out: np.ndarray) -> float:
    """``out`` f32[N] = ``first`` + ``second``, given as bits for ``_widen``; returns the sum of its squares."""
    total = 0.0
    for start in range(0, len(out), BLOCK):
        # Slices whose loops start at 0: Numba's check for negative indices would keep them out of vector registers.
        one, two, target = (
            first[start : start + BLOCK],
            second[start : start + BLOCK],
            out[start : start + BLOCK],
        )
        squares: Any = np.float32(0.0)
        for i in range(len(target)):
            value = _widen(one[i], shift) + _widen(two[i], shift)
            target[i] = value
            squares += value * value
        total += squares
    return total


@jit
def _adam(
    weights: np.ndarray,
    gradient: np.ndarray,
    average: np.ndarray,
    square: np.ndarray,
    rounded: Any,
    numbers: np.ndarray,
) -> None:
    """Step f32[N] buffers in place; ``rounded`` u16[N], if not None, becomes the weights' bf16 copy.

    Where a gradient is 0 for long, averages decay towards 0 and would stop at numbers so small that processors take a
    hundred times as long for each. Far above those, and far below what moves a weight, they become 0.
    """
    scale, keep, fresh, fresh_square, rate, correction, epsilon = numbers
    nothing, tiny, tiny_square = np.float32(0.0), np.float32(1e-30), np.float32(1e-36)
    for i in range(len(weights)):
        slope = gradient[i] * scale
        first = average[i] + fresh * (slope - average[i])
        second = keep * square[i] + fresh_square * slope * slope
        first = nothing if abs(first) < tiny else first  # this way round NaNs stay
        second = nothing if second < tiny_square else second
        average[i], square[i] = first, second
        weight = weights[i] - rate * first / (np.sqrt(second) / correction + epsilon)
        weights[i] = weight
        if rounded is not None:
            rounded[i] = _round(weight)


def add_shards(shards: Sequence[Tensor], target: Tensor) -> float | None:
    """Write the sum of two gradients, f32 or bf16, into ``target`` f32 of their shape; returns its sum of squares.

    None, and nothing written, unless there are two, laid out like ``target`` (which has no gaps).
    """
    if len(shards) != 2 or any(shard.stride() != target.stride() for shard in shards):
        return None
    shift = np.uint32(32 - 8 * shards[0].element_size())
    first, second = (_bits(_memory(shard)) for shard in shards)
    return _add(first, second, shift, _memory(target).numpy())


class FusedAdam(torch.optim.Adam):
    """Adam over one flat parameter f32[N] on the CPU, its state kept as ``torch.optim.Adam`` keeps it."""

    def sweep(self, scale: float, rounded: Tensor | None = None) -> None:
        """Step by ``scale`` times the gradient; ``rounded`` bf16[N], if there is one, becomes the new weights' copy."""
        group = self.param_groups[0]
        weights = group["params"][0]
        state = self.state[weights]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(weights, requires_grad=False)
            state["exp_avg_sq"] = torch.zeros_like(weights, requires_grad=False)
        state["step"] += 1
        step, (beta1, beta2) = float(state["step"]), group["betas"]
        rate, correction = group["lr"] / (1 - beta1**step), (1 - beta2**step) ** 0.5
        numbers = [scale, beta2, 1 - beta1, 1 - beta2, rate, correction, group["eps"]]
        _adam(
            weights.detach().numpy(),
            weights.grad.numpy(),
            state["exp_avg"].numpy(),
            state["exp_avg_sq"].numpy(),
            None if rounded is None else _bits(rounded),
            np.array(numbers, np.float32),
        )


def _memory(tensor: Tensor) -> Tensor:
    """The numbers of a tensor without gaps, [N] in the order of their addresses."""
    return tensor.as_strided((tensor.numel(),), (1,))


def _bits(tensor: Tensor) -> np.ndarray:
    """f32 as u32, bf16 as u16."""
    return tensor.view(torch.uint32 if tensor.dtype == torch.float32 else torch.uint16).numpy()
