"""What training and resuming do to the folder of a run, and what they say of it."""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import redline
from redline import api
from redline.learners.learner import Learner
from redline.reports.load import newest_video
from redline.runs.checkpoint import load_newest
from redline.runs.folder import RunFolder
from redline.runtime.in_process import UnrollLoop
from redline.runtime.launch import with_saved_replay
from redline.types import Progress, RunError, UserError
from tests.environments.samples import Counter

TINY = ["algorithm.unroll=16", "algorithm.minibatches=1", "sampler.num_envs=2", "run.tensorboard=false"]


def train(folder: Path, *overrides: str, environment: Any = "CartPole-v1", **options: Any) -> redline.Run:
    return redline.train(
        environment, "ppo", steps=64, folder=str(folder), overrides=[*TINY, *overrides], **options
    )


def test_a_run_is_locked_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else another process could write a checkpoint after this one looked, and its work would be lost."""
    run = train(tmp_path)
    read = []

    def locked_first(function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            with pytest.raises(UserError, match="another process"):
                RunFolder(run.path).lock()
            read.append(function.__name__)
            return function(*arguments)

        return call

    for function in (api.load_yaml, api.load_newest):
        monkeypatch.setattr(api, function.__name__, locked_first(function))
    assert redline.resume(run, steps=96).steps == 96
    assert read == ["load_yaml", "load_newest"]
    RunFolder(run.path).lock().unlock()


class Told(api.Quiet):
    """What a run said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


FEW = ["run.tensorboard=false", "run.save_replay=false", "sampler.num_envs=4"]
LEARNS_SOON = ["algorithm.learning_starts=64", "replay.capacity=2000"]


@pytest.mark.parametrize(
    ("recipe", "settings", "said"),
    [
        ("dqn", LEARNS_SOON, True),
        ("dqn", [*LEARNS_SOON, "run.save_replay=true"], False),
        ("dqn", [*LEARNS_SOON, "parallel.architecture=gorila", "parallel.copies=2"], True),
        (
            "dqn",
            [*LEARNS_SOON, "parallel.architecture=gorila", "parallel.copies=2", "run.save_replay=true"],
            False,
        ),
        ("impala", ["parallel.architecture=synchronous", "algorithm.replay_share=0.5"], True),
        ("ppo", ["algorithm.minibatches=1"], False),
    ],
)
def test_a_resumed_run_says_that_its_replay_was_not_saved(
    recipe: str, settings: list[str], said: bool, tmp_path: Path
) -> None:
    """It used to say that everything but the episodes in progress was restored."""
    threads = ["parallel.runtime=threads"] if "parallel.copies=2" in settings else []
    run = redline.train(
        "CartPole-v1", recipe, steps=600, folder=str(tmp_path), overrides=[*FEW, *settings, *threads]
    )
    told = Told()
    redline.resume(run, steps=1200, observer=told)
    assert any("was not saved (run.save_replay): it fills again" in line for line in told.lines) == said
    if said:
        assert not any("everything but the episodes" in line for line in told.lines)


def test_what_a_short_run_makes_small_stays_as_asked_in_its_configuration(tmp_path: Path) -> None:
    """`--config X --steps 10M` learned from a replay of the few steps that X had."""
    few = ["run.tensorboard=false", "algorithm.learning_starts=64"]
    run = redline.train("CartPole-v1", "dqn", steps=512, folder=str(tmp_path), overrides=few)
    loaded = load_newest(run.path / "checkpoints")
    assert loaded is not None
    assert loaded.state["loop"]["replay"]["storage"]["layout"][:2] == [128, 4]
    experiment = api.make_experiment(None, None, config=run.path / "config.yaml")
    assert experiment.replay is not None
    assert experiment.replay.capacity == 100_000
    assert experiment.run.log_every == 0
    longer = redline.train(config=run.path / "config.yaml", steps=1024, folder=str(tmp_path))
    loaded = load_newest(longer.path / "checkpoints")
    assert loaded is not None
    assert loaded.state["loop"]["replay"]["storage"]["layout"][:2] == [256, 4]


@pytest.mark.parametrize("saved", [True, False])
def test_a_resumed_run_has_the_replay_that_was_saved_and_says_so_where_it_is_small(
    saved: bool, tmp_path: Path
) -> None:
    few = ["run.tensorboard=false", "algorithm.learning_starts=64", f"run.save_replay={str(saved).lower()}"]
    run = redline.train("CartPole-v1", "dqn", steps=512, folder=str(tmp_path), overrides=few)
    for steps, capacity in ((1024, 512 if saved else 1024), (2048, 512 if saved else 2048)):
        told = Told()
        redline.resume(run, steps=steps, observer=told)
        loaded = load_newest(run.path / "checkpoints")
        assert loaded is not None
        assert loaded.state["capacity"] == capacity
        assert any("the replay keeps room for the 512" in line for line in told.lines) == saved


