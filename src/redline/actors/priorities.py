"""First priorities, worked out where the experience is made (Horgan et al. 2018, section 3).

An actor computed Q(s_t, a_t) and max_a Q(s_t, a) when it chose; n steps later it knows all of a transition's TD error.
So a slot's row t carries the priority of the transition n rows before it: the one that it makes drawable. The newest n
rows are remembered from slot to slot.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from redline.ops.apex import actor_priorities
from redline.ops.returns import episode_ends
from redline.types import Unroll

FIELDS = ("reward", "discount", "taken", "best")


class FirstPriorities:
    """The newest n rows of B environments, and the priorities that further rows complete."""

    def __init__(self, n_step: int, gamma: float, num_envs: int, *, clip: bool) -> None:
        """clip: rewards are learned from clipped to [-1, 1]."""
        self.n_step, self.gamma, self.clip = n_step, gamma, clip
        self._rows = {name: torch.full((n_step, num_envs), torch.nan) for name in FIELDS}  # each [n, B]

    @torch.no_grad()
    def of(self, unroll: Unroll) -> np.ndarray:
        """Priorities f32[T, B] of the transitions n rows before those of ``unroll``; NaN for the first n of all.

        The unroll's record holds q_taken and q_max f32[T, B]. No forward pass: a truncated episode's final
        observation was never acted on, so the value of the one before it stands in.
        """
        best = unroll.record["q_max"]
        raw = unroll.reward.clamp(-1.0, 1.0) if self.clip else unroll.reward
        reward, discount = episode_ends(raw, unroll.terminated, unroll.truncated, best, self.gamma)
        new = {"reward": reward, "discount": discount, "taken": unroll.record["q_taken"], "best": best}
        rows: dict[str, Tensor] = {name: torch.cat([self._rows[name], new[name]]) for name in FIELDS}
        self._rows = {name: values[-self.n_step :].clone() for name, values in rows.items()}
        length = len(raw)
        # The value of the row to come is not known yet, and no window that is complete asks for it.
        values = torch.cat([rows["best"], torch.zeros_like(rows["best"][:1])])
        taken = rows["taken"][:length]
        return actor_priorities(rows["reward"], rows["discount"], taken, values, self.n_step).numpy()

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return dict(self._rows)

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what ``state`` gave."""
        self._rows = {name: state[name].clone() for name in FIELDS}
