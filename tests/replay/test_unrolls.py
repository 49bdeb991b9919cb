"""Unrolls learned from again: how many of a batch they are, which, and what goes with them."""

from __future__ import annotations

import pytest
import torch

from redline.replay import unrolls
from redline.replay.unrolls import UnrollReplay
from redline.types import RunError, Unroll

T, B = 3, 4


def numbered(first: int) -> Unroll:
    """B unrolls, all of whose entries are the unroll's number."""
    number = torch.arange(first, first + B, dtype=torch.float32)
    steps, rows = number.expand(T, B).clone(), number.expand(T + 1, B).clone()
    return Unroll(
        observation={"x": rows[..., None].clone()},
        action=steps.long(),
        reward=steps.clone(),
        terminated=steps > 10**6,
        truncated=steps > 10**6,
        reset=rows > 10**6,
        final_value=steps.clone(),
        record={"log_prob": steps.clone()},
        state={"hidden": number[:, None].repeat(1, 2)},
        bootstrap_value=number.clone(),
        policy_version=number.long().expand(2, B).clone(),
    )


def numbers(unroll: Unroll) -> torch.Tensor:
    """The unrolls' numbers i64[N], having seen that everything of each has its number."""
    found = unroll.action[0]
    everything = [
        unroll.observation["x"][:, :, 0],
        unroll.action,
        unroll.reward,
        unroll.record["log_prob"],
        unroll.state["hidden"].T,
        unroll.bootstrap_value[None] if unroll.bootstrap_value is not None else found[None],
        unroll.policy_version,
    ]
    for each in everything:
        assert (each == found).all()
    return found


def test_a_batch_is_the_fresh_ones_first_and_then_its_share_of_older_ones() -> None:
    replay = UnrollReplay(100, 0.5, seed=0)
    assert numbers(replay.mix(numbered(0))).tolist() == [0, 1, 2, 3]  # there is nothing older yet
    for first in (4, 8, 12):
        found = numbers(replay.mix(numbered(first))).tolist()
        assert found[:B] == list(range(first, first + B))
        assert len(found) == 2 * B
        assert all(0 <= older < first for older in found[B:])
    third = UnrollReplay(100, 0.75, seed=0)
    third.mix(numbered(0))
    assert len(numbers(third.mix(numbered(4)))) == 4 * B


def test_the_newest_are_kept_and_each_is_as_likely_as_another() -> None:
    replay = UnrollReplay(10, 0.5, seed=0)
    for first in range(0, 24, B):
        replay.add(numbered(first))
    drawn = numbers(replay.take(torch.randint(len(replay), (20_000,), generator=replay.generator)))
    values, counts = drawn.unique(return_counts=True)
    assert values.tolist() == list(range(14, 24))
    assert (counts / 20_000 - 0.1).abs().max() < 0.01


def test_more_at_once_than_it_holds_leaves_the_last() -> None:
    replay = UnrollReplay(3, 0.5, seed=0)
    replay.add(numbered(0))
    assert sorted(numbers(replay.take(torch.arange(3))).tolist()) == [1, 2, 3]


def test_what_was_kept_is_a_copy() -> None:
    replay, unroll = UnrollReplay(10, 0.5, seed=0), numbered(0)
    replay.mix(unroll)
    unroll.map(lambda x: x.zero_())
    assert sorted(set(numbers(replay.mix(numbered(4))).tolist()[B:])) != [0]


def test_more_than_there_is_memory_for_is_refused_with_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    each = 114  # bytes
    monkeypatch.setattr(unrolls, "available_memory", lambda: 1000 * each)
    UnrollReplay(100, 0.5, seed=0).add(numbered(0))
    with pytest.raises(
        RunError, match=r"^1,000,000 unrolls .*: set algorithm.replay_unrolls to (\d+)$"
    ) as caught:
        UnrollReplay(1_000_000, 0.5, seed=0).add(numbered(0))
    assert str(caught.value).endswith(" 900")
    UnrollReplay(900, 0.5, seed=0).add(numbered(0))
    monkeypatch.setattr(unrolls, "available_memory", lambda: None)  # where the system does not tell
    UnrollReplay(10_000, 0.5, seed=0).add(numbered(0))


def test_a_share_of_nought_keeps_nothing() -> None:
    replay, unroll = UnrollReplay(10, 0.0, seed=0), numbered(0)
    assert replay.mix(unroll) is unroll
    assert replay.mix(unroll) is unroll
    assert len(replay) == 0
    assert replay.load_state(None)


def test_it_goes_on_from_its_state() -> None:
    for rounds in (1, 5):  # not full, and past its end
        replay = UnrollReplay(10, 0.5, seed=0)
        for first in range(0, rounds * B, B):
            replay.mix(numbered(first))
        again = UnrollReplay(10, 0.5, seed=7)
        assert again.load_state(replay.state())
        for first in range(100, 120, B):
            assert (
                numbers(replay.mix(numbered(first))).tolist() == numbers(again.mix(numbered(first))).tolist()
            )
    assert not UnrollReplay(10, 0.5, seed=0).load_state(None)
