"""Architectures simulated, against rates and lags that can be worked out by hand."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from redline.architectures.catalogue import (
    A3C,
    ACCEL_ASYNC,
    ACCEL_SYNC,
    APEX,
    ARCHITECTURES,
    GORILA,
    IMPALA,
    SEED,
    SYNCHRONOUS,
)
from redline.architectures.model import Architecture, lag_bound
from redline.planner.arrangements.pacer import Pacer
from redline.planner.bound import bound, limits
from redline.planner.costs import Curve, Prediction, Work, Workload
from redline.planner.simulate import simulate
from redline.runtime.actor_learner import Pacer as RealPacer

EXPONENTIAL = tuple((-np.log1p(-(np.arange(400) + 0.5) / 400)).tolist())  # quantiles; their mean is 0.9988
LOAD = Workload(
    cores=64,
    unroll=10,
    environments=4,
    step=Work(core=3e-3),
    act=Work(core=1e-3),
    learn=Work(core=10e-3),
    hand=Work(core=0.0),
    publish=Work(core=0.0),
)
UNROLL = 10 * 4e-3  # seconds, alone
STEPS = 40  # agent steps of an unroll


def quick(
    architecture: Architecture, load: Workload, seconds: float = 6.0, seed: int = 0, most: int = 10_000
) -> Prediction:
    return simulate(architecture, load, seconds=seconds, warm=1.0, seed=seed, most=most)


# One loop


def test_a_loop_collects_then_learns() -> None:
    found = quick(SYNCHRONOUS, LOAD)
    assert found.steps_per_second == pytest.approx(STEPS / (UNROLL + 10e-3), rel=1e-3)
    assert found.updates_per_second == pytest.approx(1 / (UNROLL + 10e-3), rel=1e-3)
    assert found.cores_busy == pytest.approx(1.0)
    assert found.utilisation == {"loop": pytest.approx(1.0)}
    assert found.lag["max"] == 0


def test_shards_collect_side_by_side_as_far_as_there_are_cores() -> None:
    for cores, slower in ((2, 1.0), (1, 2.0)):
        found = quick(SYNCHRONOUS, replace(LOAD, shards=2, cores=cores))
        assert found.steps_per_second == pytest.approx(STEPS / (slower * UNROLL + 10e-3), rel=1e-3)


def test_the_slowest_shard_is_waited_for() -> None:
    load = replace(LOAD, unroll=1, act=Work(), learn=Work(), step=Work(core=10e-3, tail=EXPONENTIAL))
    found = quick(SYNCHRONOUS, replace(load, shards=4), seconds=60.0)
    assert found.steps_per_second == pytest.approx(4 / (10e-3 * (1 + 1 / 2 + 1 / 3 + 1 / 4)), rel=0.03)


def test_groups_that_take_turns_hide_stepping_behind_acting() -> None:
    # A group's step takes 1.5 ms, its act 0.5 ms: with two groups a round takes the longer chain, 2 ms.
    load = replace(
        LOAD, groups=2, unroll=250, learn=Work()
    )  # long: at its ends nothing hides behind anything
    found = quick(SYNCHRONOUS, load, most=50_000)
    assert found.steps_per_second == pytest.approx(4 / 2e-3, rel=2e-3)
    # Where acting is the longer half, it is all that is left.
    found = quick(SYNCHRONOUS, replace(load, step=Work(core=1e-3), act=Work(core=3e-3)), most=50_000)
    assert found.steps_per_second == pytest.approx(4 / 3e-3, rel=2e-3)


def test_a_loop_that_learns_from_replay_does_so_while_its_environments_step() -> None:
    # 4 steps a round make half an update of 32 samples due at a ratio of 4: 10 ms every other round, which hides 3 ms.
    load = replace(LOAD, overlap=True, samples=32, ratio=4.0)
    found = quick(SYNCHRONOUS, load)
    assert found.steps_per_second == pytest.approx(8 / (1e-3 + 10e-3 + 1e-3 + 3e-3), rel=1e-3)
    assert found.replay_ratio == pytest.approx(4.0, rel=0.01)
    assert found.updates_per_second == pytest.approx(found.steps_per_second * 4 / 32, rel=0.01)


# Actors and a learner


def test_one_actor_with_a_slot_to_spare_and_one_learner_overlap() -> None:
    for learn in (10e-3, 90e-3):
        found = quick(IMPALA.sized(1, capacity=1), replace(LOAD, learn=Work(core=learn)))
        assert found.steps_per_second == pytest.approx(STEPS / max(UNROLL, learn), rel=1e-3)
        assert found.utilisation["learner"] == pytest.approx(min(learn / UNROLL, 1.0), rel=1e-3)
        assert found.utilisation["actor"] == pytest.approx(min(UNROLL / learn, 1.0), rel=1e-3)


def test_without_one_they_take_turns_and_nothing_lags() -> None:
    found = quick(IMPALA.sized(3, capacity=0), LOAD)
    assert found.steps_per_second == pytest.approx(3 * STEPS / (UNROLL + 10e-3), rel=1e-3)
    assert found.lag == {"mean": 0.0, "p95": 0.0, "max": 0.0}


def test_a_saturated_learner_sets_the_rate_and_actors_wait_for_it() -> None:
    load = replace(LOAD, learn=Work(core=50e-3), hand=Work(core=1e-3), publish=Work(core=2e-3))
    found = quick(IMPALA.sized(20, take=4), load)
    assert found.updates_per_second == pytest.approx(1 / (50e-3 + 4e-3 + 2e-3), rel=2e-3)
    assert found.utilisation["learner"] == pytest.approx(1.0, rel=1e-3)
    assert found.utilisation["actor"] == pytest.approx(found.steps_per_second / STEPS * UNROLL / 20, rel=0.01)


def test_saturated_actors_set_the_rate_and_the_learner_waits() -> None:
    found = quick(IMPALA.sized(3, take=3), LOAD)
    assert found.steps_per_second == pytest.approx(3 * STEPS / UNROLL, rel=2e-3)
    assert found.utilisation["learner"] == pytest.approx(10e-3 / UNROLL, rel=0.01)


def test_a_batch_of_many_updates_counts_them_all() -> None:
    found = quick(IMPALA.sized(3), replace(LOAD, updates=16.0))
    assert found.updates_per_second == pytest.approx(16 / UNROLL, rel=2e-3)


def test_learner_and_actors_share_a_gpu_in_turn() -> None:
    load = replace(LOAD, gpus=1, act=Work(gpu=1e-3), learn=Work(gpu=10e-3))
    found = quick(IMPALA.sized(30, take=30), load)
    # 30 actors x 10 rounds x 1 ms, and 10 ms of learning, for a batch: the GPU has no time to lose.
    assert found.updates_per_second == pytest.approx(1 / (0.3 + 0.01), rel=0.02)
    assert found.gpu_busy == pytest.approx(1.0, rel=0.02)


# Replay


def test_actors_and_a_learner_on_replay_go_at_their_own_rates() -> None:
    load = replace(LOAD, samples=64, learn=Work(core=7e-3), publish=Work(core=1e-3))
    for copies in (2, 8):
        found = quick(APEX.sized(copies), load)
        assert found.steps_per_second == pytest.approx(copies * STEPS / UNROLL, rel=2e-3)
        assert found.updates_per_second == pytest.approx(1 / 8e-3, rel=2e-3)
        ratio = 64 * found.updates_per_second / found.steps_per_second
        assert found.replay_ratio == pytest.approx(ratio, rel=0.02)


def test_a_ratio_holds_the_learner_back_and_actors_only_if_they_are_paced() -> None:
    load = replace(LOAD, samples=64, learn=Work(core=7e-3))
    found = quick(APEX.sized(2), replace(load, ratio=0.5))
    assert found.replay_ratio == pytest.approx(0.5, rel=0.02)
    assert found.updates_per_second == pytest.approx(0.5 * found.steps_per_second / 64, rel=0.02)
    fast = replace(load, ratio=16.0)  # more than the learner can do
    assert quick(APEX.sized(2), fast).steps_per_second == pytest.approx(2 * STEPS / UNROLL, rel=2e-3)
    held = quick(APEX.sized(2), replace(fast, paced=True))
    assert quick(APEX.sized(2, capacity=0), replace(fast, paced=True)).steps_per_second > 0, (
        "taking turns is pace"
    )
    assert held.steps_per_second == pytest.approx(64 / 7e-3 / 16, rel=0.01)
    assert held.replay_ratio == pytest.approx(16.0, rel=0.02)


def test_an_intake_that_is_saturated_holds_the_actors_back() -> None:
    found = quick(APEX.sized(40), replace(LOAD, samples=64, hand=Work(core=4e-3)))
    assert found.steps_per_second == pytest.approx(STEPS / 4e-3, rel=0.01)
    assert found.utilisation["replay"] == pytest.approx(1.0, rel=0.01)


def test_lock_step_on_replay_learns_while_a_round_is_made() -> None:
    load = replace(LOAD, unroll=1, samples=32, ratio=8.0, learn=Work(core=7e-3))
    found = quick(APEX.sized(2, capacity=0), load)
    # 8 steps a round make 2 updates due: 14 ms, behind which the 4 ms of the actors hide.
    assert found.steps_per_second == pytest.approx(8 / 14e-3, rel=0.01)


# Workers and an inference server


SERVED = replace(LOAD, act=Work(), serve=Curve.of([(4, 1e-3), (400, 1e-3)]), learn=Work(core=1e-4))


def test_workers_that_wait_for_latency_scale_until_the_server_is_full() -> None:
    """Each waits 30 ms in a simulator elsewhere; the server takes 1 ms for one worker, and no two together."""
    load = replace(SERVED, step=Work(wait=30e-3), largest=1, serve=Curve.of([(4, 1e-3)]))
    one = quick(SEED.sized(1, capacity=2, take=1), load).steps_per_second
    # Of an unroll, ten rounds are stepped and eleven served.
    assert one == pytest.approx(STEPS / (10 * 30e-3 + 11 * 1e-3), rel=0.01)
    for copies in (4, 16):
        rate = quick(SEED.sized(copies, capacity=2, take=1), load).steps_per_second
        assert rate == pytest.approx(copies * one, rel=0.03)
    full = quick(SEED.sized(60, capacity=2, take=1), load)
    assert full.steps_per_second == pytest.approx(4 / 1e-3 * 10 / 11, rel=0.01)
    assert full.utilisation["inference"] == pytest.approx(1.0, rel=0.01)


def test_a_server_that_answers_many_at_once_serves_more() -> None:
    load = replace(SERVED, step=Work(core=1e-3))
    one, all_ = (quick(SEED.sized(32, capacity=2, take=8), replace(load, largest=n)) for n in (1, 0))
    assert one.steps_per_second == pytest.approx(4 / 1e-3 * 10 / 11, rel=0.02)
    assert all_.steps_per_second > 8 * one.steps_per_second


def test_in_lock_step_groups_step_while_others_are_served() -> None:
    # One group: 8 workers step 3 ms, then are served in 1 ms; and the learner's 0.1 ms and one serving more a batch.
    found = quick(SEED.sized(8, capacity=0), SERVED)
    assert found.steps_per_second == pytest.approx(8 * STEPS / (10 * 4e-3 + 1e-3 + 1e-4), rel=0.01)
    # Four groups share the server: a round is 4 ms, in which it serves all four.
    four = quick(SEED.sized(8, capacity=0), replace(SERVED, groups=4))
    assert four.utilisation["inference"] > 3 * found.utilisation["inference"]
    assert found.lag["max"] == four.lag["max"] == 0


def test_an_inference_server_may_have_the_gpu() -> None:
    load = replace(SERVED, serve=None, serve_gpu=Curve.of([(4, 1e-3), (400, 1e-3)]), gpus=1)
    found = quick(SEED.sized(8, capacity=0), load)
    assert found.steps_per_second == pytest.approx(8 * STEPS / (10 * 4e-3 + 1e-3 + 1e-4), rel=0.01)
    assert found.gpu_busy == pytest.approx(11 * 1e-3 / (41.1e-3), rel=0.01)


@pytest.mark.parametrize("architecture", [IMPALA.sized(1), SEED.sized(1)])
def test_an_unroll_is_as_old_as_the_weights_at_its_start(architecture: Architecture) -> None:
    """While one is made, the one before is learned from: those weights come too late, and it lags by one."""
    found = quick(architecture, replace(SERVED, act=Work(core=1e-3), learn=Work(core=10e-3)))
    assert found.lag == {"mean": 1.0, "p95": 1.0, "max": 1.0}


def test_a_learner_that_is_uneven_leaves_unrolls_waiting_longer() -> None:
    """Always a little faster than its actor it never keeps one waiting; now and then slower, it does: lag rises."""
    learn = Work(core=0.8 * UNROLL)
    even = quick(IMPALA.sized(1, capacity=2), replace(LOAD, learn=learn))
    assert even.lag["mean"] == pytest.approx(1.0)
    uneven = quick(
        IMPALA.sized(1, capacity=2), replace(LOAD, learn=replace(learn, tail=EXPONENTIAL)), seconds=60.0
    )
    assert 1.2 < uneven.lag["mean"] <= lag_bound(IMPALA.sized(1, capacity=2))
    assert uneven.steps_per_second <= even.steps_per_second


# Copies that share gradients


def test_a_barrier_with_exponential_stragglers_waits_for_the_expected_maximum() -> None:
    """The mean of the largest of K exponentials is the harmonic number H_K."""
    alone = replace(LOAD, unroll=1, act=Work(), learn=Work())
    here = replace(alone, step=Work(core=10e-3, tail=EXPONENTIAL))
    elsewhere = replace(alone, step=Work(wait=10e-3, tail=EXPONENTIAL))
    for copies, load in ((2, here), (8, here), (8, elsewhere)):
        harmonic = sum(1 / k for k in range(1, copies + 1))
        found = quick(ACCEL_SYNC.sized(copies), load, seconds=60.0)
        assert found.steps_per_second == pytest.approx(copies * 4 / (10e-3 * harmonic), rel=0.03)
        assert found.utilisation["replica"] == pytest.approx(1 / harmonic, rel=0.03)
        assert found.lag["max"] == 0
    assert quick(A3C.sized(8), load, seconds=60.0).steps_per_second == pytest.approx(8 * 4 / 10e-3, rel=0.03)


@pytest.mark.parametrize("architecture", [A3C, ACCEL_ASYNC, GORILA])
def test_gradients_lack_those_of_all_the_others(architecture: Architecture) -> None:
    """K alike: between a copy's pull and its push every other one pushes about once."""
    load = replace(
        LOAD, step=Work(core=3e-3, tail=EXPONENTIAL), publish=Work(core=1e-4), hand=Work(core=1e-5)
    )
    for copies in (4, 16):
        found = quick(architecture.sized(copies), load)
        assert found.lag["mean"] == pytest.approx(copies - 1, rel=0.1)
        assert found.updates_per_second == pytest.approx(copies / (UNROLL + 10.1e-3), rel=0.05)


