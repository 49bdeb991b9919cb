"""Small specs, networks and unrolls for algorithm tests."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch

from redline import networks
from redline.learners.config import LearnerConfig
from redline.learners.learner import Learner
from redline.networks.config import NetworkConfig
from redline.types import Spec, Unroll

SPEC = Spec("test", gymnasium.spaces.Box(-1, 1, (3,), np.float32), gymnasium.spaces.Discrete(4))


def make_learner(kind: Any, *, seed: int = 0, **config: Any) -> Learner:
    """A learner of a small network on the CPU."""
    torch.manual_seed(seed)
    network = networks.build(SPEC, NetworkConfig(hidden=(16,)), kind)
    settings: dict[str, Any] = {"device": "cpu", "precision": "fp32", "learning_rate": 1e-2} | config
    return Learner(network, LearnerConfig(**settings), seed=seed, num_envs=2, gamma=0.9)


def make_unroll(length: int = 6, batch: int = 2, *, seed: int = 0) -> Unroll:
    """Random experience in which nothing ends."""
    torch.manual_seed(seed)
    return Unroll(
        observation=torch.randn(length + 1, batch, 3),
        action=torch.randint(0, 4, (length, batch)),
        reward=torch.randn(length, batch),
        terminated=torch.zeros(length, batch, dtype=torch.bool),
        truncated=torch.zeros(length, batch, dtype=torch.bool),
        reset=torch.zeros(length + 1, batch, dtype=torch.bool),
        final_value=torch.zeros(length, batch),
        record={"log_prob": torch.full((length, batch), -1.386), "value": torch.randn(length, batch)},
        bootstrap_value=torch.randn(batch),
    )
