"""Evaluation beside a run: training goes on meanwhile, and what comes back is said of the weights that were judged."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import gymnasium
import pytest

import redline
from redline import api
from redline.runs.checkpoint import load_newest
from tests.environments.samples import Counter

OVER = threading.Event()  # episodes last until it is set
JUDGING = "redline-evaluator"


class Endless(Counter):
    """An evaluator's episodes do not end; those of actors do."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        seen, reward, terminated, truncated, info = super().step(action)
        if threading.current_thread().name == JUDGING:
            OVER.wait(0.001)
            terminated = OVER.is_set()
        return seen, reward, terminated, truncated, info


def make_endless() -> gymnasium.Env[Any, Any]:
    """One copy."""
    return Endless()


def test_the_last_checkpoint_waits_for_no_evaluation_and_ctrl_c_ends_the_wait(tmp_path: Path) -> None:
    overrides = ["parallel.architecture=impala", "parallel.runtime=threads", "parallel.copies=1"]
    overrides += ["run.tensorboard=false", "run.evaluate_every=500", "run.evaluate_episodes=1"]
    overrides += ["environment.backend=inline", "sampler.num_envs=1", "learner.precision=fp32"]
    OVER.clear()
    saved: list[float] = []
    checkpoints = tmp_path / "run" / "checkpoints"

    def interrupt() -> None:
        while not saved and time.monotonic() < end:
            newest = load_newest(checkpoints) if checkpoints.exists() else None
            if newest is not None and newest.state["counters"]["steps"] >= 2000:
                saved.append(time.monotonic())
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)

    end = time.monotonic() + 25
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(api.Interrupted):
            redline.train(
                make_endless,
                "a2c",
                steps=2000,
                name="run",
                folder=str(tmp_path),
                overrides=overrides,
                observer=Releasing(),
            )
        assert saved
        assert time.monotonic() - saved[0] < 10
    finally:
        OVER.set()
        thread.join()


class Releasing(api.Quiet):
    """Lets the evaluator end its episode once the run has stopped."""

    def stop(self, reason: str) -> None:
        OVER.set()


@pytest.mark.parametrize("runtime", ["threads", "processes"])
def test_a_run_with_roles_evaluates_beside_itself(runtime: str, tmp_path: Path) -> None:
    overrides = ["parallel.architecture=impala", f"parallel.runtime={runtime}", "parallel.copies=1"]
    overrides += [
        "run.tensorboard=false",
        "run.evaluate_every=4000",
        "run.evaluate_episodes=4",
        "run.log_every=500",
    ]
    run = redline.train("CartPole-v1", "a2c", steps=12_000, folder=str(tmp_path), overrides=overrides)
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    evaluations = [line for line in lines if "evaluation/return" in line]
    assert evaluations
    for line in evaluations:
        assert line["evaluation/steps"] <= line["step"]
        assert line["evaluation/steps"] // 4000 >= 1
        assert line["evaluation/min"] <= line["evaluation/return"] <= line["evaluation/max"]
    steps = [line["step"] for line in lines]
    assert steps == sorted(steps)
