"""A run's conduct: interrupts, exact replays, precision, shards, and what it writes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import Space, spaces

import redline
from redline import api
from redline.runs.checkpoint import best_checkpoint, load_checkpoint, load_newest
from redline.runtime import training
from redline.runtime.evaluate import Policy
from redline.runtime.parts import assemble
from redline.types import Progress, RunError, UserError
from tests.environments.samples import OwnSpaces, Sampled
from tests.runs.test_metrics import scalars

FAST = ["run.tensorboard=false", "algorithm.epochs=2"]


def weights(run: redline.Run) -> torch.Tensor:
    loaded = load_newest(run.path / "checkpoints")
    assert loaded is not None
    return loaded.state["learner"]["weights"]


def train(
    folder: Path, *overrides: str, environment: str = "CartPole-v1", recipe: str = "ppo", **options: Any
) -> Any:
    settings = {"steps": 2048, "folder": str(folder), "overrides": [*FAST, *overrides]} | options
    return redline.train(environment, recipe, **settings)


def test_one_seed_gives_one_result_and_another_gives_another(tmp_path: Path) -> None:
    first, again, other = (train(tmp_path, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))


def test_threads_change_nothing_but_speed(tmp_path: Path) -> None:
    runs = [train(tmp_path, "learner.threads=2", "sampler.shards=2", seed=5) for _ in range(2)]
    assert torch.equal(weights(runs[0]), weights(runs[1]))


def test_a_run_can_be_repeated_from_its_config(tmp_path: Path) -> None:
    first = train(tmp_path, seed=3)
    again = redline.train(config=first.path / "config.yaml", folder=str(tmp_path))
    assert torch.equal(weights(first), weights(again))


def test_bf16_trains_on_images(tmp_path: Path) -> None:
    run = train(
        tmp_path,
        "learner.precision=bf16",
        "algorithm.unroll=16",
        "sampler.num_envs=2",
        "replay=null",
        environment="ALE/Pong-v5",
        steps=64,
    )
    assert torch.isfinite(weights(run)).all()
    action = run.load().act(np.zeros((4, 84, 84), np.uint8))
    assert 0 <= int(action) < 6


def test_the_run_folder_holds_everything(tmp_path: Path) -> None:
    run = train(tmp_path, "run.log_every=512", "run.evaluate_every=1024", "run.evaluate_episodes=2")
    names = {path.name for path in run.path.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "plan.json", "checkpoints", "report.html"} <= names
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "frames" in line] == [512, 1024, 1536, 2048]
    assert sum("evaluation/return" in line for line in lines) == 2
    assert [line["updates"] for line in lines if "updates" in line] == [
        4,
        8,
        12,
        16,
    ]  # two epochs of 256 samples
    plan = json.loads((run.path / "plan.json").read_text())
    assert plan["plan"]["precision"] == "fp32"
    assert any("truncated episodes bootstrap" in rule for rule in plan["rules"])


def test_resume_goes_on_to_more_steps(tmp_path: Path) -> None:
    run = train(tmp_path)
    longer = redline.resume(run.name, steps=4096, folder=str(tmp_path))
    assert longer.steps == 4096
    assert longer.path == run.path


def test_a_run_killed_before_its_first_checkpoint_tells_its_history_once(tmp_path: Path) -> None:
    run = train(tmp_path, "run.log_every=512", "run.tensorboard=true")
    shutil.rmtree(run.path / "checkpoints")
    redline.resume(run.name, folder=str(tmp_path))
    lines = [json.loads(line)["step"] for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [512, 1024, 1536, 2048]
    assert [step for step, _ in scalars(run.path)["updates"]] == lines


@pytest.mark.parametrize("affordable", [True, False])
def test_the_best_checkpoint_is_the_best_there_was(
    affordable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new best is written at once, where that is cheap; else it is the best of those written anyway."""
    monkeypatch.setattr(training, "BEST_COST", 1e9 if affordable else 0.0)
    few = ["algorithm.unroll=8", "algorithm.minibatches=1", "sampler.num_envs=2", "run.log_every=32"]
    run = train(tmp_path, *few, environment="tests.environments.samples:Peak", steps=1600)
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    highest = max(line["return/mean"] for line in lines if "return/mean" in line)
    path = best_checkpoint(run.path / "checkpoints")
    assert path is not None
    counters = load_checkpoint(path)["counters"]
    assert counters["best"] == np.mean(counters["returns"]) == (highest if affordable else run.mean_return)
    assert run.mean_return < highest - 30


@pytest.mark.slow
def test_dqn_resumes_to_more_steps_with_its_replay(tmp_path: Path) -> None:
    run = redline.train(
        "CartPole-v1", "dqn", steps=1500, folder=str(tmp_path), overrides=["run.tensorboard=false"]
    )
    assert redline.resume(run.name, steps=2000, folder=str(tmp_path)).steps >= 2000


