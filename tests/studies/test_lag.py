"""The study of lag trains what it says it trains, reads what was written and saves it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from redline.studies import STUDIES, Options, find
from redline.types import UserError


def test_the_study_of_lag(tmp_path: Path) -> None:
    told: list[str] = []
    result = find("lag")(Options(seeds=1, steps=4000, folder=str(tmp_path / "runs"), tell=told.append))
    assert len(told) == 5
    labels = [
        "no lag",
        "lag 10, V-trace",
        "lag 10, no correction",
        "lag 40, V-trace",
        "lag 40, no correction",
    ]
    assert [row[""] for row in result.rows] == labels
    saved = json.loads(result.save(tmp_path / "out").read_text())
    assert saved["answer"] == result.answer
    assert len(saved["curves"]["lag 10, V-trace"][0]["steps"]) > 10
    configs = [path.read_text() for path in sorted((tmp_path / "runs").glob("*/config.yaml"))]
    assert sum("delay: 10" in each for each in configs) == 2
    assert sum("correction: vtrace" in each for each in configs) == 3
    find("lag")(Options(seeds=1, steps=4000, folder=str(tmp_path / "runs"), tell=told.append))
    assert len(told) == 5, "runs that are there are read, not repeated"


def test_an_unknown_study_gets_the_nearest_name() -> None:
    assert "lag" in STUDIES
    with pytest.raises(UserError, match="did you mean 'lag'"):
        find("leg")
