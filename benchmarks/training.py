"""Training throughput beside the ceiling of the same machine, environment and network, measured in one run.

    python benchmarks/training.py [TASK ...] [--seconds 30] [--repeats 3] [--set parallel.runtime=processes]

The ceiling counts core-seconds per agent step of what cannot be left out, each part measured alone on one thread:
stepping the raw environment, one forward pass to act (at the batch of all environments), and the forward and
backward passes over every sample consumed. It is ``cores / (step + act + passes * train)``: no optimiser, no loss, no
copy, no waiting. Parts are measured in f32 and, where the processor has it, bf16, channels-last; the better one makes
the ceiling. Redline then trains for real, learning on, and the two alternate ``repeats`` times; medians are printed as
one JSON line. ``ratio`` is of rates. ``core_ratio`` is of core-seconds per agent step, the ceiling's to Redline's: the
ratio that a core never idle would give, and the one to read where other programs hold the machine; what processes of
their own spend is not known until they end, and it is null where roles have some.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from redline import api, environments
from redline.runs.provenance import provenance, usable_cores
from redline.runtime.experiment import Experiment
from redline.runtime.parts import assemble
from redline.runtime.plan import has_bf16
from redline.runtime.pool import one_thread_each
from redline.types import Output, Progress, tree_map


@dataclass(frozen=True)
class Task:
    """What is trained, and how often each agent step passes through the network."""

    environment: str
    recipe: str
    overrides: tuple[str, ...]
    minibatch: int  # samples of one gradient
    train_passes: float  # forward + backward passes per agent step
    target_passes: float = 0.0  # forward passes without gradient per agent step, at the minibatch's size


THREADS = ("parallel.runtime=threads",)
TASKS = {
    "pong-ppo-8": Task("ALE/Pong-v5", "ppo", (), 256, 4),
    "pong-ppo-32": Task("ALE/Pong-v5", "ppo", ("sampler.num_envs=32",), 1024, 4),
    "cartpole-ppo": Task("CartPole-v1", "ppo", ("algorithm.epochs=20", "algorithm.minibatches=1"), 256, 20),
    "pong-dqn": Task(
        "ALE/Pong-v5",
        "dqn",
        ("replay.capacity=50000", "algorithm.learning_starts=256"),
        32,
        8,
        target_passes=8,
    ),
    # Actors beside a learner. Each sample is learned from once; Ape-X is held to that, for otherwise learner and actors
    # each go at their own rate and a common ceiling says nothing.
    "pong-impala": Task("ALE/Pong-v5", "impala", THREADS, 640, 1),
    "pong-appo": Task(
        "ALE/Pong-v5", "appo", (*THREADS, "algorithm.epochs=1", "algorithm.minibatches=1"), 1024, 1
    ),
    "pong-seed": Task("ALE/Pong-v5", "seed", THREADS, 640, 1),
    "pong-apex": Task(
        "ALE/Pong-v5",
        "apex",
        (*THREADS, "parallel.replay_ratio=1", "replay.capacity=50000", "algorithm.learning_starts=2000"),
        512,
        1,
        target_passes=2,
    ),
}


def experiment_of(task: Task, *extra: str) -> Experiment:
    """The task's experiment with more overrides."""
    return api.make_experiment(task.environment, task.recipe, overrides=[*task.overrides, *extra])


def core_seconds(call: Callable[[], Any], seconds: float) -> float:
    """Median processor seconds of one call, over all threads of this process."""
    for _ in range(3):
        call()
    spent: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(spent) < 5:
        begin = time.process_time()
        call()
        spent.append(time.process_time() - begin)
    return statistics.median(spent)


def step_cost(task: Task, seconds: float) -> float:
    """Core-seconds of one agent step of the raw environment under random actions."""
    experiment = experiment_of(task)
    count = experiment.sampler.num_envs
    environment = environments.make(experiment.environment, count, threads=1)
    environment.reset(0)
    chance = np.random.default_rng(0)
    actions = [chance.integers(environment.spec.action.n, size=count) for _ in range(64)]

    def step() -> None:
        for action in actions[:16]:
            environment.send(action)
            environment.recv()

    try:
        return core_seconds(step, seconds) / (16 * count)
    finally:
        environment.close()


def network_costs(task: Task, precision: str, seconds: float) -> dict[str, float]:
    """Core-seconds per sample of the task's network: ``act``, ``train`` and ``target`` (a forward pass in a batch)."""
    parts = assemble(experiment_of(task, f"learner.precision={precision}", "learner.device=cpu"))
    learner = parts.learner
    count = parts.experiment.sampler.num_envs

    def sample(size: int) -> Any:
        space = parts.spec.observation
        return tree_map(lambda x: torch.from_numpy(x)[None], np.stack([space.sample() for _ in range(size)]))

    few, many = sample(count), sample(task.minibatch)
    never = torch.zeros(1, 1, dtype=torch.bool)

    def act() -> None:
        with torch.no_grad():
            learner.acting(few, None, never.expand(1, count))

    def target() -> None:
        with torch.no_grad():
            learner.acting(many, None, never.expand(1, task.minibatch))

    def train() -> None:
        output: Output = learner.network(many, None, never.expand(1, task.minibatch))[0]
        total = output.policy.float().square().mean() + output.value.float().square().mean()
        torch.autograd.grad(total, list(learner.network.parameters()), allow_unused=True)

    with one_thread_each():
        costs = {
            "act": core_seconds(act, seconds) / count,
            "train": core_seconds(train, seconds) / task.minibatch,
        }
        costs["target"] = core_seconds(target, seconds) / task.minibatch if task.target_passes else 0.0
    parts.close()
    return costs