def test_locks_are_a_resource_that_more_pieces_relieve() -> None:
    load = replace(LOAD, publish=Work(core=5e-3))
    one, four = (quick(ACCEL_ASYNC.sized(32), replace(load, chunks=n)) for n in (1, 4))
    assert one.updates_per_second == pytest.approx(1 / 5e-3, rel=0.01)
    assert four.updates_per_second > 2.5 * one.updates_per_second


def test_more_servers_apply_more_gradients_and_old_ones_are_refused() -> None:
    load = replace(LOAD, hand=Work(core=5e-3))
    one, four = (quick(GORILA.sized(32), replace(load, chunks=n)) for n in (1, 4))
    assert one.updates_per_second == pytest.approx(1 / 5e-3, rel=0.01)
    assert one.utilisation["server"] == pytest.approx(1.0, rel=0.01)
    assert four.updates_per_second > 2.5 * one.updates_per_second
    edges = (replace(GORILA.edges[0], max_lag=3), *GORILA.edges[1:])
    strict = quick(replace(GORILA, edges=edges).sized(32), LOAD)
    assert strict.lag["max"] <= 3
    assert strict.updates_per_second < 0.8 * quick(GORILA.sized(32), LOAD).updates_per_second


def test_every_update_of_a_batch_is_shared() -> None:
    load = replace(LOAD, updates=5.0, publish=Work(core=1e-3))
    found = quick(ACCEL_SYNC.sized(4), load)
    assert found.steps_per_second == pytest.approx(4 * STEPS / (UNROLL + 10e-3 + 5e-3), rel=2e-3)
    assert found.updates_per_second == pytest.approx(5 / (UNROLL + 10e-3 + 5e-3), rel=2e-3)


