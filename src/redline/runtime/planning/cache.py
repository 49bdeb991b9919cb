"""What a probe found is kept, one file for each machine, environment, network and version: asked again, it is there."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from redline.planner.costs import Machine
from redline.planner.measured import Costs
from redline.runs.provenance import versions
from redline.runtime.experiment import Experiment, uses_replay

REVISION = 14  # of what a probe measures, and how: what an older one found is measured again
PLANNED = ("auto", "inline", "workers")  # backends that plans choose between
FRESH = 30 * 86_400  # seconds after which a measurement is made again


def folder() -> Path:
    """``$REDLINE_CACHE``, else ``redline`` in the user's folder for caches."""
    own = os.environ.get("REDLINE_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "redline"


def key_of(experiment: Experiment, machine: Machine) -> str:
    """Changes with whatever changes a cost: machine, environment, network, algorithm, batch, versions.

    Not with what plans differ in: they share what was measured.
    """
    algorithm: Any = experiment.algorithm
    replays, envs = uses_replay(experiment), experiment.sampler.num_envs
    batch = (algorithm.batch, envs) if replays else envs * algorithm.unroll
    algorithm = replace(algorithm, **({"learning_starts": 0} if replays else {"unroll": 1}))
    environment, learner, replay = experiment.environment, experiment.learner, experiment.replay
    backend = "auto" if environment.backend in PLANNED else environment.backend
    installed = versions()
    parts: list[Any] = [
        REVISION,
        machine,
        replace(environment, backend=backend, workers=0),
        experiment.network,
        algorithm,
        replace(learner, learning_rate=1.0, anneal=False, device="auto", threads=0),
        None if replay is None or not replays else replace(replay, capacity=1, beta=0.0, beta_final=0.0),
        batch,
        [installed[name] for name in ("redline", "torch", "numpy")],
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:20]


def known(experiment: Experiment, machine: Machine) -> Iterator[Costs]:
    """What was measured of an experiment whose automatic choices are made, under any key that it may have had before
    they were: its precision was open, and of a recipe that learns from replay a plan may have made 2, 4 or 8
    environments of one."""
    precisions = dict.fromkeys(("auto", experiment.learner.precision))
    envs = experiment.sampler.num_envs
    sizes = [n for n in (envs, envs // 2, envs // 4, envs // 8) if n] if uses_replay(experiment) else [envs]
    for precision in precisions:
        for size in dict.fromkeys(sizes):
            learner = replace(experiment.learner, precision=precision)
            sampler = replace(experiment.sampler, num_envs=size)
            costs = load(key_of(replace(experiment, learner=learner, sampler=sampler), machine))
            if costs is not None:
                yield costs


def load(key: str) -> Costs | None:
    """What is known, or None: nothing, too old, or not readable."""
    path = folder() / f"{key}.json"
    try:
        if time.time() - path.stat().st_mtime > FRESH:
            return None
        return Costs.of(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save(key: str, costs: Costs) -> str | None:
    """Keep it; None, or a sentence on why it could not be kept (the plan goes on without)."""
    path = folder() / f"{key}.json"
    scratch = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(json.dumps(costs.as_dict()), encoding="utf-8")
        scratch.replace(path)
    except OSError as error:
        return f"measurements are not kept: {path.parent}: {error.strerror}; set REDLINE_CACHE to a writable folder"
    return None
