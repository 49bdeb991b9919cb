"""``plan.html``: everything in it comes from the data, it loads nothing, and its axes are where they should be."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from redline.planner.explaining.explain import explain
from redline.planner.explaining.telling import as_data
from redline.planner.machines import parse_what_if
from redline.planner.measured import Costs
from redline.reports.curves import Axes, Line, Mark, chart, log_chart
from redline.reports.parts import Bar, bars_card
from redline.reports.plan import render, write_plan
from redline.reports.scales import log_ticks
from redline.types import RunError
from tests.planner.sample import COSTS, MACHINE, predict, sample_plan


def data_of(what_if: str = "", costs: Costs = COSTS) -> dict[str, Any]:
    machine = MACHINE
    if what_if:
        costs, machine = parse_what_if(what_if).apply(costs, machine)
    plan = sample_plan(costs, machine, what_if)
    data: dict[str, Any] = json.loads(json.dumps(as_data(plan, explain(plan, predict), 10_000_000)))
    return data


def text_of(page: str) -> str:
    return re.sub(
        r"\s+", " ", re.sub(r"<style>.*?</style>|<script>.*?</script>|<[^>]+>", " ", page, flags=re.S)
    )


def test_the_page_tells_the_whole_answer() -> None:
    data = data_of()
    text = text_of(render(data))
    for sentence in data["answer"]:
        assert re.sub(r"\s+", " ", sentence) in text
    for words in (
        "1,038 µs of work for one agent step",
        "stepping environments 300 µs",
        "Amdahl",
        "learning parallel and free",
        "2.19x",
        "this plan: 16",
        "knee: 1",
        "no GPU here, ask by --what-if gpu=h100",
        "impala, threads, 2 x 16 environments",
        "1.8 of 4",
        "a GPU (H100)",
        "+4%",  # off by
        "apex: on-policy",
        "1 h 38 min",
    ):
        assert words.lower() in text.lower(), words


def test_the_page_of_a_what_if_shows_gpu_crossovers_and_the_price() -> None:
    dear = replace(COSTS, kernels=1200)  # so that the GPU is behind at first
    data = data_of("cores=16, gpu=h100, price=3", dear)
    for name in ("acting", "learning"):
        assert data["explanation"][name]["from_batch"] > 1
    text = text_of(render(data))
    assert f"GPU ahead of one core from {data['explanation']['acting']['from_batch']}" in text
    assert "cuda bf16 (estimated)" in text
    assert "for a million agent steps" in text
    assert "no GPU here" not in text
    assert "if cores=16, gpu=h100, price=3" in text


def test_the_page_loads_nothing_and_escapes_everything() -> None:
    evil = "<script>alert(1)</script>"
    data = data_of()
    data["plan"]["environment"] = data["plan"]["recipe"] = evil
    data["plan"]["notes"] = data["answer"] = data["plan"]["refused"] = [evil]
    data["plan"]["machine"]["name"] = evil
    data["explanation"]["utilisation"] = {evil: 0.5}
    data["plan"]["costs"]["act"] = {evil: {"points": [[1, 1e-3], [2, 2e-3]]}}
    page = render(data)
    assert evil not in page
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert "@import" not in page
    assert page.count("<script>") == 1


def test_the_page_is_written_into_a_new_folder_or_says_why_not(tmp_path: Path) -> None:
    path = write_plan(data_of(), tmp_path / "runs" / "plan.html")
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [each.name for each in path.parent.iterdir()] == ["plan.html"]
    with pytest.raises(RunError, match=r"cannot write .*plan\.html"):
        write_plan(data_of(), path / "plan.html")


def test_odd_plans_are_drawn_too() -> None:
    data = data_of()
    told, plan = data["explanation"], data["plan"]
    told["amdahl"] = {"stepping": None}
    told["helps"], told["utilisation"], plan["notes"], plan["refused"] = [], {}, [], []
    told["scaling"] = {
        "what": "actor threads",
        "own": 1,
        "points": told["scaling"]["points"][:1],
        "knee": None,
    }
    plan["costs"]["act"] = {"cpu fp32": {"points": [[1, 0.001]]}}
    plan["ranked"][0]["measured"] = None
    plan["ranked"][0]["prediction"]["lag"] = {}
    plan["costs"]["action_repeat"] = 1
    text = text_of(render(data))
    assert "no limit" in text
    assert "not run" in text
    assert "nan" not in text


def test_logarithmic_axes() -> None:
    axes = Axes((1.0, 100.0), (0.1, 10.0), log=True)
    assert axes.across(np.array([1.0, 10.0, 100.0])) == pytest.approx([0.0, 500.0, 1000.0])
    assert axes.down(np.array([10.0, 1.0, 0.1])) == pytest.approx([0.0, 500.0, 1000.0])
    line = Line("cost", np.array([0.0, 1.0, 10.0, 100.0]), np.array([5.0, 1.0, 10.0, 100.0]))
    html = log_chart("Cost", [line], x_name="batch", marks=[Mark(10.0, "here"), Mark(1e9, "far")])
    assert 'd="M0.0 ' in html  # the point at 0 is left out
    assert 'style="left:50.00%;top:0px">here' in html
    assert "far" not in html
    assert "Nothing measured" in log_chart("Cost", [], x_name="batch")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1, 100, [1, 2, 5, 10, 20, 50, 100]),
        (1, 1e5, [1, 10, 100, 1e3, 1e4, 1e5]),
        (1, 1e15, [1, 1e3, 1e6, 1e9, 1e12, 1e15]),
        (3, 4, [3]),
    ],
)
def test_logarithmic_ticks(low: float, high: float, expected: list[float]) -> None:
    assert log_ticks(low, high) == pytest.approx(expected)


def test_marks_stand_on_linear_charts() -> None:
    line = Line("rate", np.arange(0.0, 11.0), np.arange(0.0, 11.0))
    html = chart("Rate", [line], marks=[Mark(5.0, "<knee>", "c1"), Mark(9.0, "late")])
    assert 'd="M500.0 0V1000"' in html
    assert "&lt;knee&gt;" in html
    assert 'class="mk before c0" style="left:90.00%;top:18px"' in html


def test_bars_are_as_long_as_their_values() -> None:
    rows = [Bar("a", 2.0, "2x", low=1.0, high=4.0), Bar("b", -1.0, "-1"), Bar("c", 1.0, "1x", remark="guess")]
    html = bars_card("Bars", rows)
    assert 'style="width:50.00%"' in html
    assert 'style="left:25.00%;width:75.00%"' in html
    assert 'style="width:0.00%"' in html
    assert "<small>guess</small>" in html
    assert 'style="width:100.00%"' in bars_card("Bars", [Bar("a", 3.0, "3")], most=1.0)
    assert bars_card("Bars", []) == ""
