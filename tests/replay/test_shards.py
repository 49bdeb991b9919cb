"""A replay in shards draws as one would; its capacity is soft (reference: Ape-X, checks 2, 4 and 6)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from redline.replay import Replay, ReplayConfig
from redline.replay.shards import ShardedReplay
from redline.replay.storage import Block
from redline.runs.checkpoint import load_checkpoint, save_checkpoint
from redline.types import RunError, Spec, UserError, tree_leaves, tree_map
from tests.replay.naive import SIDE, NaiveReplay, Pictures, Row, add, compare, picture_spec

VECTOR = Spec("vector", gymnasium.spaces.Box(-9, 9, (1,), np.float32), gymnasium.spaces.Discrete(2))


def block_of(rows: list[Row], priority: np.ndarray | None = None) -> Block:
    """Rows one after the other, as an actor's slot holds them."""
    final = next((row.final_observation for row in rows if row.final_observation is not None), None)
    finals = [final if row.final_observation is None else row.final_observation for row in rows]
    joined = tree_map(lambda *each: np.stack(each), finals[0], *finals[1:]) if final is not None else None
    return Block(
        observation=tree_map(lambda *each: np.stack(each), *[row.observation for row in rows]),
        final_observation=joined,
        priority=priority,
        **{
            name: np.stack([getattr(row, name) for row in rows])
            for name in ("action", "reward", "terminated", "truncated")
        },
    )


def numbers(length: int, first: int, envs: int = 1, priority: Any = None) -> Block:
    """Steps of endless episodes: the observation, and the reward, are the step's number."""
    steps = np.repeat(np.arange(first, first + length, dtype=np.float32)[:, None], envs, 1)
    none = np.zeros((length, envs), bool)
    known = None if priority is None else np.broadcast_to(np.asarray(priority, np.float32), (length, envs))
    return Block(steps[..., None], np.zeros((length, envs), np.int64), steps, none, none, priority=known)


def pieces(rng: np.random.Generator, total: int, longest: int) -> Iterator[int]:
    while total > 0:
        length = min(int(rng.integers(1, longest + 1)), total)
        yield length
        total -= length


def assert_batches_equal(left: Any, right: Any) -> None:
    for name, value in vars(left).items():
        for one, other in zip(tree_leaves(value), tree_leaves(getattr(right, name)), strict=True):
            assert np.array_equal(one.numpy(), other.numpy()), name


def as_vector(row: Row) -> Row:
    """The same step seen as one number."""

    def look(stack: np.ndarray | None) -> np.ndarray | None:
        return None if stack is None else stack[:, -1, 0, :1].astype(np.float32)

    return replace(row, observation=look(row.observation), final_observation=look(row.final_observation))


@pytest.mark.parametrize("kind", ["pictures", "lz4", "vector"])
@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("prioritized", [False, True])
def test_one_shard_draws_bit_identically_to_plain_replay(prioritized: bool, n_step: int, kind: str) -> None:
    """Rows come in blocks of any length, longer than the ring too; the plain replay gets them one by one."""
    side = 40 if kind == "lz4" else SIDE  # small pictures are not compressed
    spec = VECTOR if kind == "vector" else picture_spec(side=side)
    compression = "lz4" if kind == "lz4" else "none"
    config = ReplayConfig(capacity=80, prioritized=prioritized, n_step=n_step, compression=compression)
    plain = Replay(spec, config, 2, gamma=0.9, seed=5)
    sharded = ShardedReplay(spec, config, [2], gamma=0.9, seed=5, soft=False)
    pictures, rng = Pictures(2, 0, "any", side=side), np.random.default_rng(1)
    for length in pieces(rng, 400, 60):
        rows = [pictures.step() for _ in range(length)]
        rows = [as_vector(row) for row in rows] if kind == "vector" else rows
        known = rng.random((length, 2)).astype(np.float32) if rng.random() < 0.5 else None
        for number, row in enumerate(rows):
            add(plain, row, priority=None if known is None else known[number])
        sharded.extend(0, block_of(rows, known))
        assert len(plain) == len(sharded)
        for _ in range(3 if len(plain) else 0):
            one, other = plain.sample(16, 0.5), sharded.sample(16, 0.5)
            assert_batches_equal(one, other)
            errors = rng.random(16)
            plain.update_priorities(one.index, errors)
            sharded.update_priorities(other.index, errors)


def test_transitions_of_many_shards_are_right() -> None:
    """Every field against the naive replay; each shard's ids are its own."""
    config = ReplayConfig(capacity=200, n_step=3)
    sharded = ShardedReplay(picture_spec(), config, [2, 1, 3], gamma=0.9)
    naives = [NaiveReplay(size, 3, 0.9) for size in (2, 1, 3)]
    players = [Pictures(size, size, "any") for size in (2, 1, 3)]
    rng = np.random.default_rng(0)
    for _ in range(60):
        shard = int(rng.integers(3))
        rows = [players[shard].step() for _ in range(int(rng.integers(1, 9)))]
        sharded.extend(shard, block_of(rows))
        for row in rows:
            naives[shard].add(row)
    seen = set()
    for _ in range(30):
        batch = sharded.sample(32)
        ids, shards = np.divmod(batch.index.numpy(), 3)
        for shard in range(3):
            seen.add(shard)
            mine = ids[shards == shard]
            if len(mine):
                compare(sharded.shards[shard], naives[shard], mine)
                rewards = [naives[shard].transition(int(number))["reward"] for number in mine]
                np.testing.assert_allclose(
                    batch.reward.numpy()[shards == shard], rewards, rtol=1e-5, atol=1e-6
                )
    assert seen == {0, 1, 2}


