"""Save and restore, bit for bit, into fresh environments, through JSON where it is not an array."""

from __future__ import annotations

import json
from typing import Any

import gymnasium
import numpy as np
import pytest

from redline.environments import EnvironmentConfig, make
from redline.types import Environment, UserError, tree_leaves
from tests.environments import samples

CLASSIC = ["CartPole-v1", "Pendulum-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Acrobot-v1"]
TASKS = ["redline/Recall-v0", "redline/Masked-v0", "redline/Catch-v0", "redline/Dict-v0"]
MUJOCO = [
    "Ant-v5",
    "HalfCheetah-v5",
    "Hopper-v5",
    "Humanoid-v5",
    "HumanoidStandup-v5",
    "InvertedDoublePendulum-v5",
    "InvertedPendulum-v5",
    "Pusher-v5",
    "Reacher-v5",
    "Swimmer-v5",
    "Walker2d-v5",
]


def act(environment: Environment, rng: np.random.Generator, mask: np.ndarray | None) -> np.ndarray:
    space = environment.spec.action
    if isinstance(space, gymnasium.spaces.Box):
        low, high = np.maximum(space.low, -2), np.minimum(space.high, 2)
        return rng.uniform(low, high, (environment.num_envs, *space.shape)).astype(np.float32)
    chances = rng.random((environment.num_envs, int(space.n)))  # type: ignore[attr-defined]
    return np.where(mask, chances, -1.0).argmax(1) if mask is not None else chances.argmax(1)


def through_json(state: Any) -> Any:
    """What a checkpoint does: arrays stay arrays, all else must be plain values."""
    if isinstance(state, dict):
        assert all(isinstance(key, str) for key in state)
        return {key: through_json(value) for key, value in state.items()}
    if isinstance(state, np.ndarray):
        assert state.dtype.kind in "fiub"
        return state.copy()
    return json.loads(json.dumps(state))


def run(environment: Environment, steps: int, seed: int) -> list[list[Any]]:
    rng, trace = np.random.default_rng(seed), []
    mask = environment.observe().action_mask
    for _ in range(steps):
        environment.send(act(environment, rng, mask))
        step = environment.recv()
        mask = step.action_mask
        leaves = [leaf.copy() for leaf in tree_leaves(step.observation)]
        finals = [
            leaf[step.terminated | step.truncated].copy() for leaf in tree_leaves(step.final_observation)
        ]
        flags = [step.reward.copy(), step.terminated.copy(), step.truncated.copy()]
        trace.append([*leaves, *finals, *flags, list(step.episodes)])
    return trace


def same(first: list[list[Any]], second: list[list[Any]]) -> None:
    for ours, theirs in zip(first, second, strict=True):
        for left, right in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(left, right)


def check(config: EnvironmentConfig, before: int, after: int) -> None:
    one, other = make(config, 3), make(config, 3)
    one.reset(5)
    run(one, before, seed=0)
    state = one.state()
    assert state is not None
    state = through_json(state)
    seen = one.observe()
    expected = run(one, after, seed=1)
    for environment in (other, one):  # a fresh one, and the same one taken back
        environment.load_state(state)
        again = environment.observe()
        for left, right in zip(
            tree_leaves(again.observation), tree_leaves(state_view(seen, state)), strict=True
        ):
            np.testing.assert_array_equal(left, right)
        same(run(environment, after, seed=1), expected)
    one.close()
    other.close()


def state_view(seen: Any, state: Any) -> Any:
    """The observation at the time of saving (the step's own arrays have been written over since)."""
    return state.get("observation", seen.observation)


@pytest.mark.parametrize("backend", ["auto", "inline"])
@pytest.mark.parametrize("id", CLASSIC)
def test_classic_control(id: str, backend: str) -> None:
    check(EnvironmentConfig(id, backend=backend), 37, 250)


@pytest.mark.parametrize("id", TASKS)
def test_built_in_tasks(id: str) -> None:
    check(EnvironmentConfig(id, backend="inline"), 13, 60)


@pytest.mark.parametrize("id", MUJOCO)
def test_mujoco(id: str) -> None:
    pytest.importorskip("mujoco")
    check(EnvironmentConfig(id, backend="inline"), 15, 40)


def test_time_limits_are_restored_too() -> None:
    for config in (
        EnvironmentConfig("Pendulum-v1"),  # Gymnasium's own wrapper
        EnvironmentConfig("Pendulum-v1", time_limit=60),  # counted here
        EnvironmentConfig("HalfCheetah-v5", time_limit=60),
    ):
        check(config, 50, 160)


def test_no_promise_where_a_wrapper_may_hide_state() -> None:
    for factory in (samples.Counter, hidden):
        environment = make(EnvironmentConfig(factory), 1)
        environment.reset(0)
        assert environment.state() is None


@pytest.mark.parametrize("backend", ["inline", "workers"])
def test_a_state_that_an_environment_fails_to_tell_is_none(
    backend: str, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    """And is said once; the environment goes on."""
    environment = make(EnvironmentConfig(samples.Forgetful, backend=backend, workers=1), 2)
    try:
        environment.reset(0)
        for steps in range(1, 6):
            environment.send(np.zeros(2, np.int64))
            assert environment.recv().observation[:, 1].tolist() == [steps, steps]  # type: ignore[index, call-overload]
            assert (environment.state() is None) == (environment.state() is None) == (steps == 3)
        assert environment.events() == {"crashes": 0, "hangs": 0}
    finally:
        environment.close()
    told = capfd.readouterr().err + "".join(str(each.message) for each in recwarn)
    assert told.count("raised in save_state(): OSError: disk full; episodes in progress are not saved") == 1


def hidden() -> gymnasium.Env:
    return gymnasium.wrappers.FrameStackObservation(gymnasium.make("CartPole-v1"), 2)


@pytest.mark.parametrize("backend", ["auto", "inline"])
def test_state_of_another_size_is_refused(backend: str) -> None:
    three, two = (make(EnvironmentConfig("CartPole-v1", backend=backend), size) for size in (3, 2))
    three.reset(0)
    state = three.state()
    assert state is not None
    with pytest.raises(UserError, match="CartPole-v1"):
        two.load_state(state)
