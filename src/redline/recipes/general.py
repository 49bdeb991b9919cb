"""Recipes for small environments with vector observations."""

from __future__ import annotations

from redline.actors.config import SamplerConfig
from redline.algorithms.a2c import A2CConfig
from redline.algorithms.dqn import DQNConfig
from redline.algorithms.ppo import PPOConfig
from redline.learners.config import LearnerConfig
from redline.networks.config import NetworkConfig
from redline.replay.config import ReplayConfig
from redline.runtime.experiment import Experiment, RunConfig


def ppo() -> Experiment:
    """PPO for small discrete or continuous tasks; learning rate and clip fall to 0 over the run (rl-zoo's CartPole)."""
    return Experiment(
        recipe="ppo",
        algorithm=PPOConfig(
            unroll=32,
            epochs=20,
            minibatches=1,  # of 8 x 32 samples
            gamma=0.98,
            gae_lambda=0.8,
            entropy_cost=0.0,
            anneal_clip=True,
        ),
        network=NetworkConfig(hidden=(64, 64), activation="tanh"),
        learner=LearnerConfig(learning_rate=1e-3, anneal=True),
        sampler=SamplerConfig(num_envs=8),
        run=RunConfig(steps=100_000),
    )


def ppo_lstm() -> Experiment:
    """PPO with an LSTM, for tasks that need memory; minibatches are whole unrolls of some environments."""
    return Experiment(
        recipe="ppo_lstm",
        algorithm=PPOConfig(
            unroll=64, epochs=4, minibatches=4, gamma=0.99, gae_lambda=0.95, entropy_cost=0.01
        ),
        network=NetworkConfig(hidden=(64,), activation="tanh", core="lstm", core_size=64),
        learner=LearnerConfig(learning_rate=1e-3),
        sampler=SamplerConfig(num_envs=16),
        run=RunConfig(steps=300_000),
    )


def a2c() -> Experiment:
    """A2C with RMSProp (Mnih et al. 2016), for small tasks."""
    return Experiment(
        recipe="a2c",
        algorithm=A2CConfig(unroll=8, gamma=0.98, entropy_cost=0.01),
        network=NetworkConfig(hidden=(64, 64), activation="tanh"),
        learner=LearnerConfig(optimizer="rmsprop", learning_rate=3e-3, epsilon=1e-5, anneal=True),
        sampler=SamplerConfig(num_envs=16),
        run=RunConfig(steps=500_000),
    )


def dqn() -> Experiment:
    """Double DQN for small tasks."""
    return Experiment(
        recipe="dqn",
        algorithm=DQNConfig(
            batch=64,
            update_every=4,
            learning_starts=1_000,
            target_every=500,
            double=True,
            epsilon_final=0.04,
            epsilon_steps=16_000,
            epsilon_evaluation=0.0,
        ),
        network=NetworkConfig(hidden=(128, 128), activation="relu"),
        learner=LearnerConfig(learning_rate=1e-3, max_grad_norm=10.0),
        sampler=SamplerConfig(num_envs=4),
        replay=ReplayConfig(capacity=100_000),
        run=RunConfig(steps=100_000),
    )
