"""The table of bad inputs and the line each one earns; ``python -m tests.cli.refusals`` writes docs/refusals.md."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from tests.cli.bad_plans import PLANS
from tests.cli.bad_runs import ENVIRONMENTS, RUNS
from tests.cli.bad_usage import USAGE
from tests.cli.refusal import TINY, Case, prepare, provoke

PAGE = Path(__file__).parents[2] / "docs" / "refusals.md"
CASES = [*USAGE, *RUNS, *ENVIRONMENTS, *PLANS]
HEAD = """# What Redline says to bad input

Every bad input is one line on stderr and an exit code: 2 where the usage is wrong and nothing was started, 1 where the
run could not go on. `--debug` adds the traceback. This page is written by `python -m tests.cli.refusals`, and
`tests/cli/test_refusals.py` provokes each line again.

| what is wrong | typed after `redline` | code | the line |
|---|---|---|---|
"""


def row(case: Case, line: str) -> str:
    """One row of the page."""
    words = case.words.replace(TINY, "").replace("--plain", "")
    cells = (case.name, f"`{' '.join(words.split())}`", str(case.code), f"`{line}`")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def write_page() -> None:
    """Provoke every case and write the page."""
    with tempfile.TemporaryDirectory() as prepared:
        prepare(Path(prepared))
        text = HEAD
        for case in CASES:
            with tempfile.TemporaryDirectory() as folder:
                code, errors = provoke(case, Path(folder), Path(prepared))
            line = errors.strip()
            if code != case.code or not re.fullmatch(case.line, line):
                print(f"{case.name}: {code} {line!r}")
            text += row(case, re.sub(r"\(number \d+\)", "(number 12345)", line))
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_page()
