"""Replay as algorithms use it: who is drawn and how often, what ends a window, what survives a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from redline.algorithms.dqn import DQN, DQNConfig
from redline.replay import Replay, ReplayConfig
from redline.runs.checkpoint import load_checkpoint, save_checkpoint
from redline.types import Spec, Tree, tree_leaves, tree_map
from tests.replay.naive import NaiveReplay, Pictures, add, compare, picture_spec

VECTOR = Spec("vector", gymnasium.spaces.Box(-9, 9, (1,), np.float32), gymnasium.spaces.Discrete(2))


def fill(replay: Replay, steps: int, first: int = 0) -> None:
    """Steps of one endless episode each, numbered: the observation, and the reward, are the step's number."""
    envs = replay.num_envs
    none = np.zeros(envs, bool)
    for step in range(first, first + steps):
        number = np.full(envs, step, np.float32)
        replay.add(number[:, None], np.zeros(envs, np.int64), number, none, none)


def ids_drawn(replay: Replay, batch: int, times: int) -> np.ndarray:
    return np.concatenate([replay.sample(batch).index.numpy().copy() for _ in range(times)])


def test_uniform_draws_are_uniform_over_steps_and_environments() -> None:
    replay = Replay(VECTOR, ReplayConfig(capacity=40), num_envs=2, seed=1)
    fill(replay, 50)
    counts = np.bincount(ids_drawn(replay, 38, 10_000), minlength=100)
    drawable = counts[counts > 0]
    assert len(drawable) == len(replay) == 38
    expected = 10_000
    chi2 = float(((drawable - expected) ** 2 / expected).sum())
    assert chi2 < 76  # 37 degrees of freedom: passed by chance 9,998 times in 10,000
    assert counts[:60].sum() == 0  # evicted


