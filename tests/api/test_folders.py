"""What training and resuming do to the folder of a run, and what they say of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import redline
from redline import api
from redline.runs.folder import RunFolder
from redline.types import UserError

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
