"""What a run looks like: live screen, plain lines, pictures and the numbers in them."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from redline.cli import figures, live
from redline.cli.live import LiveScreen
from redline.cli.pictures import half_blocks
from redline.cli.plain import PlainLines, line
from redline.types import Gauges, Observer, Progress
from tests.leaks import eventually

PROGRESS = Progress(
    steps=250_000,
    total_steps=1_000_000,
    frames=1_000_000,
    updates=12_345,
    episodes=321,
    elapsed=125.0,
    steps_per_second=812.0,
    updates_per_second=25.4,
    action_repeat=4,
    returns=[-21.0, 0.0, 18.0],
    lengths=[10, 20, 30],
    shares={"stepping": 0.2, "acting": 0.1, "learning": 0.65, "other": 0.05},
    events={"crashes": 2, "hangs": 0},
)
GAUGES = Gauges(
    roles={"actor": 0.62, "learner": 0.97},
    queues={"unrolls": 7.0},
    rooms={"unrolls": 8.0},
    lag={"mean": 1.25, "p95": 2.0, "max": 2.0},
    lag_bound=2,
    replay_ratio=8.0,
)
BESIDE = replace(PROGRESS, gauges=GAUGES, shares={"waiting": 0.02, "learning": 0.95, "other": 0.03})
RULES = ["time limits are bootstrapped", "rewards are clipped to [-1, 1]"]


def shown(width: int, *progresses: Progress, reason: str = "done") -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, height=40, force_terminal=True, color_system=None)
    screen = LiveScreen(console)
    screen.start("pong_001", "runs/pong_001", RULES)
    for progress in progresses:
        screen.update(progress)
    screen.message("checkpoint written")
    screen.stop(reason)
    return stream.getvalue()


def test_both_screens_are_observers() -> None:
    observers: list[Observer] = [LiveScreen(Console(file=io.StringIO())), PlainLines(io.StringIO())]
    assert len(observers) == 2


def test_live_screen_says_it_all() -> None:
    text = shown(100, PROGRESS)
    for part in (
        *RULES,
        "runs/pong_001",
        "25%  250,000 of 1.00M agent steps",
        "15 min 24 s left",
        "2 min 05 s gone",
        "-1 mean of the last 3, from -21 to 18",
        "321 episodes",
        "812 agent steps/s   3,248 frames/s   25.4 updates/s",
        "stepping 20%",
        "learning 65%",
        "Learning takes 65% of the time",
        "crashes 2",
        "checkpoint written",
    ):
        assert part in text, part
    assert "hangs" not in text


def test_live_screen_shows_roles_queues_and_lag() -> None:
    text = shown(100, BESIDE)
    for part in (
        "waiting 2%",
        "actor ██████░░░░  62%   learner ██████████  97%",
        "unrolls 7 of 8   replay ratio 8",
        "mean 1.2   95% within 2   most 2   bound 2 (batches)",
        "The learner is the bottleneck (actor 62%, learner 97%, 7 of 8 unrolls wait): fewer",
    ):
        assert part in text, part
    for word in ("roles", "queues", "lag "):
        assert word not in shown(100, PROGRESS)


def test_a_clock_with_other_names_is_shown_too() -> None:
    shares = {"exchanging": 0.3, "learning": 0.5, "sorting": 0.1, "other": 0.1}
    text = shown(100, replace(PROGRESS, shares=shares))
    for part in ("exchanging 30%", "learning 50%", "sorting 10%", "other 10%"):
        assert part in text, part
    glyphs = {glyph for glyph, _ in live.PARTS.values()}
    assert not glyphs & {glyph for glyph, _ in live.MORE}


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_no_line_of_the_screen_is_wider_than_the_terminal(width: int) -> None:
    long = replace(PROGRESS, returns=[-123456.7] * 50 + [1e9] * 50, total_steps=10**10, steps=10**9)
    lines = live.screen(long, list(np.arange(300.0)), width).plain.splitlines()
    assert max(cell_len(each) for each in lines) <= width
    assert len(lines) <= 14
    beside = live.screen(replace(long, gauges=GAUGES), list(np.arange(300.0)), width).plain.splitlines()
    assert max(cell_len(each) for each in beside) <= width
    assert len(beside) <= 20


def test_live_screen_before_the_first_episode_and_with_no_speed() -> None:
    text = shown(80, replace(PROGRESS, returns=[], lengths=[], steps_per_second=0.0, shares={}, events={}))
    assert "no episode has ended yet" in text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_returns_that_are_no_numbers_do_not_stop_the_run(value: float) -> None:
    broken = replace(PROGRESS, returns=[value], metrics={"loss": value})
    assert f"{value} mean of the last 1" in shown(80, *(replace(broken, episodes=n) for n in range(9)))
    assert f"return {value}" in line(broken)


def test_live_screen_stops_even_if_nothing_was_shown() -> None:
    assert "pong_001" in shown(80)
    screen = LiveScreen(Console(file=io.StringIO()))
    screen.stop("failed")


def test_live_screen_draws_about_once_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(live, "screen", lambda *arguments: drawn.append(arguments) or "")
    shown(80, *([PROGRESS] * 50))
    assert len(drawn) == 2  # the first, and the one that stays


def test_the_clock_goes_on_while_the_run_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[float] = []

    def screen(progress: Progress, history: Any, width: int, reason: str, since: float) -> str:
        drawn.append(since)
        return ""

    monkeypatch.setattr(live, "REFRESH", 0.05)
    monkeypatch.setattr(live, "screen", screen)
    waiting = LiveScreen(Console(file=io.StringIO()))
    waiting.start("pong_001", "runs/pong_001", RULES)
    waiting.update(PROGRESS)
    assert eventually(lambda: len(drawn) > 4, 10)
    assert drawn == sorted(drawn), "seconds since the run told of itself"
    waiting.stop("done")
    count = len(drawn)
    time.sleep(0.2)
    assert len(drawn) == count


def test_what_is_left_and_gone_is_reckoned_on() -> None:
    text = live.screen(PROGRESS, [], 100, "", 24.0).plain
    assert "15 min 00 s left" in text
    assert "2 min 29 s gone" in text
    assert "250,000 of 1.00M" in text, "steps are only counted"


def test_plain_lines_are_ascii_and_few() -> None:
    stream = io.StringIO()
    plain = PlainLines(stream)
    plain.start("pöng", "runs/pong", RULES)
    for _ in range(20):
        plain.update(PROGRESS)
    plain.update(replace(PROGRESS, events={"crashes": 3}))
    plain.message("checkpoint")
    plain.stop("interrupted")
    lines = stream.getvalue().splitlines()
    assert stream.getvalue().isascii()
    assert lines == [
        "run p?ng in runs/pong",
        "- time limits are bootstrapped",
        "- rewards are clipped to [-1, 1]",
        "crashes: 2 so far",
        line(PROGRESS),
        "crashes: 3 so far",
        "checkpoint",
        line(PROGRESS),
        "interrupted",
    ]
    assert lines[4] == (
        " 25% 250,000 of 1.00M agent steps | return -1 (-21 .. 18)"
        " | 812 agent steps/s 3,248 frames/s 25.4 updates/s"
        " | stepping 20% acting 10% learning 65% | after 2 min 05 s | 15 min 24 s left"
    )


def test_plain_lines_show_roles_queues_and_lag() -> None:
    stream = io.StringIO()
    plain = PlainLines(stream)
    plain.update(BESIDE)
    plain.stop("done")
    lines = stream.getvalue().splitlines()
    assert stream.getvalue().isascii()
    told = (
        " | busy: actor 62% learner 97% | queue: unrolls 7 of 8 | lag 1.2 max 2 bound 2 | replay ratio 8 | "
    )
    assert told in lines[1]
    assert lines[-2].startswith(
        "The learner is the bottleneck (actor 62%, learner 97%, 7 of 8 unrolls wait): "
    )


def test_plain_lines_keep_their_distance() -> None:
    stream = io.StringIO()
    plain = PlainLines(stream, every=0.0)
    for _ in range(5):
        plain.update(replace(PROGRESS, events={}))
    assert len(stream.getvalue().splitlines()) == 5


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (figures.count, 950, "950"),
        (figures.count, 12_400, "12,400"),
        (figures.count, 1_240_000, "1.24M"),
        (figures.count, 2.5e9, "2.50G"),
        (figures.rate, 3.44, "3.4"),
        (figures.rate, 812.3, "812"),
        (figures.number, 0.0123, "0.0123"),
        (figures.number, -21.0, "-21"),
        (figures.number, 18.34, "18.3"),
        (figures.number, 4821.6, "4,822"),
        (figures.number, float("inf"), "inf"),
        (figures.number, float("nan"), "nan"),
        (figures.duration, 48.2, "48 s"),
        (figures.duration, 59.7, "1 min 00 s"),
        (figures.duration, 252, "4 min 12 s"),
        (figures.duration, 11_100, "3 h 05 min"),
        (figures.duration, 200_000, "2 d 7 h"),
    ],
)
def test_numbers_as_people_read_them(function: Any, value: float, text: str) -> None:
    assert function(value) == text


def test_sparkline() -> None:
    assert figures.sparkline([], 10) == ""
    assert figures.sparkline([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], 8) == "▁▂▃▄▅▆▇█"
    assert figures.sparkline([5.0] * 4, 2) == "▄▄"
    assert figures.sparkline([0.0, 0.0, 8.0, 8.0], 2) == "▁█"
    assert len(figures.sparkline(list(range(1000)), 48)) == 48


def test_history_is_bounded_and_keeps_the_shape() -> None:
    history = figures.History(64)
    for value in range(10_000):
        history.add(float(value))
    assert 32 <= len(history.values) < 64
    assert history.values == sorted(history.values)
    assert abs(sum(history.values) / len(history.values) - 5000) < 300


def test_pictures_in_the_terminal() -> None:
    picture = np.zeros((4, 3, 3), np.uint8)
    picture[0] = (255, 0, 0)
    text = half_blocks(picture, 80, 24)
    assert text.count("\n") == 2
    assert text.count("▀") == 6
    assert "\x1b[38;2;255;0;0m\x1b[48;2;0;0;0m▀▀▀" in text  # equal neighbours share one colour code
    big = half_blocks(np.zeros((210, 160, 3), np.uint8), 80, 20)
    assert big.count("\n") == 20
    assert big.count("▀") <= 20 * 80