def test_a_run_with_replay_resumes_for_fewer_steps_than_its_replay_holds(tmp_path: Path) -> None:
    overrides = ["run.tensorboard=false", "run.stop_at_return=1", "replay.capacity=50000"]
    run = redline.train("CartPole-v1", "dqn", steps=60_000, folder=str(tmp_path), overrides=overrides)
    assert 1000 < run.steps < 20_000
    assert redline.resume(run.name, steps=30_000, folder=str(tmp_path)).steps > run.steps
    assert redline.resume(run.name, folder=str(tmp_path)).steps > run.steps, "its config is as it was"


def test_environments_that_cannot_be_saved_start_new_episodes_and_the_run_says_so(tmp_path: Path) -> None:
    said: list[str] = []

    class Listener(api.Quiet):
        def message(self, text: str) -> None:
            said.append(text)

    few = ["learner.precision=fp32", "algorithm.unroll=16", "sampler.num_envs=1"]
    run = train(tmp_path, *few, environment="ALE/Pong-v5", steps=32)
    resumed = redline.resume(run.name, steps=64, folder=str(tmp_path), observer=Listener())
    assert resumed.steps == 64
    assert any("everything but the episodes in progress" in text for text in said)


def test_stop_at_return_ends_the_run_early(tmp_path: Path) -> None:
    run = train(tmp_path, "run.stop_at_return=5", steps=1_000_000)
    assert run.episodes >= 100
    assert run.steps < 20_000


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_checkpoints_and_exits_130_in_seconds(number: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "redline", "train", "ALE/Pong-v5", "--plain", "--folder", str(tmp_path)]
    process = subprocess.Popen(
        [*command, "--name", "stopped", "--num-envs", "32"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    metrics = tmp_path / "stopped" / "metrics.jsonl"
    deadline = time.time() + 120
    while not metrics.exists() and time.time() < deadline:
        time.sleep(0.1)
    time.sleep(1.0)
    begin = time.time()
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert time.time() - begin < 10.0  # under 5 s on a machine that does nothing else
    assert load_newest(tmp_path / "stopped" / "checkpoints") is not None
    assert f"redline resume {tmp_path / 'stopped'}" in output


def test_an_interrupt_is_heard_during_an_evaluation(tmp_path: Path) -> None:
    options = ["environment.backend=inline", "run.evaluate_every=256", "run.evaluate_episodes=1"]
    begin = time.monotonic()
    with pytest.raises(api.Interrupted):
        train(tmp_path, *options, environment="tests.runtime.samples:make_interrupted")
    assert time.monotonic() - begin < 30, "the episode goes on for longer than that"


def test_training_works_off_the_main_thread(tmp_path: Path) -> None:
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(train(tmp_path)))
    thread.start()
    thread.join(120)
    assert done
    assert done[0].steps == 2048


def test_a_diverging_loss_ends_the_run_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not finite after"):
        train(tmp_path, "learner.learning_rate=1e30", "learner.max_grad_norm=null", "run.log_every=256")


@pytest.mark.parametrize(
    "settings", [("algorithm.batch=8",), ("sampler.num_envs=32", "algorithm.update_every=32")]
)
def test_dqn_learns_from_batches_smaller_than_what_acting_costs(
    settings: tuple[str, ...], tmp_path: Path
) -> None:
    """The thread that acts then values none of the batch."""
    few = ["run.tensorboard=false", "algorithm.learning_starts=256", *settings]
    run = redline.train("CartPole-v1", "dqn", steps=512, folder=str(tmp_path), overrides=few)
    loaded = load_newest(run.path / "checkpoints")
    assert loaded is not None
    assert loaded.state["learner"]["version"] > 0


def test_diverged_weights_drive_no_good_checkpoint_out(tmp_path: Path) -> None:
    """Metrics are looked at seldom; checkpoints between two looks were written all the same."""
    settings = ["learner.learning_rate=1e30", "learner.max_grad_norm=null", "run.log_every=2048"]
    with pytest.raises(RunError, match="not finite after"):
        train(tmp_path, *settings, "run.checkpoint_every=256", name="diverged")
    for path in (tmp_path / "diverged" / "checkpoints").glob("[0-9]*"):
        assert torch.isfinite(load_checkpoint(path)["learner"]["weights"]).all(), path.name


def test_an_observer_that_fails_leaves_no_lock_and_no_thread(tmp_path: Path) -> None:
    class Failing(api.Quiet):
        def update(self, progress: Progress) -> None:
            raise RuntimeError("observer failed")

    with pytest.raises(RuntimeError, match="observer failed"):
        train(tmp_path, observer=Failing(), name="failed")
    assert redline.resume("failed", folder=str(tmp_path)).steps == 2048


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["algorithm.minibatches=999"], "algorithm.minibatches=999 is more than the 256 samples"),
        (["learner.device=tpu"], "learner.device=tpu: unknown"),
        (["learner.device=cuda:7"], "this machine has"),
        (["sampler.shards=9"], "9 shards"),
    ],
)
def test_refusals_leave_no_folder(overrides: list[str], line: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=line):
        train(tmp_path / "runs", *overrides)
    assert not (tmp_path / "runs").exists()


