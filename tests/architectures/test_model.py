"""Architectures are checked when made; the bound on lag is that of a simulated worst case, no more and no less."""

from __future__ import annotations

import itertools
import random

import pytest

from redline.algorithms.a2c import A2C
from redline.algorithms.dqn import DQN
from redline.architectures.catalogue import ARCHITECTURES, IMPALA, find
from redline.architectures.compatible import refusal
from redline.architectures.model import Architecture, Edge, Role, lag_bound
from redline.runtime.actor_learner import Pacer
from redline.types import UserError


@pytest.mark.parametrize(
    ("roles", "edges", "words"),
    [
        ((Role("a", "learn"),), (), "no role steps environments"),
        ((Role("a", "collect"),), (), "no role learns"),
        ((Role("a", "train"), Role("a", "train")), (), "two roles are named 'a'"),
        ((Role("a", "train"),), (Edge("a", "b", "unroll"),), "there is no role 'b'"),
        ((Role("a", "train"),), (Edge("a", "a", "weights"),), "never make the learner wait"),
        (
            (Role("a", "train"),),
            (Edge("a", "a", "unroll", when_full="race"),),
            "neither overwritten nor torn",
        ),
        ((Role("a", "train"),), (Edge("a", "a", "unroll", capacity=-1),), "0 or more"),
    ],
)
def test_a_wrong_architecture_is_refused(
    roles: tuple[Role, ...], edges: tuple[Edge, ...], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        Architecture("x", "", roles, edges)


def test_an_unknown_architecture_gets_the_nearest_name() -> None:
    with pytest.raises(UserError, match="did you mean 'impala'"):
        find("impale")


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize(
    ("copies", "queue", "take"), [(1, 0, 1), (1, 1, 1), (2, 0, 2), (3, 1, 3), (4, 1, 1), (5, 2, 3)]
)
def test_the_bound_on_lag_is_kept_whatever_the_order_of_arrival(
    copies: int, queue: int, take: int, drop: bool
) -> None:
    """Actors of wildly different speed; the pacer alone keeps the bound. Slots go back after the update."""
    bound = lag_bound(IMPALA.sized(copies, queue, take))
    assert bound is not None
    rng = random.Random(copies * 100 + queue * 10 + take)
    pacer = Pacer(bound, take, drop=drop)
    started: dict[tuple[int, int], int] = {}
    for key in itertools.product(range(copies), range(1 + queue)):
        pacer.hand_out(*key)
        started[key] = 0
    seen, worst = 0, 0
    slow = {key: rng.choice([1, 1, 50]) for key in started}
    while seen < 300:
        batch = pacer.ready()
        if batch is None:
            waiting = [key for key in started if not pacer.flights[key].arrived]
            key = rng.choices(waiting, [1 / slow[key] for key in waiting])[0]
            if not pacer.arrive(*key):
                pacer.hand_out(*key)
                started[key] = pacer.batches
            continue
        worst = max(worst, *(pacer.batches - started[key] for key in batch))
        pacer.learned()
        seen += 1
        for key in batch:
            pacer.hand_out(*key)
            started[key] = pacer.batches
    assert worst <= bound
    if not drop:
        assert pacer.dropped == 0
        assert worst == bound, "the bound is not loose: some unroll reaches it"


def test_late_unrolls_are_dropped_only_when_asked() -> None:
    pacer = Pacer(0, 1, drop=True)
    pacer.hand_out(0, 0)
    pacer.hand_out(1, 0)
    pacer.arrive(0, 0)
    assert pacer.ready() == [(0, 0)]
    pacer.learned()
    assert not pacer.arrive(1, 0)
    assert pacer.dropped == 1


def test_lag_bounds_of_the_catalogue() -> None:
    sized = {name: each.sized(4, 1) for name, each in ARCHITECTURES.items()}
    bounds = {name: lag_bound(each) for name, each in sized.items()}
    assert bounds["synchronous"] == 0
    assert bounds["accel_sync"] == 0
    assert bounds["impala"] == 2
    assert bounds["apex"] is None
    assert bounds["a3c"] is None


def test_incompatible_pairs_are_refused_with_the_reason() -> None:
    assert refusal(IMPALA.sized(2, 0), A2C) is None
    assert "needs lag <= 1" in str(refusal(IMPALA.sized(4, 2), A2C))
    assert "replay has no bound" in str(refusal(ARCHITECTURES["apex"].sized(2), A2C))
    assert "it learns from replay" in str(refusal(IMPALA.sized(2), DQN))
