"""The report page: complete from whatever a run left, correct in its figures, and loading nothing from anywhere."""

from __future__ import annotations

import base64
import json
import os
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from redline import plain_yaml
from redline.reports import parts
from redline.reports.compare import compare_report, median_and_range
from redline.reports.html import time_shares, write_report
from redline.reports.load import load_run
from redline.types import RunError, UserError
from tests.reports.synthetic import make_run

VOID = {"meta", "img", "br", "input", "link"}


class Page(HTMLParser):
    """Checks that every tag is closed where it should be, and collects text and what the page would load."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.feed(content)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.loads += [
            value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")
        ]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)


def check(path: Path) -> Page:
    content = path.read_text(encoding="utf-8")
    page = Page(content)
    assert all(load.startswith("data:") for load in page.loads)
    for outside in ("http://", "https://", "url(", "@import", "//cdn"):
        assert outside not in content
    assert not re.search(r"nan|inf", " ".join(re.findall(r' (?:d|style)="[^"]*"', content)))
    return page


def write_lines(folder: Path, lines: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_whole_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "pong-v5_ppo_001")
    page = check(write_report(run))
    text = "\n".join(page.text)
    for expected in (
        "pong-v5_ppo_001",
        "ALE/Pong-v5 · ppo · seed 1 · commit 1b85e98d77c1",
        "Learning curve",
        "Throughput",
        "Where the time goes",
        "explained variance",
        "Rewards are clipped to [-1, 1] for learning; returns shown are raw",
        "gae_lambda",
        "Example 9000",
        "crashes",
    ):
        assert expected in text
    assert re.search(r"Learning takes 6\d% of the time: a GPU or fewer epochs would help", text)
    assert page.tags.count("svg") == 11


def test_the_figures_are_those_of_the_run(tmp_path: Path) -> None:
    lines = [
        {"step": 1000, "return/mean": 30.0, "time/elapsed": 2.0, "frames": 4000},
        {
            "step": 4000,
            "return/mean": 20.5,
            "return/min": 9,
            "return/max": 33,
            "time/elapsed": 8.0,
            "frames": 16000,
        },
    ]
    text = check(write_report(write_lines(tmp_path / "run", lines))).text
    shown = dict(pairwise(text))
    assert shown["Final return"] == "20.5"
    assert shown["20.5"] == "from 9 to 33"
    assert shown["Best return"] == "30"
    assert shown["Agent steps"] == "4,000"
    assert shown["Frames"] == "16k"
    assert shown["Wall clock"] == "8.0 s"
    assert shown["Agent steps/s"] == "500"
    assert shown["500"] == "2,000 frames/s"


def test_an_empty_folder_makes_a_page(tmp_path: Path) -> None:
    page = check(write_report(tmp_path))
    assert page.text.count("Nothing recorded yet.") == 3
    assert "svg" not in page.tags


ALL = [
    "frames",
    "episodes",
    "return/mean",
    "return/min",
    "loss/a",
    "time/elapsed",
    "time/stepping",
    "evaluation/return",
]


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("name", [*ALL, "all"])
def test_a_part_of_the_metrics_makes_a_page(tmp_path: Path, name: str, count: int) -> None:
    names = ALL if name == "all" else [name]
    lines = [{"step": 10 * k, **{each: 0.5 for each in names}} for k in range(count)]
    check(write_report(write_lines(tmp_path / "run", lines)))


@pytest.mark.parametrize("value", [0.0, -1e-12, 1e300, -1e300, 5e-324])
def test_extreme_values_make_a_page(tmp_path: Path, value: float) -> None:
    lines = [
        {"step": k, "return/mean": value * (k % 2), "loss/x": value, "time/elapsed": 0.0} for k in range(3)
    ]
    check(write_report(write_lines(tmp_path / "run", lines)))


def test_damaged_files_make_a_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", count=30)
    with open(run / "metrics.jsonl", "ab") as file:
        file.write(
            b'\xff\n[1]\n"x"\n{"step": "a"}\n{"step": null}\n{"step": true}\n{"step": 1e999}\n{"step": 3750'
        )
    record = load_run(run)
    assert len(record.lines) == 31
    (run / "config.yaml").write_text("a: [")
    (run / "plan.json").write_text("{")
    check(write_report(run))
    for nonsense in ("- 1\n", "a: " + "[" * 3000 + "]" * 3000, "a: " + "9" * 5000, "a: 2024-13-45"):
        (run / "config.yaml").write_text(nonsense)
        check(write_report(run))
    (run / "plan.json").write_text(json.dumps({"rules": 3, "plan": [], "provenance": "x"}))
    check(write_report(run))


def test_the_configuration_says_what_the_run_was_given(tmp_path: Path) -> None:
    """YAML 1.1 would read these texts as true, a date and ninety."""
    run = make_run(tmp_path / "run", count=30)
    given = {"environment": {"kwargs": {"mode": "on", "day": "2024-03-05", "clock": "1:30"}}}
    (run / "config.yaml").write_text(plain_yaml.dump(given))
    assert load_run(run).config == given
    text = check(write_report(run)).text
    assert {"on", "2024-03-05", "1:30"} <= set(text)


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", count=30)
    kwargs = {"api_key": "hunter2", "level": 3, "users": [{"password": "hunter2"}]}
    (run / "config.yaml").write_text(plain_yaml.dump({"environment": {"kwargs": kwargs}}))
    for page in (write_report(run), compare_report([run, run])):
        text = page.read_text(encoding="utf-8")
        assert "hunter2" not in text
    assert "api_key" in write_report(run).read_text(encoding="utf-8")


def test_nulls_are_left_out(tmp_path: Path) -> None:
    record = load_run(
        write_lines(tmp_path / "run", [{"step": 1, "x": None}, {"step": 2, "x": 5, "y": "text"}])
    )
    steps, values = record.series("x")
    assert (steps.tolist(), values.tolist()) == ([2.0], [5.0])
    assert record.names() == ["x"]


def test_what_a_run_says_stays_text(tmp_path: Path) -> None:
    evil = '<script>alert("x")</script>\'"&'
    run = write_lines(
        tmp_path / "run", [{"step": k, f"loss/{evil}": 1.0, "return/mean": 1} for k in range(3)]
    )
    (run / "config.yaml").write_text(
        yaml.safe_dump({"recipe": evil, "environment": {"id": evil, evil: evil}})
    )
    (run / "plan.json").write_text(
        json.dumps({"rules": [evil], "provenance": {"command": evil}, "plan": {evil: evil}})
    )
    page = check(write_report(run))
    assert page.tags.count("script") == 1
    assert "alert" in "".join(page.text)
    check(compare_report([run], tmp_path / "all.html"))


def test_the_newest_film_is_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", count=5)
    (run / "videos").mkdir()
    for age, name in ((20, "old.mp4"), (10, "new.mp4"), (0, "notes.txt")):
        film = run / "videos" / name
        film.write_bytes(name.encode())
        os.utime(film, (1e9 - age, 1e9 - age))
    page = check(write_report(run))
    assert page.loads == ["data:video/mp4;base64," + base64.b64encode(b"new.mp4").decode()]
    monkeypatch.setattr(parts, "_LARGEST_FILM", 3)
    page = check(write_report(run))
    assert page.loads == []
    assert "Too large for this page: see videos/new.mp4 in the run's folder." in page.text
    (run / "videos" / "wave.gif").write_bytes(b"GIF")
    monkeypatch.setattr(parts, "_LARGEST_FILM", 1000)
    assert check(write_report(run)).loads == ["data:image/gif;base64,R0lG"]


def test_no_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no run in .*absent: it is not a folder"):
        write_report(tmp_path / "absent")


def test_a_page_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(RunError, match=r"cannot write .*report.html: "):
        write_report(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_time_shares_weigh_by_time(tmp_path: Path) -> None:
    def line(step: int, elapsed: float, learning: float) -> dict[str, float]:
        shares = {"stepping": 1 - learning, "acting": 0.0, "learning": learning, "other": 0.0}
        return {"step": step, "time/elapsed": elapsed} | {
            f"time/{name}": share for name, share in shares.items()
        }

    # 10 s at 0%, 30 s at 100%; then a clock that began anew: 10 s at 50%.
    run = write_lines(tmp_path / "run", [line(1, 10, 0.0), line(2, 40, 1.0), line(3, 10, 0.5)])
    assert time_shares(load_run(run)) == pytest.approx(
        {"stepping": 15 / 50, "acting": 0.0, "learning": 35 / 50, "other": 0.0}
    )


def test_median_and_range_on_the_stretch_all_share() -> None:
    a = (np.array([0.0, 10.0, 20.0]), np.array([0.0, 10.0, 20.0]))
    b = (np.array([5.0, 15.0]), np.array([1.0, 1.0]))
    c = (np.array([0.0, 30.0]), np.array([0.0, -30.0]))
    x, median, low, high = median_and_range([a, b, c], points=11)
    np.testing.assert_allclose(x, np.arange(5, 16))
    np.testing.assert_allclose(high, np.arange(5, 16))
    np.testing.assert_allclose(low, -np.arange(5, 16))
    np.testing.assert_allclose(median, 1.0)
    empty = (np.empty(0), np.empty(0))
    assert len(median_and_range([])[0]) == len(median_and_range([empty])[0]) == 0
    assert len(median_and_range([a, empty], points=3)[0]) == 3
    apart = (np.array([50.0, 60.0]), np.array([1.0, 2.0]))
    assert len(median_and_range([a, apart])[0]) == 0


def test_seeds_are_compared_by_recipe(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"ppo_{seed}", seed, count=20) for seed in (1, 2, 3)]
    runs += [make_run(tmp_path / "a2c_1", 4, "a2c", count=20)]
    path = compare_report(runs)
    assert path == tmp_path / "comparison.html"
    page = check(path)
    text = "\n".join(page.text)
    finals = [load_run(run).last("return/mean") for run in runs[:3]]
    assert f"ppo: final return\n{np.median(np.array(finals, float)):.3g}" in text
    for expected in (
        "4 runs · 2 recipes",
        "ppo (3)",
        "a2c",
        "ppo_2",
        "a2c_1",
        "Learning curves",
        "Return over time",
    ):
        assert expected in text
    assert path.read_text().count('class="line c1 faint"') == 6
    with pytest.raises(UserError, match="nothing to compare"):
        compare_report([])
    with pytest.raises(UserError, match="there is no run"):
        compare_report([tmp_path / "absent"])


def test_runs_of_one_recipe_with_other_numbers_are_no_seeds_of_one_another(tmp_path: Path) -> None:
    """They were drawn as one curve, with the median of both rates between them."""
    runs = [make_run(tmp_path / f"ppo_{seed}", seed, count=20) for seed in (1, 2, 3, 4)]
    for run in runs[2:]:
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["learner"]["learning_rate"] = 1e-3
        config["learner"]["device"] = "cuda"  # chosen by a machine: this makes no group of its own
        config["run"]["keep"] = 5
        (run / "config.yaml").write_text(yaml.safe_dump(config))
    page = check(compare_report(runs))
    text = "\n".join(page.text)
    for run, rate in zip((runs[:2], runs[2:]), ("0.00025", "0.001"), strict=True):
        name = f"ppo (learner.learning_rate={rate})"
        finals = [load_run(each).last("return/mean") for each in run]
        assert f"{name} (2)" in text
        assert f"{name}: final return\n{np.median(np.array(finals, float)):.3g}" in text
    assert "4 runs · 1 recipe · 2 experiments" in text


def test_comparing_runs_without_metrics_makes_a_page(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    check(compare_report([tmp_path / "a", tmp_path / "b"]))


def test_roles_side_by_side_have_a_section(tmp_path: Path) -> None:
    def line(step: int) -> dict[str, float]:
        gauges = {"roles/actor": 0.6, "roles/learner": 0.97, "queue/unrolls": 3.0, "replay_ratio": 8.0}
        lag = {"lag/mean": 0.75, "lag/p95": 2.0, "lag/max": 2.0, "lag/bound": 2.0}
        clock = {"time/elapsed": step, "time/waiting": 0.1, "time/learning": 0.8, "time/other": 0.1}
        return {"step": step, **gauges, **lag, **clock}

    run = write_lines(tmp_path / "run", [line(1), line(2)])
    page = check(write_report(run))
    for part in (
        "Roles, lag and replay",
        "Lag",
        "Utilisation",
        "Queue: unrolls",
        "Replay ratio",
        "95% within",
        "bound",
    ):
        assert part in page.text, part
    assert any("The learner is the bottleneck (actor 60%, learner 97%)" in text for text in page.text)
    assert time_shares(load_run(run)) == pytest.approx({"learning": 0.8, "waiting": 0.1, "other": 0.1})
    assert "Roles, lag and replay" not in check(write_report(make_run(tmp_path / "alone"))).text
