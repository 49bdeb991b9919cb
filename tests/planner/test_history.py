"""The simulator against published tables, and the page that shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from redline.planner import history
from redline.planner.history import MISSED, STATED, TABLES, Row, filled

PAGE = Path(__file__).parents[2] / "docs" / "history.md"


def row(name: str, what: str) -> Row:
    return next(row for row in TABLES[name][1]() if row.what == what)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "apex" else pytest.mark.slow) for name in TABLES]
)
def test_predicted_figures_are_within_the_stated_error(name: str) -> None:
    rows = TABLES[name][1]()
    assert any(row.use == "predicted" for row in rows)
    for each in rows:
        limit = MISSED.get((name, each.what), STATED[name]) if each.use == "predicted" else 0.03
        assert abs(each.error) <= limit, each


def test_the_page_states_those_errors() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name, stated in STATED.items():
        after = text[text.index(f"<!-- end of {name} -->") :]
        assert after[: after.index("%")].endswith(f"Stated error: {100 * stated:.0f}"), name


@pytest.mark.slow
def test_stepping_together_collapses_where_restarts_are_slow_and_nothing_else_does() -> None:
    def kept(arrangement: str) -> float:
        return (
            row("impala", f"{arrangement}, task 2").simulated
            / row("impala", f"{arrangement}, task 1").simulated
        )

    assert kept("batched A2C, sync step") < 0.6
    assert kept("batched A2C, sync step, GPU") < 0.5
    for arrangement in ("batched A2C, sync trajectory", "IMPALA, 48 actors", "A3C, 32 workers"):
        assert kept(arrangement) > 1.0


@pytest.mark.slow
def test_what_was_not_reproduced_is_still_not() -> None:
    for name, what in MISSED:
        assert abs(row(name, what).error) > STATED[name], f"{what} is reproduced now: take it off the list"


@pytest.mark.slow
def test_the_page_is_what_the_code_makes_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert filled(text) == text, "run `python -m redline.planner.history docs/history.md`"
    copy = tmp_path / "page.md"
    copy.write_text(text.replace("| predicted |", "| guessed |"), encoding="utf-8")
    history.main([str(copy)])
    assert copy.read_text(encoding="utf-8") == text
    history.main([])
    assert "IMPALA, 48 actors, task 1" in capsys.readouterr().out


def test_a_page_without_room_for_a_table_is_an_error() -> None:
    with pytest.raises(ValueError, match="no place"):
        filled("nothing here")
