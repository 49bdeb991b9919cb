"""The built-in tasks are what they claim: solvable with the ability they ask for, and not without it."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from redline.environments.registry import register_namespaces

register_namespaces()
Policy = Callable[[Any, dict[str, Any]], int]


def mean_return(id: str, policy: Policy, episodes: int = 40, **kwargs: Any) -> float:
    env, total = gymnasium.make(id, **kwargs), 0.0
    for seed in range(episodes):
        observation, info = env.reset(seed=seed)
        over = False
        while not over:
            observation, reward, terminated, truncated, info = env.step(policy(observation, info))
            total += float(reward)
            over = terminated or truncated
    return total / episodes


@pytest.mark.parametrize("id", ["Recall", "Catch", "Dict"])  # the checker plays illegal actions on Masked
def test_gymnasiums_own_checks(id: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it comments on ids and render modes
        check_env(gymnasium.make(f"redline/{id}-v0").unwrapped, skip_render_check=True)


def test_recall_is_solved_by_memory() -> None:
    cue = 0

    def remember(observation: np.ndarray, _: Any) -> int:
        nonlocal cue
        if observation[:-1].any():
            cue = int(observation[:-1].argmax())
        return cue

    assert mean_return("redline/Recall-v0", remember) == 1.0


def test_recall_shows_a_feed_forward_policy_nothing_of_the_cue() -> None:
    """On the query, the only step that pays, all cues look alike: any policy of the observation earns 1/cues."""
    env = gymnasium.make("redline/Recall-v0", cues=4, delay=3)
    seen: dict[int, set[bytes]] = defaultdict(set)
    rewarded: dict[int, set[int]] = defaultdict(set)
    for seed in range(60):
        observation, _ = env.reset(seed=seed)
        cue = int(observation.argmax())
        for time, over in enumerate((False, False, False, False, True), start=1):
            reward, terminated = env.step(seed % 4)[1:3]
            assert terminated == over
            rewarded[time] |= {cue} if reward else set()
            if not over:
                seen[time].add(env.unwrapped._observation().tobytes())  # type: ignore[attr-defined]
    assert all(len(views) == 1 for views in seen.values())
    assert set(rewarded) == {1, 2, 3, 4, 5}
    assert [len(rewarded[time]) for time in (1, 2, 3, 4, 5)] == [0, 0, 0, 0, 4]


def test_masked_pays_the_best_legal_action_and_refuses_illegal_ones() -> None:
    best = mean_return(
        "redline/Masked-v0", lambda x, info: int(np.where(info["action_mask"], x, -1).argmax()), 5
    )
    assert best == 16
    env = gymnasium.make("redline/Masked-v0")
    _, info = env.reset(seed=0)
    with pytest.raises(ValueError, match="illegal"):
        env.step(int(np.flatnonzero(~info["action_mask"])[0]))


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_catch_is_won_by_going_where_the_ball_falls(dtype: str) -> None:
    def follow(observation: np.ndarray, _: Any) -> int:
        picture = observation.reshape(10, 5)
        ball, paddle = int(picture[:-1].max(0).argmax()), int(picture[-1].argmax())
        return 1 + int(np.sign(ball - paddle))

    assert mean_return("redline/Catch-v0", follow, dtype=dtype) == 1.0
    assert abs(mean_return("redline/Catch-v0", lambda *_: 1, 200, dtype=dtype) + 0.6) < 0.2


def test_dict_needs_both_parts() -> None:
    def quadrant(observation: Any) -> int:
        image = observation["image"][0].reshape(2, 4, 2, 4).max((1, 3))
        return int(image.argmax())

    def both(observation: Any, _: Any) -> int:
        return 3 - quadrant(observation) if observation["vector"][1] else quadrant(observation)

    assert mean_return("redline/Dict-v0", both) == 8.0
    assert mean_return("redline/Dict-v0", lambda x, _: quadrant(x), 200) < 5.0  # half of them
