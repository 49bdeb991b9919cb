"""Numbers, axes, charts and sentences."""

from __future__ import annotations

import json
import math
import re
from html import unescape

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redline.reports.curves import Line, areas, bar, chart
from redline.reports.scales import bounds, duration, short, thin, ticks
from redline.reports.summary import bottleneck, describe_returns, role_bottleneck

finite = st.floats(-1e12, 1e12)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (1, "1"), (-21.0, "-21"), (487.34, "487"), (20.56, "20.6"), (0.25, "0.25"), (0.0125, "0.0125"),
        (2.5e-4, "2.5e-4"), (-1e-9, "-1e-9"), (1234.4, "1,234"), (9999, "9,999"), (9999.6, "10k"), (12_500, "12.5k"),
        (999_449, "999k"), (999_500, "1M"), (2_500_000, "2.5M"), (1.234e9, "1.23G"), (2e13, "20T"),
        (math.nan, "\u2013"), (math.inf, "\u2013"), (None, "\u2013"), (0.9999, "1"), (99.96, "100"),
    ],
)  # fmt: skip
def test_short_numbers(value: float | None, text: str) -> None:
    assert short(value) == text


@given(finite.filter(lambda value: abs(value) > 1e-300))
def test_short_numbers_are_near(value: float) -> None:
    units = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    text = short(value).replace(",", "")
    read = float(text.rstrip("kMGT")) * units.get(text[-1], 1)
    assert read == pytest.approx(value, rel=0.006)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"), (9.84, "9.8 s"), (59.94, "59.9 s"), (59.96, "1 min 0 s"), (200, "3 min 20 s"),
        (3599.9, "1 h 0 min"), (8040, "2 h 14 min"), (273_600, "3 d 4 h"), (None, "\u2013"), (math.nan, "\u2013"),
    ],
)  # fmt: skip
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@given(finite, st.floats(1e-6, 1e12), st.integers(2, 8))
def test_ticks_are_few_round_and_inside(low: float, width: float, count: int) -> None:
    high = low + width
    if high - low < 1e-9 * abs(low):
        return
    marks = ticks(low, high, count)
    assert len(marks) <= count + 1
    assert all(low - 1e-6 * width <= mark <= high + 1e-6 * width for mark in marks)
    if len(marks) > 1:
        step = marks[1] - marks[0]
        mantissa = step / 10 ** math.floor(math.log10(step * 1.0001))
        assert min(abs(mantissa - round_one) for round_one in (1, 2, 5)) < 0.01


def test_ticks_of_known_axes() -> None:
    assert ticks(0, 2.5e6, 6) == [0, 5e5, 1e6, 1.5e6, 2e6, 2.5e6]
    assert ticks(-21, 21, 5) == [-20, 0, 20]
    assert ticks(3, 3) == [3]


@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=20),
    st.booleans(),
    st.booleans(),
)
def test_bounds_hold_the_values_and_are_never_empty(
    values: list[float], from_zero: bool, robust: bool
) -> None:
    low, high = bounds(np.array(values, np.float64), from_zero=from_zero, robust=robust)
    assert low < high
    inside = [value for value in values if math.isfinite(value)]
    if inside and not robust:
        assert low <= min(inside)
        assert high >= max(inside)
    if from_zero:
        assert low <= 0 <= high


def test_robust_bounds_leave_out_a_spike() -> None:
    values = np.r_[np.linspace(0, 1, 999), 1e6]
    assert bounds(values, robust=True)[1] < 2
    assert bounds(values)[1] > 1e6


@given(st.integers(1, 3000), st.integers(3, 500))
def test_thinning_keeps_ends_and_mean(count: int, most: int) -> None:
    x = np.arange(count, dtype=np.float64)
    fewer, (y,) = thin(x, [2 * x], most)
    assert len(fewer) == min(count, most)
    assert (fewer[0], fewer[-1]) == (0, count - 1)
    assert (np.diff(fewer) > 0).all()
    np.testing.assert_allclose(y, 2 * fewer)


