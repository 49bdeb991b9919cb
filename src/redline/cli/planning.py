"""``redline plan``: how to train here, how fast, and why; or there, by what-if."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from redline import api
from redline.cli.commands import Plan, Train
from redline.planner.explaining.telling import (
    HEAD,
    answer,
    as_data,
    describe,
    footnotes,
    setting,
    table,
)
from redline.planner.machines import load_machine, parse_what_if, save_machine
from redline.planner.profiles import rated
from redline.reports.plan import PLAN, write_plan
from redline.types import RunError

ASCII = str.maketrans({"±": "+-", "µ": "u", "\u2013": "-", "→": ">"})  # for outputs that know no more


def plan(command: Plan) -> int:
    """Plan, print the answer, and write its page."""
    # All that can be wrong is looked at before anything is measured, which takes a minute.
    machine = None if command.machine is None else load_machine(command.machine)
    what_if = "" if command.what_if is None else parse_what_if(command.what_if).text
    overrides = list(command.settings)
    if command.architecture is not None:
        overrides.append(f"parallel.architecture={command.architecture}")
    if command.steps is not None:
        overrides.append(f"run.steps={command.steps}")
    experiment = api.make_experiment(command.environment, command.recipe, overrides=overrides)
    steps = experiment.run.steps
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    found = api.plan(
        command.environment,
        command.recipe,
        what_if=what_if,
        machine=machine,
        verify=not (command.no_verify or what_if or machine),  # another machine's plans cannot be run here
        fresh=command.fresh,
        overrides=overrides,
        report=lambda text: console.print(_shown(text), style="dim"),
    )
    explanation = api.explain(found)
    console.print()
    for sentence in answer(found, explanation, steps):
        console.print(_shown(sentence), soft_wrap=not console.is_terminal)
    console.print()
    console.print(_table(table(found)))
    for note in footnotes(found):
        console.print(_shown(note), style="dim", soft_wrap=not console.is_terminal)
    data = as_data(found, explanation, steps)
    if command.json is not None:
        _write(Path(command.json), json.dumps(data, indent=1, default=str) + "\n")
    if command.save_machine is not None:
        print(f"machine: {save_machine(rated(found.machine, found.costs), command.save_machine)}")
    print(f"page: {write_plan(data, command.html or Path(command.folder) / PLAN)}")
    if not what_if and machine is None:
        recipe = f" --recipe {command.recipe}" if command.recipe else ""
        own = [f"--set {shlex.quote(each)}" for each in command.settings]
        own += [] if command.steps is None else [f"--steps {command.steps}"]
        words = [f"redline train {command.environment}{recipe}", *own, describe(found.best.option)]
        print(f"next: {' '.join(words)}")
    return 0


SHORT = 600.0  # seconds of training below which a plan takes longer than it saves
FEW = 200_000  # agent steps below which that is not even looked at
LOOK = 1.0  # seconds of the look


def planned(command: Train) -> list[str]:
    """``--set`` values of the plan for a run whose numbers were all left open; none where planning does not pay.

    A run that takes minutes as it is gets no plan: finding one takes longer than it saves.
    """
    said = (command.recipe, command.num_envs, command.device, command.architecture, command.runtime)
    if command.no_plan or command.config is not None or command.settings or any(said):
        return []
    experiment = api.make_experiment(command.environment, None)
    steps = command.steps or experiment.run.steps
    if steps <= FEW:
        return []
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    rate = api.rate(experiment, LOOK)
    if steps / rate < SHORT:
        return []
    console.print(_shown("planning first (a minute or two; --no-plan starts at once)"), style="dim")
    found = api.plan(
        command.environment,
        overrides=[f"run.steps={steps}"],
        report=lambda text: console.print(_shown(text), style="dim"),
    )
    console.print(_shown(answer(found, api.explain(found), steps)[0]))
    return [f"{key}={setting(value)}" for key, value in found.best.option.settings.items()]


def _table(rows: list[tuple[str, ...]]) -> Table:
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in HEAD:
        shown.add_column(heading, justify="left" if heading == HEAD[0] else "right")
    for index, row in enumerate(rows):
        shown.add_row(*(_shown(cell) for cell in row), style="bold" if index == 0 else "")
    return shown


def _shown(text: str) -> Text:
    """Text as it is, without markup; an output that knows only ASCII gets that."""
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    return Text(text if encoding.startswith("utf") else text.translate(ASCII))


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from error
