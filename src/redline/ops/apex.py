"""Ape-X's first priorities (Horgan et al. 2018, arXiv 1803.00933): from what the actor knew when it acted."""

from __future__ import annotations

import torch
from torch import Tensor

from redline.ops.checks import check_shapes
from redline.ops.returns import n_step_returns


@torch.no_grad()
def actor_priorities(rewards: Tensor, discounts: Tensor, taken: Tensor, best: Tensor, n: int) -> Tensor:
    """|G_t - Q(s_t, a_t)| with G_t the n-step return, bootstrapped by max_a Q(s_{t+n}, a) of the actor's own weights.

    No target network and no forward pass: both action values were computed when the actor chose. Windows end at
    episode ends (discount 0), and at the last row given.

    Args:
      rewards, discounts: f32[S, B] as ``returns.episode_ends`` makes them.
      taken: f32[T, B] Q(s_t, a_t), with T <= S: later steps serve as the end of earlier windows only.
      best: f32[S+1, B] max_a Q(s_t, a).   n: steps in a window.
    Returns: f32[T, B], before any exponent or constant of the replay's.
    """
    sizes = check_shapes("S B; S B; T B; S+1 B", rewards=rewards, discounts=discounts, taken=taken, best=best)
    if sizes["T"] > sizes["S"]:
        raise ValueError(f"taken has {sizes['T']} steps, expected at most those of rewards: {sizes['S']}")
    return (n_step_returns(rewards, discounts, best, n)[: sizes["T"]] - taken).abs()
