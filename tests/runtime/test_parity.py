"""At zero lag every runtime gives the parameters of the in-process run: one table of algorithms and architectures.

Actors beside a replay are compared in ``test_replay_parity``, copies that share gradients in ``replicas.test_parity``;
here a test sees to it that nothing that runs is in none of the three.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch

import redline
from redline.architectures.catalogue import ARCHITECTURES
from redline.architectures.compatible import refusal
from redline.architectures.config import ParallelConfig
from redline.recipes import RECIPES
from redline.runs.checkpoint import load_newest
from redline.runtime.experiment import ALGORITHMS
from tests.runtime import test_replay_parity as of_replay
from tests.runtime.replicas import test_parity as of_copies

COMMON = ("run.tensorboard=false", "learner.precision=fp32", "run.debug=true")
# name -> environment, recipe, agent steps, overrides
TASKS: dict[str, tuple[str, str, int, tuple[str, ...]]] = {
    "a2c": ("CartPole-v1", "a2c", 1280, ()),
    "ppo": ("CartPole-v1", "ppo", 1024, ("algorithm.epochs=2",)),
    "impala": ("CartPole-v1", "impala", 1280, ()),
    "appo": ("CartPole-v1", "appo", 1280, ()),
    "impala-replayed": (
        "CartPole-v1",
        "impala",
        1280,
        ("algorithm.replay_share=0.5", "algorithm.replay_unrolls=40"),
    ),
    "n_step_q": ("CartPole-v1", "n_step_q", 1280, ()),
    "ppo-lstm": ("redline/Recall-v0", "ppo_lstm", 2048, ("algorithm.unroll=32",)),
    "ppo-normalised": (
        "Pendulum-v1",
        "ppo",
        1024,
        ("network.normalize_observation=true", "learner.reward=normalize"),
    ),
    "ppo-cut": ("Pendulum-v1", "ppo", 1024, ("environment.time_limit=13", "learner.reward=normalize")),
}
RUNTIMES = ("threads", "processes")
QUICK = (
    "impala-replayed",
    "ppo-lstm",
    "ppo-normalised",
)  # of make check: recurrent, continuous, learned from again
ROWS = [pytest.param(task, marks=() if task in QUICK else pytest.mark.slow) for task in TASKS]


def weights(tmp_path: Path, task: str, *overrides: str) -> tuple[torch.Tensor, dict[str, Any]]:
    """Train, and return the final weights f32[P] and the counters."""
    environment, recipe, steps, own = TASKS[task]
    run = redline.train(
        environment, recipe, steps=steps, seed=3, folder=tmp_path, overrides=[*COMMON, *own, *overrides]
    )
    loaded = load_newest(run.path / "checkpoints")
    assert loaded is not None
    return loaded.state["learner"]["weights"], loaded.state["counters"]


def impala(runtime: str, copies: int) -> list[str]:
    """Overrides for actors beside a learner, at zero lag."""
    numbers = {"architecture": "impala", "runtime": runtime, "copies": copies, "queue": 0}
    return [f"parallel.{name}={value}" for name, value in numbers.items()]


@pytest.mark.parametrize("copies", [pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("task", ROWS)
def test_actors_beside_a_learner_equal_one_loop(tmp_path: Path, task: str, runtime: str, copies: int) -> None:
    if runtime == "processes" and copies == 1:
        pytest.skip("two processes show it; one shows nothing more")
    alone, counted = weights(
        tmp_path / "alone", task, "parallel.architecture=synchronous", f"sampler.shards={copies}"
    )
    beside, counted_beside = weights(tmp_path / "beside", task, *impala(runtime, copies))
    assert torch.equal(alone, beside)
    assert counted["steps"] == counted_beside["steps"]
    np.testing.assert_array_equal(counted["returns"], counted_beside["returns"])


def seed(runtime: str, workers: int, groups: int) -> list[str]:
    """Overrides for workers around one inference server, in lock-step."""
    numbers = {"architecture": "seed", "runtime": runtime, "copies": workers, "queue": 0}
    return [f"parallel.{name}={value}" for name, value in numbers.items()] + [f"sampler.groups={groups}"]


@pytest.mark.parametrize(("workers", "groups"), [pytest.param(3, 1, marks=pytest.mark.slow), (4, 2)])
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("task", ROWS)
def test_workers_around_an_inference_server_equal_one_loop(
    tmp_path: Path, task: str, runtime: str, workers: int, groups: int
) -> None:
    if runtime == "processes" and groups == 1:
        pytest.skip("two groups show it; one shows nothing more")
    here = ["parallel.architecture=synchronous", "sampler.shards=1", f"sampler.groups={groups}"]
    alone, counted = weights(tmp_path / "alone", task, *here)
    served, counted_served = weights(tmp_path / "served", task, *seed(runtime, workers, groups))
    assert torch.equal(alone, served)
    assert counted["steps"] == counted_served["steps"]
    np.testing.assert_array_equal(counted["returns"], counted_served["returns"])


def test_with_a_queue_the_parameters_differ(tmp_path: Path) -> None:
    """The twin of the test above: were acting weights never late, the comparison would prove nothing."""
    alone, _ = weights(tmp_path / "alone", "a2c")
    late, _ = weights(tmp_path / "late", "a2c", *impala("threads", 1)[:-1], "parallel.queue=1")
    assert not torch.equal(alone, late)


def algorithm_of(recipe: str) -> str:
    return ALGORITHMS[type(RECIPES[recipe]().algorithm)].name


def compared() -> Iterator[tuple[str, str, str]]:
    """Algorithm, architecture and runtime of every parity test, by the tables that these are made from."""
    for _, recipe, *_ in TASKS.values():
        for architecture in ("impala", "seed"):
            yield from ((algorithm_of(recipe), architecture, runtime) for runtime in RUNTIMES)
    for task, runtime in of_replay.CELLS:
        yield algorithm_of(of_replay.TASKS[task][1]), "apex", runtime
    for task, architecture, runtime, _ in of_copies.CELLS:
        yield algorithm_of(of_copies.TASKS[task][1]), architecture, runtime


def test_every_algorithm_is_compared_with_one_loop_wherever_it_runs() -> None:
    runtimes = {*get_args(get_type_hints(ParallelConfig)["runtime"])} - {"auto", "in_process"}
    algorithms = [each for each in ALGORITHMS.values() if each.__module__.startswith("redline.")]
    runs = {
        (algorithm.name, name, runtime)
        for algorithm in algorithms
        for name, architecture in ARCHITECTURES.items()
        for runtime in runtimes
        if name != "synchronous" and refusal(architecture.sized(2, 0), algorithm) is None
    }
    assert len(runs) > 60
    missing = sorted(runs - set(compared()))
    assert missing == [], "these run, and no parity test has them"
