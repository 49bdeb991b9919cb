"""The seam between a gradient and new weights: alone, or in company with other learners.

A learner computes ``gradient`` f32[P]; its exchange makes new weights of it. The ways that gradients have been combined
are exchanges: ``allreduce`` (averaged, then one step alike), ``race`` (applied to shared weights without a lock),
``chunks`` (behind one lock a chunk) and ``parameter_server`` (sent to whoever steps). They know arrays, locks and small
callbacks that they are handed: no process, socket or thread is made here.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from redline.ops.moments import Pool
from redline.types import Metrics


class Exchange(Protocol):
    """How a learner's gradient becomes its next weights."""

    needs_loss: bool  # whether ``step`` reads ``learner.loss``

    @property
    def pool(self) -> Pool | None:
        """Sums statistics of observations and rewards over all learners; None where each keeps its own."""

    def pull(self, learner: Any) -> None:
        """Before an unroll (or a step of replay's actor): take what others have made of the weights."""

    def step(self, learner: Any, norm: Tensor, metrics: Metrics) -> Metrics:
        """Turn ``learner.gradient`` f32[P], of global norm ``norm``, into new weights in ``learner.flat``.

        Refreshes ``learner.compute``. Returns the metrics, those of all learners where they meet, with
        ``gradient_norm`` before clipping.
        """

    def refresh_target(self, learner: Any) -> bool:
        """Make the learner's target network anew from what is shared; False: its own weights are the newest."""

    def state(self) -> dict[str, Any]:
        """What this learner's end alone knows and training needs to go on."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to a state that ``state`` gave."""


class Alone:
    """One learner: clip by global norm, then step. What every other exchange is compared with."""

    needs_loss = False
    pool: Pool | None = None

    def pull(self, learner: Any) -> None:
        """Nothing: nobody else changes the weights."""

    def step(self, learner: Any, norm: Tensor, metrics: Metrics) -> Metrics:
        """Clip and step."""
        learner.clip_and_step(norm)
        return metrics | {"gradient_norm": norm}

    def refresh_target(self, learner: Any) -> bool:
        """The learner's own weights are the newest."""
        return False

    def state(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Nothing."""


def clip_scale(norm: Tensor, limit: float | None) -> float:
    """What a gradient of global norm ``norm`` f32[] is multiplied by: 1 unless it exceeds ``limit``."""
    if limit is None or float(norm) <= limit:
        return 1.0
    return float((limit / (norm + 1e-6)).clamp(max=1.0))


def clip(gradient: Tensor, norm: Tensor, limit: float | None) -> None:
    """Scale ``gradient``, a piece of one of global norm ``norm``, to ``limit`` where it exceeds it."""
    if limit is not None and (gradient.is_cuda or float(norm) > limit):  # a GPU is not waited for
        gradient.mul_((limit / (norm + 1e-6)).clamp(max=1.0))