def test_each_transition_is_drawn_eight_times_at_batch_32_every_4_steps() -> None:
    """Reference: DQN, check 3."""
    capacity, envs, batch = 2000, 4, 32
    replay = Replay(VECTOR, ReplayConfig(capacity=capacity), envs)
    algorithm = DQN(DQNConfig(learning_starts=capacity, update_every=4), VECTOR)
    counts = np.zeros(40_000, np.int64)
    for step in range(40_000 // envs):
        fill(replay, 1, step)
        for _ in range(algorithm.due((step + 1) * envs, envs)):
            counts += np.bincount(replay.sample(batch).index.numpy(), minlength=len(counts))
    whole_lives = counts[2 * capacity : -2 * capacity]
    assert whole_lives.mean() == pytest.approx(8, abs=0.05)
    assert whole_lives.std() == pytest.approx(np.sqrt(8), abs=0.1)


def test_truncated_bootstraps_and_terminal_does_not() -> None:
    """Reference: DQN, check 5: the same transition with the flag flipped."""
    targets = {}
    for kind in ("terminated", "truncated"):
        replay = Replay(VECTOR, ReplayConfig(capacity=10), num_envs=1, gamma=0.9)
        for step in range(3):
            flag = {"terminated": np.array([False]), "truncated": np.array([False])}
            flag[kind] = np.array([step == 0])
            final = np.array([[5.0]], np.float32) if step == 0 else None
            observation = np.array([[float(step)]], np.float32)
            reward = np.ones(1, np.float32)
            replay.add(observation, np.zeros(1, np.int64), reward, **flag, final_observation=final)
        batch = replay.sample(8)
        first = int(torch.nonzero(batch.index == 0)[0])
        max_q = batch.next_observation[first, 0] * 2  # any value that depends on the observation
        targets[kind] = float(batch.reward[first] + batch.discount[first] * max_q)
    assert targets["terminated"] == 1.0
    assert targets["truncated"] == pytest.approx(1.0 + 0.9 * 10.0)


def test_n_step_numbers() -> None:
    """Three steps of reward [1, 0, 2] at gamma 0.99 and 1.5 beyond: 4.415649 (reference: Ape-X, check 3)."""
    replay = Replay(VECTOR, ReplayConfig(capacity=10, n_step=3), num_envs=1, gamma=0.99)
    none = np.zeros(1, bool)
    for step, reward in enumerate([1.0, 0.0, 2.0, 0.0]):
        observation = np.array([[float(step)]], np.float32)
        replay.add(observation, np.zeros(1, np.int64), np.array([reward], np.float32), none, none)
    batch = replay.sample(1)
    assert float(batch.reward + batch.discount * 1.5) == pytest.approx(4.415649, abs=1e-6)
    assert float(batch.next_observation) == 3.0


def test_batches_alternate_between_two_buffers() -> None:
    replay = Replay(VECTOR, ReplayConfig(capacity=100), num_envs=1)
    fill(replay, 100)
    first = replay.sample(16)
    kept = first.index.clone()
    second = replay.sample(16)
    assert torch.equal(first.index, kept)
    assert not torch.equal(first.index, second.index)
    assert replay.sample(16).index.data_ptr() == first.index.data_ptr()
    for batch in (replay.sample(4), replay.sample(16)):
        assert torch.equal(batch.observation[:, 0], batch.reward)


def test_priorities_of_overwritten_transitions_are_dropped() -> None:
    replay = Replay(VECTOR, ReplayConfig(capacity=20, prioritized=True, alpha=1.0), num_envs=1, seed=3)
    fill(replay, 20)
    old = torch.from_numpy(ids_drawn(replay, 16, 2))
    fill(replay, 10, first=20)
    before = replay.sampler.state()["priority"].copy()
    gone = old[old < 10]
    assert len(gone) > 0
    replay.update_priorities(gone, torch.full((len(gone),), 100.0))
    assert np.array_equal(replay.sampler.state()["priority"], before)
    replay.update_priorities(old, torch.full((len(old),), 100.0))
    ids = ids_drawn(replay, 20, 100)
    assert ids.min() >= 10
    assert ids.max() < 29
    assert np.isin(ids, old[old >= 10].numpy()).mean() > 0.9


def test_known_priorities_enter_when_their_windows_close() -> None:
    """Ape-X: an actor knows |TD| once the window is complete, and sends it with the step that makes it drawable."""
    config = ReplayConfig(capacity=50, prioritized=True, alpha=1.0, n_step=3)
    replay = Replay(VECTOR, config, num_envs=2)
    none = np.zeros(2, bool)
    for step in range(40):
        number = np.full((2, 1), step, np.float32)
        own = step - 3  # the row that this one closes
        priority = np.array([own, 100 + own], np.float32) if own % 2 == 0 else np.full(2, np.nan, np.float32)
        replay.add(number, np.zeros(2, np.int64), number[:, 0], none, none, priority=priority)
    leaves = replay.sampler.state()["priority"]
    first, past = replay.storage.live()
    for number in range(first, past):
        step, env = divmod(number, 2)
        largest = 100 + (step - 1) if step > 0 else 1  # the last known one that had entered before it
        right = step + 100 * env if step % 2 == 0 else largest
        assert leaves[number % (replay.storage.slots * 2)] == pytest.approx(right, abs=1e-4)
    assert (leaves > 0).sum() == past - first


def test_action_masks_belong_to_the_next_observation() -> None:
    spec = Spec("m", VECTOR.observation, gymnasium.spaces.Discrete(3), action_mask=True)
    replay = Replay(spec, ReplayConfig(capacity=30, n_step=2), num_envs=2, gamma=1.0)
    rng = np.random.default_rng(0)
    masks = rng.random((20, 2, 3)) < 0.5
    truncated = np.zeros((20, 2), bool)
    truncated[7, 1] = True
    for step in range(20):
        observation = np.full((2, 1), step, np.float32)
        none, zero = np.zeros(2, bool), np.zeros(2, np.int64)
        final = observation if truncated[step].any() else None
        reward = np.ones(2, np.float32)
        replay.add(observation, zero, reward, none, truncated[step], final, action_mask=masks[step])
    for _ in range(20):
        batch = replay.sample(30)
        assert batch.next_action_mask is not None
        for index, mask in zip(batch.index.tolist(), batch.next_action_mask.numpy(), strict=True):
            step, env = divmod(index, 2)
            cut = env == 1 and step in (6, 7)
            assert np.array_equal(mask, [True] * 3 if cut else masks[step + 2, env])


def copied(tree: Tree) -> Tree:
    return tree_map(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, tree)


def draws(replay: Replay, pictures: Pictures, steps: int, first: int = 0) -> list[Any]:
    """Go on for some steps with a draw and new priorities each; everything drawn. The ``first`` without."""
    seen = []
    for _ in range(first):
        add(replay, pictures.step())
    for _ in range(steps):
        add(replay, pictures.step())
        batch = replay.sample(8, beta=0.7)
        seen += [leaf.numpy().copy() for leaf in vars(batch).values() if leaf is not None]
        replay.update_priorities(batch.index, batch.reward * 3)
    return seen


@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize("compression", ["none", "lz4"])
@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("steps", [9, 15, 100])
def test_state_round_trip_gives_the_same_draws(
    prioritized: bool, compression: str, n_step: int, steps: int
) -> None:
    config = ReplayConfig(capacity=60, prioritized=prioritized, compression=compression, n_step=n_step)
    replay, pictures = Replay(picture_spec(), config, 3, seed=5), Pictures(3, 0, "any")
    draws(replay, pictures, steps, first=5)
    state = copied(replay.state())
    text = json.dumps(tree_map(lambda leaf: leaf.tolist() if isinstance(leaf, np.ndarray) else leaf, state))
    assert all(not isinstance(leaf, int) or abs(leaf) < 2**63 for leaf in tree_leaves(json.loads(text)))
    twin, twin_pictures = Replay(picture_spec(), config, 3, seed=99), Pictures(3, 0, "any")
    for _ in range(5 + steps):
        twin_pictures.step()
    twin.load_state(state)
    assert len(twin) == len(replay)
    seen, right = draws(twin, twin_pictures, 70), draws(replay, pictures, 70)
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(seen, right, strict=True))


