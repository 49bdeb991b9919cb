"""The study of groups in turns: its arithmetic, and that it measures the arrangements that it says it does."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from redline.studies import Options, find
from redline.studies.alternating import ENVIRONMENTS, measure, theory


@pytest.mark.parametrize(
    ("stepping", "acting", "apart", "in_turns"),
    [(10.0, 10.0, 20.0, 10.0), (2.0, 8.0, 10.0, 8.0), (30.0, 10.0, 40.0, 30.0)],
)
def test_the_shorter_hides_behind_the_longer(
    stepping: float, acting: float, apart: float, in_turns: float
) -> None:
    assert theory(stepping, acting, 1).half_round == apart
    assert theory(stepping, acting, 2).half_round == in_turns
    steps = ENVIRONMENTS / 2 / (in_turns / 1000)
    assert theory(stepping, acting, 2).steps_per_second == pytest.approx(steps)


@pytest.mark.parametrize("groups", [1, 2])
def test_nothing_is_faster_than_its_sleeps(groups: int) -> None:
    found, ideal = measure(2.0, 2.0, groups, steps=40), theory(2.0, 2.0, groups)
    assert found.batch == ENVIRONMENTS // groups
    assert found.half_round >= 0.99 * ideal.half_round
    assert found.steps_per_second <= 1.01 * ideal.steps_per_second


def test_the_study_of_alternating(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("redline.studies.alternating")
    monkeypatch.setattr(module, "STEPPING", (0.5, 1.0))
    monkeypatch.setattr(module, "ACTING", 1.0)
    told: list[str] = []
    result = find("alternating")(Options(seeds=1, steps=20, folder=str(tmp_path), tell=told.append))
    assert len(told) == 4
    assert [row["gain, theory"] for row in result.rows] == [1.5, 2.0]
    assert [row["in turns, theory"] for row in result.rows] == [2000, 2000]
    assert "At 1 + 1 ms half a round takes" in result.answer
    path = result.save(tmp_path / "out")
    saved = json.loads(path.read_text())
    assert saved["points"]["one group, theory"] == [[0.5, 1.0], [pytest.approx(4000 / 3), 1000.0]]
    assert set(saved["points"]) == {
        f"{a}, {b}" for a in ("one group", "in turns") for b in ("measured", "theory")
    }
    pytest.importorskip("matplotlib")
    assert "<svg" in path.with_suffix(".svg").read_text()