def ceiling(task: Task, seconds: float) -> dict[str, Any]:
    """Agent steps/s that no arrangement of these parts on this machine exceeds."""
    step, cores = step_cost(task, seconds), usable_cores()
    result: dict[str, Any] = {"cores": cores, "step_us": step * 1e6}
    images = task.environment.startswith("ALE/")
    for precision in ("fp32", "bf16") if images and has_bf16("cpu") else ("fp32",):
        costs = network_costs(task, precision, seconds)
        total = (
            step + costs["act"] + task.train_passes * costs["train"] + task.target_passes * costs["target"]
        )
        result[precision] = {name: value * 1e6 for name, value in costs.items()} | {"ceiling": cores / total}
    result["ceiling"] = max(result[p]["ceiling"] for p in ("fp32", "bf16") if p in result)
    result["one_core"] = result["ceiling"] / cores
    return result


class Stopwatch(api.Quiet):
    """Notes agent steps against time, from the first update on, and ends the run after ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.first: tuple[float, int, float] | None = None  # wall clock, agent steps, processor seconds
        self.last = (0.0, 0, 0.0)

    def update(self, progress: Progress) -> None:
        """One point; past the time, ask the run to stop as Ctrl-C would."""
        now = time.perf_counter()
        self.last = (now, progress.steps, time.process_time())
        if self.first is None and progress.updates > 0:
            self.first = self.last
        if self.first is not None and now - self.first[0] > self.seconds:
            raise Enough

    @property
    def rate(self) -> float:
        """Agent steps per second."""
        assert self.first is not None
        return (self.last[1] - self.first[1]) / (self.last[0] - self.first[0])

    @property
    def core_us(self) -> float:
        """Core-microseconds of the whole process per agent step."""
        assert self.first is not None
        return (self.last[2] - self.first[2]) / (self.last[1] - self.first[1]) * 1e6


class Enough(Exception):
    """Measured long enough."""


@contextlib.contextmanager
def scratch() -> Iterator[str]:
    """A folder for runs that nobody keeps."""
    with tempfile.TemporaryDirectory() as folder:
        yield folder


def redline(task: Task, seconds: float) -> tuple[float, float]:
    """Agent steps/s and core-microseconds per agent step of a real run, learning on."""
    watch = Stopwatch(seconds)
    overrides = [*task.overrides, "run.steps=1000000000", "run.tensorboard=false", "learner.device=cpu"]
    with scratch() as folder, contextlib.suppress(Enough):
        api.train(task.environment, task.recipe, overrides=overrides, folder=folder, observer=watch)
    return watch.rate, watch.core_us


def measure(name: str, seconds: float, repeats: int, more: Sequence[str] = ()) -> dict[str, Any]:
    """Ceiling and Redline in turn; medians of both and of their ratio. ``more``: overrides beside the task's."""
    task = replace(TASKS[name], overrides=(*TASKS[name].overrides, *more))
    limits, rates, costs = [], [], []
    with contextlib.closing(assemble(experiment_of(task, "learner.device=cpu"))) as parts:
        apart = parts.experiment.parallel.runtime == "processes"
    for _ in range(repeats):
        limits.append(ceiling(task, seconds / 10))
        rate, cost = redline(task, seconds)
        rates.append(rate)
        costs.append(cost)
    spent = [
        limit["cores"] / limit["ceiling"] * 1e6 / cost for limit, cost in zip(limits, costs, strict=True)
    ]
    ratios = [rate / limit["ceiling"] for rate, limit in zip(rates, limits, strict=True)]
    middle = sorted(limits, key=lambda limit: limit["ceiling"])[repeats // 2]
    return {
        "task": name,
        "unit": "agent steps/s",
        "redline": statistics.median(rates),
        "ceiling": middle["ceiling"],
        "ratio": statistics.median(ratios),
        "overrides": list(task.overrides),
        "core_us": None if apart else statistics.median(costs),
        "core_ratio": None if apart else statistics.median(spent),
        "runs": rates,
        "ceilings": [limit["ceiling"] for limit in limits],
        "parts": middle,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the tasks named (those of one loop, by default) and print one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="*", help=f"of {', '.join(TASKS)}")
    parser.add_argument("--seconds", type=float, default=30.0, help="of training in each repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as redline train's")
    options = parser.parse_args(argv)
    for name in options.tasks:
        if name not in TASKS:
            parser.error(f"no task {name!r}: choose of {', '.join(TASKS)}")
    results = [
        measure(name, options.seconds, options.repeats, options.set) for name in options.tasks or TASKS
    ]
    print(json.dumps({"benchmark": "training", "results": results, "provenance": provenance()}))


if __name__ == "__main__":
    main()
