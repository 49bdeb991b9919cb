"""Lag is measured from what unrolls are stamped with, and keeps to the bound that the architecture states."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import redline
from redline import api
from redline.runtime.actor_learner import NOT_BEGUN, ActorLearnerLoop
from redline.runtime.crew.weights import WeightStore
from redline.runtime.launch import make_loop
from redline.runtime.parts import assemble
from redline.runtime.pool import one_thread_each
from redline.types import Gauges, Interruption, Progress, UserError
from tests.leaks import eventually
from tests.runtime import samples

COMMON = [
    "run.tensorboard=false",
    "parallel.architecture=impala",
    "parallel.runtime=threads",
    "algorithm.unroll=8",
]


class Watch(api.Quiet):
    """Keeps the last gauges and counts of events."""

    gauges = Gauges()
    events: Mapping[str, int] = MappingProxyType({})

    def update(self, progress: Progress) -> None:
        self.gauges, self.events = progress.gauges, progress.events


def gauges(tmp_path: Path, *overrides: str, steps: int = 4000) -> Gauges:
    watch = Watch()
    settings: dict[str, Any] = {"steps": steps, "folder": str(tmp_path), "overrides": [*COMMON, *overrides]}
    redline.train("CartPole-v1", "impala", observer=watch, **settings)
    return watch.gauges


def test_without_a_queue_lag_is_zero(tmp_path: Path) -> None:
    found = gauges(tmp_path, "parallel.copies=2", "parallel.queue=0")
    assert found.lag_bound == 0
    assert found.lag == {"mean": 0.0, "p95": 0.0, "max": 0.0}


# IMPALA, check 6, and below
@pytest.mark.parametrize(
    ("copies", "queue", "batch"),
    [
        (1, 1, 1),
        (2, 1, 2),
        pytest.param(2, 2, 1, marks=pytest.mark.slow),
        pytest.param(4, 1, 1, marks=pytest.mark.slow),
    ],
)
def test_check_6_lag_is_above_zero_and_within_its_bound(
    tmp_path: Path, copies: int, queue: int, batch: int
) -> None:
    found = gauges(
        tmp_path, f"parallel.copies={copies}", f"parallel.queue={queue}", f"parallel.batch={batch}"
    )
    assert found.lag_bound is not None
    assert 0 < found.lag["mean"] <= found.lag["max"] <= found.lag_bound


@pytest.mark.slow
@pytest.mark.parametrize("late", ["wait", "drop"])
def test_a_slow_actor_does_not_break_the_bound(tmp_path: Path, late: str) -> None:
    """One environment in eight sleeps: its actor is many times slower than the other."""
    watch = Watch()
    redline.train(
        "tests.runtime.samples:make_uneven",
        "impala",
        steps=3000,
        folder=str(tmp_path),
        observer=watch,
        overrides=[
            *COMMON,
            "parallel.copies=2",
            "parallel.batch=1",
            "parallel.queue=1",
            "sampler.num_envs=2",
            f"parallel.late={late}",
        ],
    )
    assert watch.gauges.lag_bound == 3
    assert watch.gauges.lag["max"] <= 3
    assert (watch.events.get("dropped", 0) > 0) is (late == "drop")


def test_delayed_weights_are_as_late_as_asked(tmp_path: Path) -> None:
    found = gauges(tmp_path, "parallel.copies=1", "parallel.queue=0", "parallel.delay=10")
    assert found.lag_bound == 10
    assert found.lag["max"] == found.lag["p95"] == 10


def test_a_run_with_delayed_weights_can_be_resumed(tmp_path: Path) -> None:
    watch = Watch()
    delayed = [*COMMON, "parallel.copies=1", "parallel.queue=0", "parallel.delay=3"]
    run = redline.train("CartPole-v1", "impala", steps=1000, folder=str(tmp_path), overrides=delayed)
    resumed = redline.resume(run.name, steps=3000, folder=str(tmp_path), observer=watch)
    assert resumed.steps >= 3000
    assert 0 < watch.gauges.lag["mean"] <= watch.gauges.lag["max"] <= 3


@contextmanager
def running(environment: str, *overrides: str) -> Iterator[ActorLearnerLoop]:
    """A loop that will not end by itself."""
    settings = [*COMMON, "learner.precision=fp32", "run.steps=1000000000", *overrides]
    with one_thread_each():
        parts = assemble(api.make_experiment(environment, "impala", overrides=settings))
        loop: Any = make_loop(parts)
        try:
            yield loop
        finally:
            samples.GATE.set()
            loop.close()
            parts.close()


def error_of_values(correction: str, delay: int) -> float:
    """Mean distance of the learner's value of ``Arms`` from what its policy is worth, over sixty batches."""
    late = ["parallel.copies=1", "parallel.queue=0", f"parallel.delay={delay}", "learner.learning_rate=0.01"]
    late += ["algorithm.unroll=20", "algorithm.entropy_cost=0", "network.hidden=[32]"]
    with running("tests.runtime.samples:make_arms", *late, f"algorithm.correction={correction}") as loop:
        errors = []
        for _ in range(60):
            loop.iterate(0, 0.0, bool)
            seen, new = torch.ones(1, 1, 1), torch.ones(1, 1, dtype=torch.bool)
            with torch.no_grad():
                output, _ = loop.parts.learner.acting(seen, None, new)
            loses, earns = output.policy[0, 0].softmax(-1).tolist()
            errors.append(abs(float(output.value) - (earns - loses)))
        assert max(loop.lags) == delay
        return float(np.mean(errors))


