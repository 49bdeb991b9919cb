"""Running normalisation of observations, kept with the weights: published, saved and frozen with them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from redline.ops.moments import Pool, pooled_moments


class ObservationNormalizer(nn.Module):
    """(x - mean) / sqrt(variance + 1e-8), clipped to +-10, per element of an observation f32[...].

    The identity until the first ``update``. The statistics are buffers: the forward pass only reads them.
    """

    mean: Tensor  # f32[...]
    variance: Tensor  # f32[...]
    inverse_std: Tensor  # f32[...] derived from variance, so that acting costs three kernels
    limit: Tensor  # f32[2] clipping bounds, infinite before the first update
    count: Tensor  # i64[] observations seen

    def __init__(self, shape: tuple[int, ...], clip: float = 10.0, epsilon: float = 1e-8) -> None:
        super().__init__()
        self.clip, self.epsilon = clip, epsilon
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("variance", torch.ones(shape))
        self.register_buffer("inverse_std", torch.ones(shape))
        self.register_buffer("limit", torch.tensor([-torch.inf, torch.inf]))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """x [N, ...] -> f32[N, ...]."""
        low, high = self.limit.unbind()
        return ((x - self.mean) * self.inverse_std).clamp(low, high)

    @torch.no_grad()
    def update(self, batch: Tensor, pool: Pool | None = None) -> None:
        """Merge the statistics of a batch [N, ...] (Chan et al. 1979, parallel variance).

        pool: sums over learners whose batches count as one; see ``ops.moments``.
        """
        new: float = len(batch)
        if pool is None:
            variance, mean = torch.var_mean(batch.float(), 0, correction=0)
        else:
            new, *moments = pooled_moments(batch, pool)
            mean, variance = (x.to(self.mean) for x in moments)
        old = self.count.to(mean.dtype)
        total = old + new
        share = new / total
        delta = mean - self.mean
        self.mean.add_(delta * share)
        # Weighted mean of both variances, plus what the distance between the means adds.
        self.variance.lerp_(variance, share).add_(delta.square() * (share * (1 - share)))
        self.inverse_std.copy_((self.variance + self.epsilon).rsqrt())
        self.limit.copy_(torch.tensor([-self.clip, self.clip]))
        self.count.add_(int(new))
