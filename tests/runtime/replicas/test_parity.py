"""Copies that share gradients equal one loop where theory says so: together on the union, alone bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import redline
from redline.runs.checkpoint import load_newest

COMMON = ("run.tensorboard=false", "learner.precision=fp32", "run.debug=true")
PPO = (
    "algorithm.epochs=2",
    "algorithm.normalize_advantage=false",
)  # moments of minibatches are each copy's own
DQN = ("algorithm.learning_starts=512", "algorithm.target_every=512", "algorithm.epsilon_steps=1000")
SUMMED = (
    "parallel.architecture=synchronous",
    "algorithm.reduction=sum",
    "learner.optimizer=sgd",  # others, and clipping, hide by how much a gradient is too small
    "learner.learning_rate=1e-4",
    "learner.max_grad_norm=null",
)
# name -> environment, recipe, agent steps, overrides
TASKS: dict[str, tuple[str, str, int, tuple[str, ...]]] = {
    "a2c": ("CartPole-v1", "a2c", 1280, ()),
    "a2c-lstm": ("redline/Recall-v0", "a2c", 1280, ("network.core=lstm", "network.core_size=16")),
    "a2c-one-environment": ("CartPole-v1", "a2c", 400, ("sampler.num_envs=1", "algorithm.unroll=5")),
    "ppo": ("CartPole-v1", "ppo", 1024, PPO),
    "ppo-normalised": (
        "Pendulum-v1",
        "ppo",
        1024,
        (*PPO, "network.normalize_observation=true", "learner.reward=normalize"),
    ),
    "impala-summed": ("CartPole-v1", "impala", 1280, SUMMED),
    "n-step-q-summed": ("CartPole-v1", "n_step_q", 1280, SUMMED),
    "dqn": ("CartPole-v1", "dqn", 2304, (*DQN, "learner.optimizer=adagrad", "learner.learning_rate=0.01")),
}


def train(folder: Path, task: str, *overrides: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train; return the final state of the learner and the counters."""
    environment, recipe, steps, own = TASKS[task]
    run = redline.train(
        environment, recipe, steps=steps, seed=3, folder=str(folder), overrides=[*COMMON, *own, *overrides]
    )
    loaded = load_newest(run.path / "checkpoints")
    assert loaded is not None
    return loaded.state["learner"], loaded.state["counters"]


def on(architecture: str, runtime: str, copies: int, **numbers: Any) -> list[str]:
    values = {"architecture": architecture, "runtime": runtime, "copies": copies} | numbers
    return [f"parallel.{name}={value}" for name, value in values.items()]


def assert_close(one: dict[str, Any], other: dict[str, Any]) -> None:
    torch.testing.assert_close(one["weights"], other["weights"], atol=2e-6, rtol=1e-5)
    for name, buffer in one["buffers"].items():
        torch.testing.assert_close(buffer, other["buffers"][name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("copies", [2, 3])
@pytest.mark.parametrize(
    "task", ["a2c", "a2c-lstm", "ppo", "ppo-normalised", "impala-summed", "n-step-q-summed"]
)
def test_copies_in_lockstep_equal_one_loop(tmp_path: Path, task: str, copies: int) -> None:
    alone, counted = train(tmp_path / "alone", task, f"sampler.shards={copies}")
    together, counted_together = train(tmp_path / "together", task, *on("accel_sync", "threads", copies))
    assert counted["steps"] == counted_together["steps"]
    np.testing.assert_allclose(sorted(counted["returns"]), sorted(counted_together["returns"]), rtol=1e-3)
    assert_close(alone, together)
    assert not torch.equal(alone["weights"], train(tmp_path / "other", task, "run.seed=4")[0]["weights"])


@pytest.mark.parametrize("collective", ["shared", "torch"])
def test_processes_in_lockstep_equal_one_loop(tmp_path: Path, collective: str) -> None:
    alone, counted = train(tmp_path / "alone", "a2c", "sampler.shards=2")
    together, counted_together = train(
        tmp_path / "together", "a2c", *on("accel_sync", "processes", 2, collective=collective)
    )
    assert counted["returns"] == counted_together["returns"]
    assert_close(alone, together)


def test_torchs_sum_equals_that_in_shared_memory(tmp_path: Path) -> None:
    results = [
        train(tmp_path / way, "ppo", *on("accel_sync", "threads", 2, collective=way))[0]["weights"]
        for way in ("shared", "torch")
    ]
    torch.testing.assert_close(*results, atol=1e-6, rtol=0)


ALONE: dict[str, dict[str, Any]] = {
    "a3c": {},
    "accel_async": {},
    "gorila": {"queue": 0, "servers": 1},
}


# A3C, check 5: with one environment too, step for step.
@pytest.mark.parametrize("architecture", ALONE)
@pytest.mark.parametrize("task", ["a2c", "a2c-one-environment", "ppo", "dqn"])
def test_one_copy_apart_equals_one_loop_bit_for_bit(tmp_path: Path, architecture: str, task: str) -> None:
    alone, counted = train(tmp_path / "alone", task)
    numbers = ALONE[architecture]
    copy, counted_copy = train(tmp_path / "copy", task, *on(architecture, "threads", 1, **numbers))
    assert counted["steps"] == counted_copy["steps"]
    assert counted["returns"] == counted_copy["returns"]
    assert alone["version"] == copy["version"] > 0
    assert torch.equal(alone["weights"], copy["weights"])
    if task == "dqn":
        assert torch.equal(alone["target"], copy["target"])
        assert not torch.equal(copy["target"], copy["weights"])


@pytest.mark.parametrize("architecture", ALONE)
def test_one_process_apart_equals_one_loop_bit_for_bit(tmp_path: Path, architecture: str) -> None:
    alone, _ = train(tmp_path / "alone", "a2c")
    copy, _ = train(tmp_path / "copy", "a2c", *on(architecture, "processes", 1, **ALONE[architecture]))
    assert torch.equal(alone["weights"], copy["weights"])


def test_a_gradient_that_may_wait_makes_a_difference(tmp_path: Path) -> None:
    """The twin of the tests above: with room for a gradient at the server the bundle runs ahead."""
    alone, _ = train(tmp_path / "alone", "a2c")
    late, _ = train(tmp_path / "late", "a2c", *on("gorila", "threads", 1, queue=1, fetch_every=4))
    assert not torch.equal(alone["weights"], late["weights"])