def with_priorities(priorities: list[list[float]], **options: Any) -> ShardedReplay:
    """One environment a shard, whose drawable transitions have these priorities."""
    config = ReplayConfig(capacity=100, prioritized=True, priority_epsilon=1e-12, **options)
    sharded = ShardedReplay(VECTOR, config, [1] * len(priorities), seed=0)
    for shard, each in enumerate(priorities):
        sharded.extend(shard, numbers(len(each) + 1, 0, priority=np.array([[np.nan], *([x] for x in each)])))
    return sharded


@pytest.mark.parametrize(
    "layout", [[[1.0, 2.0, 4.0, 0.5]], [[1.0, 2.0], [4.0, 0.5]], [[1.0], [2.0], [4.0], [0.5]]]
)
def test_check_2_frequencies_and_weights_over_the_union(layout: list[list[float]]) -> None:
    """Ape-X, check 2: 1e6 draws, alpha 0.6, beta 0.4; the shards make no difference."""
    sharded = with_priorities(layout)
    order = {
        (number, shard): place
        for place, (shard, number) in enumerate(
            (shard, number) for shard, each in enumerate(layout) for number in range(len(each))
        )
    }
    names = np.array([number * len(layout) + shard for number, shard in order])
    counts, weights = np.zeros(4), np.zeros(4)
    for _ in range(10_000):
        batch = sharded.sample(100, 0.4)
        places = np.searchsorted(names, batch.index.numpy(), sorter=np.argsort(names))
        places = np.argsort(names)[places]
        counts += np.bincount(places, minlength=4)
        weights[places] = batch.weight.numpy()
    assert counts.sum() == 1_000_000
    assert counts / counts.sum() == pytest.approx([0.18272, 0.276951, 0.419779, 0.12055], abs=2e-4)
    assert weights == pytest.approx([0.846745, 0.716978, 0.607097, 1.0], abs=1e-6)


def test_uniform_draws_do_not_care_in_which_shard_a_transition_is() -> None:
    sharded = ShardedReplay(VECTOR, ReplayConfig(capacity=400), [1, 1], seed=3)
    sharded.extend(0, numbers(11, 0))
    sharded.extend(1, numbers(31, 0))
    draws = np.concatenate([sharded.sample(40).index.numpy().copy() for _ in range(2_000)])
    _, counts = np.unique(draws, return_counts=True)
    assert len(counts) == len(sharded) == 40
    assert (draws % 2 == 0).mean() == pytest.approx(0.25, abs=0.01)
    assert float(((counts - 2_000) ** 2 / 2_000).sum()) < 80  # chi2, 39 degrees of freedom: p < 0.0001


def test_check_4_totals_do_not_drift_over_adds_updates_and_evictions() -> None:
    """Ape-X, check 4: after 1e5 random operations the tree's total is the sum of p^alpha (relative drift < 1e-3)."""
    config = ReplayConfig(capacity=300, prioritized=True, n_step=3)
    sharded = ShardedReplay(VECTOR, config, [1, 2])
    rng = np.random.default_rng(0)
    sharded.extend(0, numbers(10, 0, 1))
    sharded.extend(1, numbers(10, 0, 2))
    operations = 0
    while operations < 100_000:
        shard = int(rng.integers(2))
        length = int(rng.integers(1, 6))
        sharded.extend(shard, numbers(length, 0, shard + 1, 10.0 ** rng.uniform(-6, 6)))
        gone = sharded.evict() if rng.random() < 0.2 else 0
        shard = int(rng.integers(2))
        first, past = sharded.shards[shard].storage.live()
        ids = rng.integers(max(first - 5, 0), past, 25)
        sharded.update_priorities(ids * 2 + shard, 10.0 ** rng.uniform(-6, 6, 25))
        operations += length * (shard + 1) + gone + 25
        if rng.random() < 0.01 or operations >= 100_000:
            for shard in range(2):
                sampler: Any = sharded.shards[shard].sampler
                first, past = sharded.shards[shard].storage.live()
                leaves = sampler.state()["priority"]
                live = leaves[np.arange(first, past) % len(leaves)]
                assert (live > 0).all()
                assert sampler.total == pytest.approx(live.sum(), rel=1e-9)
                assert sampler.low == live.min()


