"""Precision is measured where it is left open, and only there; noise does not decide it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from redline import api, environments
from redline.runtime import plan, precision
from redline.runtime.parts import Parts, assemble, build_network, rules
from redline.runtime.precision import Work, compare

PONG = ["learner.threads=2", "sampler.shards=2", "learner.device=cpu"]


def assembled(*overrides: str) -> Parts:
    parts = assemble(api.make_experiment("ALE/Pong-v5", "ppo", overrides=[*PONG, *overrides]))
    parts.close()
    return parts


def costs(bf16: float) -> Callable[..., dict[str, float]]:
    return lambda *_: {"fp32": 1e-3, "bf16": bf16}


@pytest.mark.parametrize(("bf16", "chosen"), [(0.5e-3, "bf16"), (0.95e-3, "fp32"), (1.5e-3, "fp32")])
def test_bf16_is_taken_only_where_it_clearly_wins(
    bf16: float, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "has_bf16", lambda _: True)
    monkeypatch.setattr(precision, "compare", costs(bf16))
    parts = assembled()
    assert parts.experiment.learner.precision == chosen
    assert parts.learner.config.precision == chosen
    assert any(f"precision {chosen} was measured" in rule for rule in rules(parts))


def test_nothing_is_timed_for_a_given_precision_for_vectors_or_without_bf16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("timed")

    monkeypatch.setattr(precision, "compare", never)
    monkeypatch.setattr(plan, "has_bf16", lambda _: True)
    assert assembled("learner.precision=bf16").choices == []
    vectors = assemble(api.make_experiment("CartPole-v1", "ppo"))
    assert vectors.experiment.learner.precision == "fp32"
    monkeypatch.setattr(plan, "has_bf16", lambda _: False)
    assert assembled().experiment.learner.precision == "fp32"


def test_the_measured_choice_is_written_into_the_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "has_bf16", lambda _: True)
    monkeypatch.setattr(precision, "compare", costs(2e-3))
    small = ["algorithm.unroll=8", "sampler.num_envs=2", "run.tensorboard=false"]
    run = api.train("ALE/Pong-v5", "ppo", steps=16, folder=str(tmp_path), overrides=[*PONG, *small])
    assert "precision: fp32" in (run.path / "config.yaml").read_text()


def test_the_least_time_of_each_counts_and_the_network_stays_as_it_was() -> None:
    experiment = api.make_experiment("ALE/Pong-v5", "ppo")
    spec = environments.probe(experiment.environment)
    network = build_network(experiment, spec, "actor_critic")
    before = [p.clone() for p in network.parameters()]
    random = torch.get_rng_state()
    true = (4.0, 16.0, 2.0, 8.0)  # acting and training in fp32, in bf16

    def ticks() -> Iterator[float]:
        now = 0.0
        for call in range(10_000):
            yield now
            quiet = (
                call // 4 == 2 + call % 4
            )  # each kind of call has one undisturbed turn, another one for each
            now += true[call % 4] * (1.0 if quiet else 3.0)
            yield now

    clock = ticks()
    seconds = compare(network, spec, Work(acting=2, minibatch=4, passes=3.0), lambda: next(clock))
    assert seconds == {"fp32": 4 / 2 + 3 * 16 / 4, "bf16": 2 / 2 + 3 * 8 / 4}
    assert all(torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True))
    assert torch.equal(random, torch.get_rng_state())


@pytest.mark.parametrize(
    ("recipe", "expected"), [("ppo", Work(4, 128, 4.0)), ("a2c", Work(8, 40, 1.0)), ("dqn", Work(8, 16, 8.0))]
)
def test_the_work_is_the_recipes(recipe: str, expected: Work) -> None:
    made = api.make_experiment(
        "ALE/Pong-v5", recipe, overrides=["learner.threads=2", "sampler.groups=1", "learner.precision=fp32"]
    )
    shards = 1 if recipe == "dqn" else 2
    sampler = replace(made.sampler, shards=shards)
    assert Work.of(replace(made, sampler=sampler)) == expected
