"""What every peer's script shares: the tasks, the clock, the score, the line of JSON. Standard library only."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

TARGET = 475.0  # CartPole-v1's own threshold, over EPISODES episodes
EPISODES = 100
EVALUATE_EVERY = 2_048  # agent steps between evaluations on the way to TARGET
SCHEDULE_STEPS = 100_000  # agent steps over which learning rate and clip fall to 0 on the way to TARGET
FOREVER = 10_000_000  # agent steps: more than any measurement reaches
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Finished(Exception):
    """Raised inside a peer's loop when the measurement is over and there is no gentler way to stop it."""


@dataclass(frozen=True)
class Task:
    """One task with the settings all peers share. Steps are agent steps."""

    name: str
    algorithm: str  # "ppo", "dqn", "impala" or "appo"; "defaults": whatever the framework does by itself
    game: bool  # Pong, 84 x 84 x 4 and the Nature CNN; else CartPole-v1 and two layers of 64
    num_envs: int
    warmup: int  # steps before the clock starts; learning is on long before it does
    unroll: int = 128
    epochs: int = 4
    minibatch: int = 256
    learning_rate: float = 2.5e-4
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.1
    entropy: float = 0.01
    batch: int = 32  # DQN, as are the rest
    update_every: int = 4
    replay: int = 100_000
    learning_starts: int = 1_000
    target_every: int = 1_000
    epsilon: float = 0.01
    environment: str = ""  # of tasks that leave every setting to the framework: a Gymnasium id

    @property
    def steps_per_iteration(self) -> int:
        """Agent steps collected between two rounds of learning."""
        return (
            max(self.update_every, self.num_envs) if self.algorithm == "dqn" else self.num_envs * self.unroll
        )

    @property
    def updates_per_iteration(self) -> int:
        """DQN's optimiser steps in one round of learning."""
        return self.steps_per_iteration // self.update_every


TASKS = {
    task.name: task
    for task in (
        Task("pong-ppo", "ppo", True, num_envs=8, warmup=1_024),
        Task("pong-ppo-32", "ppo", True, num_envs=32, warmup=4_096, minibatch=1_024),
        Task(
            "cartpole-ppo",
            "ppo",
            False,
            num_envs=8,
            warmup=5_120,
            unroll=32,
            epochs=20,
            learning_rate=1e-3,
            gamma=0.98,
            gae_lambda=0.8,
            clip=0.2,
            entropy=0.0,
        ),
        Task("pong-dqn", "dqn", True, num_envs=1, warmup=1_400, learning_rate=1e-4),
        Task("pong-dqn-8", "dqn", True, num_envs=8, warmup=1_400, learning_rate=1e-4),
        Task("pong-impala", "impala", True, 32, warmup=3_200, unroll=20, epochs=1, minibatch=640),
        Task("pong-appo", "appo", True, 32, warmup=3_200, unroll=20, epochs=1, minibatch=640),
    )
}
DEFAULTS = {  # what the planner's benchmark runs on too
    "cartpole-defaults": "CartPole-v1",
    "pong-defaults": "PongNoFrameskip-v4",
    "cheetah-defaults": "HalfCheetah-v5",
    "slow-defaults": "worlds:Slow-v0",  # of ../worlds.py
    "tailed-defaults": "worlds:Tailed-v0",
    "large-defaults": "worlds:Large-v0",
}
TASKS |= {
    name: Task(name, "defaults", name.startswith("pong"), num_envs=0, warmup=1, environment=id_)
    for name, id_ in DEFAULTS.items()
}


@dataclass(frozen=True)
class Options:
    """What a script was asked to do."""

    peer: str
    task: Task
    seconds: float
    threads: int  # 0: as the peer has it
    to_score: bool
    seed: int
    source: str | None
    flags: Sequence[str]  # for one peer only, such as ``compile``
    total: int  # agent steps the peer is told to train for: sets its schedules

    def set_torch_threads(self) -> None:
        """Give torch the threads; the environment variables are set already."""
        import torch

        if self.threads:
            torch.set_num_threads(self.threads)


