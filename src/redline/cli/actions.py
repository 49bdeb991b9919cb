"""What each command does: calls ``redline.api`` and says what came of it."""

from __future__ import annotations

import contextlib
import math
import runpy
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from redline import api, recipes
from redline.cli import watch
from redline.cli.commands import (
    Bench,
    Command,
    Eval,
    Plan,
    Play,
    Recipes,
    Record,
    Report,
    Resume,
    Show,
    Study,
    Train,
    WrongUsage,
)
from redline.cli.figures import count, duration, number
from redline.cli.live import LiveScreen
from redline.cli.parse import nearest
from redline.cli.plain import PlainLines
from redline.cli.planning import plan, planned
from redline.cli.show import show
from redline.reports.compare import compare_report
from redline.reports.html import write_report
from redline.runs.folder import RunFolder
from redline.runtime.experiment import ALGORITHMS
from redline.types import Observer, UserError

FILM = 900  # pictures of the film at a run's end: a minute of Atari, half of one elsewhere


def run(command: Command) -> int:
    """Do what the command asks; returns the exit code."""
    actions: dict[type, Callable[[Any], int]] = {
        Train: train,
        Resume: resume,
        Eval: evaluate,
        Play: play,
        Record: record,
        Report: report,
        Recipes: list_recipes,
        Show: show,
        Plan: plan,
        Bench: bench,
        Study: study,
    }
    return actions[type(command)](command)


def train(command: Train) -> int:
    """Train one run, or one for each seed."""
    if command.environment is None and command.config is None:
        raise WrongUsage("train needs an environment: redline train CartPole-v1 (or --config FILE)")
    if command.config is not None and command.recipe is not None:
        raise WrongUsage("--recipe and --config both say what to train: give one of them")
    overrides = [*planned(command), *command.settings, *(["run.wandb=true"] if command.wandb else [])]
    first = command.seed
    if command.seeds > 1 and first is None:
        experiment = api.make_experiment(
            command.environment, command.recipe, config=command.config, overrides=overrides
        )
        first = experiment.run.seed
    for index in range(command.seeds):
        seed = None if first is None else first + index
        name = f"{command.name}_{seed}" if command.name and command.seeds > 1 else command.name
        done = api.train(
            command.environment,
            command.recipe,
            steps=command.steps,
            seed=seed,
            num_envs=command.num_envs,
            device=command.device,
            architecture=command.architecture,
            runtime=command.runtime,
            overrides=overrides,
            name=name,
            folder=command.folder,
            config=command.config,
            observer=observer(command.plain),
        )
        if not command.no_film:
            _film(done)
        _tell(done)
    return 0


def resume(command: Resume) -> int:
    """Go on with a run."""
    done = api.resume(
        command.run, steps=command.steps, observer=observer(command.plain), folder=command.folder
    )
    _tell(done)
    return 0


def evaluate(command: Eval) -> int:
    """Play whole episodes and print their returns."""
    policy = api.load(command.run, "best" if command.best else "latest", folder=command.folder)
    found = api.evaluate(policy, command.episodes)
    low, high = min(found.returns), max(found.returns)
    deviation = math.sqrt(
        sum((value - found.mean_return) ** 2 for value in found.returns) / len(found.returns)
    )
    length = sum(found.lengths) / len(found.lengths)
    print(
        f"return {number(found.mean_return)} +- {number(deviation)} over {len(found.returns)} episodes"
        f" (from {number(low)} to {number(high)}, median {number(found.median_return)});"
        f" {number(length)} agent steps an episode; trained for {count(policy.steps)}"
    )
    return 0


def play(command: Play) -> int:
    """Show the agent playing."""
    policy = api.load(command.run, "best" if command.best else "latest", folder=command.folder)
    watch.play(policy, command.episodes)
    return 0


def record(command: Record) -> int:
    """Film the agent."""
    which = "best" if command.best else "latest"
    print(api.record(command.run, command.episodes, which=which, folder=command.folder))
    return 0


def report(command: Report) -> int:
    """Write the page of one run, or one page that sets several beside each other."""
    if not command.runs:
        raise WrongUsage("report needs RUN: redline report pong-v5_ppo_001")
    folders = [RunFolder.open(name, base=command.folder) for name in command.runs]
    paths = [folder.path for folder in folders]
    print(write_report(paths[0]) if len(paths) == 1 else compare_report(paths))
    return 0


def list_recipes(_command: Recipes) -> int:
    """Print the recipes and what each is."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("recipe", "algorithm", "architecture", "agent steps", "environments", "what it is"):
        table.add_column(heading, no_wrap=heading != "what it is")
    for name, recipe in recipes.RECIPES.items():
        experiment = recipe()
        algorithm = ALGORITHMS[type(experiment.algorithm)].name
        line = (recipe.__doc__ or "").strip().partition("\n")[0]
        environments = str(experiment.sampler.num_envs)
        steps, place = count(experiment.run.steps), experiment.parallel.architecture
        table.add_row(Text(name, style="bold"), algorithm, place, steps, environments, line)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    console.print(
        "\nredline train ENV --recipe NAME; without one, ppo in the variant that fits ENV. "
        "redline show NAME draws an architecture.",
        style="dim",
    )
    return 0


def bench(command: Bench) -> int:
    """Run a script of ``benchmarks/``, which lies beside the package in the repository."""
    name, *arguments = command.words or ("training",)
    places = (Path.cwd() / "benchmarks", Path(__file__).parents[3] / "benchmarks")
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        raise UserError("there are no benchmarks here: they come with the repository, not with the package")
    names = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
    if name not in names:
        raise UserError(f"unknown benchmark '{name}': {nearest(name, names)}")
    script = str(folder / f"{name}.py")
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
    return 0


def study(command: Study) -> int:
    """Run a study and print its answer and table; without a name, list them."""
    from redline import studies  # late: it takes no part in anything else

    if command.name is None:
        for name, function in studies.STUDIES.items():
            print(f"{name}: {(function.__doc__ or '').strip().partition(chr(10))[0]}")
        return 0
    options = studies.Options(seeds=command.seeds, steps=command.steps, folder=command.folder)
    result = studies.find(command.name)(options)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in result.rows[0]:
        table.add_column(heading)
    for row in result.rows:
        table.add_row(*(str(value) for value in row.values()))
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(result.answer)
    console.print(table)
    for note in result.notes:
        console.print(note, style="dim")
    print(result.save(Path(command.out)))
    return 0


def observer(plain: bool) -> Observer:
    """The live screen where the output is a terminal that can draw it, else plain lines."""
    console = Console()
    utf8 = console.encoding.lower().replace("-", "").startswith("utf")
    if plain or not utf8 or not console.is_terminal or console.is_dumb_terminal:
        return PlainLines()
    return LiveScreen(console)


def _film(done: api.Run) -> None:
    """Film the start of an episode for the report, where the environment can draw itself."""
    with contextlib.suppress(
        UserError, ImportError, OSError
    ):  # no pictures, no encoder: the report does without
        api.record(done.path, most=FILM)
        write_report(done.path)


def _tell(done: api.Run) -> None:
    episodes = min(done.episodes, 100)
    mean = (
        f"mean return {number(done.mean_return)} over the last {episodes}" if episodes else "no episode ended"
    )
    run, page = (shlex.quote(text) for text in (RunFolder(done.path).reference, f"{done.path}/report.html"))
    print(
        f"{done.name}: {count(done.steps)} agent steps, {done.episodes:,} episodes,"
        f" {duration(done.seconds)}; {mean}\n"
        f"next: redline eval {run} | redline play {run} | open {page}"
    )