def test_checkpoint_on_disk(tmp_path: Path) -> None:
    for config in (ReplayConfig(60, prioritized=True), ReplayConfig(60, n_step=3, compression="lz4")):
        replay, pictures = Replay(picture_spec(side=40), config, 3, seed=5), Pictures(3, 0, "any", side=40)
        draws(replay, pictures, 40, first=5)
        path = save_checkpoint(tmp_path, 40, {"replay": replay.state()})
        twin = Replay(picture_spec(side=40), config, 3, seed=6)
        twin.load_state(load_checkpoint(path)["replay"])
        for _ in range(4):
            for left, right in zip(
                *(vars(one.sample(32, 0.5)).values() for one in (replay, twin)), strict=True
            ):
                assert (left is None and right is None) or torch.equal(left, right)


def test_break_episodes_ends_open_episodes_at_their_newest_observation() -> None:
    for steps in (0, 1, 2, 14, 40):
        for n_step in (1, 3):
            config = ReplayConfig(capacity=30, n_step=n_step, prioritized=True)
            replay, naive = Replay(picture_spec(), config, 2, gamma=0.9), NaiveReplay(2, n_step, 0.9)
            pictures = Pictures(2, steps, "any", ends=0.2)
            for _ in range(steps):
                row = pictures.step()
                naive.add(row)
                add(replay, row)
            newest = naive.rows[-1] if naive.rows else None
            replay.break_episodes()
            replay.break_episodes()  # nothing is open any more
            if newest is not None and not (newest.terminated | newest.truncated).all():
                naive.rows.pop()
                if naive.rows:
                    last = naive.rows[-1]
                    going = ~(last.terminated | last.truncated)
                    if last.final_observation is None:
                        last.final_observation = newest.observation.copy()
                    last.final_observation[going] = newest.observation[going]
                    last.truncated = last.truncated | going
            pictures = Pictures(2, steps + 1, "any")  # started afresh
            for after in range(25):
                if after > 0:
                    row = pictures.step()
                    naive.add(row)
                    add(replay, row)
                first, past = replay.storage.live()
                assert (replay.sampler.state()["priority"] > 0).sum() == past - first
                if past > first:
                    compare(replay, naive, np.arange(first, past))


def test_memory_map_is_reopened_where_the_checkpoint_left_it(tmp_path: Path) -> None:
    config = ReplayConfig(capacity=60, prioritized=True, n_step=2, memory_map=str(tmp_path / "replay"))
    replay, pictures = Replay(picture_spec(), config, 3, seed=5), Pictures(3, 0, "any")
    naive = NaiveReplay(3, 2, 0.99)
    for _ in range(50):
        row = pictures.step()
        naive.add(row)
        add(replay, row)
    state = copied(replay.state())
    assert not any(
        leaf.ndim > 3 and leaf.shape[0] == 22 for leaf in tree_leaves(state) if hasattr(leaf, "ndim")
    )
    right = replay.sample(32).observation.clone()
    twin = Replay(picture_spec(), config, 3, seed=1)
    twin.load_state(state)
    assert torch.equal(twin.sample(32).observation, right)
    first, past = twin.storage.live()
    compare(twin, naive, np.arange(first, past))
    # Killed eight steps after the checkpoint: what those overwrote is gone, and known to be.
    for _ in range(8):
        add(twin, pictures.step())
    late = Replay(picture_spec(), config, 3, seed=1)
    late.load_state(state)
    again, past = late.storage.live()
    assert again == first + 8 * 3
    compare(late, naive, np.arange(again, past))
    assert (late.sampler.state()["priority"] > 0).sum() == past - again
    # Killed again, sooner: the first eight are still gone.
    late.break_episodes()
    add(late, pictures.step())
    late = Replay(picture_spec(), config, 3, seed=1)
    late.load_state(state)
    assert late.storage.live()[0] == again
    pictures = Pictures(3, 9, "any")
    late.break_episodes()
    for _ in range(40):
        add(late, pictures.step())
        first, past = late.storage.live()
        assert (late.sampler.state()["priority"] > 0).sum() == past - first
    assert len(late) == 60 - 2 * 3


def test_memory_and_files_hold_the_same(tmp_path: Path) -> None:
    plain = Replay(picture_spec(), ReplayConfig(capacity=60), 3, seed=5)
    mapped = Replay(picture_spec(), ReplayConfig(capacity=60, memory_map=str(tmp_path)), 3, seed=5)
    for replay in (plain, mapped):
        pictures = Pictures(3, 0, "any")
        for _ in range(45):
            add(replay, pictures.step())
    for left, right in zip(*(vars(replay.sample(60)).values() for replay in (plain, mapped)), strict=True):
        assert (left is None and right is None) or torch.equal(left, right)
    moved = Replay(picture_spec(), ReplayConfig(capacity=60, compression="lz4"), 3)
    moved.load_state(plain.state())  # a checkpoint from memory fits every way of keeping
    assert torch.equal(moved.sample(60).observation, plain.sample(60).observation)
