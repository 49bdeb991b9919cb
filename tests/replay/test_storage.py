"""Stored once, rebuilt exactly: every transition against a replay that keeps everything."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redline.replay import Replay, ReplayConfig
from redline.types import Spec
from tests.replay.naive import SIDE, NaiveReplay, Pictures, Row, add, compare, picture_spec


def check_all(replay: Replay, naive: NaiveReplay) -> None:
    first, past = replay.storage.live()
    if past > first:
        compare(replay, naive, np.arange(first, past))


@settings(max_examples=60, deadline=None)
@given(
    num_envs=st.integers(1, 5),
    rows=st.integers(8, 20),
    n_step=st.integers(1, 5),
    steps=st.integers(1, 90),
    first=st.sampled_from(["zeros", "copies", "random", "any"]),
    ends=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    seed=st.integers(0, 1000),
    compression=st.sampled_from(["none", "lz4"]),
)
def test_every_transition_is_the_naive_replays(
    num_envs: int, rows: int, n_step: int, steps: int, first: str, ends: float, seed: int, compression: str
) -> None:
    config = ReplayConfig(capacity=rows * num_envs, n_step=n_step, compression=compression)
    replay = Replay(picture_spec(), config, num_envs, gamma=0.9)
    naive = NaiveReplay(num_envs, n_step, gamma=0.9)
    pictures = Pictures(num_envs, seed, first, ends)
    for step in range(steps):
        row = pictures.step()
        naive.add(row)
        add(replay, row)
        if step % 7 == 0:
            check_all(replay, naive)
    check_all(replay, naive)
    assert len(replay) == max(0, min(steps, rows) - n_step) * num_envs


SPACES: dict[str, gymnasium.Space] = {
    "vector": gymnasium.spaces.Box(-10, 10, (3,), np.float32),
    "discrete": gymnasium.spaces.Discrete(9),
    "bits": gymnasium.spaces.MultiBinary(4),
    "dict": gymnasium.spaces.Dict(
        {
            "a/b": gymnasium.spaces.Box(-1, 1, (2, 2), np.float64),
            "a": gymnasium.spaces.Dict({"b": gymnasium.spaces.Discrete(5)}),
            "picture": gymnasium.spaces.Box(0, 255, (4, 40, 40), np.uint8),
        }
    ),
}
ACTIONS: list[gymnasium.Space] = [
    gymnasium.spaces.Discrete(4),
    gymnasium.spaces.MultiDiscrete([3, 4]),
    gymnasium.spaces.Box(-1, 1, (2,), np.float32),
]


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("action", ACTIONS, ids=["discrete", "multi", "box"])
@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_other_spaces(name: str, action: gymnasium.Space, compression: str) -> None:
    space, envs = SPACES[name], 3
    space.seed(0)
    action.seed(0)
    config = ReplayConfig(capacity=30, n_step=2, compression=compression)
    replay = Replay(Spec(name, space, action, frame_stack=4), config, envs, gamma=0.9)
    naive = NaiveReplay(envs, 2, 0.9)
    rng = np.random.default_rng(0)

    def batch() -> Any:
        return gymnasium.vector.utils.concatenate(
            space,
            [space.sample() for _ in range(envs)],
            gymnasium.vector.utils.create_empty_array(space, envs),
        )

    for _ in range(35):
        ended = rng.random(envs) < 0.3
        terminated = ended & (rng.random(envs) < 0.5)
        row = Row(
            batch(),
            np.stack([action.sample() for _ in range(envs)]),
            rng.normal(size=envs).astype(np.float32),
            terminated,
            ended & ~terminated,
            batch() if ended.any() else None,
        )
        naive.add(row)
        add(replay, row)
        check_all(replay, naive)


@pytest.mark.parametrize("stacked", [True, False])
def test_what_lies_beside_the_ring_goes_when_the_ring_comes_round(stacked: bool) -> None:
    """First and final observations of a few episodes stay, however long the run."""
    spec = picture_spec() if stacked else replace(picture_spec(), frame_stack=1)
    replay, pictures = Replay(spec, ReplayConfig(capacity=60), 3), Pictures(3, 0, "random", ends=0.05)
    sizes = []
    for _ in range(1000):
        add(replay, pictures.step())
        sizes.append(replay.nbytes())
    assert max(sizes[500:]) <= 1.1 * max(sizes[:500])
    ring = 60 * 3 * 4 * SIDE * SIDE  # bytes if every row had something beside it
    assert max(sizes) - sizes[0] < 0.3 * ring
