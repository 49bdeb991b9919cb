"""Recipes: functions that return a whole experiment. A number's unit and source stand beside it."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from redline.recipes.actor_learner import (
    a3c,
    a3c_atari,
    apex,
    apex_atari,
    appo,
    appo_atari,
    gorila,
    impala,
    impala_atari,
    impala_lstm,
    inference_engine,
    inference_engine_atari,
    n_step_q,
    one_step_q,
    one_step_sarsa,
    seed,
    seed_atari,
)
from redline.recipes.atari import a2c_atari, dqn_atari, ppo_atari
from redline.recipes.general import a2c, dqn, ppo, ppo_lstm
from redline.recipes.mujoco import ppo_mujoco
from redline.recipes.replicas import (
    accel_async_a2c,
    accel_async_dqn,
    accel_async_ppo,
    accel_sync_a2c,
    accel_sync_dqn,
    accel_sync_ppo,
)
from redline.recipes.replicas_atari import (
    accel_async_a2c_atari,
    accel_async_dqn_atari,
    accel_async_ppo_atari,
    accel_sync_a2c_atari,
    accel_sync_dqn_atari,
    accel_sync_ppo_atari,
    gorila_atari,
    n_step_q_atari,
    one_step_q_atari,
    one_step_sarsa_atari,
)
from redline.runtime.experiment import Experiment
from redline.types import UserError

Recipe = Callable[[], Experiment]

RECIPES: dict[str, Recipe] = {
    "ppo": ppo,
    "ppo_lstm": ppo_lstm,
    "a2c": a2c,
    "dqn": dqn,
    "ppo_atari": ppo_atari,
    "a2c_atari": a2c_atari,
    "dqn_atari": dqn_atari,
    "ppo_mujoco": ppo_mujoco,
    "impala": impala,
    "impala_lstm": impala_lstm,
    "impala_atari": impala_atari,
    "appo": appo,
    "appo_atari": appo_atari,
    "a3c": a3c,
    "a3c_atari": a3c_atari,
    "n_step_q": n_step_q,
    "n_step_q_atari": n_step_q_atari,
    "one_step_q": one_step_q,
    "one_step_q_atari": one_step_q_atari,
    "one_step_sarsa": one_step_sarsa,
    "one_step_sarsa_atari": one_step_sarsa_atari,
    "gorila": gorila,
    "gorila_atari": gorila_atari,
    "apex": apex,
    "apex_atari": apex_atari,
    "seed": seed,
    "seed_atari": seed_atari,
    "inference_engine": inference_engine,
    "inference_engine_atari": inference_engine_atari,
    "accel_sync_ppo": accel_sync_ppo,
    "accel_sync_ppo_atari": accel_sync_ppo_atari,
    "accel_sync_a2c": accel_sync_a2c,
    "accel_sync_a2c_atari": accel_sync_a2c_atari,
    "accel_sync_dqn": accel_sync_dqn,
    "accel_sync_dqn_atari": accel_sync_dqn_atari,
    "accel_async_ppo": accel_async_ppo,
    "accel_async_ppo_atari": accel_async_ppo_atari,
    "accel_async_a2c": accel_async_a2c,
    "accel_async_a2c_atari": accel_async_a2c_atari,
    "accel_async_dqn": accel_async_dqn,
    "accel_async_dqn_atari": accel_async_dqn_atari,
}


def find(name: str, environment: str = "") -> Experiment:
    """The experiment of a recipe. Most have a variant for Atari, which its environments get.

    Raises: UserError with the nearest recipe's name.
    """
    family = family_of(environment)
    if f"{name}_{family}" in RECIPES:
        name = f"{name}_{family}"
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1, cutoff=0.0)[0]
        raise UserError(f"recipe {name!r} is unknown: did you mean {near!r}? `redline recipes` lists all")
    return RECIPES[name]()


def family_of(environment: str) -> str:
    """``atari``, ``mujoco`` or an empty string, from an environment's id."""
    if environment.startswith("ALE/") or "NoFrameskip" in environment:
        return "atari"
    bodies = (
        "HalfCheetah",
        "Hopper",
        "Walker2d",
        "Ant-",
        "Humanoid",
        "Swimmer",
        "Reacher",
        "Pusher",
        "Inverted",
    )
    return "mujoco" if environment.startswith(bodies) else ""


__all__ = ["RECIPES", "Recipe", "family_of", "find"]
