"""What a probe found is kept, one file for each machine, environment, network and version: asked again, it is there."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import itertools
import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from redline.actors.config import SamplerConfig
from redline.planner.costs import Machine
from redline.planner.measured import Costs
from redline.runs.provenance import versions
from redline.runtime.experiment import Experiment, uses_replay

REVISION = 15  # of what a probe measures, and how: what an older one found is measured again
PLANNED = ("auto", "inline", "workers")  # backends that plans choose between
STARTED = time.time()  # of this process, about
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
    batch = algorithm.batch if replays else envs * algorithm.unroll
    algorithm = replace(algorithm, **({"learning_starts": 0} if replays else {"unroll": 1}))
    environment, learner, replay = experiment.environment, experiment.learner, experiment.replay
    backend = "auto" if environment.backend in PLANNED else environment.backend
    parts: list[Any] = [
        REVISION,
        machine,
        identity_of(environment.id),
        replace(environment, id="", backend=backend, workers=0),
        experiment.network,
        algorithm,
        replace(learner, learning_rate=1.0, anneal=False, device="auto", threads=0),
        None if replay is None or not replays else replace(replay, capacity=1, beta=0.0, beta_final=0.0),
        (batch, envs),
        versions(),
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:20]


def identity_of(made: Any) -> tuple[Any, ...]:
    """What an environment is: its id, or of one's own the text of what makes it, so that edited ones are new.

    What has no text of its own, or captured values that decide what it makes, is known in this process alone.
    """
    if isinstance(made, str):
        module, colon, _ = made.partition(":")
        return (made, _text_of(module)) if colon else (made,)
    names = getattr(made, "__module__", None), getattr(made, "__qualname__", None)
    if getattr(made, "__closure__", None) is None and all(names):
        try:
            defaults = getattr(made, "__defaults__", None), getattr(made, "__kwdefaults__", None)
            return (*names, inspect.getsource(made), *defaults)
        except (OSError, TypeError):
            pass
    return (repr(made), os.getpid(), STARTED)


def _text_of(module: str) -> str:
    try:
        found = importlib.util.find_spec(module)
        return Path(str(found and found.origin)).read_text(encoding="utf-8")
    except (ImportError, ValueError, OSError):
        return ""


def known(experiment: Experiment, machine: Machine) -> Iterator[Costs]:
    """What was measured of an experiment whose automatic choices are made, under any key that it may have had before
    they were: its precision was open, and a plan may have made 2, 4, ... environments of one, with shorter unrolls."""
    precisions = dict.fromkeys(("auto", experiment.learner.precision))
    envs, algorithm = experiment.sampler.num_envs, experiment.algorithm
    for precision, factor in itertools.product(precisions, (2**power for power in range(12))):
        if envs % factor:
            continue
        longer = {} if uses_replay(experiment) else {"unroll": algorithm.unroll * factor}  # type: ignore[union-attr]
        before = replace(
            experiment,
            algorithm=replace(algorithm, **longer),
            learner=replace(experiment.learner, precision=precision),
            sampler=SamplerConfig(num_envs=envs // factor),
        )
        costs = load(key_of(before, machine))
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
