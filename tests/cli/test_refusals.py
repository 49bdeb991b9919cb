"""Every row of docs/refusals.md, provoked: exactly one line on stderr, the right exit code, the page up to date."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.refusal import Case, provoke
from tests.cli.refusals import CASES, PAGE, row


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name, marks=[pytest.mark.slow] * case.slow) for case in CASES]
)
def test_bad_input_is_one_line(
    case: Case, tmp_path: Path, request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]
) -> None:
    finished = request.getfixturevalue("prepared") if case.needs_run else tmp_path
    capfd.readouterr()
    code, errors = provoke(case, tmp_path, finished)
    assert errors.count("\n") == 1, errors
    line = errors.strip()
    assert re.fullmatch(case.line, line), line
    assert code == case.code
    assert capfd.readouterr().err == ""  # nothing from libraries below Python either


def test_the_page_shows_every_case_and_no_other() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(CASES) >= 40
    for case, shown in zip(CASES, rows, strict=True):
        line = re.split(r" \| `", shown)[-1].removesuffix("` |").replace("\\|", "|")
        assert re.fullmatch(case.line, line), f"{case.name}: run `python -m tests.cli.refusals`"
        assert row(case, line).strip() == shown, f"{case.name}: run `python -m tests.cli.refusals`"
