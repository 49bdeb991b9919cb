"""Recipes for MuJoCo: continuous actions, observations and rewards normalised."""

from __future__ import annotations

from redline.actors.config import SamplerConfig
from redline.algorithms.ppo import PPOConfig
from redline.learners.config import LearnerConfig
from redline.networks.config import NetworkConfig
from redline.runtime.experiment import Experiment, RunConfig


def ppo_mujoco() -> Experiment:
    """PPO on MuJoCo (Schulman et al. 2017, table 3): batches of 2,048 steps, 10 epochs of 32 minibatches.

    From four environments, and with a learning rate that falls to 0, as in OpenAI baselines; the table's stays.
    """
    return Experiment(
        recipe="ppo_mujoco",
        algorithm=PPOConfig(unroll=512, epochs=10, minibatches=32, entropy_cost=0.0),
        network=NetworkConfig(hidden=(64, 64), activation="tanh", normalize_observation=True),
        learner=LearnerConfig(learning_rate=3e-4, anneal=True, reward="normalize"),
        sampler=SamplerConfig(num_envs=4),
        run=RunConfig(steps=1_000_000),
    )
