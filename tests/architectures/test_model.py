"""Architectures are checked when made; the bound on lag is that of a simulated worst case, no more and no less."""

from __future__ import annotations

import itertools
import random
from dataclasses import fields, replace
from typing import Any

import pytest

from redline.algorithms.a2c import A2C
from redline.algorithms.apex import Apex
from redline.algorithms.dqn import DQN
from redline.architectures.catalogue import ARCHITECTURES, IMPALA, find
from redline.architectures.compatible import READ_BY, refusal, without_effect
from redline.architectures.config import ParallelConfig
from redline.architectures.model import Architecture, Edge, Role, gives_way, lag_bound
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
    """Actors of wildly different speed, who begin each slot with the newest weights, the last one done; the pacer alone
    keeps the bound. Slots go back after the update."""
    bound = lag_bound(IMPALA.sized(copies, queue, take))
    assert bound is not None
    rng = random.Random(copies * 100 + queue * 10 + take)
    started: dict[tuple[int, int], int] = {}
    pacer = Pacer(bound, take, drop=drop, begun=lambda actor, slot: started.get((actor, slot), pacer.batches))
    mail: dict[int, list[tuple[int, int]]] = {actor: [] for actor in range(copies)}

    def hand_out(key: tuple[int, int]) -> None:
        pacer.hand_out(*key)
        started.pop(key, None)
        mail[key[0]].append(key)

    for key in itertools.product(range(copies), range(1 + queue)):
        hand_out(key)
    seen, worst = 0, 0
    slow = {actor: rng.choice([1, 1, 50]) for actor in range(copies)}
    while seen < 300:
        busy = [actor for actor, keys in mail.items() if keys]
        batch = (
            None if busy and rng.random() < 0.7 else pacer.ready()
        )  # None: the learner is at work, or waits
        if batch is None:
            actor = rng.choices(busy, [1 / slow[actor] for actor in busy])[0]
            key = mail[actor][0]
            if key not in started:
                started[key] = pacer.batches
                continue
            mail[actor].pop(0)
            if not pacer.arrive(*key):
                hand_out(key)
            continue
        worst = max(worst, *(pacer.batches - started[key] for key in batch))
        pacer.learned()
        seen += 1
        for key in batch:
            hand_out(key)
    assert worst <= bound
    if not drop:
        assert pacer.dropped == 0
        assert worst == bound, "the bound is not loose: some unroll reaches it"


def test_what_has_not_begun_holds_nobody_up() -> None:
    """A slot that waits for its turn will have the newest weights, however long ago it was handed out."""
    begun = {(1, 0): 0}
    pacer = Pacer(1, 1, drop=False, begun=lambda actor, slot: begun.get((actor, slot), pacer.batches))
    pacer.hand_out(0, 0)
    pacer.hand_out(1, 0)
    for _ in range(2):
        pacer.learned()
    pacer.arrive(0, 0)
    assert pacer.ready() is None, "the other one has begun, with weights that are two batches old"
    begun.clear()
    assert pacer.ready() == [(0, 0)]


@pytest.mark.parametrize(
    ("name", "copies", "cores", "threads", "expected"),
    [
        ("impala", 1, 2, 1, False),
        ("impala", 1, 2, 2, True),  # its environments step on both
        ("impala", 2, 2, 1, True),
        ("impala", 15, 16, 1, False),
        ("impala", 4, 16, 4, True),
        ("seed", 1, 2, 1, True),  # the server keeps a core busy as well
        ("apex", 4, 2, 2, False),  # how much is learned from each sample would change
        ("synchronous", 1, 1, 1, False),
        ("a3c", 4, 2, 1, False),  # nobody learns for others
    ],
)
def test_those_who_could_keep_every_core_busy_give_way(
    name: str, copies: int, cores: int, threads: int, expected: bool
) -> None:
    assert gives_way(ARCHITECTURES[name].sized(copies), cores, threads) == expected


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


def test_numbers_asked_of_the_one_loop_are_refused_and_those_a_recipe_brings_are_not() -> None:
    moved = ParallelConfig("synchronous", copies=8, queue=2, max_staleness=100, late="drop")
    assert without_effect(moved, ["parallel.architecture=synchronous", "run.steps=5"], A2C) is None
    assert "parallel.copies=8: architecture synchronous has one loop" in str(
        without_effect(moved, ["parallel.copies = 8"], A2C)
    )
    for name in ("queue", "max_staleness", "late"):
        assert f"parallel.{name}=" in str(without_effect(moved, [f"parallel.{name}=..."], A2C))
    planned = ["parallel.copies=1", "parallel.queue=0", "parallel.batch=0"]
    assert without_effect(ParallelConfig("synchronous", copies=1, queue=0), planned, A2C) is None
    assert without_effect(ParallelConfig("impala", copies=8), ["parallel.copies=8"], A2C) is None


OTHER: dict[str, Any] = {  # than the default
    "queue": 1,
    "batch": 1,
    "slot": 2,
    "publish_every": 2,
    "replay_ratio": 4.0,
    "hosts": 1,
    "max_batch": 2,
    "max_wait": 0.1,
    "late": "drop",
    "give_way": False,
    "delay": 1,
    "servers": 2,
    "fetch_every": 2,
    "target_every": 2,
    "collective": "torch",
    "max_staleness": 5,
    "outlier": 2.0,
}


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES.keys() - {"synchronous"}))
def test_numbers_that_an_architecture_does_not_read_are_refused(architecture: str) -> None:
    """Each was taken without a word."""
    for name, value in OTHER.items():
        asked = replace(ParallelConfig(architecture), **{name: value})
        found = without_effect(asked, [f"parallel.{name}={value}"], DQN if name != "replay_ratio" else Apex)
        if architecture in READ_BY[name]:
            assert found is None, found
        else:
            assert f"parallel.{name}={value}: architecture {architecture} has no use for it" in str(found)
            assert f"parallel.architecture={READ_BY[name][0]}" in str(found)
        assert without_effect(asked, ["parallel.copies=2"], Apex) is None, "a recipe's own stays unsaid"


def test_every_number_but_those_of_all_architectures_says_who_reads_it() -> None:
    everywhere = {"architecture", "runtime", "copies", "replay"}  # a replay apart is refused elsewhere
    assert {field.name for field in fields(ParallelConfig)} == READ_BY.keys() | everywhere
    assert OTHER.keys() == READ_BY.keys()
    assert {name for names in READ_BY.values() for name in names} <= ARCHITECTURES.keys()


def test_numbers_that_need_roles_at_their_own_pace_are_refused_in_lock_step() -> None:
    turns = ParallelConfig("seed", queue=0, max_wait=0.1)
    assert "with parallel.queue=0 all take turns" in str(
        without_effect(turns, ["parallel.max_wait=0.1"], A2C)
    )
    assert without_effect(replace(turns, queue=1), ["parallel.max_wait=0.1"], A2C) is None


def test_a_replay_ratio_is_refused_where_the_algorithm_counts_its_own_updates() -> None:
    asked, settings = ParallelConfig("apex", replay_ratio=4.0), ["parallel.replay_ratio=4"]
    assert "dqn learns once every algorithm.update_every agent steps" in str(
        without_effect(asked, settings, DQN)
    )
    assert without_effect(asked, settings, Apex) is None
