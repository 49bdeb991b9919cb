"""Pieces of value learning: targets, losses, rescaling. All per element: who calls weighs and averages."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from redline.ops.checks import check_shapes

RESCALE_EPSILON = 1e-3  # R2D2 (Kapturowski et al. 2019), section 2.3


def rescale_value(value: Tensor, epsilon: float = RESCALE_EPSILON) -> Tensor:
    """h(x) = sgn(x) (sqrt(|x| + 1) - 1) + epsilon x, of any shape (Pohlen et al. 2018, proposition A.2)."""
    size = value.abs()
    return value.sign() * size / ((size + 1).sqrt() + 1) + epsilon * value  # = sqrt(|x|+1)-1, no cancellation


def unrescale_value(value: Tensor, epsilon: float = RESCALE_EPSILON) -> Tensor:
    """The inverse of ``rescale_value``, of any shape.

    The published form subtracts nearly equal numbers twice and loses half the digits of f32; this is the same
    function with both subtractions multiplied out.
    """
    size = value.abs()
    root = (1 + 4 * epsilon * (size + 1 + epsilon)).sqrt()
    excess = 2 * size / (root + 1 + 2 * epsilon)  # z - 1 where z solves epsilon z^2 + z = |x| + 1 + epsilon
    return value.sign() * excess * (excess + 2)


def huber(error: Tensor, delta: float = 1.0) -> Tensor:
    """Huber loss of any shape; with delta 1 its gradient is the error clipped to +-1 (Mnih et al. 2015)."""
    return functional.huber_loss(error, torch.zeros_like(error), reduction="none", delta=delta)


def taken(action_values: Tensor, action: Tensor) -> Tensor:
    """Values [..., A] of the actions taken i64[...] -> [...]."""
    if action_values.shape[:-1] != action.shape:
        raise ValueError(
            f"action has shape {list(action.shape)}, expected {list(action_values.shape[:-1])}: "
            f"that of action_values {list(action_values.shape)} without its last axis"
        )
    return action_values.gather(-1, action.unsqueeze(-1)).squeeze(-1)


def legal(action_values: Tensor, mask: Tensor | None) -> Tensor:
    """Action values [..., A] with those of illegal actions (mask False) at -inf, for argmax and max."""
    if mask is None:
        return action_values
    check_shapes("... A", action_values=action_values, mask=mask)
    return action_values.masked_fill(~mask, -torch.inf)


@torch.no_grad()
def q_target(reward: Tensor, discount: Tensor, next_values: Tensor, mask: Tensor | None = None) -> Tensor:
    """y = r + d max_a Q(s', a) (Mnih et al. 2015).

    Args:
      reward, discount: f32[N].   next_values: f32[N, A] of the target network.
      mask: bool[N, A] legal actions in s', or None.
    """
    check_shapes("N; N; N A", reward=reward, discount=discount, next_values=next_values)
    return reward + discount * legal(next_values, mask).amax(-1)


@torch.no_grad()
def double_q_target(
    reward: Tensor, discount: Tensor, next_online: Tensor, next_target: Tensor, mask: Tensor | None = None
) -> Tensor:
    """y = r + d Q_target(s', argmax_a Q_online(s', a)) (van Hasselt et al. 2016, equation 4).

    Args:
      reward, discount: f32[N].   next_online, next_target: f32[N, A].   mask: bool[N, A] legal in s'.
    """
    check_shapes(
        "N; N; N A; N A", reward=reward, discount=discount, next_online=next_online, next_target=next_target
    )
    return reward + discount * taken(next_target, legal(next_online, mask).argmax(-1))


@torch.no_grad()
def categorical_projection(reward: Tensor, discount: Tensor, probabilities: Tensor, atoms: Tensor) -> Tensor:
    """Project the distribution of r + d z onto the fixed atoms (Bellemare et al. 2017, algorithm 1).

    Args:
      reward, discount: f32[N].   probabilities: f32[N, K].   atoms: f32[K] evenly spaced, rising.

    Returns:
      probabilities f32[N, K].
    """
    check_shapes("N; N; N K; K", reward=reward, discount=discount, probabilities=probabilities, atoms=atoms)
    spacing = (atoms[-1] - atoms[0]) / (len(atoms) - 1)
    shifted = (reward[:, None] + discount[:, None] * atoms).clamp(atoms[0], atoms[-1])
    # Each moved atom shares its mass between its two neighbours, linearly: a triangle kernel.
    share = (1 - (shifted[:, None, :] - atoms[:, None]).abs() / spacing).clamp(min=0)  # [N, K to, K from]
    return (share * probabilities[:, None, :]).sum(-1)