# All of them

MANY = {
    **{name: each.sized(4) for name, each in ARCHITECTURES.items()},
    "impala, lock-step": IMPALA.sized(4, capacity=0),
    "impala, half a turn": IMPALA.sized(4, capacity=2, take=2),
    "impala, one by one": IMPALA.sized(4, capacity=3, take=1),
    "seed, lock-step": SEED.sized(4, capacity=0),
    "seed, half a turn": SEED.sized(4, capacity=2, take=2),
    "apex, lock-step": APEX.sized(4, capacity=0),
}
FULL = replace(
    LOAD,
    cores=3,
    step=Work(core=2e-3, wait=1e-3, tail=(0.5, 0.5, 0.5, 2.5)),
    hand=Work(core=2e-4),
    publish=Work(core=1e-3),
    serve=Curve.of([(4, 1e-3), (16, 2e-3)]),
    samples=32,
    ratio=1.0,
)


@pytest.mark.parametrize("name", MANY)
def test_one_seed_one_prediction(name: str) -> None:
    one, same, other = (quick(MANY[name], FULL, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one != other


@pytest.mark.parametrize("name", MANY)
@pytest.mark.parametrize("cores", [1, 3, 50])
def test_lag_keeps_to_the_architecture_s_bound(name: str, cores: int) -> None:
    for learn in (1e-3, 100e-3):
        found = quick(MANY[name], replace(FULL, cores=cores, learn=Work(core=learn)))
        limit = lag_bound(MANY[name])
        if limit is not None:
            assert found.lag["max"] <= limit
        assert 0.0 <= found.lag["mean"] <= found.lag["max"]
        assert found.lag["p95"] <= found.lag["max"]


@pytest.mark.parametrize("name", MANY)
def test_more_cores_are_never_slower(name: str) -> None:
    rates = [quick(MANY[name], replace(FULL, cores=cores)).steps_per_second for cores in (1, 2, 4, 8, 16)]
    assert all(more > 0.98 * fewer for fewer, more in itertools.pairwise(rates)), rates


@pytest.mark.parametrize("name", MANY)
def test_what_is_busy_adds_up(name: str) -> None:
    found = quick(MANY[name], FULL)
    assert 0.0 < found.cores_busy <= 3.0 + 1e-9
    assert all(0.0 <= share <= 1.0 for share in found.utilisation.values())
    assert set(found.utilisation) == {role.name for role in MANY[name].roles}


def test_lag_stays_low_because_actors_give_way_to_their_learner() -> None:
    """Learning is 0.4 of all work: more than an equal's third of two cores, less than the core that it may have."""
    load = replace(
        LOAD, cores=2, unroll=10, environments=4, step=Work(core=1e-3), act=Work(), learn=Work(core=13.3e-3)
    )
    crowded = simulate(IMPALA.sized(2, 2), load)
    assert crowded.lag["mean"] < 1.2
    equal = simulate(IMPALA.sized(2, 2), replace(load, polite=False))
    assert equal.lag["mean"] > 1.8
    assert crowded.steps_per_second > 0.98 * equal.steps_per_second


def test_slow_batches_are_waited_for() -> None:
    """Of batches that take longer than was to be simulated, enough are seen all the same."""
    found = simulate(IMPALA.sized(2), replace(LOAD, learn=Work(core=7.0)), seconds=3.0)
    assert found.updates_per_second == pytest.approx(1 / 7.0, rel=3e-3)


def test_an_environment_may_take_hours() -> None:
    slow = replace(LOAD, step=Work(core=5e3))
    assert simulate(SYNCHRONOUS, slow, seconds=5.0).steps_per_second == pytest.approx(4 / 5e3, rel=0.02)


def test_events_may_be_limited() -> None:
    load = replace(LOAD, groups=2)
    found = simulate(SYNCHRONOUS, load, seconds=1e8, most=20_000)  # without the limit it would take hours
    whole = simulate(SYNCHRONOUS, load, seconds=6.0, warm=1.0, most=None)
    assert found.steps_per_second == pytest.approx(whole.steps_per_second, rel=0.01)


def test_copies_have_to_be_chosen() -> None:
    with pytest.raises(ValueError, match="copies"):
        simulate(IMPALA, LOAD)


def test_a_standstill_is_an_error() -> None:
    """In lock-step a server waits for all five workers, and a learner that takes two leaves one without a slot."""
    with pytest.raises(ValueError, match="every role waits"):
        quick(SEED.sized(5, capacity=0, take=2), SERVED)


@pytest.mark.slow
def test_ten_thousand_actors_are_no_different() -> None:
    load = replace(LOAD, cores=10_000, step=Work(core=30e-3, tail=EXPONENTIAL), act=Work(core=10e-3))
    found = simulate(APEX.sized(10_000), replace(load, samples=512), seconds=2.0, warm=0.5, most=None)
    assert found.steps_per_second == pytest.approx(10_000 * 4 / 40e-3, rel=0.02)


# The pacer


@settings(max_examples=60, deadline=None)
@given(
    bound=st.integers(0, 4),
    take=st.integers(1, 4),
    actors=st.integers(1, 6),
    each=st.integers(1, 3),
    choices=st.lists(st.integers(0, 1_000), min_size=30, max_size=120),
)
def test_the_pacer_decides_as_the_real_one_does(
    bound: int, take: int, actors: int, each: int, choices: list[int]
) -> None:
    """Slots are begun and come back in any order: whether there is a batch, and of which ages, is the same."""
    ages: dict[tuple[int, int], int] = {}
    resting: list[tuple[int, int]] = []
    out: list[tuple[int, int]] = []
    real = RealPacer(
        bound, take, drop=False, begun=lambda actor, slot: ages.get((actor, slot), counted.batches)
    )
    counted = Pacer(bound, take)

    def hand_out(key: tuple[int, int]) -> None:
        real.hand_out(*key)
        counted.hand_out()
        ages.pop(key, None)
        resting.append(key)

    for key in ((actor, slot) for actor in range(actors) for slot in range(each)):
        hand_out(key)
    for choice in choices:
        batch, same = real.ready(), counted.ready()
        assert (batch is None) == (same is None)
        if batch is not None and same is not None:
            assert sorted(batch) == sorted(key for _, key in same)
            counted.gone(same)
            if choice % 2:  # copied: handed out before the batch has been learned from
                for key in batch:
                    hand_out(key)
            real.learned()
            counted.learned()
            if not choice % 2:
                for key in batch:
                    del real.flights[key]
                    hand_out(key)
        elif resting and (choice % 3 == 0 or not out):
            key = resting.pop(choice % len(resting))
            ages[key] = counted.begin(counted.batches)
            out.append(key)
        elif out:
            key = out.pop(choice % len(out))
            real.arrive(*key)
            counted.arrive(ages[key], key)


# The bound

work = st.builds(
    Work, core=st.floats(1e-4, 1e-2), width=st.sampled_from([1, 2, 4]), wait=st.sampled_from([0.0, 1e-3])
)
loads = st.builds(
    Workload,
    cores=st.integers(1, 12),
    unroll=st.integers(1, 12),
    environments=st.integers(1, 8),
    step=work,
    act=work,
    learn=work,
    updates=st.sampled_from([1.0, 3.0]),
    hand=st.builds(Work, core=st.floats(0.0, 1e-3)),
    publish=st.builds(Work, core=st.floats(0.0, 1e-3)),
    shards=st.just(1),
    groups=st.sampled_from([1, 1, 2]),
    overlap=st.booleans(),
    serve=st.just(Curve.of([(1, 1e-3), (64, 3e-3)])),
    largest=st.sampled_from([0, 2]),
    samples=st.just(16),
    ratio=st.sampled_from([0.5, 4.0]),
    paced=st.booleans(),
    draw=work,
    shelves=st.sampled_from([0, 3]),
    drag=st.sampled_from([1.0, 1.4]),
    chunks=st.integers(1, 3),
)


ARRANGED = {
    "name": st.sampled_from(sorted(ARCHITECTURES)),
    "copies": st.integers(1, 6),
    "capacity": st.integers(0, 2),
    "take": st.integers(0, 3),
    "load": loads,
}
ONE_FAILURE = settings(  # is enough to see why
    deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate]
)


def assert_bounded(name: str, copies: int, capacity: int, take: int, load: Workload) -> None:
    architecture = ARCHITECTURES[name]
    whole = name == "seed" and capacity == 0  # in lock-step the server waits for all: so must the learner
    sized = architecture.sized(
        copies,
        capacity=capacity,
        take=None if name == "apex" else 0 if whole else min(take, copies),
    )
    found = simulate(sized, load, seconds=2.0, warm=0.5, most=60_000)
    assert 0.0 < found.steps_per_second <= 1.01 * bound(sized, load), limits(sized, load)


@settings(ONE_FAILURE, max_examples=40)
@given(**ARRANGED)
def test_nothing_beats_the_bound(**arranged: Any) -> None:
    assert_bounded(**arranged)


@pytest.mark.slow
@settings(ONE_FAILURE, max_examples=150)
@given(**ARRANGED)
def test_nothing_beats_the_bound_among_many(**arranged: Any) -> None:
    assert_bounded(**arranged)


CLEAR = {  # one resource limits, by far
    "cores": (IMPALA.sized(16, take=4), replace(LOAD, cores=2)),
    "learner": (IMPALA.sized(16, take=4), replace(LOAD, learn=Work(core=0.2))),
    "actors": (IMPALA.sized(2, take=1), replace(LOAD, learn=Work(core=1e-4))),
    "loop": (SYNCHRONOUS, LOAD),
    "loop's cores": (SYNCHRONOUS, replace(LOAD, shards=8, cores=2, learn=Work(core=1e-3, width=2))),
    "one accelerator": (IMPALA.sized(16, take=4), replace(LOAD, act=Work(gpu=2e-3), gpus=1)),
    "replay's actors": (APEX.sized(4), replace(LOAD, samples=32)),
    "intake": (APEX.sized(40), replace(LOAD, samples=32, hand=Work(core=10e-3))),
    "replay apart that draws": (
        APEX.sized(8),
        replace(LOAD, samples=32, ratio=16.0, paced=True, learn=Work(core=1e-3), draw=Work(5e-3), shelves=3),
    ),
    "paced learner": (APEX.sized(8), replace(LOAD, samples=32, ratio=16.0, paced=True)),
    "server": (SEED.sized(64, capacity=2, take=4), replace(SERVED, largest=2)),
    "workers": (SEED.sized(2, capacity=2, take=1), replace(SERVED, step=Work(core=30e-3))),
    "turns": (IMPALA.sized(4, capacity=0), LOAD),
    "racing": (A3C.sized(8), LOAD),
    "locks": (ACCEL_ASYNC.sized(32), replace(LOAD, publish=Work(core=10e-3))),
    "servers": (GORILA.sized(32), replace(LOAD, hand=Work(core=20e-3), chunks=2)),
    "cores, with servers": (GORILA.sized(8), replace(LOAD, cores=2, hand=Work(core=20e-3), chunks=8)),
    "barrier": (ACCEL_SYNC.sized(8), LOAD),
    "drag": (IMPALA.sized(8, take=2), replace(LOAD, cores=2, drag=1.5)),
}


@pytest.mark.parametrize("name", CLEAR)
def test_where_one_resource_limits_the_bound_is_reached(name: str) -> None:
    architecture, load = CLEAR[name]
    found = quick(architecture, load)
    assert 0.96 * bound(architecture, load) <= found.steps_per_second <= 1.01 * bound(architecture, load)
