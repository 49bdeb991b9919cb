"""Any recipe, trained for moments: enough to act, learn, save and be judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import redline
from redline.recipes import RECIPES

SMALL = ("run.tensorboard=false", "run.debug=true")
MORE = {  # what makes a few thousand steps enough to learn from
    "ppo_atari": ("algorithm.unroll=32",),
    "dqn_atari": ("algorithm.learning_starts=256", "replay.capacity=4000"),
    "apex_atari": ("algorithm.learning_starts=256", "replay.capacity=4000", "algorithm.batch=64"),
    "accel_sync_a2c_atari": ("sampler.num_envs=4",),
    "accel_async_a2c_atari": ("sampler.num_envs=4",),
    "accel_sync_ppo_atari": ("sampler.num_envs=4",),
    "accel_async_ppo_atari": ("sampler.num_envs=4",),
    "n_step_q_atari": ("sampler.num_envs=4",),
    "one_step_q_atari": ("sampler.num_envs=4",),
    "one_step_sarsa_atari": ("sampler.num_envs=4",),
    "gorila_atari": ("algorithm.learning_starts=256", "replay.capacity=4000"),
    "accel_sync_dqn_atari": ("algorithm.learning_starts=256", "replay.capacity=4000", "sampler.num_envs=4"),
    "accel_async_dqn_atari": ("algorithm.learning_starts=256", "replay.capacity=4000", "sampler.num_envs=4"),
    "dqn": ("algorithm.learning_starts=256",),
    "gorila": ("algorithm.learning_starts=256",),
    "apex": ("algorithm.learning_starts=256",),
    "accel_sync_dqn": ("algorithm.learning_starts=256",),
    "accel_async_dqn": ("algorithm.learning_starts=256",),
}


def environment_of(recipe: str) -> str:
    if recipe.endswith("atari"):
        return "ALE/Pong-v5"
    if recipe.endswith("lstm"):
        return "redline/Recall-v0"
    return "Pendulum-v1" if recipe.endswith("mujoco") else "CartPole-v1"


def train(
    folder: Path, recipe: str, *overrides: str, device: str, steps: int = 1920, **options: Any
) -> redline.Run:
    """A run of a recipe in the environment that suits it, with two copies of what can be copied."""
    said = [each.partition("=")[2] for each in overrides if each.startswith("parallel.architecture=")]
    place = said[-1] if said else RECIPES[recipe]().parallel.architecture
    two = () if place == "synchronous" else ("parallel.copies=2",)
    return redline.train(
        environment_of(recipe),
        recipe,
        steps=steps,
        device=device,
        folder=str(folder),
        overrides=[*SMALL, *two, *MORE.get(recipe, ()), *overrides],
        **options,
    )
