"""Evaluation beside a run: training goes on meanwhile, and what comes back is said of the weights that were judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import redline


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