def test_a_curve_goes_through_its_points() -> None:
    x, y = np.array([0.0, 50.0, 100.0]), np.array([0.0, 10.0, 5.0])
    html = chart("t", [Line("a", x, y, "c2", low=y - 1, high=y + 1)])
    low, high = bounds(np.array([-1.0, 11.0]))
    expected = [(a * 10, (high - b) / (high - low) * 1000) for a, b in zip(x, y, strict=True)]
    path = re.search(r'class="line c2" d="M([^"]*)"', html)
    assert path
    drawn = [tuple(map(float, point.split())) for point in path[1].split("L")]
    np.testing.assert_allclose(drawn, expected, atol=0.06)
    band = re.search(r'class="band c2" d="M([^"]*)Z"', html)
    assert band
    assert len(band[1].split("L")) == 6


def test_the_pointer_shows_the_values() -> None:
    lines = [
        Line("a", np.array([0.0, 100.0]), np.array([1.5, 2.0])),
        Line("b", np.ones(1), np.ones(1), faint=True),
    ]
    data = re.search(r'data-chart="([^"]*)"', chart("t", lines))
    assert data
    assert json.loads(unescape(data[1])) == [
        {"n": "a", "c": "c1", "x": [0, 1], "t": ["0", "100"], "v": ["1.5", "2"]}
    ]


def test_shares_are_stacked_to_the_top() -> None:
    x = np.array([0.0, 1.0])
    parts = {"a": np.array([0.25, 0.5]), "b": np.array([0.75, 0.5])}
    html = areas("t", x, parts, {"a": "c1", "b": "c2"})
    outlines = re.findall(r'class="area c\d" d="M([^"]*)Z"', html)
    assert outlines == [
        "0.0 750.0L1000.0 500.0L1000.0 1000.0L0.0 1000.0",
        "0.0 0.0L1000.0 0.0L1000.0 500.0L0.0 750.0",
    ]


def test_a_bar_is_cut_by_shares() -> None:
    html = bar({"a": 0.5, "b": 1.5}, {"a": "c1", "b": "c2"})
    assert re.findall(r"width:([\d.]+)%", html) == ["25.00", "75.00"]
    assert bar({}, {}) == bar({"a": 0.0}, {"a": "c1"}) == ""


@pytest.mark.parametrize(
    ("shares", "context", "sentence"),
    [
        (
            {"stepping": 0.15, "acting": 0.1, "learning": 0.71, "other": 0.04},
            {"epochs": 4},
            "Learning takes 71% of the time: a GPU or fewer epochs would help; more environments would not.",
        ),
        (
            {"stepping": 0.1, "acting": 0.1, "learning": 0.8},
            {},
            "Learning takes 80% of the time: a GPU or fewer updates per step would help; more environments would not.",
        ),
        (
            {"stepping": 0.1, "acting": 0.1, "learning": 0.8},
            {"device": "cuda:0", "epochs": 1},
            "Learning takes 80% of the time: larger minibatches, bf16 or fewer updates per step would help;"
            " more environments would not.",
        ),
        (
            {"stepping": 0.6, "acting": 0.2, "learning": 0.1, "other": 0.1},
            {},
            "Stepping the environments takes 60% of the time: more cores or a faster simulator would help;"
            " a GPU would not.",
        ),
        (
            {"acting": 0.6, "learning": 0.4},
            {"num_envs": 8},
            "Choosing actions takes 60% of the time: more environments per forward pass would help;"
            " more cores for stepping would not.",
        ),
        (
            {"acting": 0.6, "learning": 0.4},
            {"num_envs": 512},
            "Choosing actions takes 60% of the time: a GPU or a smaller network would help;"
            " more environments would not.",
        ),
        (
            {"stepping": 0.35, "acting": 0.3, "learning": 0.3, "other": 0.05},
            {},
            "No single bottleneck (stepping 35% and acting 30%): a faster processor or more cores would help most.",
        ),
        ({}, {}, "Where the time goes has not been measured yet."),
        ({"learning": math.nan, "acting": 0.0}, {}, "Where the time goes has not been measured yet."),
    ],
)
def test_the_bottleneck_in_a_sentence(shares: dict[str, float], context: dict, sentence: str) -> None:
    assert bottleneck(shares, **context) == sentence


