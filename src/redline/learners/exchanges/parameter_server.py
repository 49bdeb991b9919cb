"""Gorila's way (Nair et al. 2015, arXiv 1507.04296): learners send gradients to servers, which step.

Each server owns a disjoint slice of the parameters and its AdaGrad statistics. A gradient carries the version of the
weights it was computed at, and is applied iff ``version - stamp <= max_staleness``. A learner keeps the running mean
and deviation of its absolute loss, and does not send the gradient of an outlier. Every N updates a server keeps a copy
of its weights: the target network of all learners.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from redline.learners.config import LearnerConfig
from redline.learners.exchange import clip
from redline.learners.optimizers import set_rate, set_steps, shared_optimizer
from redline.ops.moments import Pool
from redline.types import Metrics


class Shard:
    """One server's slice: weights f32[N] and statistics, stepped in place by the gradients that are fresh enough."""

    def __init__(
        self,
        weights: Tensor,
        statistics: dict[str, Tensor],
        config: LearnerConfig,
        *,
        max_staleness: int | None = None,
        version: int = 0,
    ) -> None:
        """statistics: f32[N] by ``optimizers.statistics_of``'s names.   max_staleness: in updates; None: no limit."""
        self.weights, self.max_staleness, self.version = weights, max_staleness, version
        self.gradient = torch.zeros_like(weights)
        self.optimizer = shared_optimizer(config, weights, self.gradient, statistics)
        set_steps(self.optimizer, version)  # Adam's t, whose moments may be those of a server before
        self.rejected = 0

    @torch.no_grad()
    def apply(self, gradient: Tensor, stamp: int, rate: float) -> int | None:
        """Step by ``gradient`` f32[N] computed at version ``stamp``.

        Returns its staleness in updates, or None where it was too old and has been thrown away.
        """
        staleness = self.version - stamp
        if self.max_staleness is not None and staleness > self.max_staleness:
            self.rejected += 1
            return None
        self.gradient.copy_(gradient)
        set_rate(self.optimizer, rate)
        self.optimizer.step()
        self.version += 1
        return staleness


class OutlierRule:
    """Tells losses far above their running mean: ``|loss| > mean + k std``. The statistics move all the same.

    Mean and variance are over all losses so far, then fade over the last ``window``.
    """

    def __init__(self, deviations: float | None, *, window: int = 1000, warm_up: int = 20) -> None:
        """deviations: k; None lets every loss pass.   warm_up: losses before the first can be an outlier."""
        self.deviations, self.window, self.warm_up = deviations, window, warm_up
        self.count, self.mean, self.variance = 0, 0.0, 0.0

    def passes(self, loss: float) -> bool:
        """Whether the gradient of this loss shall be sent."""
        size = abs(loss)
        if not math.isfinite(size):
            return False
        limit = self.mean + (self.deviations or 0.0) * math.sqrt(self.variance)
        good = self.deviations is None or self.count < self.warm_up or size <= limit
        self.count += 1
        share = 1.0 / min(self.count, self.window)
        delta = size - self.mean
        self.mean += share * delta
        self.variance = (1.0 - share) * (self.variance + share * delta * delta)
        return good


class Server(Protocol):
    """A learner's line to one server."""

    slice: slice  # of the flat parameters

    def push(self, gradient: Tensor, stamp: int, rate: float) -> None:
        """Send ``gradient`` f32[N], computed at the server's version ``stamp``, to be applied at ``rate``."""

    def settle(self) -> None:
        """Wait until what was pushed has been applied, unless a gradient may wait."""

    def fetch(self, weights: Tensor) -> int:
        """Copy the server's newest weights into ``weights`` f32[N]; returns their version."""

    def fetch_target(self, weights: Tensor) -> int:
        """Copy the server's weights at the newest multiple of N updates into ``weights`` f32[N]; which multiple."""

    def target(self) -> int:
        """The newest multiple of N updates of which there is a copy; 0: the first weights."""


class ToServers:
    """One learner's end."""

    needs_loss = True
    pool: Pool | None = None

    def __init__(
        self, servers: Sequence[Server], config: LearnerConfig, rule: OutlierRule, *, fetch_every: int = 1
    ) -> None:
        """fetch_every: gradients sent between fetches of the weights."""
        self.servers, self.config, self.rule, self.fetch_every = list(servers), config, rule, fetch_every
        self.stamps = [-1] * len(self.servers)
        self.sent = self.outliers = 0
        size = max(server.slice.stop for server in self.servers)
        self.gradient, self._fresh = torch.zeros(size), torch.zeros(size)  # f32[P] on the host
        self._target = -1  # the newest multiple of N updates whose target network this learner has

    def pull(self, learner: Any) -> None:
        """Fetch for the first time; later, ``step`` does so every ``fetch_every`` gradients."""
        self.follow_target(learner)
        if min(self.stamps) < 0:
            self._fetch(learner)

    def _fetch(self, learner: Any) -> None:
        self.stamps = [server.fetch(self._fresh[server.slice]) for server in self.servers]
        learner.adopt(self._fresh)

    def follow_target(self, learner: Any) -> None:
        """Take the target network of the newest multiple of N updates, once every server has its slice of it.

        A learner that has none yet takes what there is: after a resume its own is of random weights, and servers that
        threw different gradients away may have stopped on either side of a multiple.
        """
        if learner.target is None:
            return
        first = self._target < 0
        there = {server.target() for server in self.servers}
        if first or (len(there) == 1 and there != {self._target}):
            got = {server.fetch_target(self._fresh[server.slice]) for server in self.servers}
            if first or len(got) == 1:
                self._target = min(got)
                learner.adopt_target(self._fresh)

    @torch.no_grad()
    def step(self, learner: Any, norm: Tensor, metrics: Metrics) -> Metrics:
        """Send the clipped gradient unless its loss is an outlier; fetch the weights when it is time."""
        if not self.rule.passes(float(learner.loss)):
            self.outliers += 1
            return metrics | {"gradient_norm": norm}
        clip(learner.gradient, norm, self.config.max_grad_norm)
        self.gradient.copy_(learner.gradient)
        for server, stamp in zip(self.servers, self.stamps, strict=True):
            server.push(self.gradient[server.slice], stamp, learner.learning_rate)
        for server in self.servers:
            server.settle()
        self.sent += 1
        if self.sent % self.fetch_every == 0:
            self._fetch(learner)
        self.follow_target(learner)
        return metrics | {"gradient_norm": norm}

    def refresh_target(self, learner: Any) -> bool:
        """Not the learner's to decide: the servers count updates."""
        self.follow_target(learner)
        return True

    def state(self) -> dict[str, Any]:
        """The statistics of losses."""
        return {"count": self.rule.count, "mean": self.rule.mean, "variance": self.rule.variance}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on with those statistics."""
        self.rule.count = int(state["count"])
        self.rule.mean, self.rule.variance = float(state["mean"]), float(state["variance"])