def test_a_checkpoint_that_does_not_tell_its_replays_size_has_that_of_its_configuration() -> None:
    asked = api.make_experiment("CartPole-v1", "dqn", overrides=["replay.capacity=600"])
    assert asked.replay is not None
    planned = replace(asked, replay=replace(asked.replay, capacity=300))
    for told, capacity in (({}, 600), ({"capacity": 450}, 450)):
        found = with_saved_replay(planned, asked, {"loop": {"replay": {"storage": {}}}} | told)
        assert found.replay is not None
        assert found.replay.capacity == capacity
    assert with_saved_replay(planned, asked, {"loop": {"replay": None}}) == planned


def test_fewer_steps_than_are_done_are_refused(tmp_path: Path) -> None:
    """The run was done at once, with exit code 0, and its configuration had those steps from then on."""
    run = train(tmp_path)
    before = (run.path / "config.yaml").read_text()
    with pytest.raises(UserError, match="the run has 64 steps already; --steps is the total"):
        redline.resume(run, steps=32)
    assert (run.path / "config.yaml").read_text() == before
    assert redline.resume(run, steps=64).steps == 64
    assert redline.resume(run, steps=96).steps == 96
    assert redline.resume(run, steps=96).steps == 96


def test_where_a_run_came_from_stays_when_it_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report showed the command that resumed it, with neither recipe nor settings."""
    said = iter(("redline train", "redline resume", "redline resume again"))
    monkeypatch.setattr(api, "provenance", lambda device: {"command": next(said)})
    run = train(tmp_path)
    for steps in (96, 128):
        redline.resume(run, steps=steps)
    about = json.loads((run.path / "plan.json").read_text())
    assert about["provenance"] == {"command": "redline train"}
    assert [each["command"] for each in about["resumed"]] == ["redline resume", "redline resume again"]
    assert "<td>redline train</td>" in (run.path / "report.html").read_text()


def test_a_plan_cut_short_by_a_kill_is_written_anew(tmp_path: Path) -> None:
    run = train(tmp_path)
    (run.path / "plan.json").write_text('{"plan": {')
    assert redline.resume(run, steps=96).steps == 96
    assert "command" in json.loads((run.path / "plan.json").read_text())["provenance"]


def files(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def without_wandb(patch: pytest.MonkeyPatch) -> dict[str, Any]:
    patch.setitem(sys.modules, "wandb", None)
    return {"overrides": [*TINY, "run.wandb=true"]}


def without_a_name(patch: pytest.MonkeyPatch) -> dict[str, Any]:
    return {"environment": functools.partial(Counter, 5)}


def without_room(patch: pytest.MonkeyPatch) -> dict[str, Any]:
    def full(*_: Any) -> None:
        raise RunError("cannot write config.yaml: the disk is full")

    patch.setattr(api, "save_yaml", full)
    return {}


@pytest.mark.parametrize(
    ("arrange", "line"),
    [
        (without_wandb, "Weights & Biases is not installed"),
        (without_a_name, "environment.id: a partial cannot be written to config.yaml"),
        (without_room, "the disk is full"),
    ],
)
def test_a_run_that_cannot_begin_leaves_no_folder(
    arrange: Any, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"environment": "CartPole-v1", "overrides": TINY} | arrange(monkeypatch)
    with pytest.raises(UserError, match=line):
        redline.train(recipe="ppo", steps=64, folder=str(tmp_path), name="mine", **settings)
    assert files(tmp_path) == []


def test_a_run_keeps_an_environment_that_has_no_name_to_find_it_by(tmp_path: Path) -> None:
    run = train(tmp_path, environment=lambda: Counter(5))
    assert run.evaluate(2).lengths == [5, 5]
    assert redline.evaluate(redline.load(run), 1).lengths == [5]
    assert redline.resume(run, steps=96).steps == 96
    with pytest.raises(UserError, match=r"lambda.* cannot be found again: put it into a module"):
        redline.load(run.path)


class Interrupting(api.Quiet):
    """Presses Ctrl-C once, at the first figures."""

    pressed = False

    def update(self, progress: Progress) -> None:
        if not self.pressed:
            self.pressed = True
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
def test_an_interrupted_run_says_by_what_it_is_resumed(tmp_path: Path) -> None:
    with pytest.raises(redline.Interrupted) as caught:
        train(tmp_path / "my runs", name="mine", observer=Interrupting())
    assert str(caught.value).endswith(f"go on by `redline resume '{tmp_path}/my runs/mine'`")
    assert redline.resume(caught.value.run).steps == 64


def test_a_film_that_is_broken_off_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, broken_off = train(tmp_path), []

    def encode(path: Path, *_: Any, **__: Any) -> None:
        Path(path).write_bytes(b"half")
        broken_off.append(newest_video(run.path))
        raise KeyboardInterrupt

    monkeypatch.setattr("imageio.v2.mimwrite", encode)
    with pytest.raises(KeyboardInterrupt):
        redline.record(run, most=3)
    assert broken_off == [None]
    assert files(run.path / "videos") == []


def change(run: redline.Run, old: str, new: str) -> None:
    """Change a run's config.yaml by hand."""
    path = run.path / "config.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def written(run: redline.Run) -> dict[str, str]:
    """What a resume writes before its first checkpoint."""
    return {name: (run.path / name).read_text() for name in ("config.yaml", "plan.json", "metrics.jsonl")}


