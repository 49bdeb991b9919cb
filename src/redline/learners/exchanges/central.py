"""What learners share when each steps by itself: weights, optimiser statistics, counts of updates and of staleness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from redline.learners.config import LearnerConfig
from redline.learners.optimizers import statistics_of

LAGS = 64  # columns of the histogram of staleness; the last one counts all that is older


def central_forms(size: int, writers: int, config: LearnerConfig) -> dict[str, Any]:
    """Shapes and dtypes of the arrays of ``Central``: ``size`` weights, ``writers`` who apply gradients."""
    return {
        "weights": ((size,), "float32"),
        "statistics": {name: ((size,), "float32") for name in statistics_of(config)},
        "target": ((size,), "float32"),
        "target_count": ((1,), "int64"),
        "target_steps": ((1,), "int64"),
        "updates": ((writers,), "int64"),
        "lags": ((writers, LAGS), "int64"),
    }


@dataclass
class Central:
    """Arrays of ``central_forms`` as tensors over the same memory. Rows of counts have one writer each."""

    weights: Tensor  # f32[P]
    statistics: dict[str, Tensor]  # f32[P] by ``optimizers.statistics_of``'s names
    target: Tensor  # f32[P] weights of the target network
    target_count: np.ndarray  # i64[1] times it was made anew
    target_steps: np.ndarray  # i64[1] agent steps of whoever made it, when it was made anew
    updates: np.ndarray  # i64[writers] gradients applied by each
    lags: np.ndarray  # i64[writers, LAGS] staleness in updates -> gradients applied at it

    @classmethod
    def over(cls, arrays: Mapping[str, Any]) -> Central:
        """Over arrays of ``central_forms``."""
        return cls(
            torch.from_numpy(arrays["weights"]),
            {name: torch.from_numpy(array) for name, array in arrays["statistics"].items()},
            torch.from_numpy(arrays["target"]),
            arrays["target_count"],
            arrays["target_steps"],
            arrays["updates"],
            arrays["lags"],
        )

    @classmethod
    def of_one_process(cls, size: int, writers: int, config: LearnerConfig) -> Central:
        """Zeroed, in plain memory: for threads, and for tests."""
        forms = central_forms(size, writers, config)
        statistics = {name: np.zeros(form[0], form[1]) for name, form in forms.pop("statistics").items()}
        return cls.over(
            {name: np.zeros(form[0], form[1]) for name, form in forms.items()} | {"statistics": statistics}
        )

    def initialise(self, weights: Tensor) -> None:
        """Start from ``weights`` f32[P]; the target network too."""
        self.weights.copy_(weights)
        self.target.copy_(weights)

    def record(self, writer: int, lag: int) -> None:
        """A gradient ``lag`` updates old was applied by ``writer``."""
        self.lags[writer, min(max(lag, 0), LAGS - 1)] += 1
        self.updates[writer] += 1

    def state(self) -> dict[str, Any]:
        """Everything beside the weights that training needs to go on."""
        return {
            "statistics": {name: tensor.clone() for name, tensor in self.statistics.items()},
            "target": self.target.clone(),
            "target_steps": int(self.target_steps[0]),
            "updates": self.updates.tolist(),
            "lags": self.lags.tolist(),
        }

    def load_state(self, state: dict[str, Any], *, sliced: bool = False) -> None:
        """Go back to a state that ``state`` gave, of whatever number of writers.

        sliced: writers have a slice of the weights each, and a gradient counts with all of them. Otherwise it counts
        with one, and another number of writers shares the sum out.
        """
        for name, tensor in self.statistics.items():
            tensor.copy_(state["statistics"][name])
        self.target.copy_(state["target"])
        self.target_steps[0] = state.get("target_steps", 0)  # older checkpoints have no such entry
        if len(state["updates"]) == len(self.updates):
            self.updates[:], self.lags[:] = state["updates"], state["lags"]
        elif sliced:  # a slice goes on at the version that its weights had: Adam corrects for it, too
            self.updates[:] = max(state["updates"])
            self.lags[:] = state["lags"][int(np.argmax(state["updates"]))]
        else:
            total, writers = sum(state["updates"]), len(self.updates)
            ends = [total * writer // writers for writer in range(writers + 1)]
            self.updates[:] = np.diff(ends)  # each goes on with Adam's bias correction from there
            self.lags[0] = np.sum(state["lags"], axis=0)


class SharedTarget:
    """One target network for all, kept beside the central weights: whoever is first due makes it anew."""

    def __init__(self, central: Central) -> None:
        self.central = central
        self._seen = -1  # after a restart or a resume a learner comes with a target of its own to replace

    def refresh(self, learner: Any) -> None:
        """Called when a copy to the target is due: make it anew unless another learner just has, then adopt it."""
        if int(self.central.target_count[0]) == self._seen:
            self.central.target.copy_(self.central.weights)
            self.central.target_steps[0] = learner.steps
            self.central.target_count[0] += 1
        self.follow(learner, force=True)

    def follow(self, learner: Any, *, force: bool = False) -> None:
        """Adopt the shared target network where it has changed."""
        count = int(self.central.target_count[0])
        if learner.target is not None and (force or count != self._seen):
            learner.adopt_target(self.central.target)
            learner.target_steps = int(self.central.target_steps[0])
        self._seen = count
