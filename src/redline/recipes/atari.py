"""Recipes for Atari: 84 x 84 grey frames, stacks of four, action repeat 4, rewards clipped for learning."""

from __future__ import annotations

from redline.actors.config import SamplerConfig
from redline.algorithms.a2c import A2CConfig
from redline.algorithms.dqn import DQNConfig
from redline.algorithms.ppo import PPOConfig
from redline.learners.config import LearnerConfig
from redline.networks.config import NetworkConfig
from redline.replay.config import ReplayConfig
from redline.runtime.experiment import Experiment, RunConfig


def ppo_atari() -> Experiment:
    """PPO on Atari, with CleanRL's numbers: 8 environments x 128 steps, 4 epochs of 4 minibatches.

    Schulman et al. 2017, table 5, has 3 epochs, a value coefficient of 1 (here 0.5), and a clip of 0.1 that falls to 0
    with the rate (here it stays; baselines' falls too).
    """
    return Experiment(
        recipe="ppo_atari",
        algorithm=PPOConfig(unroll=128, epochs=4, minibatches=4, clip=0.1, entropy_cost=0.01),
        network=NetworkConfig(torso="nature"),
        learner=LearnerConfig(learning_rate=2.5e-4, anneal=True, reward="clip"),
        sampler=SamplerConfig(num_envs=8),
        run=RunConfig(steps=10_000_000),  # agent steps: 40M frames
    )


def a2c_atari() -> Experiment:
    """A2C on Atari: 16 environments x 5 steps, RMSProp 7e-4."""
    return Experiment(
        recipe="a2c_atari",
        algorithm=A2CConfig(unroll=5, entropy_cost=0.01, value_cost=0.5),
        network=NetworkConfig(torso="nature"),
        learner=LearnerConfig(optimizer="rmsprop", learning_rate=7e-4, epsilon=1e-5, reward="clip"),
        sampler=SamplerConfig(num_envs=16),
        run=RunConfig(steps=10_000_000),
    )


def dqn_atari() -> Experiment:
    """DQN on Atari (Mnih et al. 2015), with Adam at 1e-4 in place of RMSProp and epsilon 0.01 after 1M frames.

    Batch 32 every 4 agent steps: replay ratio 8. Target copy every 1,000 agent steps suits Adam (as in cleanrl).
    """
    return Experiment(
        recipe="dqn_atari",
        algorithm=DQNConfig(
            batch=32,
            update_every=4,
            learning_starts=20_000,
            target_every=1_000,
            epsilon_final=0.01,
            epsilon_steps=250_000,
            epsilon_evaluation=0.01,
        ),
        network=NetworkConfig(torso="nature"),
        learner=LearnerConfig(learning_rate=1e-4, epsilon=1.5e-4, max_grad_norm=10.0, reward="clip"),
        sampler=SamplerConfig(num_envs=8),
        replay=ReplayConfig(capacity=1_000_000),
        run=RunConfig(steps=10_000_000, save_replay=False),
    )
