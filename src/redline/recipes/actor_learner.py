"""Recipes of the actor-learner systems: their papers' numbers on Atari, and numbers that suit small tasks.

Sums stay sums where a paper sums its losses over time and batch: its learning rate belongs to the sum.
"""

from __future__ import annotations

from redline.actors.config import SamplerConfig
from redline.algorithms.impala import IMPALAConfig
from redline.learners.config import LearnerConfig
from redline.networks.config import NetworkConfig
from redline.runtime.experiment import Experiment, RunConfig


def impala() -> Experiment:
    """IMPALA for small tasks: means in place of sums, and Adam, so that the rate carries over between batch sizes."""
    return Experiment(
        recipe="impala",
        algorithm=IMPALAConfig(unroll=20, reduction="mean", entropy_cost=0.005),
        network=NetworkConfig(hidden=(64, 64), activation="tanh"),
        learner=LearnerConfig(learning_rate=3e-3, anneal=True),
        sampler=SamplerConfig(num_envs=8),
        run=RunConfig(steps=200_000),
    )
