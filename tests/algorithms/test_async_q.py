"""Q-learning without replay: each variant's targets written out, exploration that differs, and target copies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from redline import networks
from redline.algorithms.async_q import AsyncQ, AsyncQConfig
from redline.learners.config import LearnerConfig
from redline.learners.learner import Learner
from redline.networks.config import NetworkConfig
from redline.types import ActInput, Unroll
from tests.algorithms.helpers import SPEC, make_learner, make_unroll

VARIANTS = ("n_step_q", "one_step_q", "one_step_sarsa")


def learner_with_target(**config: Any) -> Learner:
    """Online and target network differ, so that taking the wrong one shows."""
    learner = make_learner("q", max_grad_norm=None, **config)
    learner.make_target()
    torch.manual_seed(3)
    with torch.no_grad():
        learner.flat.add_(0.5 * torch.randn_like(learner.flat))
    learner.set_progress(0.0, 100)
    return learner


def collected(*, masked: bool = False) -> Unroll:
    unroll = make_unroll()
    unroll.terminated[2, 0] = unroll.truncated[3, 1] = True
    unroll.final_value[3, 1] = 0.7
    unroll.reset[3, 0] = unroll.reset[4, 1] = True
    unroll.record = {"epsilon": torch.full((6, 2), 0.3)}
    if masked:
        unroll.action_mask = torch.rand(7, 2, 4) < 0.6
        unroll.action_mask[:6].scatter_(-1, unroll.action[..., None], True)
        unroll.action_mask[6, :, 0] = True
    return unroll


def slow_backup(
    variant: str, unroll: Unroll, online: Tensor, target: Tensor, gamma: float, t: int, b: int
) -> Tensor:
    """R of algorithms 1 and S2, from step t on."""
    reward = unroll.reward[t, b]
    if unroll.terminated[t, b]:
        return reward
    if unroll.truncated[t, b]:
        return reward + gamma * unroll.final_value[t, b]
    length = len(unroll.action)
    if variant == "n_step_q" and t + 1 < length:
        return reward + gamma * slow_backup(variant, unroll, online, target, gamma, t + 1, b)
    allowed = [a for a in range(4) if unroll.action_mask is None or unroll.action_mask[t + 1, b, a]]
    if variant != "one_step_sarsa":
        return reward + gamma * max(target[t + 1, b, a] for a in allowed)
    if t + 1 < length:
        return reward + gamma * target[t + 1, b, unroll.action[t + 1, b]]
    greedy = max(allowed, key=lambda a: float(online[t + 1, b, a]))
    expected = [(0.3 / len(allowed) + 0.7 * (a == greedy)) * target[t + 1, b, a] for a in allowed]
    return reward + gamma * sum(expected)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradient_is_the_papers_sum(variant: Any, masked: bool) -> None:
    learner, unroll = learner_with_target(), collected(masked=masked)
    online, _ = learner.network(unroll.observation, None, unroll.reset)
    assert learner.target is not None
    with torch.no_grad():
        after, _ = learner.target(unroll.observation, None, unroll.reset)
    total = torch.zeros(())
    for t in range(6):
        for b in range(2):
            back = slow_backup(variant, unroll, online.policy.detach(), after.policy, 0.9, t, b)
            total = total + (back - online.policy[t, b, unroll.action[t, b]]) ** 2
    gradients = torch.autograd.grad(total, [*learner.network.parameters()])
    expected = torch.cat([gradient.flatten() for gradient in gradients])
    AsyncQ(AsyncQConfig(variant=variant, unroll=6, gamma=0.9), SPEC).update(learner, unroll, 0.0)
    torch.testing.assert_close(learner.gradient, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("core", ["none", "gru"])
def test_shards_give_the_same_update(variant: Any, core: Any) -> None:
    learners = []
    for threads in (1, 2):
        torch.manual_seed(0)
        network = networks.build(SPEC, NetworkConfig(hidden=(16,), core=core, core_size=8), "q")
        settings = LearnerConfig(device="cpu", precision="fp32", threads=threads, max_grad_norm=None)
        learners.append(Learner(network, settings, seed=0, num_envs=2, gamma=0.9))
    for learner in learners:
        learner.make_target()
        learner.set_progress(0.0, 100)
        unroll = collected()
        unroll.state = learner.network.initial_state(2)
        AsyncQ(AsyncQConfig(variant=variant, unroll=6), SPEC).update(learner, unroll, 0.0)
    torch.testing.assert_close(learners[0].gradient, learners[1].gradient, atol=1e-5, rtol=1e-4)


def test_target_is_copied_every_so_many_agent_steps_of_the_whole_run() -> None:
    algorithm = AsyncQ(AsyncQConfig(unroll=6, target_every=100), SPEC)
    learner, copies = learner_with_target(), []
    for steps in range(30, 631, 30):
        learner.set_progress(0.0, steps)
        algorithm.update(learner, collected(), 0.0)
        if torch.equal(learner._target, learner.compute):
            copies.append(steps)
    assert copies == [120, 210, 300, 420, 510, 600]
    saved, again = learner.state(), learner_with_target()
    again.load_state(saved)
    assert again.target_steps == learner.target_steps == 600


def test_steps_unknown_are_refused() -> None:
    learner = make_learner("q")
    learner.make_target()
    with pytest.raises(ValueError, match="set_progress"):
        AsyncQ(AsyncQConfig(unroll=6), SPEC).update(learner, collected(), 0.0)


def x_of(first: int, count: int, steps: int, **more: Any) -> ActInput:
    reset = torch.zeros(count, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    return ActInput(
        torch.zeros(count, 3), None, reset, None, generator, steps, first_environment=first, **more
    )


def test_epsilon_falls_to_a_final_value_that_depends_on_the_environment_alone() -> None:
    algorithm = AsyncQ(AsyncQConfig(epsilon_steps=1000), SPEC)
    assert algorithm.epsilon(x_of(0, 16, 0)).tolist() == [1.0] * 16
    final = algorithm.epsilon(x_of(0, 2000, 1000))
    shares = [float((final == value).float().mean()) for value in (0.1, 0.01, 0.5)]
    assert shares == pytest.approx([0.4, 0.3, 0.3], abs=0.005)
    few = algorithm.epsilon(x_of(0, 10, 9999))
    assert [int((few == value).sum()) for value in (0.1, 0.01, 0.5)] == [4, 3, 3]
    assert torch.equal(algorithm.epsilon(x_of(3, 5, 1000)), final[3:8])
    half = algorithm.epsilon(x_of(0, 16, 500))
    torch.testing.assert_close(half, (1 + final[:16]) / 2)


def test_actions_are_random_as_often_as_epsilon_says() -> None:
    learner = make_learner("q")
    algorithm = AsyncQ(
        AsyncQConfig(variant="one_step_sarsa", epsilon_finals=(0.2,), epsilon_shares=(1.0,)), SPEC
    )
    x = x_of(0, 8000, 2**40)
    record, _ = algorithm.act(learner.acting, x)
    greedy, _ = algorithm.act(learner.acting, x._replace(explore=False))
    assert len(set(greedy["action"].tolist())) == 1
    assert float((record["action"] != greedy["action"]).float().mean()) == pytest.approx(
        0.2 * 3 / 4, abs=0.015
    )
    assert record["epsilon"].tolist() == pytest.approx([0.2] * 8000)
    assert set(algorithm.record()) == {"epsilon"}


def test_bad_numbers_are_refused_with_the_value() -> None:
    for change in ({"unroll": 0}, {"gamma": 1.5}, {"target_every": 0}, {"epsilon_finals": (2.0,)}):
        with pytest.raises(ValueError, match=str(next(iter(change.values()))).strip("(),")):
            replace(AsyncQConfig(), **change)
    with pytest.raises(ValueError, match="summing to 1"):
        AsyncQConfig(epsilon_shares=(0.5, 0.5, 0.5))
