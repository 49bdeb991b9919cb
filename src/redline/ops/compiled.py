"""Loops over rows, compiled by Numba, for a CPU: there a small operation of torch costs as much as hundreds of rows.

Each has a twin in torch operations that says the same and that a test holds it to.

Over budget: compiled loops take their arrays one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np


def jit(function: Callable[..., Any], *, exact: bool = False) -> Callable[..., Any]:
    """Compile without the GIL, cached on disk where some folder can be written. Sums go in vector lanes, and products
    are joined to them, unless ``exact``, which keeps and rounds every operation as written."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    if not exact:
        options["fastmath"] = {"reassoc", "contract"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # "no locator available": neither beside the file nor in the user's cache folder
        return numba.njit(**options)(function)


@jit
def tanh(numbers: np.ndarray) -> None:
    """f32[N] becomes its tanh, to within 3e-7: a rational function on [-9, 9], with Eigen's coefficients; NaNs stay."""
    f = np.float32
    for i in range(len(numbers)):
        x = numbers[i]
        x = f(-9.0) if x < f(-9.0) else x
        x = f(9.0) if x > f(9.0) else x
        s = x * x
        above = s * f(-2.76076847742355e-16) + f(2.00018790482477e-13)
        above = above * s + f(-8.60467152213735e-11)
        above = above * s + f(5.12229709037114e-08)
        above = above * s + f(1.48572235717979e-05)
        above = above * s + f(6.37261928875436e-04)
        above = above * s + f(4.89352455891786e-03)
        below = s * f(1.19825839466702e-06) + f(1.18534705686654e-04)
        below = below * s + f(2.26843463243900e-03)
        below = below * s + f(4.89352518554385e-03)
        numbers[i] = x * above / below


@jit
def categorical_sample(
    logits: np.ndarray, noise: np.ndarray, action: np.ndarray, log_prob: np.ndarray
) -> None:
    """Draw ``action`` i64[N] from ``logits`` f32[N, A] by ``noise`` f32[N, A] ~ Exp(1), and its ``log_prob`` f32[N]."""
    logs = np.empty(logits.shape[1], np.float32)
    for i in range(len(action)):
        _log_softmax(logits[i], logs)
        best, chosen = logits[i, 0] - np.log(noise[i, 0]), 0
        for j in range(1, len(logs)):
            lifted = logits[i, j] - np.log(noise[i, j])
            if lifted > best:
                best, chosen = lifted, j
        action[i], log_prob[i] = chosen, logs[chosen]


@jit
def blocks_of_four(images: np.ndarray, table: np.ndarray, out: np.ndarray) -> None:
    """u8[N, C, H, W] -> ``out`` [N, H/4, W/4, 16 C] by ``table`` [256]: each 4 x 4 block as (c, row, column)."""
    count, channels, height, width = images.shape
    for n in range(count):
        for y in range(height // 4):
            for x in range(width // 4):
                for c in range(channels):
                    for row in range(4):
                        for column in range(4):
                            pixel = images[n, c, 4 * y + row, 4 * x + column]
                            out[n, y, x, 16 * c + 4 * row + column] = table[pixel]


@jit
def _log_softmax(row: np.ndarray, out: np.ndarray) -> None:
    """``out`` f32[A] = log softmax of ``row`` f32[A]."""
    top = row[0]
    for j in range(1, len(row)):
        top = max(top, row[j])
    total = np.float32(0.0)
    for j in range(len(row)):
        total += np.exp(row[j] - top)
    shift = top + np.log(total)
    for j in range(len(row)):
        out[j] = row[j] - shift


@jit
def categorical_objective(
    logits: np.ndarray,
    value: np.ndarray,
    action: np.ndarray,
    columns: tuple[np.ndarray, ...],
    numbers: np.ndarray,
    for_logits: np.ndarray,
    for_value: np.ndarray,
) -> np.ndarray:
    """PPO's objective of N rows with f32[N, A] ``logits``, as ``ops.ppo`` has it in torch.

    ``columns``: log_prob, advantage, target and the old value, f32[N] each.   ``numbers``: clip, value cost, entropy
    cost and value clip (infinite for none), f32[4]. Written to: the slopes of the *mean* objective, f32[N, A] and
    f32[N]. Returns means f32[5] in the order of ``ops.ppo.METRICS``.
    """
    log_prob, advantage, target, old_value = columns
    clip, value_cost, entropy_cost, value_clip = numbers
    one, count = np.float32(1.0), np.float32(len(value))
    sums = np.zeros(5)
    logs = np.empty(logits.shape[1], np.float32)
    for i in range(len(value)):
        _log_softmax(logits[i], logs)
        entropy = np.float32(0.0)
        for j in range(len(logs)):
            entropy -= np.exp(logs[j]) * logs[j]

        log_ratio = logs[action[i]] - log_prob[i]
        ratio = np.exp(log_ratio)
        plain = -ratio * advantage[i]
        held = -min(max(ratio, one - clip), one + clip) * advantage[i]
        # The slope of -r A in log pi is -r A itself; where the clipped term is the worse, it is 0.
        slope = np.float32(0.0) if plain < held else plain

        error = value[i] - target[i]
        square, error_slope = error * error, error
        moved = value[i] - old_value[i]
        if abs(moved) > value_clip:  # the value held within the clip does not move
            clipped = old_value[i] + min(max(moved, -value_clip), value_clip) - target[i]
            if clipped * clipped > square:
                square, error_slope = clipped * clipped, np.float32(0.0)

        # With g the surrogate's slope, c the entropy's cost and H the entropy, the slope in logit j is
        # g (1[j = a] - p_j) + c p_j (log p_j + H): every row's is 0 in sum, and 0 where p_j is.
        for j in range(len(logs)):
            tilt = entropy_cost * (logs[j] + entropy) - slope
            for_logits[i, j] = np.exp(logs[j]) * tilt / count
        for_logits[i, action[i]] += slope / count
        for_value[i] = value_cost * error_slope / count

        sums[0] += max(plain, held)
        sums[1] += np.float32(0.5) * square
        sums[2] += entropy
        sums[3] += ratio - one - log_ratio
        sums[4] += 1.0 if abs(ratio - one) > clip else 0.0
    return (sums / len(value)).astype(np.float32)
