"""Recipes of the actor-learner systems: their papers' numbers on Atari, and numbers that suit small tasks.

Sums stay sums where a paper sums its losses over time and batch: its learning rate belongs to the sum.
"""

from __future__ import annotations

from dataclasses import replace

from redline.actors.config import SamplerConfig
from redline.algorithms.a2c import A2CConfig
from redline.algorithms.apex import ApexConfig
from redline.algorithms.appo import APPOConfig
from redline.algorithms.async_q import AsyncQConfig
from redline.algorithms.dqn import DQNConfig
from redline.algorithms.impala import IMPALAConfig
from redline.architectures.config import ParallelConfig
from redline.learners.config import LearnerConfig
from redline.networks.config import NetworkConfig
from redline.recipes.atari import a2c_atari
from redline.recipes.general import ppo
from redline.replay.config import ReplayConfig
from redline.runtime.experiment import Experiment, RunConfig


def impala() -> Experiment:
    """IMPALA for small tasks: means in place of sums, and Adam, so that the rate carries over between batch sizes."""
    return Experiment(
        recipe="impala",
        algorithm=IMPALAConfig(unroll=10, reduction="mean", gamma=0.98, lambda_=0.9, entropy_cost=0.005),
        network=NetworkConfig(hidden=(64, 64), activation="tanh"),
        learner=LearnerConfig(learning_rate=2e-3, anneal=True),  # at 3e-3 one long run in five collapses
        sampler=SamplerConfig(num_envs=8),
        parallel=ParallelConfig(architecture="impala"),
        run=RunConfig(steps=200_000),
    )


def impala_lstm() -> Experiment:
    """IMPALA with an LSTM, for tasks that need memory."""
    return Experiment(
        recipe="impala_lstm",
        algorithm=IMPALAConfig(unroll=20, reduction="mean", gamma=0.98, lambda_=0.9, entropy_cost=0.02),
        network=NetworkConfig(hidden=(64,), activation="tanh", core="lstm", core_size=64),
        learner=LearnerConfig(learning_rate=3e-3),
        sampler=SamplerConfig(num_envs=8),
        parallel=ParallelConfig(architecture="impala"),
        run=RunConfig(steps=300_000),
    )


def impala_atari() -> Experiment:
    """IMPALA on Atari (Espeholt et al. 2018): 32 unrolls of 20, losses summed, RMSProp 6e-4 falling to 0.

    RMSProp's epsilon of 0.01 is added to the root, as in torchbeast; the paper's, being TensorFlow's, is inside it.
    """
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
            unroll=32, epochs=4, minibatches=4, gamma=0.98, gae_lambda=0.9, entropy_cost=0.0, clip=0.2
        ),
        network=NetworkConfig(hidden=(64, 64), activation="tanh"),
        learner=LearnerConfig(learning_rate=1e-3, anneal=True),
        sampler=SamplerConfig(num_envs=8),
        parallel=ParallelConfig(architecture="impala"),
        run=RunConfig(steps=100_000),
    )


