"""Whoever acts says when its weights change: runs that act by packed weights are those that act by the layers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import redline
from redline.networks import packed
from redline.runs.checkpoint import load_newest

SMALL = ["run.tensorboard=false", "learner.precision=bf16", "sampler.num_envs=4", "algorithm.unroll=10"]
RUNS = {
    "one loop": ("ppo", ["algorithm.minibatches=2"]),
    "actors": ("impala", ["parallel.runtime=threads", "parallel.copies=2", "parallel.queue=0"]),
    "server": ("impala", ["parallel.architecture=seed", "parallel.runtime=threads", "parallel.queue=0"]),
    "replicas": (
        "a2c",
        ["parallel.architecture=accel_sync", "parallel.runtime=threads", "parallel.copies=2"],
    ),
    "shared": ("a2c", ["parallel.architecture=a3c", "parallel.runtime=threads", "parallel.copies=1"]),
}


def weights(folder: Path, name: str) -> torch.Tensor:
    recipe, overrides = RUNS[name]
    run = redline.train(
        "ALE/Pong-v5", recipe, steps=200, seed=1, folder=str(folder), overrides=[*SMALL, *overrides]
    )
    loaded = load_newest(run.path / "checkpoints")
    assert loaded is not None
    return loaded.state["learner"]["weights"]


@pytest.mark.slow
@pytest.mark.skipif(not packed._has_kernels(), reason="a torch without oneDNN")
@pytest.mark.parametrize("name", RUNS)
def test_runs_are_those_of_the_layers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packs: list[int] = []
    true = packed._pack

    def counted(layers: object, x: torch.Tensor) -> list[torch.Tensor]:
        packs.append(len(x))
        return true(layers, x)  # type: ignore[arg-type]

    monkeypatch.setattr(packed, "_pack", counted)
    found = weights(tmp_path / "packed", name)
    assert len(packs) >= 2, "weights changed, and were packed again"
    monkeypatch.setattr(packed, "_possible", lambda first, x: False)
    assert torch.equal(found, weights(tmp_path / "layers", name))
