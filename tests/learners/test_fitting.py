"""A state that is not of this learner is told by what it lacks, before anything is loaded."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from redline.learners.config import LearnerConfig
from redline.learners.fitting import check_learner
from redline.learners.learner import Learner
from redline.types import RunError


def learner(*, inputs: int = 3, buffer: int | None = 2, target: bool = False) -> Learner:
    network = nn.Linear(inputs, 2)
    if buffer is not None:
        network.register_buffer("mean", torch.zeros(buffer))
    made = Learner(
        network, LearnerConfig(device="cpu", precision="fp32", threads=1), seed=0, num_envs=1, gamma=0.9
    )
    if target:
        made.make_target()
    return made


@pytest.mark.parametrize(
    ("saved", "wanted", "line"),
    [
        ({"inputs": 3}, {"inputs": 4}, "has 8 weights, the network of its config.yaml 10"),
        ({"buffer": None}, {"buffer": 2}, "has no mean, which the network of its config.yaml keeps"),
        ({"buffer": 2}, {"buffer": 4}, r"mean has shape \[2\], the network's of its config.yaml \[4\]"),
        ({"target": False}, {"target": True}, "has no target network, the algorithm of its config.yaml"),
    ],
)
def test_what_does_not_fit_is_named(saved: dict[str, Any], wanted: dict[str, Any], line: str) -> None:
    with pytest.raises(RunError, match=line):
        check_learner(learner(**saved).state(), learner(**wanted))


@pytest.mark.parametrize("target", [True, False])
def test_what_fits_is_let_through(target: bool) -> None:
    state = copy.deepcopy(learner(target=True).state())
    check_learner(state, learner(target=target))
    if target:  # as checkpoints were before target networks had statistics of their own
        del state["target_buffers"]
        check_learner(state, learner(target=True))