def test_check_6_lag_of_ten_batches_spoils_values_far_more_without_vtrace() -> None:
    """Uncorrected they are those of the policy ten batches ago, which was worth less. How much of that can be seen in
    returns hangs on the task: ``redline study lag`` asks it of Catch, in minutes."""
    fresh, corrected, raw = (
        error_of_values("vtrace", 0),
        error_of_values("vtrace", 10),
        error_of_values("none", 10),
    )
    assert raw - fresh > 3 * abs(corrected - fresh)
    assert raw > 2 * corrected


STRAGGLER = ("parallel.copies=2", "parallel.batch=1", "parallel.queue=1", "sampler.num_envs=2")


# RLlib, check 3
def test_check_3_a_straggler_is_not_waited_for_and_what_it_sends_too_late_is_dropped_and_counted() -> None:
    with running("tests.runtime.samples:make_held", *STRAGGLER, "parallel.late=drop") as loop:
        samples.GATE.clear()
        looks = iter([False] * 300)  # one comes each tenth of a second that the learner waits
        for _ in range(30):  # the other goes on as if it were alone
            assert loop.iterate(0, 0.0, lambda: next(looks, True))[0] == 8
        assert "dropped" not in loop.events(), "it has sent nothing yet"
        samples.GATE.set()
        batches = 30

        def counted() -> bool:
            nonlocal batches
            loop.iterate(0, 0.0, bool)
            batches += 1
            return "dropped" in loop.events()

        assert eventually(counted, 30)
        assert 0 < loop.events()["dropped"] <= 2  # of as many slots as it has
        assert max(loop.lags) <= loop.pacer.bound
        assert loop.lags.total() == batches


def test_a_straggler_is_waited_for_unless_late_unrolls_are_to_be_dropped() -> None:
    """The twin of the test above."""
    with running("tests.runtime.samples:make_held", *STRAGGLER) as loop:
        samples.GATE.clear()
        looks = iter([False] * 8)

        def go_on() -> None:
            for _ in range(30):
                loop.iterate(0, 0.0, lambda: next(looks, True))

        with pytest.raises(Interruption):
            go_on()
        assert loop.pacer.batches <= loop.pacer.bound + 1


def test_normalised_rewards_need_batches_that_hold_every_environment_in_order(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"learner.reward=normalize .* set parallel.queue=0"):
        gauges(tmp_path, "parallel.copies=2", "parallel.queue=1", "learner.reward=normalize")


