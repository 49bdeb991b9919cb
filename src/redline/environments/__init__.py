"""Environments: any Gymnasium id, factory or vector environment, behind one batched contract (``types.Environment``).

Observations and rewards are raw; floats are f32. ``truncated`` is only set where ``terminated`` is not.
"""

from __future__ import annotations

import os
import pickle
import time
from dataclasses import replace

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv

from redline.environments import atari, cartpole, envpool, inline, vector
from redline.environments.config import AtariConfig, EnvironmentConfig
from redline.environments.registry import build, build_single, name_of, one_line, registered
from redline.environments.spaces import random_actions
from redline.environments.workers import Workers
from redline.environments.workers.spawning import CannotSpawn, has_script
from redline.types import Environment, RunError, Spec, UserError

__all__ = ["AtariConfig", "EnvironmentConfig", "make", "name_of", "out_of_reach", "probe"]

ROUND_TRIP = 150e-6  # seconds to wake a worker and hear from it, with a margin for a busy machine
WORTHWHILE = (
    5e-3  # seconds of a batch's step below which no process is started: a busy machine inflates timings
)
GAIN = 1.3  # workers must promise to be this much faster: below it the estimate's error decides
TIMED_STEPS, TIMED_SECONDS = 64, 0.3  # how long `auto` times an environment, at most


def probe(config: EnvironmentConfig) -> Spec:
    """The Spec of an environment, from one copy of it that is closed again (no copy at all for Atari).

    Raises:
      UserError: unknown id, a constructor that fails, unsupported spaces; one line.
    """
    registration = registered(config) if config.backend != "envpool" else None
    backend = _backend(config, registration)
    if backend == "envpool":
        return envpool.describe(config)
    if backend == "atari" and registration is not None:
        return atari.describe(config, registration)
    if backend == "cartpole" and registration is not None:
        return cartpole.describe(config, registration)
    env = build(config, 1)
    try:
        return _describe(env, config)
    finally:
        env.close()


def make(config: EnvironmentConfig, num_envs: int, *, threads: int = 1) -> Environment:
    """``num_envs`` environments stepped together, by the backend that the configuration names or that pays.

    Args:
      config: what to make. Backend ``auto`` takes ale-py's vector environment for Atari, Redline's NumPy one for
        CartPole, a factory's own VectorEnv, and for other environments worker processes where timing one copy says
        that they pay, else this process.
      num_envs: B.
      threads: cores that stepping may keep busy: ale-py's and EnvPool's threads, or worker processes.

    Raises:
      UserError: bad configuration; names the field and the nearest valid choice.
      RunError: the environment breaks its own promises at once.
    """
    if num_envs < 1:
        raise UserError(f"num_envs is at least 1, not {num_envs}")
    threads = max(threads, 1)
    registration = registered(config) if config.backend != "envpool" else None
    backend = _backend(config, registration)
    if backend == "envpool":
        return envpool.EnvPool(config, num_envs, threads)
    if backend == "atari" and registration is not None:
        return atari.Atari(config, registration, num_envs, threads)
    if backend == "cartpole" and registration is not None:
        limit = config.time_limit or registration.max_episode_steps
        return cartpole.CartPole(cartpole.describe(config, registration), num_envs, limit)
    if backend == "workers":
        _refuse_unsendable(config)
        workers = config.workers or (threads if threads > 1 else _cores())
        return _workers(config, probe(config), num_envs, workers)
    return _from_one(config, registration, num_envs, threads)


def _backend(config: EnvironmentConfig, registration: EnvSpec | None) -> str:
    """The backend asked for, or settled by the id alone; ``auto`` where it takes a copy to know."""
    if config.backend in ("auto", "vector") and _is_cartpole(config, registration):
        return "cartpole"
    if config.backend == "auto" and atari.is_atari(registration):
        return "atari"
    if config.backend == "atari" and not atari.is_atari(registration):
        raise UserError(f"environment.backend=atari: {name_of(config)!r} is not an Atari id; use auto")
    return config.backend


def _is_cartpole(config: EnvironmentConfig, registration: EnvSpec | None) -> bool:
    if registration is None or config.kwargs or config.action_repeat != 1 or config.workers:
        return False
    return registration.entry_point == "gymnasium.envs.classic_control.cartpole:CartPoleEnv"


def _describe(env: gymnasium.Env | VectorEnv, config: EnvironmentConfig) -> Spec:
    if isinstance(env, VectorEnv):
        return vector.describe(env, config)
    return inline.describe(env, config)


