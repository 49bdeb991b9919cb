"""Recipes of copies that train by themselves and share gradients, for small environments with vector observations."""

from __future__ import annotations

from dataclasses import replace

from redline.actors.config import SamplerConfig
from redline.architectures.config import ParallelConfig
from redline.learners.config import LearnerConfig
from redline.recipes.general import a2c, dqn, ppo
from redline.runtime.experiment import Experiment


def _on(experiment: Experiment, name: str, **numbers: object) -> Experiment:
    """``experiment`` under its new name, with the numbers of ``parallel``."""
    parallel = replace(experiment.parallel, **numbers)  # type: ignore[arg-type]
    return replace(experiment, recipe=name, parallel=parallel)


def a3c() -> Experiment:
    """A3C (Mnih et al. 2016): a worker a core, each with its own environment; shared RMSProp without a lock.

    Workers here have several environments each, stepped together: in Python that is what makes a core worth its while.
    """
    made = a2c()
    return replace(
        _on(made, "a3c", architecture="a3c"),
        sampler=SamplerConfig(num_envs=8),
        learner=replace(made.learner, learning_rate=7e-4),
    )


def gorila() -> Experiment:
    """Gorila (Nair et al. 2015), bundled: DQN with AdaGrad at one server; a gradient may be 100 updates old."""
    return replace(
        dqn(),
        recipe="gorila",
        learner=LearnerConfig(optimizer="adagrad", learning_rate=1e-2, epsilon=1e-6, max_grad_norm=10.0),
        parallel=ParallelConfig(architecture="gorila", max_staleness=100, outlier=5.0),
    )


def accel_sync_ppo() -> Experiment:
    """PPO in replicas that average gradients; each normalises the advantages of its own minibatch."""
    return _on(ppo(), "accel_sync_ppo", architecture="accel_sync")


def accel_sync_a2c() -> Experiment:
    """A2C in replicas that average gradients."""
    return _on(a2c(), "accel_sync_a2c", architecture="accel_sync")


def accel_sync_dqn() -> Experiment:
    """DQN in replicas that average gradients; each draws its share of the batch from a replay of its own."""
    return _on(dqn(), "accel_sync_dqn", architecture="accel_sync")


def accel_async_ppo() -> Experiment:
    """PPO in replicas that step central weights behind a lock a chunk."""
    return _on(ppo(), "accel_async_ppo", architecture="accel_async")


def accel_async_a2c() -> Experiment:
    """A2C in replicas that step central weights behind a lock a chunk: Accel RL's A3C."""
    return _on(a2c(), "accel_async_a2c", architecture="accel_async")


def accel_async_dqn() -> Experiment:
    """DQN in replicas that step central weights behind a lock a chunk, each with a replay of its own."""
    return _on(dqn(), "accel_async_dqn", architecture="accel_async")
