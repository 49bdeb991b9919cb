"""kill -9 at any moment, then resume: metrics and weights equal those of a run that nobody disturbed, bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from redline import api
from redline.runs.checkpoint import load_newest

PPO = ["run.checkpoint_every=1024", "run.log_every=512", "run.tensorboard=false", "algorithm.epochs=4"]
DQN = [
    "run.checkpoint_every=512",
    "run.log_every=256",
    "run.tensorboard=false",
    "algorithm.learning_starts=256",
    "replay.capacity=2000",
    "replay.prioritized=true",
    "replay.n_step=3",
]
REPLAY = ["parallel.architecture=apex", "parallel.copies=2", "parallel.queue=0", "replay.prioritized=true"]
LOCKSTEP = [
    "parallel.architecture=impala",
    "parallel.copies=2",
    "parallel.queue=0",
    "algorithm.minibatches=1",
]
ENGINE = [
    "parallel.architecture=seed",
    "parallel.copies=3",
    "parallel.queue=0",
    "parallel.runtime=processes",
]
CASES = {
    "ppo": ("CartPole-v1", "ppo", 8192, PPO),
    "ppo_lstm": ("CartPole-v1", "ppo_lstm", 8192, PPO),
    "ppo_engine": ("Pendulum-v1", "ppo", 8192, [*PPO, *ENGINE]),
    "ppo_mujoco": ("Hopper-v5", "ppo", 8192, [*PPO, "algorithm.unroll=128", "algorithm.minibatches=4"]),
    "dqn": ("CartPole-v1", "dqn", 4096, DQN),
    "apex_threads": ("CartPole-v1", "dqn", 4096, [*DQN, *REPLAY, "parallel.runtime=threads"]),
    "impala_threads": ("CartPole-v1", "ppo", 8192, [*PPO, *LOCKSTEP, "parallel.runtime=threads"]),
    "impala_processes": ("Hopper-v5", "ppo", 8192, [*PPO, *LOCKSTEP, "parallel.runtime=processes"]),
}
SCRIPT = """
import sys
from redline import api
folder, environment, recipe, steps, *overrides = sys.argv[1:]
if environment == "resume":
    api.resume("killed", folder=folder)
else:
    api.train(environment, recipe, steps=int(steps), name="killed", folder=folder, overrides=overrides)
"""


def metrics(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    timed = ("time/", "roles/", "queue/unrolls")
    return [{name: value for name, value in line.items() if not name.startswith(timed)} for line in lines]


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), *arguments], start_new_session=True)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_killed_and_resumed_equals_undisturbed(case: str, tmp_path: Path) -> None:
    environment, recipe, steps, overrides = CASES[case]
    whole = api.train(
        environment, recipe, steps=steps, name="whole", folder=str(tmp_path), overrides=overrides
    )
    kills = 0
    process = start(tmp_path, environment, recipe, str(steps), *overrides)
    chance = random.Random(case)
    checkpoints = tmp_path / "killed" / "checkpoints"
    for _ in range(2):
        before = set(checkpoints.glob("*")) if checkpoints.exists() else set()
        deadline = time.time() + 60
        while process.poll() is None and time.time() < deadline:
            if checkpoints.exists() and set(checkpoints.glob("[0-9]*")) - before:
                break
            time.sleep(0.005)
        time.sleep(chance.uniform(0.0, 0.05))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
        process = start(tmp_path, "resume", "", "0")
    assert process.wait(timeout=120) == 0
    assert kills >= 1
    left, right = load_newest(whole.path / "checkpoints"), load_newest(checkpoints)
    assert left is not None
    assert right is not None
    assert left.step == right.step >= steps
    assert torch.equal(left.state["learner"]["weights"], right.state["learner"]["weights"])
    assert metrics(whole.path) == metrics(tmp_path / "killed")
