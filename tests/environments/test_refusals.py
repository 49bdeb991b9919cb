"""What is refused at the door: one line that names the environment, the field, and where there is one the remedy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from redline.environments import EnvironmentConfig, make, probe
from redline.environments.spaces import random_actions
from redline.types import Environment, RunError, UserError
from tests.environments import samples

MODULE = "tests.environments.samples"


def play(environment: Environment, steps: int) -> None:
    for _ in range(steps):
        environment.send(np.zeros(environment.num_envs, np.int64))
        environment.recv()


@pytest.mark.parametrize(
    ("id", "match"),
    [
        ("CartPole-v9", "unknown environment 'CartPole-v9'; did you mean CartPole-v1"),
        ("CartPol-v1", "did you mean CartPole-v1"),
        ("cartpole", "did you mean CartPole-v1"),
        ("Pong-v5", "did you mean ALE/Pong-v5"),
        ("ALE/Pnog-v5", "did you mean ALE/Pong-v5"),
        ("redline/Recal-v0", "did you mean redline/Recall-v0"),
        ("", "unknown environment ''$"),
        ("no_such_module:make", "cannot import 'no_such_module': ModuleNotFoundError"),
        (f"{MODULE}:countr", f"module {MODULE} has no 'countr'; did you mean counter"),
        (f"{MODULE}:np.pi", "is a float, not a function"),
        (f"{MODULE}:nothing", r"gave a str, not a gymnasium.Env"),
    ],
)
def test_ids(id: str, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        probe(EnvironmentConfig(id))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"backend": "thread"}, "environment.backend 'thread' is none of auto, inline"),
        ({"id": 3}, "environment.id"),
        ({"workers": -1}, "environment.workers is at least 0"),
        ({"action_repeat": 0}, "environment.action_repeat is at least 1"),
        ({"time_limit": 0}, "environment.time_limit is at least 1"),
        ({"step_timeout": 0.0}, "environment.step_timeout"),
    ],
)
def test_settings(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        EnvironmentConfig(**settings)


@pytest.mark.parametrize(
    ("id", "kwargs", "settings", "match"),
    [
        ("CartPole-v1", {"gravity": 3}, {}, "CartPole-v1.*cannot be made: TypeError.*gravity"),
        (samples.Broken, {"fault": "constructor"}, {}, "Broken.*cannot be made: OSError: no such simulator"),
        (samples.Broken, {"fault": "space"}, {}, r"observation space Text.*not supported; supported: Box"),
        (
            samples.Broken,
            {"fault": "action space"},
            {},
            r"action space Dict.*not supported; supported: Discrete",
        ),
        (samples.Broken, {"fault": "reset"}, {}, "raised in reset.*RuntimeError: the simulator is not there"),
        (samples.counter, {}, {"backend": "vector"}, "is a single environment; use auto"),
        ("Pendulum-v1", {}, {"backend": "vector"}, "has no vector entry point; use auto"),
        (samples.vector_counter, {}, {"backend": "inline"}, "is a VectorEnv; use auto or vector"),
        (samples.vector_counter, {}, {"action_repeat": 2}, "environment.action_repeat does not apply"),
        (samples.vector_counter, {}, {"time_limit": 2}, "environment.time_limit does not apply"),
        (samples.stubborn_vector, {}, {}, "resets on the next step: make it with autoreset_mode"),
        (samples.fixed_vector, {}, {}, "made 2 environments, not 3: give its factory a parameter num_envs"),
    ],
)
def test_environments(id: Any, kwargs: dict[str, Any], settings: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        make(EnvironmentConfig(id, kwargs, **settings), 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "match"),
    [
        ("raise", r"Broken' number 1 raised in step\(\): ZeroDivisionError: the simulator exploded"),
        (
            "nan observation",
            "Broken' number 1 gave observation nan at its step 3: observations must be finite",
        ),
        ("inf observation", "number 1 gave observation inf at its step 3"),
        ("nan reward", "number 1 gave reward nan at its step 3: rewards must be finite"),
        ("shape", r"observation has shape \(3,\), its space says \(2,\)"),
        ("broadcast shape", r"observation has shape \(1,\), its space says \(2,\)"),
        ("dtype", "observation has dtype .*, its space says float32"),
        ("complex dtype", "observation has dtype complex64, its space says float32"),
        ("no observation", "observation has dtype NoneType, its space says float32"),
        ("reward", "number 1 gave reward 'high'"),
        ("no reward", "number 1 gave reward nan"),
    ],
)
def test_what_an_environment_gives(fault: str, match: str) -> None:
    environment = make(EnvironmentConfig(samples.Broken, {"fault": fault}), 2)
    environment.reset(0)
    environment._copies.envs[0].unwrapped.at = -1  # type: ignore[attr-defined]  # only the second one misbehaves
    with pytest.raises(RunError, match=match) as caught:
        play(environment, 4)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("mask", "match"),
    [("empty", "mask without a legal action"), ("short", "mask of 2 entries, its actions need 3")],
)
def test_masks(mask: str, match: str) -> None:
    environment = make(EnvironmentConfig(samples.MaskedDict, {"mask": mask}), 1)
    environment.reset(0)
    with pytest.raises(RunError, match=match):
        play(environment, 3)


def test_a_mask_must_leave_something_in_each_part_of_an_action() -> None:
    environment = make(EnvironmentConfig(samples.MaskedPair, {"fault": "part"}), 1)
    rng, space = np.random.default_rng(0), environment.spec.action
    environment.send(random_actions(space, 1, environment.reset(0).action_mask, rng))
    action = random_actions(space, 1, environment.recv().action_mask, rng)
    with pytest.raises(
        RunError, match="number 0 gave an action mask without a legal action for part 1 of it"
    ):
        environment.send(action)


def test_large_finite_numbers_are_not_refused() -> None:
    """The quick look at a sum of squares overflows here; the exact one must not."""
    environment = make(EnvironmentConfig(Large), 2)
    environment.reset(0)
    environment.send(np.zeros(2, np.int64))
    assert (environment.recv().observation == np.float32(3e38)).all()


class Large(samples.Counter):
    """Gives numbers near the end of f32."""

    def observation(self) -> Any:
        return np.full(2, 3e38, np.float32)


def test_num_envs() -> None:
    with pytest.raises(UserError, match="num_envs is at least 1"):
        make(EnvironmentConfig(), 0)


def test_missing_envpool_says_how_to_get_it() -> None:
    try:
        import envpool  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match=r"pip install 'redline\[envpool\]'"):
            probe(EnvironmentConfig("CartPole-v1", backend="envpool"))
    else:
        with pytest.raises(UserError, match="did you mean CartPole-v1"):
            probe(EnvironmentConfig("CartPol-v1", backend="envpool"))