def appo_atari() -> Experiment:
    """Asynchronous PPO on Atari: the numbers of ``ppo_atari``, unrolls of 32 and two epochs.

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
        parallel=ParallelConfig(architecture="a3c"),
        run=RunConfig(steps=200_000),
    )


def a3c() -> Experiment:
    """A3C for small tasks: five-step unrolls, shared RMSProp with epsilon inside the root; a worker steps several."""
    return Experiment(
        recipe="a3c",
        algorithm=A2CConfig(unroll=5, gamma=0.98, entropy_cost=0.01, value_cost=0.5),
        network=NetworkConfig(hidden=(64, 64), activation="tanh"),
        learner=LearnerConfig(
            optimizer="rmsprop", learning_rate=2e-3, anneal=True, epsilon=1e-6, epsilon_inside=True
        ),
        sampler=SamplerConfig(num_envs=16),
        parallel=ParallelConfig(architecture="a3c"),
        run=RunConfig(steps=300_000),
    )


def a3c_atari() -> Experiment:
    """A3C on Atari (Mnih et al. 2016): 16 environments x 5 steps, shared RMSProp with decay 0.99, rate falling to 0.

    The paper draws its rate from [1e-4, 1e-2] and shows 50 of them; 7e-4 is near the middle. Its clipping norm and
    epsilon are not printed: 40 and 0.1 are those of the public implementations.
    """
    return Experiment(
        recipe="a3c_atari",
        algorithm=A2CConfig(unroll=5, gamma=0.99, entropy_cost=0.01, value_cost=0.5),
        network=NetworkConfig(torso="nature"),
        learner=LearnerConfig(
            optimizer="rmsprop",
            learning_rate=7e-4,
            anneal=True,
            decay=0.99,
            epsilon=0.1,
            epsilon_inside=True,
            max_grad_norm=40.0,
            reward="clip",
        ),
        sampler=SamplerConfig(num_envs=16),  # the paper's threads
        parallel=ParallelConfig(architecture="a3c"),
        run=RunConfig(steps=80_000_000),  # agent steps: 320M frames
    )


def apex() -> Experiment:
    """Ape-X DQN for small tasks: eight environments on the ladder of exploration rates."""
    return Experiment(
        recipe="apex",
        algorithm=ApexConfig(
            batch=128,
            update_every=4,
            learning_starts=1_000,
            target_every_updates=50,
            gamma=0.98,  # as the recipe of PPO for small tasks
            loss="huber",
        ),
        network=NetworkConfig(hidden=(128, 128), activation="relu", dueling=True),
        learner=LearnerConfig(learning_rate=1e-3, max_grad_norm=40.0),
        sampler=SamplerConfig(num_envs=8),
        replay=ReplayConfig(
            capacity=100_000, prioritized=True, n_step=3, alpha=0.6, beta=0.4, beta_final=0.4
        ),
        parallel=ParallelConfig(architecture="apex"),
        run=RunConfig(steps=100_000),
    )


def apex_atari() -> Experiment:
    """Ape-X DQN on Atari (Horgan et al. 2018): batches of 512, 3-step, centred RMSProp 0.00025 / 4, replay of 2M.

    Departure: 32 environments, shared out to as many actors as the machine has cores for, where the paper has 360.
    """
    return Experiment(
        recipe="apex_atari",
        algorithm=ApexConfig(
            batch=512,
            update_every=640,  # agent steps: 12,500 come in and 19 batches go out a second
            learning_starts=50_000,
            target_every_updates=2_500,
            epsilon_base=0.4,
            epsilon_alpha=7.0,
        ),
        network=NetworkConfig(torso="nature", dueling=True),
        learner=LearnerConfig(
            optimizer="rmsprop",
            learning_rate=6.25e-5,
            decay=0.95,
            epsilon=1.5e-7,
            epsilon_inside=True,
            centered=True,
            max_grad_norm=40.0,
            reward="clip",
        ),
        sampler=SamplerConfig(num_envs=32),
        replay=ReplayConfig(
            capacity=2_000_000, prioritized=True, n_step=3, alpha=0.6, beta=0.4, beta_final=0.4
        ),
        parallel=ParallelConfig(architecture="apex"),
        run=RunConfig(steps=50_000_000, save_replay=False),
    )


def gorila() -> Experiment:
    """Gorila for small tasks (Nair et al. 2015), bundled: DQN stepped by AdaGrad at one server."""
    return Experiment(
        recipe="gorila",
        algorithm=DQNConfig(
            batch=64,
            update_every=4,
            learning_starts=1_000,
            target_every=500,
            epsilon_final=0.04,
            epsilon_steps=16_000,
            epsilon_evaluation=0.0,
        ),
        network=NetworkConfig(hidden=(128, 128), activation="relu"),
        learner=LearnerConfig(optimizer="adagrad", learning_rate=2e-2, epsilon=1e-6, max_grad_norm=10.0),
        sampler=SamplerConfig(num_envs=4),
        replay=ReplayConfig(capacity=100_000),
        parallel=ParallelConfig(architecture="gorila", max_staleness=100, outlier=5.0),
        run=RunConfig(steps=100_000),
    )


def seed() -> Experiment:
    """SEED (Espeholt et al. 2020): IMPALA's algorithm; workers without a network, one server acts for all."""
    return replace(
        impala(),
        recipe="seed",
        parallel=ParallelConfig(architecture="seed", copies=8),
    )


def seed_atari() -> Experiment:
    """SEED on Atari, with the numbers of ``impala_atari``, the place of RMSProp's epsilon included."""
    return replace(
        impala_atari(),
        recipe="seed_atari",
        parallel=ParallelConfig(architecture="seed", copies=4),  # each steps 8 games at a barrier
    )


def inference_engine() -> Experiment:
    """Accel RL's synchronous sampler (Stooke & Abbeel 2018) with PPO: two groups of workers take turns, lag is zero."""
    return replace(
        ppo(),
        recipe="inference_engine",
        sampler=SamplerConfig(num_envs=8, groups=2),
        parallel=ParallelConfig(architecture="seed", copies=4, queue=0),
    )


def inference_engine_atari() -> Experiment:
    """The same with A2C on Atari: horizon 5, several games to a worker, as in Accel RL."""
    return replace(
        a2c_atari(),
        recipe="inference_engine_atari",
        sampler=SamplerConfig(num_envs=16, groups=2),
        parallel=ParallelConfig(architecture="seed", copies=4, queue=0),
    )
