"""In lock-step, actors beside a replay and a learner give the parameters of the in-process run, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import redline
from redline.runs.checkpoint import load_newest

COMMON = ("run.tensorboard=false", "learner.precision=fp32", "run.debug=true")
SMALL = ("algorithm.learning_starts=200", "network.hidden=[32,32]", "algorithm.batch=32")
PRIORITIZED = ("replay.prioritized=true", "replay.n_step=3", "replay.capacity=400")  # the ring comes round
# name -> environment, recipe, overrides
TASKS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "dqn": ("CartPole-v1", "dqn", ("algorithm.epsilon_steps=500", "algorithm.target_every=100")),
    "dqn-prioritised": (
        "CartPole-v1",
        "dqn",
        ("algorithm.epsilon_steps=500", "algorithm.target_every=100", *PRIORITIZED),
    ),
    "dqn-truncated": ("MountainCar-v0", "dqn", ("algorithm.epsilon_steps=500", *PRIORITIZED)),
    "dqn-clipped": ("CartPole-v1", "dqn", ("learner.reward=clip", *PRIORITIZED)),
    "apex": ("CartPole-v1", "apex", ("algorithm.target_every_updates=20",)),
}
IN_PROCESSES = ("dqn", "dqn-prioritised", "apex")  # one of each sampler and algorithm shows it
QUICK = (("dqn-prioritised", "threads"), ("apex", "threads"))  # of make check
CELLS = [(task, "threads") for task in TASKS] + [(task, "processes") for task in IN_PROCESSES]


def train(folder: Path, task: str, *overrides: str) -> tuple[torch.Tensor, dict[str, Any]]:
    """The final weights f32[P] and the whole checkpoint."""
    environment, recipe, own = TASKS[task]
    run = redline.train(
        environment, recipe, steps=768, seed=3, folder=folder, overrides=[*COMMON, *SMALL, *own, *overrides]
    )
    loaded = load_newest(run.path / "checkpoints")
    assert loaded is not None
    return loaded.state["learner"]["weights"], loaded.state


def beside(runtime: str, queue: int = 0, copies: int = 1) -> list[str]:
    numbers = {"architecture": "apex", "runtime": runtime, "copies": copies, "queue": queue}
    return [f"parallel.{name}={value}" for name, value in numbers.items()]


@pytest.mark.parametrize(
    ("task", "runtime"),
    [pytest.param(*cell, marks=() if cell in QUICK else pytest.mark.slow) for cell in CELLS],
)
def test_one_actor_in_lock_step_equals_one_loop(tmp_path: Path, task: str, runtime: str) -> None:
    alone, one = train(tmp_path / "alone", task, "parallel.architecture=synchronous")
    parted, other = train(tmp_path / "parted", task, *beside(runtime))
    assert one["learner"]["version"] > 100
    if task == "dqn":  # one loop values the batches of all updates due in one pass, which rounds otherwise
        torch.testing.assert_close(alone, parted, atol=1e-6, rtol=1e-5)
        return
    assert torch.equal(alone, parted)
    for name in ("steps", "episodes", "returns", "lengths"):
        np.testing.assert_array_equal(one["counters"][name], other["counters"][name])
    (shard,) = other["loop"]["replay"]["shards"]
    right = one["loop"]["replay"]["sampler"]
    assert shard["sampler"].keys() == right.keys()
    for name, values in right.items():
        np.testing.assert_array_equal(shard["sampler"][name], values)


def test_with_a_queue_the_parameters_differ(tmp_path: Path) -> None:
    """The twin of the test above: were nobody ever late, the comparison would prove nothing."""
    alone, _ = train(tmp_path / "alone", "dqn", "parallel.architecture=synchronous")
    late, _ = train(tmp_path / "late", "dqn", *beside("threads", queue=1), "parallel.slot=8")
    assert not torch.equal(alone, late)
