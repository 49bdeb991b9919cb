"""Real screens: what ALE's own vector environment showed comes back bit for bit, and a million of them fit."""

from __future__ import annotations

import ale_py.vector_env
import gymnasium
import numpy as np
import pytest

from redline.replay import Replay, ReplayConfig
from redline.types import Spec
from tests.replay.naive import NaiveReplay, Row, add, compare

SCREEN = gymnasium.spaces.Box(0, 255, (4, 84, 84), np.uint8)
ATARI = Spec("ALE", SCREEN, gymnasium.spaces.Discrete(6), action_repeat=4, frame_stack=4)


@pytest.mark.parametrize("compression", ["none", "lz4"])
@pytest.mark.parametrize(
    ("game", "options"),
    [("pong", {"max_num_frames_per_episode": 120}), ("breakout", {"episodic_life": True, "noop_max": 5})],
)
def test_every_screen_comes_back(game: str, options: dict[str, int], compression: str) -> None:
    """Truncated Pong episodes of 30 steps; Breakout's lives; the ring goes round several times."""
    envs, n_step = 2, 3
    ale = ale_py.vector_env.AtariVectorEnv(
        game, envs, autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP, stack_num=4, **options
    )
    replay = Replay(ATARI, ReplayConfig(capacity=80, n_step=n_step, compression=compression), envs)
    naive, rng, ends = NaiveReplay(envs, n_step, 0.99), np.random.default_rng(0), 0
    observation, _ = ale.reset(seed=0)
    for step in range(150):
        action = rng.integers(0, 4, envs)
        following, reward, terminated, truncated, info = ale.step(action)
        row = Row(
            observation, action, np.asarray(reward, np.float32), terminated, truncated, info.get("final_obs")
        )
        naive.add(row)
        add(replay, row)
        ends += int((terminated | truncated).sum())
        observation = following
        if step % 25 == 24:
            first, past = replay.storage.live()
            compare(replay, naive, np.arange(first, past))
    ale.close()
    assert ends >= 6


@pytest.mark.parametrize("envs", [1, 8, 64])
@pytest.mark.parametrize("prioritized", [False, True])
def test_a_million_frames_take_seven_and_a_half_gibibytes(envs: int, prioritized: bool) -> None:
    """Everything counted, priorities too: measured on a replay a hundredth as large, in episodes of 100 steps."""
    capacity = 10_000
    replay = Replay(ATARI, ReplayConfig(capacity=capacity, prioritized=prioritized, n_step=3), envs)
    observation = np.zeros((envs, *SCREEN.shape), np.uint8)
    none = np.zeros(envs, bool)
    for step in range(300):
        truncated = np.full(envs, step % 100 == 99)
        final = observation if truncated[0] else None
        replay.add(observation, none.astype(np.int64), none.astype(np.float32), none, truncated, final)
    assert replay.nbytes() / capacity * 1_000_000 <= 7.5 * 2**30