def test_a_plan_is_made_of_explicit_numbers() -> None:
    parts = assemble(api.make_experiment("CartPole-v1", "ppo"))
    learner, sampler = parts.experiment.learner, parts.experiment.sampler
    assert learner.device in ("cpu", "cuda")
    assert learner.precision == "fp32"
    assert learner.threads >= 1
    assert sampler.shards >= 1
    assert sampler.groups >= 1
    assert os.cpu_count() is None or learner.threads <= (os.cpu_count() or 1)
    parts.close()


def test_policy_acts_on_single_and_batched_observations_and_refuses_other_shapes(tmp_path: Path) -> None:
    policy = train(tmp_path).load()
    assert policy.act(np.zeros(4, np.float32)).shape == ()
    assert policy.act(np.zeros((3, 4), np.float32)).shape == (3,)
    with pytest.raises(UserError, match=r"observation has shape \[5\]"):
        policy.act(np.zeros(5, np.float32))


def test_a_policy_speaks_its_environments_own_spaces(tmp_path: Path) -> None:
    few = ["algorithm.unroll=16", "sampler.num_envs=2"]
    run = redline.train(OwnSpaces, "ppo", steps=64, folder=str(tmp_path), overrides=few)
    policy, environment = run.load(), OwnSpaces()
    observation, _ = environment.reset(seed=0)
    for _ in range(40):
        action = policy.act(observation, explore=True)
        assert environment.action_space.contains(action), action
        observation, *_ = environment.step(action)
    batch = tuple(np.stack([part, part, part]) for part in observation)
    assert policy.act(batch).shape == (3, 2, 2)
    with pytest.raises(UserError, match=r"observation is ndarray, .* gives Tuple"):
        policy.act(np.zeros(3))


BOX, TWO = spaces.Box(-1.0, 1.0, (3,), np.float32), spaces.Discrete(2)
MASKED = spaces.Dict({"b": spaces.Discrete(3), "action_mask": spaces.MultiBinary(3)})
SPACES = {
    "a Discrete action from 5 on": (BOX, spaces.Discrete(3, start=5)),
    "a MultiDiscrete action from elsewhere": (BOX, spaces.MultiDiscrete([2, 3], start=[1, 4])),
    "bits": (BOX, spaces.MultiBinary(4)),
    "a Box action of doubles": (BOX, spaces.Box(-0.1, 0.1, (2,), np.float64)),
    "a Box action of halves": (BOX, spaces.Box(-0.1, 0.1, (2,), np.float16)),
    "a Box action of two axes": (BOX, spaces.Box(-0.1, 0.1, (2, 2), np.float32)),
    "a Box action bounded below": (BOX, spaces.Box(0.0, np.inf, (2,), np.float32)),
    "a Discrete observation from 3 on": (spaces.Discrete(4, start=3), TWO),
    "a MultiDiscrete observation": (spaces.MultiDiscrete([2, 3]), TWO),
    "a Tuple": (spaces.Tuple([BOX, spaces.Discrete(3)]), TWO),
    "doubles": (spaces.Box(-1.0, 1.0, (3,), np.float64), TWO),
    "a mask in the observation": (MASKED, spaces.Discrete(3)),
}


def untrained(observation: Space, action: Space) -> Policy:
    few = ["algorithm.unroll=8", "algorithm.minibatches=1", "sampler.num_envs=2", "learner.device=cpu"]
    parts = assemble(api.make_experiment(lambda: Sampled(observation, action), "ppo", overrides=few))
    parts.close()
    return Policy(parts.experiment, {"learner": parts.learner.state(), "counters": {"steps": 0}})


@pytest.mark.parametrize("case", SPACES)
def test_a_policy_plays_where_spaces_are(case: str) -> None:
    policy, environment = untrained(*SPACES[case]), Sampled(*SPACES[case])
    for explore in (False, True):
        policy.reset()
        seen, _ = environment.reset(seed=0)
        for _ in range(20):
            seen, *_ = environment.step(policy.act(seen, explore=explore))


def test_a_policy_explores_otherwise_in_each_episode() -> None:
    policy, seen = untrained(BOX, TWO), np.zeros(3, np.float32)
    episodes = []
    for _ in range(3):
        policy.reset()
        episodes.append([int(policy.act(seen, explore=True)) for _ in range(40)])
    assert episodes[0] != episodes[1] != episodes[2]


def test_a_mask_may_be_of_integers_and_batched_but_not_of_another_size() -> None:
    policy = untrained(MASKED, spaces.Discrete(3))
    masks = np.eye(3, dtype=np.int8)
    seen = {"b": np.zeros(3, np.int64), "action_mask": masks}
    assert policy.act(seen, explore=True).tolist() == [0, 1, 2]
    assert policy.act(seen, action_mask=masks[::-1]).tolist() == [2, 1, 0]
    with pytest.raises(UserError, match=r"action_mask has shape \[2\], .* has 3 actions"):
        policy.act({"b": np.int64(0)}, action_mask=np.ones(2))
