"""ale-py's vector environment behind the contract: raw rewards, whole games, lives, fresh arrays, rules told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from redline.environments import AtariConfig, EnvironmentConfig, make, probe
from redline.environments import atari as module
from redline.types import UserError


def atari(
    id: str = "ALE/Breakout-v5", num_envs: int = 2, threads: int = 1, time_limit: Any = None, **settings: Any
) -> Any:
    config = EnvironmentConfig(id, atari=AtariConfig(**settings), time_limit=time_limit)
    return make(config, num_envs, threads=threads)


@pytest.fixture(scope="module")
def breakout() -> Iterator[Any]:
    """Two games for tests that leave them as they are: an emulator takes a tenth of a second to start."""
    environment = atari()
    yield environment
    environment.close()


def play(environment: Any, steps: int, seed: int = 0) -> Any:
    rng, actions = np.random.default_rng(seed), int(environment.spec.action.n)
    for _ in range(steps):
        environment.send(rng.integers(actions, size=environment.num_envs))
        yield environment.recv()


def test_sticky_actions_and_action_sets_come_from_the_id() -> None:
    modern, plain = probe(EnvironmentConfig("ALE/Pong-v5")), probe(EnvironmentConfig("PongNoFrameskip-v4"))
    assert "sticky actions 0.25" in modern.rules
    assert "sticky actions 0" in plain.rules
    assert modern.action.n == plain.action.n == 6  # type: ignore[attr-defined]
    full = probe(EnvironmentConfig("ALE/Pong-v5", atari=AtariConfig(full_action_space=True)))
    assert full.action.n == 18  # type: ignore[attr-defined]
    assert (modern.action_repeat, modern.frame_stack) == (4, 4)


@pytest.mark.parametrize("settings", [{}, {"full_action_space": True}, {"frame_stack": 2, "screen": 42}])
def test_probe_says_what_make_gives(settings: dict[str, Any]) -> None:
    environment = atari(num_envs=1, **settings)
    spec = probe(EnvironmentConfig("ALE/Breakout-v5", atari=AtariConfig(**settings)))
    assert environment.spec == spec
    assert environment._open.single_observation_space == spec.observation
    assert environment._open.single_action_space.n == spec.action.n  # type: ignore[attr-defined]
    environment.close()


def test_stack_starts_with_zeros_moves_by_one_and_survives_the_next_step() -> None:
    environment = atari(num_envs=2)
    first = environment.reset(3)
    assert first.observation.dtype == np.uint8
    assert not first.observation[:, :3].any()
    assert first.observation[:, 3].any(axis=(1, 2)).all()
    previous = first.observation
    kept = [previous.copy()]
    for step in play(environment, 5):
        np.testing.assert_array_equal(step.observation[:, :3], previous[:, 1:])
        np.testing.assert_array_equal(previous, kept[-1])  # the next step did not write over it
        previous = step.observation
        kept.append(previous.copy())
    environment.close()
    environment.close()


def test_seeds_differ_by_game_and_repeat_by_seed() -> None:
    environment = atari("ALE/MsPacman-v5", 2)
    traces = []
    for seed in (1, 1, 2):
        environment.reset(seed)
        traces.append(np.stack([step.observation[:, -1] for step in play(environment, 25)]))
    np.testing.assert_array_equal(traces[0], traces[1])
    # Game 1 of seed 1 and game 0 of seed 2 start alike (their later actions differ).
    assert (traces[0] != traces[2]).any()
    assert (traces[0][:, 0] != traces[0][:, 1]).any()
    environment.close()


def test_rewards_are_the_games_own_and_returns_their_sum() -> None:
    environment = atari("ALE/Seaquest-v5", 2, time_limit=150)
    environment.reset(0)
    totals, seen, ended = np.zeros(2), set(), 0
    for step in play(environment, 320):
        assert step.reward.dtype == np.float32
        totals += step.reward
        seen |= set(step.reward.tolist())
        for episode in step.episodes:
            assert episode.episode_return == totals[episode.index]
            totals[episode.index] = 0
            ended += 1
    assert ended >= 4
    assert seen & {20.0, 40.0}  # Seaquest pays 20 and more a time: nothing is clipped to 1
    environment.close()


def test_time_limit_is_a_truncation_in_agent_steps() -> None:
    environment = atari("ALE/Pong-v5", 2, time_limit=40)
    environment.reset(0)
    previous = None
    for time, step in enumerate(play(environment, 80), start=1):
        if time % 40:
            assert not (step.truncated | step.terminated).any()
            assert step.final_observation is None
        else:
            assert step.truncated.all()
            assert not step.terminated.any()
            assert [episode.length for episode in step.episodes] == [40, 40]
            np.testing.assert_array_equal(step.final_observation[:, :3], previous[:, 1:])
            assert not step.observation[:, :3].any()
        previous = step.observation
    environment.close()


def test_a_lost_life_is_not_the_end_of_a_game() -> None:
    environment = atari("ALE/Breakout-v5", 3, threads=2, episodic_life=True)
    environment.reset(0)
    lives = games = 0
    previous = environment.observe().observation
    for step in play(environment, 450):
        over = {episode.index for episode in step.episodes}
        games += len(over)
        for index in np.flatnonzero(step.terminated):
            # The last observation always goes on from the one before, whether the game does or not.
            np.testing.assert_array_equal(step.final_observation[index, :3], previous[index, 1:])
            if index in over:
                assert not step.observation[index, :3].any()
            else:
                lives += 1
                np.testing.assert_array_equal(step.observation[index], step.final_observation[index])
        previous = step.observation
    assert games >= 2
    assert lives >= 3 * games  # Breakout has five lives: four losses go before the end
    environment.close()


def test_without_episodic_life_only_games_end() -> None:
    environment = atari("ALE/Breakout-v5", 2)
    environment.reset(0)
    ended = 0
    for step in play(environment, 300):
        assert len(step.episodes) == int((step.terminated | step.truncated).sum())
        ended += len(step.episodes)
    assert ended >= 2
    environment.close()


@pytest.mark.parametrize("action", [[0, 99], [-1, 0], [0]])
def test_actions_that_would_hang_the_emulator_are_refused(breakout: Any, action: list[int]) -> None:
    breakout.reset(0)
    with pytest.raises(ValueError, match="numbers from 0 to 3"):
        breakout.send(np.array(action))


def test_picture_is_the_newest_frame_and_state_is_not_promised(breakout: Any) -> None:
    step = breakout.reset(0)
    picture = breakout.render(1)
    assert picture.shape == (84, 84, 3)
    np.testing.assert_array_equal(picture[..., 2], step.observation[1, -1])
    assert breakout.state() is None


def test_arguments_that_do_not_apply_are_refused() -> None:
    with pytest.raises(UserError, match=r"kwargs.frameskip does not apply.*environment.atari"):
        probe(EnvironmentConfig("ALE/Pong-v5", {"frameskip": 2}))
    with pytest.raises(UserError, match=r"environment.atari.action_repeat"):
        probe(EnvironmentConfig("ALE/Pong-v5", action_repeat=2))
    with pytest.raises(UserError, match="not an Atari id"):
        probe(EnvironmentConfig("CartPole-v1", backend="atari"))
    with pytest.raises(UserError, match="probability"):
        AtariConfig(sticky=1.5)


def _played(seed: int, steps: int = 40) -> list[np.ndarray]:
    """What two games of Pong show, from a reset on, and their rewards."""
    environment = make(EnvironmentConfig("ALE/Pong-v5"), 2)
    chance = np.random.default_rng(0)
    try:
        seen = [environment.reset(seed).observation]
        for _ in range(steps):
            environment.send(chance.integers(0, 6, 2))
            step = environment.recv()
            seen += [step.observation, step.reward]
        return seen
    finally:
        environment.close()


def test_games_that_are_only_timed_are_made_once_and_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []

    def note(**settings: Any) -> Any:
        made.append(settings)
        return real(**settings)

    real = module.AtariVectorEnv
    fresh = _played(7)
    monkeypatch.setattr(module, "AtariVectorEnv", note)
    with module.only_timed():
        _played(3)
        again = _played(7)
        assert len(made) == 1
        assert not again[0][:, :-1].any(), "three frames of zeros before the first"
        assert again[0][:, -1].any()
        assert again[-2][:, 0].any()
        make(EnvironmentConfig("ALE/Pong-v5"), 1).close()
        make(EnvironmentConfig("ALE/Breakout-v5"), 2).close()
        assert len(made) == 3, "another number, another game"
    for one, other in zip(fresh, _played(7), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(made) == 4, "nothing is kept any more, and seeds count again"


def test_games_in_the_middle_of_a_step_are_not_kept() -> None:
    with module.only_timed():
        environment = make(EnvironmentConfig("ALE/Pong-v5"), 2)
        environment.reset(0)
        environment.send(np.zeros(2, np.int64))
        environment.close()
        assert not module._KEPT.resting
