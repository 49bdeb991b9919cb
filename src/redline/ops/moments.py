"""Mean and variance of a batch, or of the batches of several learners together."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Pool = Callable[
    [Tensor], Tensor
]  # f64[N] summed over all learners, every one of whom calls it at the same point


def pooled_moments(x: Tensor, pool: Pool | None = None) -> tuple[float, Tensor, Tensor]:
    """Count, mean f64[...] and population variance f64[...] over the first axis of ``x`` [N, ...] of every learner."""
    values = x.to(torch.float64).reshape(len(x), -1)
    sums = torch.cat([values.new_tensor([len(x)]), values.sum(0), values.square().sum(0)])
    if pool is not None:
        sums = pool(sums)
    count, width = float(sums[0]), values.shape[1]
    mean = sums[1 : 1 + width] / count
    variance = (sums[1 + width :] / count - mean.square()).clamp(min=0.0)
    return count, mean.reshape(x.shape[1:]), variance.reshape(x.shape[1:])
