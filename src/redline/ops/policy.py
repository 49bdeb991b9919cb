"""Losses of policy-gradient methods, per element [...]: who calls weighs and averages. Smaller is better."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


def policy_gradient_loss(log_prob: Tensor, advantage: Tensor) -> Tensor:
    """-log pi(a|s) A with A a constant (Mnih et al. 2016). All [T, B] or [N]."""
    _check_equal(log_prob=log_prob, advantage=advantage)
    return -log_prob * advantage.detach()


def ppo_clip_loss(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """-min(r A, clip(r, 1-clip, 1+clip) A) with r = pi/pi_old (Schulman et al. 2017, equation 7).

    Args:
      log_prob: f32[...] of the action under the policy in training.   old_log_prob: under the one that acted.
      advantage: f32[...], a constant.   clip: the paper's epsilon.
    """
    _check_equal(log_prob=log_prob, old_log_prob=old_log_prob, advantage=advantage)
    return _ClippedSurrogate.apply(log_prob, old_log_prob, advantage, clip)


class _ClippedSurrogate(torch.autograd.Function):
    """As one node of the graph: with small networks the graph's upkeep costs more than the arithmetic."""

    @staticmethod
    def forward(ctx: Any, log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: float) -> Tensor:
        ratio = (log_prob - old_log_prob).exp_()
        clipped = ratio.clamp(1 - clip, 1 + clip).mul_(advantage)
        plain = ratio.mul_(advantage)
        # The gradient of r A is r A itself; where the clipped term is the smaller, it is 0.
        ctx.save_for_backward(plain.masked_fill(plain > clipped, 0.0))
        return torch.minimum(plain, clipped).neg_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return -grad * slope, None, None, None


def value_loss(
    value: Tensor, target: Tensor, old_value: Tensor | None = None, clip: float | None = None
) -> Tensor:
    """(V - target)^2 / 2; with ``clip`` the worse of that and of V held within ``clip`` of the old value.

    The clipped form is OpenAI baselines', not the paper's, and its use is doubtful (Engstrom et al. 2020).

    Args:
      value, target, old_value: f32[...].   clip: in units of the value; None for the plain loss.
    """
    _check_equal(value=value, target=target)
    error = functional.mse_loss(value, target.detach(), reduction="none")
    if clip is not None:
        if old_value is None:
            raise ValueError("value_loss with clip needs old_value, the value when the action was taken")
        _check_equal(value=value, old_value=old_value)
        old_value = old_value.detach()
        held = old_value + (value - old_value).clamp(-clip, clip)
        error = torch.maximum(error, (held - target.detach()).square())
    return 0.5 * error


@torch.no_grad()
def approximate_kl(log_prob: Tensor, old_log_prob: Tensor) -> Tensor:
    """Mean of (r - 1) - log r, an unbiased, never negative estimate of KL(old, new) (Schulman 2020)."""
    _check_equal(log_prob=log_prob, old_log_prob=old_log_prob)
    log_ratio = log_prob - old_log_prob
    return (log_ratio.exp() - 1 - log_ratio).mean()


@torch.no_grad()
def clip_fraction(log_prob: Tensor, old_log_prob: Tensor, clip: float) -> Tensor:
    """Share of elements whose ratio lies outside 1 +- clip."""
    _check_equal(log_prob=log_prob, old_log_prob=old_log_prob)
    return (((log_prob - old_log_prob).exp() - 1).abs() > clip).float().mean()


def advantage_moments(advantage: Tensor, epsilon: float = 1e-8) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation + epsilon over all elements of [...]; 0 and 1 of a single one, which has none."""
    if advantage.numel() < 2:
        return advantage.new_zeros(()), advantage.new_ones(())
    std, mean = torch.std_mean(advantage)
    return mean, std.add_(epsilon)


def normalize_advantage(advantage: Tensor, moments: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """(A - mean) / deviation over all elements of [...]; ``moments``: those of a whole of which these are a part."""
    mean, deviation = moments or advantage_moments(advantage)
    return advantage.sub(mean).div_(deviation)


def _check_equal(**tensors: Tensor) -> None:
    first, *others = tensors.items()
    for name, tensor in others:
        if tensor.shape != first[1].shape:
            raise ValueError(
                f"{name} has shape {list(tensor.shape)}, expected that of {first[0]}: {list(first[1].shape)}"
            )