def test_check_6_capacity_is_soft() -> None:
    """Ape-X, check 6: exceeded transiently, back below after an eviction; updating what has gone does nothing."""
    config = ReplayConfig(capacity=1000, prioritized=True)
    sharded = ShardedReplay(VECTOR, config, [1, 1])
    for shard in (0, 1):
        sharded.extend(shard, numbers(540, 0))
    assert len(sharded) > 1000
    gone_soon = np.arange(0, 20)
    assert sharded.evict() == 2 * 40
    assert sharded.evict() == 0
    assert 990 < len(sharded) <= 1000
    before = [np.array(shard.sampler.state()["priority"]) for shard in sharded.shards]
    largest = [shard.sampler.largest for shard in sharded.shards]  # type: ignore[attr-defined]
    sharded.update_priorities(gone_soon, np.full(20, 1e6))
    assert [shard.sampler.largest for shard in sharded.shards] == largest  # type: ignore[attr-defined]
    for shard, kept in zip(sharded.shards, before, strict=True):
        assert np.array_equal(shard.sampler.state()["priority"], kept)
    drawn = np.concatenate([sharded.sample(500).index.numpy().copy() for _ in range(40)])
    assert (drawn // 2).min() >= 40  # first in, first out


def test_adding_never_blocks_and_never_takes_more_than_its_room() -> None:
    sharded = ShardedReplay(VECTOR, ReplayConfig(capacity=1000, prioritized=True), [1, 1])
    bytes_before = sharded.nbytes()
    sharded.extend(0, numbers(5_000, 0))
    assert len(sharded) == 549  # its half, and room for a tenth, less the step that closes the last window
    assert sharded.nbytes() == bytes_before
    drawn = sharded.sample(500)
    assert float(drawn.reward.min()) >= 5_000 - 550


def test_without_softness_capacity_is_never_exceeded() -> None:
    sharded = ShardedReplay(VECTOR, ReplayConfig(capacity=100), [1, 1], soft=False)
    sharded.extend(0, numbers(500, 0))
    assert len(sharded) == 49
    assert sharded.evict() == 0


def test_each_transition_knows_the_weights_that_acted() -> None:
    sharded = ShardedReplay(VECTOR, ReplayConfig(capacity=60), [1, 2])
    for version in range(30):
        sharded.extend(0, numbers(4, 4 * version), version)
        sharded.extend(1, numbers(4, 4 * version, 2), 1000 + version)
    batch = sharded.sample(60)
    step, shard = batch.observation[:, 0].numpy().astype(int), batch.index.numpy() % 2
    assert np.array_equal(sharded.versions(batch.index.numpy()), step // 4 + 1000 * shard)


def test_priorities_not_known_enter_with_the_largest_of_any_shard() -> None:
    sharded = with_priorities([[1.0, 2.0], [3.0]], alpha=1.0)
    sharded.update_priorities(np.array([0]), np.array([50.0]))  # of shard 0
    sharded.extend(1, numbers(2, 2, priority=np.array([[np.nan], [7.0]])))
    assert np.array(sharded.shards[1].sampler.state()["priority"])[:3] == pytest.approx([3.0, 50.0, 7.0])


@pytest.mark.parametrize("prioritized", [False, True])
def test_the_same_draws_follow_after_a_checkpoint(tmp_path: Path, prioritized: bool) -> None:
    config = ReplayConfig(capacity=120, n_step=2, prioritized=prioritized)
    first, second = (ShardedReplay(picture_spec(), config, [1, 2], seed=4) for _ in range(2))
    players, rng = [Pictures(1, 0, "any"), Pictures(2, 1, "any")], np.random.default_rng(2)
    for turn in range(40):
        shard = turn % 2
        first.extend(shard, block_of([players[shard].step() for _ in range(3)]), turn)
        if turn % 7 == 0:
            first.evict()
        first.update_priorities(first.sample(8).index, rng.random(8))
    path = save_checkpoint(tmp_path, 1, {"replay": first.state()})
    second.load_state(load_checkpoint(path)["replay"])
    assert second.evicted == first.evicted > 0
    for turn in range(40):
        rows = [players[turn % 2].step() for _ in range(3)]
        for replay in (first, second):
            replay.extend(turn % 2, block_of(rows), 100 + turn)
        one, other = first.sample(16), second.sample(16)
        assert_batches_equal(one, other)
        assert np.array_equal(first.versions(one.index.numpy()), second.versions(one.index.numpy()))
        errors = rng.random(16)
        for replay in (first, second):
            replay.update_priorities(one.index, errors)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"replay.capacity is 10: 4 environments with n_step 3 need at least 20"
    ):
        ShardedReplay(VECTOR, ReplayConfig(capacity=10, n_step=3), [2, 2])
    two = ShardedReplay(VECTOR, ReplayConfig(capacity=100), [2, 2])
    with pytest.raises(RunError, match=r"has 2 shards, one for each actor: set parallel.copies=2"):
        ShardedReplay(VECTOR, ReplayConfig(capacity=100), [4]).load_state(two.state())
    with pytest.raises(UserError, match="replay is empty"):
        two.sample(4)
    cut = numbers(2, 0, 2)
    cut.truncated = np.array([[False, False], [False, True]])
    with pytest.raises(UserError, match="environment 1 was truncated without a final observation"):
        two.extend(0, cut)
