"""A replay with a process of its own among the plans: where it is looked at, what it sets, and what it costs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from redline import api
from redline.planner.options import Option
from redline.recipes.config import override
from redline.runtime.parts import assemble
from redline.runtime.plan import resolve
from redline.runtime.planning.candidates import PROCESS, configure, options
from redline.runtime.planning.expected import option_of
from redline.runtime.planning.loops import _side_by_side
from redline.runtime.planning.pieces import Collecting, remembering
from redline.runtime.planning.probe import alone
from tests.runtime.planning.test_candidates import search_of


def plans(*overrides: str, recipe: str = "dqn") -> list[Option]:
    search = search_of(recipe)
    return options(replace(search, experiment=override(search.experiment, list(overrides))))[0]


@pytest.mark.parametrize("recipe", ["dqn", "apex"])
def test_processes_around_a_replay_are_looked_at_both_ways(recipe: str) -> None:
    found = plans(recipe=recipe)
    apart = [each for each in found if each.apart]
    assert {each.kind[:2] for each in apart} == {("apex", "processes")}
    for option in apart:
        (twin,) = (each for each in found if replace(each, settings={}) == _together(option, each))
        assert PROCESS <= option.memory - twin.memory < 1.1 * PROCESS
        assert option.settings == twin.settings | {"parallel.replay": "process"}


def _together(option: Option, twin: Option) -> Option:
    return replace(option, apart=False, memory=twin.memory, settings={})


def test_an_algorithm_without_a_replay_is_not_given_one() -> None:
    assert not any(each.apart for each in plans(recipe="impala"))


def test_a_replay_that_shall_be_apart_is_in_every_plan() -> None:
    found = plans("parallel.architecture=apex", "parallel.replay=process")
    assert found
    assert all(each.apart for each in found)


def test_plans_are_what_the_launcher_makes_of_them() -> None:
    search = search_of("dqn")
    for option in options(search)[0]:
        resolved = resolve(configure(search.experiment, option), search.spec, 1000)
        assert (resolved.parallel.replay == "process") == option.apart == option_of(resolved).apart


@pytest.mark.parametrize("recipe", ["dqn", "apex"])
def test_what_a_replay_costs_is_measured(recipe: str) -> None:
    """Uniform and by priority: a batch costs more than a step that is stored, and neither much."""
    parts = assemble(alone(api.make_experiment("CartPole-v1", recipe)))
    room = Collecting(parts, 8)
    try:
        draw, store = remembering(room)
    finally:
        room.close()
        parts.close()
    assert 0.0 < store < draw < 20e-3


@pytest.mark.parametrize(
    ("due", "expected"),
    [
        (0.25, 0.75 * 1 + 0.25 * 4),  # three rounds of four have nothing to learn meanwhile
        (1.0, 4.0),
        (2.5, 0.5 * 8 + 0.5 * 12),
    ],
)
def test_stepping_hides_behind_the_updates_of_its_own_round_only(due: float, expected: float) -> None:
    assert _side_by_side(1.0, due, 4.0) == pytest.approx(expected)
