"""A3C's way: weights and RMSProp statistics in shared memory, updated in place by everyone, without a lock.

    theta' <- theta;  d = gradient at theta';  g <- alpha g + (1 - alpha) d^2;  theta <- theta - eta d / (sqrt g + eps)

Mnih et al. 2016 (arXiv 1602.01783, section 4 and supplement 7), after Hogwild! (Recht et al. 2011). ``theta`` and ``g``
are shared, ``theta'`` is a learner's own. Nothing is whole: coordinates written by two at once keep one of the two. The
paper has eps inside the root; the rule here is that of the run's configured optimiser, so that one worker alone equals
the in-process run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from redline.learners.config import LearnerConfig
from redline.learners.exchange import clip
from redline.learners.exchanges.central import Central, SharedTarget
from redline.learners.optimizers import set_rate, set_steps, shared_optimizer
from redline.ops.moments import Pool
from redline.types import Metrics


class Race:
    """One worker's end. Gradients are those of the weights pulled; they are applied to the newest."""

    needs_loss = False
    pool: Pool | None = None

    def __init__(self, central: Central, writer: int, config: LearnerConfig) -> None:
        """writer: its row of the counts."""
        self.central, self.writer, self.config = central, writer, config
        self.gradient = torch.zeros_like(central.weights)  # f32[P] on the host
        self.optimizer = shared_optimizer(config, central.weights, self.gradient, central.statistics)
        self.target = SharedTarget(central)
        self._pulled = -1  # updates that the learner's weights contain, own ones apart

    def _others(self) -> int:
        """Updates made by the other workers."""
        return int(self.central.updates.sum() - self.central.updates[self.writer])

    def pull(self, learner: Any) -> None:
        """theta' <- theta, where others have stepped since."""
        self.target.follow(learner)
        others = self._others()
        if others != self._pulled:
            self._pulled = others
            learner.adopt(self.central.weights)

    @torch.no_grad()
    def step(self, learner: Any, norm: Tensor, metrics: Metrics) -> Metrics:
        """Apply the gradient at theta' to the shared weights in place; then theta' <- theta."""
        clip(learner.gradient, norm, self.config.max_grad_norm)
        self.gradient.copy_(learner.gradient)
        set_rate(self.optimizer, learner.learning_rate)
        # Adam's t: a worker that comes after another, or after a checkpoint, finds its moments full.
        set_steps(self.optimizer, int(self.central.updates[self.writer]))
        lag = self._others() - self._pulled
        self.optimizer.step()
        self.central.record(self.writer, lag)
        self._pulled = self._others()
        learner.adopt(self.central.weights)
        return metrics | {"gradient_norm": norm, "staleness": float(lag)}

    def refresh_target(self, learner: Any) -> bool:
        """The target network is shared (Mnih et al. 2016, algorithm 1)."""
        self.target.refresh(learner)
        return True

    def state(self) -> dict[str, Any]:
        """Nothing: what counts is shared."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Nothing."""