@pytest.mark.parametrize("changed", [True, False])
def test_a_resume_that_fails_leaves_the_run_as_it_was(
    changed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(tmp_path)
    if changed:  # a network that does not fit is found before anything is loaded
        change(run, "hidden: [64, 64]", "hidden: [32]")
    else:
        monkeypatch.setattr(UnrollLoop, "load_state", lambda *_: 1 / 0)
    (run.path / "plan.json").write_text("the plan of before")
    before = written(run)
    with pytest.raises(RunError):
        redline.resume(run, steps=96)
    assert written(run) == before
    RunFolder(run.path).lock().unlock()


def test_a_config_is_written_once_the_run_has_been_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, load = train(tmp_path), UnrollLoop.load_state
    seen = []

    def look(loop: Any, state: Any) -> bool:
        seen.append("steps: 64" in (run.path / "config.yaml").read_text())
        return load(loop, state)

    monkeypatch.setattr(UnrollLoop, "load_state", look)
    redline.resume(run, steps=96)
    assert seen == [True]
    assert "steps: 96" in (run.path / "config.yaml").read_text()


@pytest.mark.parametrize("error", [RuntimeError("out of\nmemory"), KeyError("cue"), ValueError()])
def test_what_goes_wrong_while_a_checkpoint_is_loaded_is_called_by_its_name(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(tmp_path)

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Learner, "load_state", fail)
    with pytest.raises(RunError) as caught:
        redline.resume(run, steps=96)
    what = {
        RuntimeError: "RuntimeError: out of memory",
        KeyError: "KeyError: 'cue'",
        ValueError: "ValueError",
    }
    path = run.path / "checkpoints" / "00001-step-64"
    assert str(caught.value) == f"cannot go on from the checkpoint {path}: {what[type(error)]}"


TOGETHER = "architecture: synchronous\n  runtime: in_process"


@pytest.mark.parametrize(
    ("recipe", "overrides", "old", "new", "line"),
    [
        ("ppo", TINY, "groups: 1", "groups: 2", r"actors with 1 groups .* for 2: set sampler\.groups=1"),
        ("ppo", TINY, "shards: 1", "shards: 2", r"of 1 actors, .* for 2: set sampler\.shards=1"),
        (
            "dqn",
            [],
            TOGETHER,
            "architecture: apex\n  runtime: threads",
            r"no actors, pace, .* architecture apex",
        ),
        ("apex", [], "copies: 2", "copies: 1", r"of 2 actors, .* for 1: set parallel\.copies=2"),
        (
            "ppo",
            TINY,
            "normalize_observation: false",
            "normalize_observation: true",
            r"no observer\.norm.*mean",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_told_by_what(
    recipe: str, overrides: list[str], old: str, new: str, line: str, tmp_path: Path
) -> None:
    more = {
        "dqn": ["algorithm.learning_starts=32"],
        "apex": ["parallel.copies=2", "parallel.runtime=threads"],
    }
    settings = ["run.tensorboard=false", "sampler.num_envs=2", "sampler.shards=1", *overrides]
    settings += more.get(recipe, [])
    run = redline.train("CartPole-v1", recipe, steps=64, folder=str(tmp_path), overrides=settings)
    change(run, old, new)
    with pytest.raises(RunError, match=line):
        redline.resume(run, steps=1024)
