"""Exploration with action values: epsilon-greedy choice, and which epsilon each of many environments gets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from redline.ops.checks import check_shapes
from redline.ops.values import legal

GOLDEN = 0.6180339887498949  # fractional part of the golden ratio


def random_action(uniform: Tensor, actions: int, mask: Tensor | None = None) -> Tensor:
    """Uniformly random actions i64[B], among the legal ones, from uniform numbers f32[B] in [0, 1).

    Args:
      actions: how many there are.   mask: bool[B, A] on any device, or None; the result is then on the host.
    """
    if mask is None:
        return (uniform * actions).long()
    allowed = mask.cpu().double()
    chosen = (uniform.cpu().double() * allowed.sum(-1)).floor()  # the k-th legal action, k uniform
    return (allowed.cumsum(-1) <= chosen[:, None]).sum(-1)


def epsilon_greedy(
    values: Tensor, epsilon: Tensor, generator: torch.Generator, mask: Tensor | None = None
) -> Tensor:
    """Actions i64[B]: with probability epsilon a random legal one, else the legal one of highest value.

    Args:
      values: f32[B, A].   epsilon: f32[B].   generator: on any device.   mask: bool[B, A] or None.
    """
    check_shapes("B A; B", values=values, epsilon=epsilon)
    noise = torch.rand((2, len(values)), generator=generator, device=generator.device).to(values.device)
    random = random_action(noise[1], values.shape[-1], mask).to(values.device)
    return torch.where(noise[0] < epsilon.to(values.device), random, legal(values, mask).argmax(-1))


def epsilon_ladder(first: int, count: int, total: int, base: float = 0.4, alpha: float = 7.0) -> Tensor:
    """epsilon_i = base^(1 + alpha i / (total - 1)), constant in time (Horgan et al. 2018, section 4.1).

    Args:
      first, count: environments ``first`` to ``first + count - 1``.   total: number of environments of all actors.
    Returns: f32[count]. A single environment of all gets ``base``: the most random of every ladder.
    """
    if not 0 <= first <= first + count <= total:
        raise ValueError(f"environments {first} to {first + count - 1} of {total}: expected 0 to {total - 1}")
    place = torch.arange(first, first + count, dtype=torch.float64) / max(total - 1, 1)
    return (base ** (1.0 + alpha * place)).float()


def shared_out(first: int, count: int, values: Sequence[float], shares: Sequence[float]) -> Tensor:
    """A value for each environment, each value for its share of them, whatever environments one asks for.

    Mnih et al. 2016 (section 5.1, exploration) draw; here environment i takes the value at quantile frac((i + 1) phi),
    so that a handful of environments already has about the shares wanted, and a resumed run the same ones.

    Args:
      first, count: environments ``first`` to ``first + count - 1``.   values, shares: equally many; shares sum to 1.
    Returns: f32[count].
    """
    if len(values) != len(shares) or abs(sum(shares) - 1.0) > 1e-6 or min(shares) < 0:
        raise ValueError(f"{len(values)} values need as many shares, summing to 1; got {list(shares)}")
    place = (torch.arange(first + 1, first + count + 1, dtype=torch.float64) * GOLDEN).frac()
    bounds = torch.tensor(shares, dtype=torch.float64).cumsum(0)[:-1]
    return torch.tensor(values)[torch.bucketize(place, bounds, right=True)].float()
