"""Sums two shards' gradients; clips, steps by Adam or RMSProp and rounds the weights: each in one sweep over memory.

For a network of millions of weights the step is bound by memory: torch's separate copy, sum, norm, scaling, step and
rounding read and write the same buffers again and again. Needs Numba; torch's optimisers and those of ``optimizers``
are the reference.

Where a gradient is 0 for long, averages decay towards 0, and would stop at numbers so small that processors take a
hundred times as long for each. Far above those, and far below what moves a weight, they become 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from redline.learners.config import LearnerConfig
from redline.learners.optimizers import INSIDE, OUTSIDE
from redline.ops.compiled import jit

# Operations as written: a gradient that was clipped before gives what one gives that is clipped on the way.
_exact = partial(jit, exact=True)
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


TINY, TINY_SQUARE = np.float32(1e-30), np.float32(1e-36)  # of averages, and of those of squares: 0 below


@_exact
def _adam(
    weights: np.ndarray,
    gradient: np.ndarray,
    average: np.ndarray,
    square: np.ndarray,
    rounded: Any,
    numbers: np.ndarray,
) -> None:
    """One step of Adam (Kingma & Ba 2015, algorithm 1) on f32[N] buffers, in place.

    ``rounded`` u16[N], if not None, becomes the weights' bf16 copy.
    """
    scale, keep, fresh, fresh_square, rate, correction, epsilon = numbers
    nothing = np.float32(0.0)
    for i in range(len(weights)):
        slope = gradient[i] * scale
        first = average[i] + fresh * (slope - average[i])
        second = keep * square[i] + fresh_square * slope * slope
        first = nothing if abs(first) < TINY else first  # this way round NaNs stay
        second = nothing if second < TINY_SQUARE else second
        average[i], square[i] = first, second
        weight = weights[i] - rate * first / (np.sqrt(second) / correction + epsilon)
        weights[i] = weight
        if rounded is not None:
            rounded[i] = _round(weight)


@_exact
def _rmsprop(
    weights: np.ndarray,
    gradient: np.ndarray,
    square: np.ndarray,
    mean: Any,
    momentum: Any,
    rounded: Any,
    numbers: np.ndarray,
) -> None:
    """The same by RMSProp (Tieleman & Hinton 2012; centred: Graves 2013, arXiv 1308.0850, equation 38).

    ``mean`` f32[N] where it is centred, ``momentum`` f32[N] where it has any, else None.
    """
    scale, keep, fresh, push, rate, inside, outside = numbers
    nothing = np.float32(0.0)
    for i in range(len(weights)):
        slope = gradient[i] * scale
        second = keep * square[i] + fresh * slope * slope
        second = nothing if second < TINY_SQUARE else second
        square[i] = second
        if mean is not None:
            first = mean[i] + fresh * (slope - mean[i])
            first = nothing if abs(first) < TINY else first
            mean[i] = first
            second = second - first * first
            second = nothing if second < nothing else second  # rounding may carry it below 0
        move = slope / (np.sqrt(second + inside) + outside)
        if momentum is not None:
            move = push * momentum[i] + move
            move = nothing if abs(move) < TINY else move
            momentum[i] = move
        weight = weights[i] - rate * move
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


class Fused(torch.optim.Optimizer, ABC):
    """An optimiser over one flat parameter f32[N] on the CPU; its state is that of the optimiser it stands for."""

    @abstractmethod
    def sweep(self, scale: float, rounded: Tensor | None = None) -> None:
        """Step by ``scale`` times the gradient; ``rounded`` bf16[N], if there is one, becomes the new weights' copy."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step along ``grad``; ``closure`` is not called."""
        self.sweep(1.0)

    def _state(self, names: Sequence[str]) -> dict[str, Tensor]:
        weights = self.param_groups[0]["params"][0]
        state = self.state[weights]
        if not state:
            state.update({name: torch.zeros_like(weights, requires_grad=False) for name in names})
        return state


class FusedAdam(Fused):
    """Adam, its state kept as ``torch.optim.Adam`` keeps it."""

    def __init__(
        self,
        weights: Sequence[nn.Parameter],
        lr: float,
        *,
        eps: float = 1e-8,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        super().__init__(weights, {"lr": lr})
        self.epsilon, self.betas = eps, betas

    def sweep(self, scale: float, rounded: Tensor | None = None) -> None:
        """See ``Fused``."""
        group = self.param_groups[0]
        weights, state = group["params"][0], self._state(("exp_avg", "exp_avg_sq"))
        state.setdefault("step", torch.tensor(0.0)).add_(1)
        step, (beta1, beta2) = float(state["step"]), self.betas
        rate, correction = group["lr"] / (1 - beta1**step), (1 - beta2**step) ** 0.5
        numbers = [scale, beta2, 1 - beta1, 1 - beta2, rate, correction, self.epsilon]
        _adam(
            weights.detach().numpy(),
            weights.grad.numpy(),
            state["exp_avg"].numpy(),
            state["exp_avg_sq"].numpy(),
            None if rounded is None else _bits(rounded),
            np.array(numbers, np.float32),
        )


class FusedRMSprop(Fused):
    """RMSProp, its state kept as ``torch.optim.RMSprop`` keeps it or, with epsilon inside, ``InsideRMSprop``."""

    def __init__(self, weights: Sequence[nn.Parameter], lr: float, config: LearnerConfig) -> None:
        super().__init__(weights, {"lr": lr})
        self.config = config

    def sweep(self, scale: float, rounded: Tensor | None = None) -> None:
        """See ``Fused``."""
        config, group = self.config, self.param_groups[0]
        inside = config.epsilon_inside
        square, mean, momentum = INSIDE if inside else OUTSIDE
        kept = [square, *[mean] * config.centered, *[momentum] * (config.momentum > 0)]
        weights, state = group["params"][0], self._state(kept)
        if not inside:
            state.setdefault("step", torch.tensor(0.0)).add_(1)
        numbers = [scale, config.decay, 1 - config.decay, config.momentum, group["lr"]]
        numbers += [config.epsilon, 0.0] if inside else [0.0, config.epsilon]
        _rmsprop(
            weights.detach().numpy(),
            weights.grad.numpy(),
            state[square].numpy(),
            state[mean].numpy() if config.centered else None,
            state[momentum].numpy() if config.momentum > 0 else None,
            None if rounded is None else _bits(rounded),
            np.array(numbers, np.float32),
        )


FUSED = ("adam", "rmsprop")  # what ``make`` makes


def make(config: LearnerConfig, weights: nn.Parameter, lr: float) -> Fused:
    """The optimiser that a configuration names, of ``FUSED``."""
    if config.optimizer == "adam":
        return FusedAdam([weights], lr, eps=config.epsilon)
    return FusedRMSprop([weights], lr, config)


def _memory(tensor: Tensor) -> Tensor:
    """The numbers of a tensor without gaps, [N] in the order of their addresses."""
    return tensor.as_strided((tensor.numel(),), (1,))


def _bits(tensor: Tensor) -> np.ndarray:
    """f32 as u32, bf16 as u16."""
    return tensor.view(torch.uint32 if tensor.dtype == torch.float32 else torch.uint16).numpy()