def _from_one(
    config: EnvironmentConfig, registration: EnvSpec | None, num_envs: int, threads: int
) -> Environment:
    """Make one copy (or a VectorEnv), look at it, and go on from there."""
    if config.backend == "vector" and registration is not None:
        first: gymnasium.Env | VectorEnv = _entry_point(registration, config, num_envs)
    else:
        first = build(config, num_envs)
    envs = [first]
    try:
        spec = _describe(first, config)
        if isinstance(first, VectorEnv):
            return _vector(first, config, spec, num_envs)
        if config.backend == "vector":
            raise UserError(
                f"environment.backend=vector: {name_of(config)!r} is a single environment; use auto"
            )
        workers = _paying_workers(first, config, spec, num_envs, threads)
        if workers is not None:
            first.close()
            return workers
        while len(envs) < num_envs:  # one by one, so that a failure half-way still closes the others
            envs.append(build_single(config))
        spec = replace(spec, rules=(*spec.rules, "stepped in this process"))
        return inline.Inline(envs, spec, time_limit=config.time_limit)  # type: ignore[arg-type]
    except BaseException:
        for env in envs:
            env.close()
        raise


def _vector(env: VectorEnv, config: EnvironmentConfig, spec: Spec, num_envs: int) -> Environment:
    if config.backend not in ("auto", "vector"):
        raise UserError(
            f"environment.backend={config.backend}: {spec.name!r} is a VectorEnv; use auto or vector"
        )
    if env.num_envs != num_envs:
        why = "give its factory a parameter num_envs"
        raise UserError(f"environment {spec.name!r} made {env.num_envs} environments, not {num_envs}: {why}")
    return vector.Vector(env, spec)


def _entry_point(registration: EnvSpec, config: EnvironmentConfig, num_envs: int) -> VectorEnv:
    if registration.vector_entry_point is None:
        raise UserError(
            f"environment.backend=vector: {registration.id!r} has no vector entry point; use auto"
        )
    try:
        return gymnasium.make_vec(
            registration, num_envs, vectorization_mode="vector_entry_point", **config.kwargs
        )
    except Exception as error:
        raise UserError(f"environment {registration.id!r} cannot be made: {one_line(error)}") from error


def _workers(config: EnvironmentConfig, spec: Spec, num_envs: int, workers: int) -> Workers:
    workers = min(workers, num_envs)
    plural = "es" if workers > 1 else ""
    spec = replace(spec, rules=(*spec.rules, f"stepped in {workers} worker process{plural}"))
    return Workers(config, spec, num_envs, workers)


def _paying_workers(
    env: gymnasium.Env, config: EnvironmentConfig, spec: Spec, num_envs: int, threads: int
) -> Workers | None:
    """Worker processes where they beat this process at stepping: first by estimate, then by trying them."""
    limit = min(config.workers or threads, num_envs)
    if config.backend != "auto" or _unsendable(config):
        return None
    if config.workers:
        return _workers(config, spec, num_envs, limit)
    if limit < 2:
        return None
    single = _step_seconds(inline.Inline([env], spec))
    if single is None or single * num_envs < max(WORTHWHILE, GAIN * (single * num_envs / limit + ROUND_TRIP)):
        return None
    try:
        workers = _workers(config, spec, num_envs, limit)
    except (RunError, CannotSpawn):  # such a script cannot start processes: this one does it all
        return None
    together = _step_seconds(workers)
    if together is not None and together * GAIN < single * num_envs:
        return workers
    workers.close()  # the other cores are busy, or one copy is far slower than the rest
    return None


def _step_seconds(environment: Environment) -> float | None:
    """Seconds of a step of the whole batch with random legal actions, resets included; None where it fails."""
    rng, space = np.random.default_rng(0), environment.spec.action
    try:
        step = environment.reset(0)
        start, steps = time.perf_counter(), 0
        while steps < TIMED_STEPS and time.perf_counter() - start < TIMED_SECONDS:
            environment.send(random_actions(space, environment.num_envs, step.action_mask, rng))
            step = environment.recv()
            steps += 1
        return (time.perf_counter() - start) / steps
    except UserError:  # not for a trial to tell: a fault that matters shows when the run steps
        return None


def out_of_reach(config: EnvironmentConfig) -> str | None:
    """Why no other process can make what a configuration asks for, or None."""
    try:
        packed = pickle.dumps(config)
    except Exception as error:
        return one_line(error)
    if b"__main__" in packed and not has_script():
        return "it is defined in a notebook or on a command line, which other processes cannot import"
    return None


def _unsendable(config: EnvironmentConfig) -> str | None:
    """Why a configuration is not sent to worker processes, or None."""
    if not isinstance(config.id, str) and getattr(config.id, "__module__", None) == "__main__":
        return "it is defined in the main script or notebook"
    return out_of_reach(config)


def _refuse_unsendable(config: EnvironmentConfig) -> None:
    reason = _unsendable(config)
    if reason is not None:
        raise UserError(
            f"environment {name_of(config)!r} cannot be sent to a worker process: {reason}; use backend=inline"
        )


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux: what this process may use, not what the machine has
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
