"""One bad input: how it is provoked, and what the user must see."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from redline.cli.main import main

RUN = "toy"  # the finished run that cases about runs start from
TINY = "--set algorithm.unroll=16 --num-envs 2 --set sampler.shards=1 --set run.tensorboard=false"
Arrange = Callable[[Path], None]  # changes a folder that holds runs/toy


@dataclass(frozen=True)
class Case:
    """One bad input."""

    name: str
    words: str  # after `redline`, split at spaces
    line: str  # regular expression that the whole line matches
    code: int = 2
    arrange: Arrange | None = None
    needs_run: bool = False
    around: Callable[[Path], contextlib.AbstractContextManager[object]] | None = None  # while it is provoked
    slow: bool = False


def write_file(name: str, text: str) -> Arrange:
    """Put a file into the working folder."""

    def arrange(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

    return arrange


def prepare(folder: Path) -> None:
    """Make ``folder/runs/toy``, a finished run for the cases to spoil."""
    words = f"train tests.cli.broken:Toy --steps 64 --name {RUN} --plain {TINY}"
    with _inside(folder), contextlib.redirect_stdout(io.StringIO()):
        assert main(words.split()) == 0


def provoke(case: Case, folder: Path, prepared: Path) -> tuple[int, str]:
    """Exit code and stderr of the bad input, in ``folder`` as the working directory."""
    if case.needs_run:
        shutil.copytree(prepared / "runs", folder / "runs")
    if case.arrange is not None:
        case.arrange(folder)
    errors = io.StringIO()
    around = case.around(folder) if case.around is not None else contextlib.nullcontext()
    with (
        around,
        _inside(folder),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(errors),
    ):
        code = main(case.words.split())
    return code, errors.getvalue()


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
