"""Utilisation is of lately: what a role did an hour ago says nothing of what holds a run up now."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from redline.runtime.crew import shares
from redline.runtime.crew.shares import WINDOW, Shares


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(shares, "time", SimpleNamespace(perf_counter=lambda: now.seconds))
    return now


def test_a_short_run_is_all_of_it_but_for_its_start(clock: SimpleNamespace) -> None:
    found = Shares()
    clock.seconds += 4.0  # in three of which roles are started
    assert found.of({"actor": 1.0, "learner": 0.5}) == {"actor": 0.25, "learner": 0.125}
    for _ in range(2):
        clock.seconds += 4.0
        share = found.of({"actor": 1.0 + clock.seconds - 104.0, "learner": 0.5})
    assert share == {"actor": 1.0, "learner": 0.0}


def test_what_was_long_ago_is_forgotten(clock: SimpleNamespace) -> None:
    found, actor, learner = Shares(), 0.0, 0.0
    for second in range(400):  # the actor does all the work, and from half way on the learner
        clock.seconds += 1.0
        actor, learner = actor + (second < 200), learner + (second >= 200)
        now = found.of({"actor": actor, "learner": learner})
        if second == 199:
            assert now == {"actor": 1.0, "learner": 0.0}
    assert now == {"actor": 0.0, "learner": 1.0}


def test_looks_in_quick_succession_do_not_shorten_the_window(clock: SimpleNamespace) -> None:
    found = Shares()
    for _ in range(100):
        clock.seconds += 0.01
        found.of({"actor": 0.0})
    clock.seconds += WINDOW / 2
    assert found.of({"actor": WINDOW / 4})["actor"] == pytest.approx(0.5 * WINDOW / (WINDOW + 1.98))


def test_a_role_that_began_anew_counts_from_zero(clock: SimpleNamespace) -> None:
    found = Shares()
    for total in (10.0, 20.0, 2.0):
        clock.seconds += 20.0
        share = found.of({"actor": total})["actor"]
    assert share == pytest.approx(0.1)
