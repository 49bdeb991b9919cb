"""Recipes of copies that share gradients, on Atari: the numbers of Gorila, of A3C's value methods and of Accel RL."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from redline.actors.config import SamplerConfig
from redline.algorithms.a2c import A2CConfig
from redline.algorithms.async_q import AsyncQConfig
from redline.algorithms.dqn import DQNConfig
from redline.algorithms.ppo import PPOConfig
from redline.architectures.config import ParallelConfig
from redline.learners.config import LearnerConfig
from redline.networks.config import NetworkConfig
from redline.recipes.actor_learner import a3c_atari
from redline.replay.config import ReplayConfig
from redline.runtime.experiment import Experiment, RunConfig

DQN = DQNConfig(batch=32, update_every=4, learning_starts=50_000, target_every=10_000)  # Mnih et al. 2015
STEPS = 50_000_000  # agent steps: 200M frames, as in Accel RL's table 2


def gorila_atari() -> Experiment:
    """Gorila on Atari (Nair et al. 2015): DQN's numbers (Mnih et al. 2015), AdaGrad at the server.

    A target network is 60,000 of the server's updates old at most. The rate of AdaGrad and the bounds on staleness and
    on outliers are not printed; 0.01, 100 updates and 5 deviations are ours. The paper has a hundred bundles.
    """
    return Experiment(
        recipe="gorila_atari",
        algorithm=replace(DQN, epsilon_final=0.1, epsilon_steps=1_000_000, epsilon_evaluation=0.05),
        network=NetworkConfig(torso="nature"),
        learner=LearnerConfig(
            optimizer="adagrad", learning_rate=1e-2, epsilon=1e-6, max_grad_norm=None, reward="clip"
        ),
        sampler=SamplerConfig(num_envs=4),
        replay=ReplayConfig(capacity=1_000_000),
        parallel=ParallelConfig(architecture="gorila", target_every=60_000, max_staleness=100, outlier=5.0),
        run=RunConfig(steps=STEPS, save_replay=False),
    )


def n_step_q_atari() -> Experiment:
    """n-step Q-learning on Atari (Mnih et al. 2016): as A3C there, with a target network and 16 ways to explore."""
    return _async_q("n_step_q")


def one_step_q_atari() -> Experiment:
    """One-step Q-learning on Atari (Mnih et al. 2016)."""
    return _async_q("one_step_q")


def one_step_sarsa_atari() -> Experiment:
    """One-step SARSA on Atari (Mnih et al. 2016)."""
    return _async_q("one_step_sarsa")


def _async_q(variant: Literal["n_step_q", "one_step_q", "one_step_sarsa"]) -> Experiment:
    return replace(a3c_atari(), recipe=f"{variant}_atari", algorithm=AsyncQConfig(variant=variant))


def accel_sync_a2c_atari() -> Experiment:
    """Accel RL's A2C (Stooke & Abbeel 2018) in replicas that average gradients; 16 games for each it had a GPU for."""
    return Experiment(
        recipe="accel_sync_a2c_atari",
        algorithm=A2CConfig(unroll=5, gamma=0.99, entropy_cost=0.01, value_cost=0.25),
        network=NetworkConfig(torso="nature"),
        learner=LearnerConfig(
            optimizer="rmsprop", learning_rate=7e-4, epsilon=1e-5, max_grad_norm=0.5, reward="clip"
        ),
        sampler=SamplerConfig(num_envs=16),
        parallel=ParallelConfig(architecture="accel_sync"),
        run=RunConfig(steps=STEPS),
    )


def accel_sync_ppo_atari() -> Experiment:
    """Accel RL's PPO: 8 games x 64 steps in one minibatch of 512, four epochs, Adam 1e-3, rate and clip fall to 0."""
    return Experiment(
        recipe="accel_sync_ppo_atari",
        algorithm=PPOConfig(
            unroll=64, epochs=4, minibatches=1, clip=0.2, anneal_clip=True, gae_lambda=0.95, entropy_cost=0.01
        ),
        network=NetworkConfig(torso="nature"),
        learner=LearnerConfig(learning_rate=1e-3, epsilon=1e-5, anneal=True, reward="clip"),
        sampler=SamplerConfig(num_envs=8),
        parallel=ParallelConfig(architecture="accel_sync"),
        run=RunConfig(steps=STEPS),
    )


def accel_sync_dqn_atari() -> Experiment:
    """Accel RL's DQN: 32 games, RMSProp 2.5e-4 with decay 0.95, each sample learned from eight times.

    A larger batch keeps that with ``algorithm.update_every`` an eighth of ``algorithm.batch``.
    """
    return Experiment(
        recipe="accel_sync_dqn_atari",
        algorithm=replace(DQN, epsilon_final=0.01, epsilon_steps=250_000, epsilon_evaluation=0.001),
        network=NetworkConfig(torso="nature"),
        learner=LearnerConfig(
            optimizer="rmsprop",
            learning_rate=2.5e-4,
            decay=0.95,
            epsilon=0.01,
            epsilon_inside=True,
            centered=True,
            max_grad_norm=10.0,
            reward="clip",
        ),
        sampler=SamplerConfig(num_envs=32),
        replay=ReplayConfig(capacity=1_000_000),
        parallel=ParallelConfig(architecture="accel_sync"),
        run=RunConfig(steps=STEPS, save_replay=False),
    )


def accel_async_a2c_atari() -> Experiment:
    """The same A2C in replicas that step central weights, three chunks of them, each behind its lock."""
    return _apart(accel_sync_a2c_atari())


def accel_async_ppo_atari() -> Experiment:
    """The same PPO in replicas that step central weights chunk by chunk."""
    return _apart(accel_sync_ppo_atari())


def accel_async_dqn_atari() -> Experiment:
    """The same DQN in replicas that step central weights chunk by chunk."""
    return _apart(accel_sync_dqn_atari())


def _apart(experiment: Experiment) -> Experiment:
    return replace(
        experiment,
        recipe=experiment.recipe.replace("sync", "async"),
        parallel=ParallelConfig(architecture="accel_async", servers=3),
    )
