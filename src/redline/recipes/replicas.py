"""Recipes of copies that train by themselves and share gradients, for small environments with vector observations."""

from __future__ import annotations

from dataclasses import replace

from redline.recipes.general import a2c, dqn, ppo
from redline.runtime.experiment import Experiment


def _on(experiment: Experiment, name: str, **numbers: object) -> Experiment:
    """``experiment`` under its new name, with the numbers of ``parallel``."""
    parallel = replace(experiment.parallel, **numbers)  # type: ignore[arg-type]
    return replace(experiment, recipe=name, parallel=parallel)


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