def test_gauges_reach_the_metrics_of_the_run(tmp_path: Path) -> None:
    overrides = [*COMMON, "parallel.copies=2", "parallel.queue=1"]
    run = redline.train("CartPole-v1", "impala", steps=2000, folder=str(tmp_path), overrides=overrides)
    last = json.loads((run.path / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0 < last["roles/actor"] <= 1
    assert 0 < last["roles/learner"] <= 1
    assert 0 <= last["queue/unrolls"] <= 4
    assert 0 < last["lag/mean"] <= last["lag/p95"] <= last["lag/max"] <= last["lag/bound"] == 2
    assert not {name for name in last if name.startswith("loss/lag_m") and name != "loss/lag_max"}
    assert {"time/waiting", "time/learning", "time/other"} <= last.keys()


def test_gauges_by_the_names_of_the_metrics() -> None:
    assert Gauges().metrics() == {}
    assert Gauges(replay_ratio=8.0).metrics() == {"replay_ratio": 8.0}
    found = Gauges({"actor": 0.5}, {"unrolls": 3.0}, {"unrolls": 4.0}, {"mean": 1.0}, lag_bound=2)
    assert found.metrics() == {"roles/actor": 0.5, "queue/unrolls": 3.0, "lag/mean": 1.0, "lag/bound": 2.0}


def test_how_old_an_unroll_is_counts_from_its_beginning() -> None:
    loop: Any = SimpleNamespace(
        _begins=[[np.array([NOT_BEGUN])], [np.array([7])]],
        _stamps={7: 3},  # version 7 was published after three batches
        _at_work={1},
        pacer=SimpleNamespace(batches=5),
        delay=0,
    )
    assert ActorLearnerLoop._begun(loop, 1, 0) == 3
    assert ActorLearnerLoop._begun(loop, 0, 0) == 0, "still on its way to its first unroll: it is waited for"
    loop._at_work.add(0)
    assert ActorLearnerLoop._begun(loop, 0, 0) == 5, "it will begin with what is newest"
    loop.delay = 1  # what was published after four batches were the weights of three
    assert ActorLearnerLoop._begun(loop, 1, 0) == 4


def test_an_actor_says_how_old_its_weights_will_be_before_it_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[int, str]] = []
    for name in ("announce", "read"):
        real = getattr(WeightStore, name)

        def spy(store: WeightStore, *given: Any, name: str = name, real: Any = real) -> Any:
            done.append((threading.get_ident(), name))
            return real(store, *given)

        monkeypatch.setattr(WeightStore, name, spy)
    gauges(tmp_path, "parallel.copies=2", "parallel.queue=1", steps=1000)
    for actor in {who for who, _ in done}:
        calls = [name for who, name in done if who == actor]
        assert calls[:4] == ["announce", "read"] * 2


RECURRENT = ["network.core=lstm", "algorithm.minibatches=4", "sampler.num_envs=8", "parallel.copies=4"]


@pytest.mark.parametrize(
    ("settings", "fewest"),
    [
        (["parallel.batch=1", "parallel.queue=1"], 2),
        (["parallel.batch=1", "parallel.queue=1", "parallel.late=drop"], 2),
        (["parallel.batch=1", "parallel.queue=0"], 2),
        (
            ["sampler.num_envs=5", "parallel.copies=3", "parallel.queue=1"],
            3,
        ),  # three unrolls of whoever has one
        (["algorithm.unroll=1", "network.core=none", "parallel.batch=1", "parallel.queue=1"], 2),
    ],
)
def test_more_minibatches_than_the_smallest_batch_has_are_refused(
    settings: list[str], fewest: int, tmp_path: Path
) -> None:
    """They were counted over the environments of all actors, and an empty one divided by zero."""
    overrides = [*RECURRENT, *settings, "run.tensorboard=false", "parallel.runtime=threads"]
    with pytest.raises(
        UserError, match=rf"minibatches=4 is more than the {fewest} .*: use {fewest} \(in the smallest"
    ):
        redline.train("CartPole-v1", "appo", steps=1000, folder=str(tmp_path), overrides=overrides)
    assert not list(tmp_path.iterdir())


def test_minibatches_that_the_smallest_batch_has_are_taken(tmp_path: Path) -> None:
    enough = ["parallel.batch=2", "parallel.queue=0", "run.tensorboard=false", "parallel.runtime=threads"]
    run = redline.train(
        "CartPole-v1", "appo", steps=1000, folder=str(tmp_path), overrides=[*RECURRENT, *enough]
    )
    assert run.steps >= 1000
