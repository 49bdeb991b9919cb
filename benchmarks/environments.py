"""How fast environments step: one JSON line of agent steps per second, Redline's backends beside Gymnasium's own.

All contestants of a task step in turns, a few hundred milliseconds each, over several rounds, so that whatever else the
machine does meets them alike; the median round counts. Actions are random and drawn beforehand.

    python benchmarks/environments.py [--seconds 45] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import ale_py
import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from redline.environments import EnvironmentConfig, make
from redline.types import Environment

TASKS = (("CartPole-v1", 8), ("CartPole-v1", 64), ("HalfCheetah-v5", 8), ("ALE/Pong-v5", 8))
ROUNDS = 5
Contestant = tuple[Callable[[np.ndarray], Any], Callable[[], None]]  # step, close


def ours(environment: Environment) -> Contestant:
    """A Redline backend, reset and ready."""

    def step(action: np.ndarray) -> None:
        environment.send(action)
        environment.recv()

    environment.reset(0)
    return step, environment.close


def theirs(environment: gymnasium.vector.VectorEnv) -> Contestant:
    """A Gymnasium vector environment, reset and ready."""
    environment.reset(seed=0)
    return environment.step, environment.close


def contestants(name: str, size: int, threads: int) -> dict[str, Contestant]:
    """Everything that can step ``size`` copies of a task."""
    if name.startswith("ALE/"):
        vector = gymnasium.make_vec(
            name, size, num_threads=threads, reward_clipping=False, autoreset_mode=AutoresetMode.SAME_STEP
        )
        return {
            "redline atari": ours(make(EnvironmentConfig(name), size, threads=threads)),
            "ale-py AtariVectorEnv": theirs(vector),
        }
    single = [lambda: gymnasium.make(name)] * size
    found = {
        "redline auto": ours(make(EnvironmentConfig(name), size, threads=threads)),
        "redline inline": ours(make(EnvironmentConfig(name, backend="inline"), size)),
        "redline workers": ours(make(EnvironmentConfig(name, backend="workers", workers=threads), size)),
        "gymnasium sync": theirs(SyncVectorEnv(single)),
        "gymnasium async": theirs(AsyncVectorEnv(single)),
    }
    if name.startswith("CartPole"):
        found["gymnasium numpy"] = theirs(
            gymnasium.make_vec(name, size, vectorization_mode="vector_entry_point")
        )
    return found


def measure(name: str, size: int, threads: int, seconds: float) -> dict[str, int]:
    """Agent steps per second of each contestant: the median of ``ROUNDS`` turns of equal length."""
    entered = contestants(name, size, threads)
    space = gymnasium.vector.utils.batch_space(
        gymnasium.make(name).action_space if not name.startswith("ALE/") else gymnasium.spaces.Discrete(6),
        size,
    )
    space.seed(0)
    actions = [space.sample() for _ in range(64)]
    rates: dict[str, list[float]] = {label: [] for label in entered}
    turn = seconds / ROUNDS / len(entered)
    for _ in range(ROUNDS):
        for label, (step, _) in entered.items():
            steps, start = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - start) < turn:
                for action in actions[:8]:
                    step(action)
                steps += 8
            rates[label].append(steps * size / elapsed)
    for _, close in entered.values():
        close()
    return {label: round(float(np.median(values))) for label, values in rates.items()}


def main() -> None:
    """Measure every task and print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="of stepping, shared by all")
    parser.add_argument("--threads", type=int, default=min(os.cpu_count() or 1, 2), help="threads or workers")
    arguments = parser.parse_args()
    gymnasium.register_envs(ale_py)
    warnings.filterwarnings("ignore", module="gymnasium")
    share = arguments.seconds / len(TASKS)
    results = {f"{name} x {size}": measure(name, size, arguments.threads, share) for name, size in TASKS}
    load = os.getloadavg() if hasattr(os, "getloadavg") else None
    print(json.dumps({"unit": "agent steps/s", "threads": arguments.threads, "load": load, "rates": results}))


if __name__ == "__main__":
    main()
