"""Every backend against one independent rollout of single ``gymnasium.Env``: seeds, autoreset, finals, episodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
import pytest

from redline.environments import EnvironmentConfig, make, probe
from redline.environments.registry import register_namespaces
from redline.types import Environment, Step, tree_leaves, tree_map
from tests.environments import samples

register_namespaces()
B = 3
BACKENDS = ["inline", "workers"]
STARTED = ("counter", "parts", "repeat")  # for these make check starts workers, too


@dataclass
class Case:
    """An environment, and the same one made by hand."""

    id: Any
    single: Callable[[], gymnasium.Env]
    kwargs: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    steps: int = 60


CASES = {
    "cartpole": Case("CartPole-v1", lambda: gymnasium.make("CartPole-v1")),
    "pendulum": Case(
        "Pendulum-v1", lambda: gymnasium.make("Pendulum-v1", max_episode_steps=20), {}, {"time_limit": 20}
    ),
    "cheetah": Case("HalfCheetah-v5", lambda: gymnasium.make("HalfCheetah-v5"), steps=20),
    "counter": Case("tests.environments.samples:counter", lambda: samples.Counter(5), {"length": 5}),
    "truncated": Case(samples.Counter, lambda: samples.Counter(5, True), {"length": 5, "truncate": True}),
    "both": Case(samples.Counter, lambda: samples.Counter(5), {"length": 5}, {"time_limit": 5}),
    "parts": Case("redline/Dict-v0", lambda: gymnasium.make("redline/Dict-v0")),
    "repeat": Case("CartPole-v1", lambda: Repeat(gymnasium.make("CartPole-v1"), 3), {}, {"action_repeat": 3}),
}


class Repeat(gymnasium.Wrapper):
    """Action repeat, written apart from the one under test."""

    def __init__(self, env: gymnasium.Env, times: int) -> None:
        super().__init__(env)
        self.times = times

    def step(self, action: Any) -> Any:
        rewards = []
        for _ in range(self.times):
            observation, reward, terminated, truncated, info = self.env.step(action)
            rewards.append(float(reward))
            if terminated or truncated:
                break
        return observation, sum(rewards), terminated, truncated, info


def config(case: Case, backend: str) -> EnvironmentConfig:
    return EnvironmentConfig(
        case.id, case.kwargs, backend, workers=2 if backend == "workers" else 0, **case.settings
    )


def actions(environment: Environment, rng: np.random.Generator) -> np.ndarray:
    space = environment.spec.action
    if isinstance(space, gymnasium.spaces.Box):
        return rng.uniform(-1.5, 1.5, (environment.num_envs, *space.shape)).astype(np.float32)
    return rng.integers(space.n, size=environment.num_envs)  # type: ignore[attr-defined]


def equal(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            equal(ours[key], theirs[key])
        return
    theirs = np.asarray(theirs)
    np.testing.assert_array_equal(ours, theirs.astype(np.float32) if theirs.dtype.kind == "f" else theirs)


def row(tree: Any, index: int) -> Any:
    return tree_map(lambda leaf: leaf[index], tree)


def follow(environment: Environment, singles: list[gymnasium.Env], steps: int, seed: int) -> int:
    """Step both with the same actions and compare everything; gives the number of episodes that ended."""
    step = environment.reset(seed)
    for index, env in enumerate(singles):
        equal(row(step.observation, index), env.reset(seed=seed + index)[0])
    rng, returns, lengths, ended = np.random.default_rng(1), np.zeros(len(singles)), [0] * len(singles), 0
    for _ in range(steps):
        action = actions(environment, rng)
        environment.send(action)
        step = environment.recv()
        assert step.reward.dtype == np.float32
        assert step.terminated.dtype == step.truncated.dtype == np.bool_
        finished = {episode.index: episode for episode in step.episodes}
        over = []
        for index, env in enumerate(singles):
            single = action[index]
            if isinstance(env.action_space, gymnasium.spaces.Box):
                single = np.clip(single, env.action_space.low, env.action_space.high)
            observation, reward, terminated, truncated, _ = env.step(single)
            returns[index] += np.float32(reward)
            lengths[index] += 1
            assert step.reward[index] == np.float32(reward)
            assert (step.terminated[index], step.truncated[index]) == (
                terminated,
                truncated and not terminated,
            )
            if terminated or truncated:
                over.append(index)
                equal(row(step.final_observation, index), observation)
                observation, _ = env.reset()
                assert finished[index].episode_return == pytest.approx(returns[index])
                assert finished[index].length == lengths[index]
                returns[index], lengths[index] = 0.0, 0
            equal(row(step.observation, index), observation)
        assert sorted(finished) == over
        assert (step.final_observation is None) == (not over)
        ended += len(over)
    return ended


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        pytest.param(name, backend, marks=() if backend == "inline" or name in STARTED else pytest.mark.slow)
        for name in CASES
        for backend in BACKENDS
    ],
)
def test_equals_single_environments(name: str, backend: str) -> None:
    case = CASES[name]
    environment = make(config(case, backend), B)
    try:
        assert isinstance(environment, Environment)
        ended = follow(environment, [case.single() for _ in range(B)], case.steps, seed=11)
        assert ended > 0 or name == "cheetah"
        # Once more from the same seed: nothing of the first run may remain.
        follow(environment, [case.single() for _ in range(B)], 10, seed=11)
    finally:
        environment.close()
        environment.close()


def test_numpy_cartpole_is_gymnasiums_to_the_time_limit() -> None:
    environment = make(EnvironmentConfig("CartPole-v1", time_limit=25), 8)
    assert type(environment).__name__ == "CartPole"
    singles = [gymnasium.make("CartPole-v1", max_episode_steps=25) for _ in range(8)]
    assert follow(environment, singles, 300, seed=5) > 40


def test_numpy_cartpole_balances_to_truncation() -> None:
    environment = make(EnvironmentConfig("CartPole-v1"), 4)
    step, lengths, truncated = environment.reset(0), [], 0
    for _ in range(1100):
        observation = step.observation
        environment.send((observation @ np.array([0.1, 0.5, 5.0, 1.0]) > 0).astype(np.int64))
        step = environment.recv()
        lengths += [episode.length for episode in step.episodes]
        truncated += int(step.truncated.sum())
        assert not (step.truncated & step.terminated).any()
    assert lengths.count(500) == truncated >= 4


@pytest.mark.parametrize("mode", ["SAME_STEP", "DISABLED", "NEXT_STEP"])
def test_vector_environments_equal_single_ones(mode: str) -> None:
    factory = "tests.environments.samples:vector_counter"
    environment = make(EnvironmentConfig(factory, {"mode": mode}), B)
    try:
        assert follow(environment, [samples.Counter() for _ in range(B)], 40, seed=3) == 5 * B
    finally:
        environment.close()


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_seeds_differ_by_environment_and_repeat_by_seed(backend: str) -> None:
    environment = make(
        EnvironmentConfig("CartPole-v1", backend=backend, workers=2 * (backend == "workers")), 4
    )
    try:
        first = environment.reset(7).observation.copy()
        again = environment.reset(7).observation.copy()
        shifted = environment.reset(8).observation.copy()
    finally:
        environment.close()
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first[1:], shifted[:-1])
    assert len(np.unique(first[:, 0])) == 4


@pytest.mark.parametrize("backend", BACKENDS)
def test_observe_repeats_and_flags_nothing(backend: str) -> None:
    settings = EnvironmentConfig(samples.Counter, {"length": 2}, backend, workers=2 * (backend == "workers"))
    environment = make(settings, B)
    try:
        environment.reset(0)
        for _ in range(2):
            environment.send(np.zeros(B, np.int64))
            stepped = environment.recv()
        seen = environment.observe()
        np.testing.assert_array_equal(seen.observation, stepped.observation)
        assert stepped.terminated.all()
        assert not (seen.terminated | seen.truncated).any()
        assert not seen.reward.any()
        assert seen.final_observation is None
        assert environment.events() == {"crashes": 0, "hangs": 0}
        np.testing.assert_array_equal(environment.render(1), np.zeros((4, 6, 3), np.uint8))
    finally:
        environment.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_masks_are_the_environments_and_legal_play_goes_through(backend: str) -> None:
    environment = make(
        EnvironmentConfig("redline/Masked-v0", {}, backend, workers=2 * (backend == "workers")), B
    )
    try:
        assert environment.spec.action_mask
        step = environment.reset(0)
        total = 0.0
        for _ in range(40):
            assert step.action_mask is not None
            assert step.action_mask.shape == (B, 5)
            assert (step.action_mask.sum(1) == 3).all()
            environment.send(np.where(step.action_mask, step.observation, -1.0).argmax(1))
            step = environment.recv()
            total += float(step.reward.sum())
        assert total == 40 * B  # the best legal action each time: mask and observation belong together
    finally:
        environment.close()


def test_an_illegal_action_is_refused_by_the_task() -> None:
    environment = make(EnvironmentConfig("redline/Masked-v0", backend="inline"), 1)
    mask = environment.reset(0).action_mask
    assert mask is not None
    with pytest.raises(Exception, match=r"redline/Masked-v0.*number 0 raised in step.*illegal"):
        environment.send(np.array([int(np.flatnonzero(~mask[0])[0])]))


def test_mask_in_the_observation_is_taken_out_of_it() -> None:
    environment = make(EnvironmentConfig(samples.MaskedDict), 2)
    step = environment.reset(0)
    assert list(environment.spec.observation.spaces) == ["x"]  # type: ignore[attr-defined]
    assert list(step.observation) == ["x"]
    for time in range(1, 9):
        environment.send(np.zeros(2, np.int64))
        step = environment.recv()
        np.testing.assert_array_equal(step.action_mask, np.eye(3, dtype=bool)[[time % 5 % 3] * 2])


@pytest.mark.parametrize("backend", BACKENDS)
def test_nested_spaces_become_trees_of_arrays(backend: str) -> None:
    environment = make(EnvironmentConfig(samples.Nested, {}, backend, workers=2 * (backend == "workers")), B)
    try:
        single = samples.Nested()
        step = environment.reset(4)
        expected = single.reset(seed=5)[0]
        observation: Any = row(step.observation, 1)
        np.testing.assert_array_equal(observation["inner"]["a"], expected["inner"]["a"].astype(np.float32))
        assert observation["inner"]["n"] == expected["inner"]["n"] - 2
        np.testing.assert_array_equal(observation["pair"]["0"], expected["pair"][0])
        np.testing.assert_array_equal(observation["pair"]["1"], expected["pair"][1])
        np.testing.assert_array_equal(observation["counts"], expected["counts"])
        assert [leaf.dtype.name for leaf in tree_leaves(step.observation)] == [
            leaf.dtype.name for leaf in tree_leaves(tree_map(np.asarray, sample_of(environment)))
        ]
        environment.send(np.array([[0, 0], [1, 1], [2, 0]]))
        np.testing.assert_array_equal(environment.recv().reward, [5, 6, 7])
    finally:
        environment.close()


def sample_of(environment: Environment) -> Any:
    def plain(space: gymnasium.Space) -> Any:
        if isinstance(space, gymnasium.spaces.Dict):
            return {key: plain(part) for key, part in space.spaces.items()}
        return np.zeros(space.shape, space.dtype)  # type: ignore[arg-type]

    return plain(environment.spec.observation)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_probe_says_what_make_gives(case: Case) -> None:
    environment = make(config(case, "inline"), 1)
    spec = probe(config(case, "inline"))
    assert (spec.observation, spec.action) == (environment.spec.observation, environment.spec.action)
    assert spec.rules == environment.spec.rules[:-1]
    environment.close()


def test_rules_say_time_limit_and_repeat() -> None:
    rules = probe(EnvironmentConfig("CartPole-v1", action_repeat=4)).rules
    assert "4 frames per agent step, rewards summed" in rules
    assert "time limit 125 agent steps, a truncation" in rules
    assert (
        "time limit 30 agent steps, a truncation"
        in probe(EnvironmentConfig("Pendulum-v1", time_limit=30)).rules
    )


def test_time_limit_counts_agent_steps_in_place_of_the_ids_own() -> None:
    environment = make(EnvironmentConfig("Pendulum-v1", time_limit=250, action_repeat=2, backend="inline"), 1)
    environment.reset(0)
    ends: list[Step] = []
    for _ in range(500):
        environment.send(np.zeros((1, 1), np.float32))
        step = environment.recv()
        if step.truncated.any():
            ends.append(step)
            assert step.episodes[0].length == 250
    assert len(ends) == 2


def test_pictures_follow_the_cart() -> None:
    environment = make(EnvironmentConfig("CartPole-v1"), 2)
    environment.reset(0)
    first = environment.render(1)
    for _ in range(40):
        environment.send(np.ones(2, np.int64))
        environment.recv()
    second = environment.render(1)
    assert first is not None
    assert second is not None
    assert first.shape == (200, 300, 3)
    assert (first != second).any()


def test_an_environment_without_pictures_gives_none() -> None:
    environment = make(EnvironmentConfig("redline/Recall-v0"), 1)
    environment.reset(0)
    assert environment.render() is None
