"""What a probe does about long batches and about a machine that is busy for a moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from redline import api
from redline.planner.costs import Work
from redline.runtime.experiment import Experiment
from redline.runtime.planning import loops, probe
from redline.runtime.planning.pieces import Round, error_of, of_one_wait
from redline.runtime.planning.together import Budget
from redline.runtime.planning.trial import Shorter

HASTE = Budget(round=0.02, learn=0.02, network=0.05, crew=0.05)


@pytest.mark.parametrize(
    ("later", "spread", "told"),
    [
        ([1.05], 0.05, False),
        ([2.0, 1.04], 0.04, False),
        ([2.0, 2.1, 2.2], 1.2, True),
        ([0.5, 0.5, 0.8], 0.2, True),
    ],
    ids=["as before", "one busy moment", "slower since", "faster since"],
)
def test_a_round_that_stays_away_from_the_first_is_told(
    later: list[float], spread: float, told: bool
) -> None:
    """``later``: how long the round takes at each look after all else, over the first."""
    looks = iter(later)
    room = SimpleNamespace(measure=lambda seconds: _round(next(looks)))
    bench: Any = SimpleNamespace(
        round=lambda envs: _round(1.0), room=lambda envs: room, budget=Budget(), notes=[]
    )
    assert probe._Probe._spread(bench, 8) == pytest.approx(spread)
    assert bool(bench.notes) == told
    assert next(looks, None) is None, "no look is for nothing"


@pytest.mark.parametrize(("resets", "told"), [(4, True), (400, False)])
def test_too_few_slow_rounds_to_know_their_mean_are_told(resets: int, told: bool) -> None:
    """One round of a hundred takes a hundred times as long, or ten times that: the rarer are luck."""
    slow = ([0.1] * 3 + [1.0]) * (resets // 4)
    error = error_of([0.001] * 100 * resets + slow)
    bench: Any = SimpleNamespace(
        rounds={4: replace(_round(1.0), error=9.0), 8: replace(_round(1.0), error=error)}, notes=[]
    )
    probe._Probe._note_company(bench)
    assert [f"{error:.0%} more or less" in note for note in bench.notes] == [True] * told


@pytest.mark.parametrize(("error", "waits"), [(0.01, (1e-3, 2e-3)), (0.2, (0.6e-3, 2.4e-3))])
def test_waits_too_rare_for_one_count_are_told_by_all(error: float, waits: tuple[float, float]) -> None:
    """A hundred rounds of two environments waited for 0.1 s, and of eight for 0.2: of 1000 steps each waits 0.3 ms."""
    rounds = {
        2: replace(_round(1.0), step=Work(1e-3, wait=1e-3), error=error, rounds=100),
        8: replace(_round(1.0), step=Work(4e-3, wait=2e-3), error=0.01, rounds=100),
    }
    found = of_one_wait(rounds)
    assert tuple(each.step.wait for each in found.values()) == pytest.approx(waits)
    assert [each.step.core for each in found.values()] == [1e-3, 4e-3]


def _round(times: float) -> Round:
    return Round(Work(1e-3 * times), act=1e-3 * times, record=1e-4)


@pytest.mark.slow
def test_a_long_batch_is_measured_by_its_parts_and_told_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[[Experiment, float], Shorter] = probe.shortened
    seen: list[Shorter] = []

    def shortened(experiment: Experiment, seconds: float) -> Shorter:
        assert seconds > 0
        seen.append(real(experiment, 1000.0))
        return seen[-1]

    sizes = ["algorithm.unroll=32", "algorithm.minibatches=4", "algorithm.epochs=3", "sampler.num_envs=8"]
    experiment = api.make_experiment("CartPole-v1", "ppo", overrides=sizes)
    plain = probe.probe(experiment, budget=HASTE)
    monkeypatch.setattr(probe, "shortened", shortened)
    found = probe.probe(experiment, budget=HASTE)
    assert [(each.times, each.passes) for each in seen] == [(4, 3.0)]
    assert (found.batch, found.updates, found.minibatch) == (plain.batch, plain.updates, plain.minibatch)
    assert (found.batch, found.updates, found.minibatch) == (256, 12.0, 64)


@pytest.mark.parametrize(
    ("first", "second", "believed"), [(4e-3, 3e-3, 3e-3), (3e-3, 4e-3, 3e-3), (50e-3, 3e-3, 50e-3)]
)
def test_of_two_looks_at_a_short_loop_the_faster_is_believed(
    monkeypatch: pytest.MonkeyPatch, first: float, second: float, believed: float
) -> None:
    experiment = api.make_experiment("CartPole-v1", "ppo", overrides=["algorithm.unroll=20"])
    bench: Any = SimpleNamespace(experiment=experiment, parts=None, budget=Budget(learn=1.0))
    monkeypatch.setattr(loops, "_loop", lambda *_: loops.Turns(second, 1e-3))
    assert loops.again(bench, loops.Turns(first, 1e-3)).seconds == believed, (
        "a second held many of them, or one"
    )
