"""Recipes of the actor-learner systems: their papers' numbers on Atari, and numbers that suit small tasks.

Sums stay sums where a paper sums its losses over time and batch: its learning rate belongs to the sum.
"""

from __future__ import annotations

from redline.actors.config import SamplerConfig
from redline.algorithms.appo import APPOConfig
from redline.algorithms.async_q import AsyncQConfig
from redline.algorithms.impala import IMPALAConfig
from redline.architectures.config import ParallelConfig
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
        parallel=ParallelConfig(architecture="impala"),
        run=RunConfig(steps=200_000),
    )


def impala_lstm() -> Experiment:
    """IMPALA with an LSTM, for tasks that need memory."""
    return Experiment(
        recipe="impala_lstm",
        algorithm=IMPALAConfig(unroll=20, reduction="mean", entropy_cost=0.02),
        network=NetworkConfig(hidden=(64,), activation="tanh", core="lstm", core_size=64),
        learner=LearnerConfig(learning_rate=3e-3),
        sampler=SamplerConfig(num_envs=16),
        parallel=ParallelConfig(architecture="impala"),
        run=RunConfig(steps=300_000),
    )


def impala_atari() -> Experiment:
    """IMPALA on Atari (Espeholt et al. 2018): 32 unrolls of 20, losses summed, RMSProp 6e-4 falling to 0."""
    return Experiment(
        recipe="impala_atari",
        algorithm=IMPALAConfig(unroll=20, gamma=0.99, value_cost=0.5, entropy_cost=0.01, reduction="sum"),
        network=NetworkConfig(
            torso="nature"
        ),  # the paper's shallow model; its deep one is a residual network
        learner=LearnerConfig(
            optimizer="rmsprop",
            learning_rate=6e-4,
            anneal=True,
            decay=0.99,
            epsilon=0.01,
            max_grad_norm=40.0,
            reward="clip",
        ),
        sampler=SamplerConfig(num_envs=32),  # in one process: the paper's batch
        parallel=ParallelConfig(architecture="impala"),
        run=RunConfig(steps=50_000_000),  # agent steps: the paper's 200M frames
    )


def appo() -> Experiment:
    """Asynchronous PPO for small tasks: few epochs on each unroll, so that the lag stays small."""
    return Experiment(
        recipe="appo",
        algorithm=APPOConfig(
            unroll=32, epochs=4, minibatches=4, gamma=0.99, gae_lambda=0.95, entropy_cost=0.0, clip=0.2
        ),
        network=NetworkConfig(hidden=(64, 64), activation="tanh"),
        learner=LearnerConfig(learning_rate=1e-3, anneal=True),
        sampler=SamplerConfig(num_envs=8),
        parallel=ParallelConfig(architecture="impala"),
        run=RunConfig(steps=100_000),
    )


def appo_atari() -> Experiment:
    """Asynchronous PPO on Atari: PPO's numbers (Schulman et al. 2017, table 5), unrolls of 32 and two epochs.

    Short unrolls and few epochs keep the lag small (Petrenko et al. 2020, arXiv 2006.11751: unrolls of 32, one epoch).
    """
    return Experiment(
        recipe="appo_atari",
        algorithm=APPOConfig(
            unroll=32, epochs=2, minibatches=4, clip=0.1, gae_lambda=0.95, entropy_cost=0.01
        ),
        network=NetworkConfig(torso="nature"),
        learner=LearnerConfig(learning_rate=2.5e-4, anneal=True, reward="clip"),
        sampler=SamplerConfig(num_envs=32),
        parallel=ParallelConfig(architecture="impala"),
        run=RunConfig(steps=10_000_000),
    )


def n_step_q() -> Experiment:
    """n-step Q-learning without replay, for small tasks: 16 environments, some of which explore more than others."""
    return _async_q(
        "n_step_q",
        AsyncQConfig(
            variant="n_step_q", unroll=5, target_every=1_000, epsilon_steps=50_000, reduction="mean"
        ),
    )


def one_step_q() -> Experiment:
    """One-step Q-learning without replay, for small tasks."""
    return _async_q(
        "one_step_q",
        AsyncQConfig(
            variant="one_step_q", unroll=5, target_every=1_000, epsilon_steps=50_000, reduction="mean"
        ),
    )


def one_step_sarsa() -> Experiment:
    """One-step SARSA without replay, for small tasks."""
    return _async_q(
        "one_step_sarsa",
        AsyncQConfig(
            variant="one_step_sarsa", unroll=5, target_every=1_000, epsilon_steps=50_000, reduction="mean"
        ),
    )


def _async_q(recipe: str, algorithm: AsyncQConfig) -> Experiment:
    return Experiment(
        recipe=recipe,
        algorithm=algorithm,
        network=NetworkConfig(hidden=(64, 64), activation="tanh"),
        learner=LearnerConfig(learning_rate=2e-3, anneal=True, max_grad_norm=10.0),
        sampler=SamplerConfig(num_envs=16),
        run=RunConfig(steps=200_000),
    )
