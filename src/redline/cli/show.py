"""``redline show``: an architecture as text or as a picture, with the numbers it would have."""

from __future__ import annotations

import difflib
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium

from redline.architectures import catalogue, draw
from redline.architectures.compatible import refusal
from redline.architectures.model import Architecture
from redline.architectures.svg import svg
from redline.cli.commands import Show, WrongUsage
from redline.recipes import RECIPES
from redline.recipes.config import override
from redline.runs.provenance import usable_cores
from redline.runtime.experiment import ALGORITHMS, Experiment
from redline.runtime.plan import architecture_of, parallelism
from redline.types import Spec


def show(command: Show) -> int:
    """Draw an architecture, or that of a recipe; without a name, list the architectures."""
    if command.name is None:
        rows = [
            ("architecture", "whose"),
            *((each.name, each.system) for each in catalogue.ARCHITECTURES.values()),
        ]
        _print(draw.table(rows) + "\n")
        return 0
    architecture, head = _find(command, command.name)
    if command.svg is not None:
        Path(command.svg).write_text(svg(architecture), encoding="utf-8")
        print(command.svg)
        return 0
    _print("\n".join([*head, draw.text(architecture), *_algorithms(architecture)]) + "\n")
    return 0


def _find(command: Show, name: str) -> tuple[Architecture, list[str]]:
    """The architecture with its numbers, and lines to stand above it."""
    if name in catalogue.ARCHITECTURES:
        found = catalogue.ARCHITECTURES[name]
        _check(command, found)
        cores = usable_cores()
        copies = command.copies or max(cores if found.shares_gradients else cores - 1, 1)
        return found.sized(copies, command.queue), []
    if name in RECIPES:
        return _of_recipe(command, name)
    names = [*catalogue.ARCHITECTURES, *RECIPES]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
    raise WrongUsage(
        f"there is no architecture or recipe '{name}': did you mean '{near}'? "
        "`redline show` and `redline recipes` list them"
    )


def _of_recipe(command: Show, name: str) -> tuple[Architecture, list[str]]:
    recipe = RECIPES[name]
    asked = {"copies": command.copies, "queue": command.queue}
    settings = [f"parallel.{key}={value}" for key, value in asked.items() if value is not None]
    experiment: Experiment = override(recipe(), settings)
    _check(command, catalogue.find(experiment.parallel.architecture))
    parallel = parallelism(experiment, _stand_in(experiment), usable_cores())
    architecture = architecture_of(replace(experiment, parallel=parallel))
    algorithm = ALGORITHMS[type(experiment.algorithm)].name
    what = (recipe.__doc__ or "").strip().partition("\n")[0]
    numbers = f"algorithm {algorithm}, {experiment.sampler.num_envs} environments, runtime {parallel.runtime}"
    return architecture, [f"recipe {name}: {what}", numbers, ""]


def _check(command: Show, architecture: Architecture) -> None:
    """Numbers that an architecture has no place for are refused, not ignored."""
    if command.copies is not None and architecture.name == "synchronous":
        raise WrongUsage("--copies: architecture synchronous has one loop")
    if command.queue is not None and architecture.edge("unroll") is None:
        raise WrongUsage(f"--queue: in architecture {architecture.name} no unrolls wait")


def _stand_in(experiment: Experiment) -> Spec:
    """An environment of the recipe's family; the numbers of an architecture ask for no more than that."""
    atari = experiment.network.torso == "nature"
    space = gymnasium.spaces.Box(0, 255, (4, 84, 84) if atari else (4,))
    return Spec("", space, gymnasium.spaces.Discrete(2), frame_stack=4 if atari else 1, threaded=atari)


def _algorithms(architecture: Architecture) -> list[str]:
    """Which algorithms run on it with these numbers, and why not the others."""
    reasons = {algorithm.name: refusal(architecture, algorithm) for algorithm in ALGORITHMS.values()}
    runs = [name for name, reason in reasons.items() if reason is None]
    return [
        f"runs: {', '.join(runs) or 'none'}",
        *(f"refused: {reason}" for reason in reasons.values() if reason),
    ]


def _print(text: str) -> None:
    """Print; an output that knows no box-drawing characters gets plain ones."""
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    print(text if encoding.startswith("utf") else text.translate(draw.ASCII), end="")
