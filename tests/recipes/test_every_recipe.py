"""Every recipe trains on its kind of environment, is saved, goes on, and can be judged; on a GPU, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import redline
from redline import recipes
from redline.recipes.config import load_yaml
from redline.runs.checkpoint import load_newest
from redline.runtime.experiment import Experiment
from tests.recipes.brief import train


def learner_of(run: redline.Run) -> dict[str, Any]:
    """The learner's state in the newest checkpoint."""
    loaded = load_newest(run.path / "checkpoints")
    assert loaded is not None
    state: dict[str, Any] = loaded.state["learner"]
    return state


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_it_trains_and_goes_on_and_is_judged(tmp_path: Path, recipe: str, device: str) -> None:
    run = train(tmp_path, recipe, device=device)
    first = learner_of(run)
    assert first["version"] > 0
    assert load_yaml(Experiment, run.path / "config.yaml").learner.device == device
    again = redline.resume(run, steps=run.steps + 1280)
    assert again.steps >= run.steps + 1280
    second = learner_of(again)
    assert second["version"] > first["version"]
    assert torch.isfinite(second["weights"]).all()
    assert not torch.equal(first["weights"], second["weights"])
    if not recipe.endswith("atari"):
        assert np.isfinite(again.evaluate(2).mean_return)
