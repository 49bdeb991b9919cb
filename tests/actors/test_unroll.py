"""The actor writes what happened: every row, resets, recurrent state, and the value of final observations."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from redline import api, environments
from redline.actors import Actor, allocate
from redline.environments import EnvironmentConfig
from redline.runtime.parts import assemble
from redline.types import ActInput, Interruption, Unroll, tree_leaves

RECIPES = {"feed-forward": ("ppo", ()), "lstm": ("ppo_lstm", ()), "gru": ("ppo_lstm", ("network.core=gru",))}


class Endless(gymnasium.Env[np.ndarray, int]):
    """Counts steps; truncates after five, terminates when it is told action 1 at a step that three divides."""

    observation_space = gymnasium.spaces.Box(-100.0, 100.0, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.time, self.base = 0, float(self.np_random.integers(10))
        return self._see(), {}

    def _see(self) -> np.ndarray:
        return np.array([self.base, self.time], np.float32)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.time += 1
        terminated = bool(action == 1 and self.time % 3 == 0)
        return self._see(), float(self.time), terminated, self.time == 5 and not terminated, {}


def collect(
    recipe: str, *overrides: str, num_envs: int = 3, length: int = 24, groups: int = 1
) -> tuple[Any, list[Unroll]]:
    settings = [
        *RECIPES[recipe][1],
        "algorithm.minibatches=1",
        f"sampler.num_envs={num_envs}",
        "run.debug=true",
        *overrides,
    ]
    experiment = api.make_experiment(Endless, RECIPES[recipe][0], overrides=settings)
    parts = assemble(experiment)
    sizes = [num_envs // groups] * groups
    made = [environments.make(EnvironmentConfig(id=Endless), n) for n in sizes]
    network = parts.learner.acting
    actor = Actor(made, parts.algorithm, network, seed=3)
    unrolls = []
    for k in range(2):
        unroll = allocate(parts.algorithm, network, parts.spec, length, num_envs, debug=True)
        actor.collect(unroll, 0, version=7 + k)
        unrolls.append(unroll)
    actor.close()
    parts.close()
    return parts, unrolls


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("groups", [1, 3])
def test_every_row_is_written_and_true(recipe: str, groups: int) -> None:
    _, unrolls = collect(recipe, groups=groups)
    for number, unroll in enumerate(unrolls):
        for leaf in tree_leaves(
            {"o": unroll.observation, "r": unroll.reward, **unroll.record, "b": unroll.bootstrap_value}
        ):
            assert not leaf.isnan().any()
        assert (unroll.policy_version == 7 + number).all()
        base, time = unroll.observation[..., 0], unroll.observation[..., 1]
        ended = unroll.terminated | unroll.truncated
        assert torch.equal(unroll.reset[1:], ended)
        assert torch.equal(unroll.reward, time[:-1] + 1)
        assert torch.equal(time[1:], torch.where(ended, torch.zeros(()), unroll.reward))
        assert torch.equal(base[1:][~ended], base[:-1][~ended])
        assert torch.equal(unroll.truncated, (unroll.reward == 5) & ~unroll.terminated)
        assert unroll.truncated.any()
        assert unroll.terminated.any()
    assert torch.equal(unrolls[1].observation[0], unrolls[0].observation[-1])
    assert torch.equal(unrolls[1].reset[0], unrolls[0].reset[-1])


@pytest.mark.parametrize("recipe", RECIPES)
def test_recomputed_policy_at_lag_zero_equals_what_was_recorded(recipe: str) -> None:
    # systems.md section 8 check 7: otherwise recurrent state or the overlap of unrolls is wrong.
    parts, unrolls = collect(recipe)
    for unroll in unrolls:
        output, _ = parts.learner.acting(unroll.observation, unroll.state, unroll.reset)
        log_prob = parts.algorithm.distribution.log_prob(output.policy[:-1], unroll.action)
        torch.testing.assert_close(log_prob, unroll.record["log_prob"], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(output.value[:-1], unroll.record["value"], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(output.value[-1], unroll.bootstrap_value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("recipe", RECIPES)
def test_truncated_rows_hold_the_value_of_the_final_observation_in_its_own_recurrent_state(
    recipe: str,
) -> None:
    parts, (unroll, _) = collect(recipe)
    network = parts.learner.acting
    assert (unroll.final_value[~unroll.truncated] == 0).all()
    for t, b in unroll.truncated.nonzero().tolist():
        start = t - 4  # truncation comes after five steps: this episode's first row
        if start < 0:
            continue
        final = torch.tensor([float(unroll.observation[t, b, 0]), 5.0])
        seen = torch.cat([unroll.observation[start : t + 1, b], final[None]])[:, None]
        reset = torch.zeros(6, 1, dtype=torch.bool)
        reset[0] = True
        output, _ = network(seen, network.initial_state(1), reset)
        torch.testing.assert_close(output.value[-1, 0], unroll.final_value[t, b], atol=1e-5, rtol=1e-4)


def test_stopping_in_the_middle_leaves_nothing_in_flight() -> None:
    parts = assemble(api.make_experiment(Endless, "ppo", overrides=["sampler.num_envs=2"]))
    environment = environments.make(EnvironmentConfig(id=Endless), 2)
    actor = Actor([environment], parts.algorithm, parts.learner.acting, seed=0)
    unroll = allocate(parts.algorithm, parts.learner.acting, parts.spec, 8, 2)
    asked = iter([False, False, False, True])
    with pytest.raises(Interruption):
        actor.collect(unroll, 0, 0, stop=lambda: next(asked))
    actor.collect(unroll, 0, 0)  # send and receive still pair up
    actor.close()
    parts.close()


def test_the_same_seed_gives_the_same_experience_and_another_does_not() -> None:
    (_, first), (_, second) = collect("feed-forward"), collect("feed-forward")
    assert torch.equal(first[1].observation, second[1].observation)
    assert torch.equal(first[1].action, second[1].action)
    parts = assemble(api.make_experiment(Endless, "ppo"))
    x = torch.randn(64, 2)
    inputs = [
        ActInput(x, None, torch.zeros(64, dtype=torch.bool), None, torch.Generator().manual_seed(s), 0)
        for s in (1, 2)
    ]
    actions = [parts.algorithm.act(parts.learner.acting, given)[0]["action"] for given in inputs]
    assert not torch.equal(*actions)
    parts.close()


@pytest.mark.parametrize(("recipe", "passes"), [("ppo", 25), ("impala", 24), ("appo", 24), ("n_step_q", 24)])
def test_the_last_observation_is_valued_only_for_who_reads_it(recipe: str, passes: int) -> None:
    experiment = api.make_experiment("CartPole-v1", recipe, overrides=["sampler.num_envs=2"])
    parts = assemble(experiment)
    network = parts.learner.acting
    seen: list[Any] = []
    network.register_forward_hook(lambda *_: seen.append(1))
    actor = Actor(
        [environments.make(EnvironmentConfig(id="CartPole-v1"), 2)], parts.algorithm, network, seed=3
    )
    actor.collect(allocate(parts.algorithm, network, parts.spec, 24, 2), 0, version=0)
    actor.close()
    parts.close()
    assert len(seen) == passes