def read_options(peer: str, tasks: Sequence[str], arguments: Sequence[str] | None = None) -> Options:
    """Read the command line and set the thread variables; call this before importing torch, jax or numpy."""
    parser = argparse.ArgumentParser(description=f"Training throughput of {peer}.")
    parser.add_argument("--task", choices=tasks, default=tasks[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="measured time, after the warm-up")
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    )
    parser.add_argument(
        "--to-score", action="store_true", help="seconds until CartPole-v1 is solved; --seconds is the cap"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--source", help="checkout of a peer that is not on PyPI")
    parser.add_argument("--flag", action="append", default=[], help="a peer's own switch")
    given = parser.parse_args(arguments)
    if given.to_score and not given.task.startswith("cartpole"):
        parser.error("--to-score is for CartPole")
    own = given.task in DEFAULTS  # then threads and schedules are the peer's as well
    if own:
        given.threads = 0
    for name in THREAD_VARIABLES if not own else ():
        os.environ[name] = str(given.threads)
    if given.threads == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    total = SCHEDULE_STEPS if given.to_score and not own else FOREVER
    return Options(
        peer,
        TASKS[given.task],
        given.seconds,
        given.threads,
        given.to_score,
        given.seed,
        given.source,
        given.flag,
        total,
    )


@dataclass
class Meter:
    """The clock. ``boundary`` is called between two iterations (collect, then learn), so that only whole ones count."""

    options: Options
    _began: tuple[float, int] | None = None  # time and steps at the first boundary after the warm-up
    _ended: tuple[float, int] = (0.0, 0)
    _start: float = field(default_factory=time.perf_counter)
    _paused: float = 0.0  # seconds spent evaluating
    _due: int = EVALUATE_EVERY
    greedy: tuple[float, int] | None = None  # seconds of training and steps until greedy play reached TARGET
    solved: tuple[float, int] | None = None  # the same for the last EPISODES training episodes

    def restart(self) -> None:
        """Start the training clock of ``--to-score`` here: just before the peer's first step."""
        self._start = time.perf_counter()

    def boundary(
        self, steps: int, act: Callable[[Any], Any] | None = None, returns: Sequence[float] = ()
    ) -> bool:
        """Whether to stop, after ``steps`` agent steps.

        Args:
          act: maps observations f32[N, 4] to N greedy actions.   returns: of the latest training episodes.
        """
        now = time.perf_counter()
        self._ended = (now, steps)
        if self.options.to_score:
            return self._towards_score(now, steps, act, returns)
        if self._began is None:
            if steps >= self.options.task.warmup:
                self._began = (now, steps)
            return False
        return now - self._began[0] >= self.options.seconds

    def _towards_score(
        self, now: float, steps: int, act: Callable[[Any], Any] | None, returns: Sequence[float]
    ) -> bool:
        trained = now - self._start - self._paused
        self._began = (self._start + self._paused, 0)
        if len(returns) >= EPISODES and sum(returns[-EPISODES:]) / EPISODES >= TARGET:
            self.solved = (trained, steps)
            return True
        if act is not None and self.greedy is None and steps >= self._due:
            self._due = steps + EVALUATE_EVERY
            if cartpole_score(act) >= TARGET:
                self.greedy = (trained, steps)
            self._paused += time.perf_counter() - now
        return trained >= self.options.seconds or steps >= self.options.total

    def report(self, packages: Sequence[str], note: str, **more: Any) -> None:
        """Print the one line of JSON."""
        if self._began is None:
            raise SystemExit(f"{self.options.peer}: stopped before the warm-up was over")
        seconds = self._ended[0] - self._began[0]
        steps = self._ended[1] - self._began[1]
        line: dict[str, Any] = {
            "peer": self.options.peer,
            "task": self.options.task.name,
            "agent_steps_per_second": round(steps / seconds, 1) if seconds > 0 else None,
            "seconds": round(seconds, 2),
            "steps": steps,
            "versions": {"python": platform.python_version()} | {name: installed(name) for name in packages},
            "threads": self.options.threads,
            "note": note,
        }
        if self.options.to_score:
            for name, reached in (("to_475", self.solved), ("to_475_greedy", self.greedy)):
                line[f"seconds_{name}"] = None if reached is None else round(reached[0], 2)
                line[f"steps_{name}"] = None if reached is None else reached[1]
        print(json.dumps(line | more), flush=True)


def installed(package: str) -> str | None:
    """The version of a package, or None where it is absent."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cartpole_score(act: Callable[[Any], Any], seed: int = 10_000) -> float:
    """Mean return of EPISODES whole episodes played with ``act``, all at once, the same starts every time."""
    import gymnasium
    import numpy as np

    envs = [gymnasium.make("CartPole-v1") for _ in range(EPISODES)]
    observations = np.stack([env.reset(seed=seed + i)[0] for i, env in enumerate(envs)])
    returns = np.zeros(EPISODES)
    alive = np.arange(EPISODES)
    while len(alive):
        actions = np.asarray(act(observations[alive])).reshape(-1)
        going = []
        for i, action in zip(alive, actions, strict=True):
            observations[i], reward, terminated, truncated, _ = envs[i].step(int(action))
            returns[i] += float(reward)
            if not (terminated or truncated):
                going.append(i)
        alive = np.asarray(going, dtype=int)
    return float(returns.mean())
