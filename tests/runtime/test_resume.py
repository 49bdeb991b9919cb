"""kill -9 at any moment, then resume: metrics and weights equal those of a run that nobody disturbed, bit for bit."""

from __future__ import annotations

import copy
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
from redline.runtime.launch import make_loop
from redline.runtime.parts import Parts, assemble
from redline.types import Interruption

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


def begun(recipe: str, *overrides: str) -> tuple[Parts, Any]:
    """A loop in this process, and its parts."""
    alone = ["parallel.architecture=synchronous", "learner.device=cpu", "learner.threads=1", *overrides]
    parts = assemble(api.make_experiment("CartPole-v1", recipe, overrides=alone))
    return parts, make_loop(parts)


def go_on(loop: Any, steps: int, until: int) -> int:
    while steps < until:
        steps += loop.iterate(steps, 0.0, bool)[0]
    return steps


def saved(parts: Parts, loop: Any) -> tuple[Any, Any]:
    return copy.deepcopy(parts.learner.state()), copy.deepcopy(loop.state())


@pytest.mark.parametrize("normalised", ["true", "false"])
def test_a_target_network_comes_back_with_its_own_statistics(normalised: str) -> None:
    more = (f"network.normalize_observation={normalised}", "algorithm.target_every=700")
    parts, loop = begun("n_step_q", *more)
    steps = go_on(loop, 0, 1000)
    learner, state = saved(parts, loop)
    end = go_on(loop, steps, steps + 500)
    again, other = begun("n_step_q", *more)
    again.learner.load_state(learner)
    assert other.load_state(state)
    assert go_on(other, steps, steps + 500) == end
    assert torch.equal(parts.learner.flat, again.learner.flat)


@pytest.mark.parametrize("recipe", ["impala", "appo"])
def test_unrolls_kept_to_be_learned_from_again_come_back(recipe: str) -> None:
    more = ("algorithm.replay_share=0.5", "algorithm.replay_unrolls=24")
    parts, loop = begun(recipe, *more)
    steps = go_on(loop, 0, 2000)
    learner, state = saved(parts, loop)
    end = go_on(loop, steps, steps + 1000)
    again, other = begun(recipe, *more)
    again.learner.load_state(learner)
    assert other.load_state(state)
    assert go_on(other, steps, steps + 1000) == end
    assert torch.equal(parts.learner.flat, again.learner.flat)
    without, empty = begun(recipe, *more, "run.save_replay=false")
    assert empty.state()["unrolls"] is None
    assert not empty.load_state(state | {"unrolls": None})
    del without


@pytest.mark.parametrize("recipe", ["dqn", "apex"])
def test_a_replay_that_was_not_saved_fills_again_before_it_is_learned_from(recipe: str) -> None:
    more = ("algorithm.learning_starts=600", "run.save_replay=false", "replay.capacity=2000")
    parts, loop = begun(recipe, *more)
    steps = go_on(loop, 0, 1200)
    assert parts.learner.version > 0
    learner, state = saved(parts, loop)
    again, other = begun(recipe, *more)
    again.learner.load_state(learner)
    assert not other.load_state(state)
    begin = steps
    while again.learner.version == learner["version"]:
        before, steps = steps, go_on(other, steps, steps + 1)
    assert before - begin >= 600 - 256  # an iteration takes some steps before it looks
    assert steps - begin >= 600


@pytest.mark.parametrize(
    "more",
    [
        pytest.param((), id="alone"),
        pytest.param((*ENGINE[:-1], "parallel.runtime=threads"), id="engine", marks=pytest.mark.slow),
    ],
)
def test_episodes_begin_anew_where_actions_were_drawn_on_another_kind_of_device(
    more: tuple[str, ...],
) -> None:
    """A run begun on a GPU goes on here: what is drawn from has another state there, of 16 bytes."""
    parts, loop = begun("ppo", *more)
    steps = go_on(loop, 0, 2048)
    learner, state = saved(parts, loop)
    for actor in state["actors"]:
        actor["generator"] = torch.zeros(16, dtype=torch.uint8)
    again, other = begun("ppo", *more)
    again.learner.load_state(learner)
    assert not other.load_state(state)
    assert go_on(other, steps, steps + 2048) > steps
    for each in (loop, other, parts, again):
        each.close()


def test_an_update_that_is_broken_off_leaves_environments_that_can_be_saved_and_stepped() -> None:
    """Copies in lock-step give an update up when one of them dies, and on Ctrl-C: workers were then left in a step."""
    parts, loop = begun(
        "dqn", "environment.backend=workers", "sampler.num_envs=2", "algorithm.learning_starts=256"
    )
    try:
        steps = go_on(loop, 0, 256)
        parts.learner.stop = lambda: True
        with pytest.raises(Interruption):
            go_on(loop, steps, 512)
        parts.learner.stop = bool
        assert loop.state()["actor"]["environment"] is not None
        assert loop.replay.storage.head * 2 > steps, "the step under way is not lost"
        go_on(loop, steps, 512)
        assert parts.learner.version > 0
    finally:
        loop.close()
        parts.close()