@pytest.mark.parametrize(
    ("returns", "text"),
    [
        ([], "no episode has ended yet"),
        ([math.nan], "no episode has ended yet"),
        ([7.0], "7 in one episode"),
        ([211.0, 500.0, 489.0], "400 over 3 episodes (from 211 to 500)"),
    ],
)
def test_returns_in_words(returns: list[float], text: str) -> None:
    assert describe_returns(returns) == text


@pytest.mark.parametrize(
    ("roles", "context", "sentence"),
    [
        (
            {"actor": 0.6, "learner": 0.96},
            {"queues": {"unrolls": 4.0}, "rooms": {"unrolls": 4.0}},
            "The learner is the bottleneck (actor 60%, learner 96%, 4 of 4 unrolls wait): fewer actors lose nothing;"
            " a larger batch, bf16 or a GPU would help.",
        ),
        (
            {"actor": 0.5, "learner": 0.8},  # not quite busy, but what waits says it
            {"queues": {"unrolls": 7.0}, "rooms": {"unrolls": 8.0}, "device": "cuda"},
            "The learner is the bottleneck (actor 50%, learner 80%, 7 of 8 unrolls wait): fewer actors lose nothing;"
            " a larger batch, bf16 or a faster GPU would help.",
        ),
        (
            {"actor": 0.95, "learner": 0.2},
            {"queues": {"unrolls": 0.0}, "rooms": {"unrolls": 4.0}},
            "Actors are the bottleneck (actor 95%, learner 20%): more actors or cores, or a faster simulator, would"
            " help; a faster learner would not.",
        ),
        (
            {"actor": 0.6, "learner": 0.3},
            {},
            "Actors are the bottleneck (actor 60%, learner 30%): more actors or cores, or a faster simulator, would"
            " help; a faster learner would not.",
        ),
        (
            {"worker": 0.4, "inference": 0.93, "learner": 0.5},
            {},
            "The inference is the bottleneck (worker 40%, inference 93%, learner 50%): bf16, more environments a worker"
            " or a GPU would help; more workers would not.",
        ),
        (
            {"actor": 0.97, "learner": 0.96},
            {},
            "Nobody waits (actor 97%, learner 96%): this machine is used up; more cores or a GPU would help.",
        ),
        (
            {"actor": 0.6, "learner": 0.3},
            {"lag_bound": 0},
            "The roles take turns, since lag is 0 (actor 60%, learner 30%): parallel.queue=1 would let them overlap.",
        ),
        (
            {"actor": 0.5, "learner": 0.45},
            {"lag_bound": 2},
            "The roles wait for each other (actor 50%, learner 45%): more room (parallel.queue) or longer unrolls"
            " would help.",
        ),
        (
            {"actor": 0.5, "learner": 0.8},
            {"queues": {"unrolls": 0.0}, "rooms": {"unrolls": 8.0}},
            "The roles wait for each other (actor 50%, learner 80%): more room (parallel.queue) or longer unrolls"
            " would help.",
        ),
        (
            {"actor": 0.6, "learner": 0.3},
            {"queues": {"unrolls": 8.0}, "rooms": {"unrolls": 8.0}},
            "The roles wait for each other (actor 60%, learner 30%): more room (parallel.queue) or longer unrolls"
            " would help.",
        ),
        (
            {"replica": 0.97},
            {},
            "All replicas are busy 97% of the time: more cores would help; more replicas would not.",
        ),
        (
            {"replica": 0.6},
            {},
            "The replicas wait for each other 40% of the time: fewer of them or longer unrolls would help.",
        ),
        ({}, {}, "How busy the roles are has not been measured yet."),
        ({"actor": math.nan}, {}, "How busy the roles are has not been measured yet."),
    ],
)
def test_the_bottleneck_among_roles(roles: dict[str, float], context: dict, sentence: str) -> None:
    assert role_bottleneck(roles, **context) == sentence
