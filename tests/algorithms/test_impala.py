"""IMPALA: its loss against the paper's sums written out, ends of episodes, memory, shards, and the sheet's checks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from redline import networks
from redline.actors import Actor, allocate
from redline.algorithms.impala import IMPALA, IMPALAConfig
from redline.environments import make
from redline.environments.config import EnvironmentConfig
from redline.learners.config import LearnerConfig
from redline.learners.learner import Learner
from redline.networks.config import NetworkConfig
from redline.types import Output, Spec, Unroll
from tests.algorithms.helpers import SPEC, make_learner, make_unroll


def ending(unroll: Unroll) -> Unroll:
    """The unroll with a termination in one column and a truncation in the other."""
    unroll.terminated[2, 0] = True
    unroll.truncated[3, 1] = True
    unroll.final_value[3, 1] = 0.7
    unroll.reset[3, 0] = unroll.reset[4, 1] = True
    return unroll


def slow_loss(logits: Tensor, values: Tensor, unroll: Unroll, config: IMPALAConfig) -> Tensor:
    """Section 4.1 and 4.2 by their definitions: sums over s of products over i, episode by episode."""
    total = torch.zeros(())
    length, batch = unroll.action.shape
    for b in range(batch):
        logs = logits[:, b].log_softmax(-1)
        log_pi = torch.stack([logs[t, unroll.action[t, b]] for t in range(length)])
        ratio = (log_pi.detach() - unroll.record["log_prob"][:, b]).exp()
        if config.correction == "none":
            ratio = torch.ones_like(ratio)
        v = values[:, b].detach()

        def after(t: int, value: Tensor, b: int = b) -> Tensor:
            """gamma times what step t bootstraps from."""
            if unroll.terminated[t, b]:
                return torch.zeros(())
            return config.gamma * (unroll.final_value[t, b] if unroll.truncated[t, b] else value)

        vs = []
        for s in range(length):
            target, weight = v[s].clone(), 1.0
            for t in range(s, length):
                delta = ratio[t].clamp(max=config.rho_bar) * (unroll.reward[t, b] + after(t, v[t + 1]) - v[t])
                target = target + weight * delta
                if unroll.terminated[t, b] or unroll.truncated[t, b]:
                    break
                weight = weight * config.gamma * config.lambda_ * float(ratio[t].clamp(max=config.c_bar))
            vs.append(target)
        vs.append(v[length])
        for s in range(length):
            rho = ratio[s].clamp(max=config.pg_rho_bar)
            advantage = rho * (unroll.reward[s, b] + after(s, vs[s + 1]) - v[s])
            entropy = -(logs[s].exp() * logs[s]).sum()
            total = total - log_pi[s] * advantage - config.entropy_cost * entropy
            total = total + config.value_cost * 0.5 * (vs[s] - values[s, b]) ** 2
    return total


@pytest.mark.parametrize("correction", ["vtrace", "none"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_impala_gradient_is_the_papers_sum(correction: Any, reduction: Any) -> None:
    config = IMPALAConfig(
        unroll=6, gamma=0.9, correction=correction, reduction=reduction, rho_bar=1.3, c_bar=0.8, lambda_=0.9
    )
    learner, unroll = make_learner("actor_critic", max_grad_norm=None), ending(make_unroll())
    unroll.record = {"log_prob": torch.rand(6, 2).log()}  # and no values: the learner's own are used
    output, _ = learner.network(unroll.observation, None, unroll.reset)
    expected = slow_loss(output.policy, output.value, unroll, config)
    expected = expected / 12 if reduction == "mean" else expected
    gradient = torch.cat(
        [g.flatten() for g in torch.autograd.grad(expected, [*learner.network.parameters()])]
    )
    metrics = IMPALA(config, SPEC).update(learner, unroll, 0.0)
    torch.testing.assert_close(learner.gradient, gradient, atol=1e-5, rtol=1e-4)
    assert learner.version == 1
    assert 0 < float(metrics["rho_clipped"]) < 1


@pytest.mark.parametrize("core", ["none", "lstm"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_shards_split_environments_and_give_the_same_update(core: Any, reduction: Any) -> None:
    learners = []
    for threads in (1, 2):
        torch.manual_seed(0)
        network = networks.build(SPEC, NetworkConfig(hidden=(16,), core=core, core_size=8), "actor_critic")
        settings = LearnerConfig(device="cpu", precision="fp32", threads=threads, max_grad_norm=None)
        learners.append(Learner(network, settings, seed=0, num_envs=3, gamma=0.9))
    found = []
    for learner in learners:
        unroll = ending(make_unroll(batch=3))
        state = learner.network.initial_state(3)
        unroll.state = None if state is None else {name: torch.randn_like(x) for name, x in state.items()}
        torch.manual_seed(1)
        found.append(IMPALA(IMPALAConfig(unroll=6, reduction=reduction), SPEC).update(learner, unroll, 0.0))
    torch.testing.assert_close(learners[0].gradient, learners[1].gradient, atol=1e-5, rtol=1e-4)
    assert float(found[0]["policy_loss"]) == pytest.approx(float(found[1]["policy_loss"]), abs=1e-5)


def test_last_row_is_a_bootstrap_without_gradient() -> None:
    class Watched(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.policy = torch.nn.Parameter(torch.zeros(7, 2, 4))
            self.values = torch.nn.Parameter(torch.randn(7, 2))

        def forward(self, observation, state, reset):  # type: ignore[no-untyped-def]
            return Output(self.policy, self.values), state

    from redline.algorithms.trajectories import Trajectories

    network, learner = Watched(), make_learner("actor_critic")
    batch = Trajectories.of(learner, make_unroll(), 0.9, "sum")
    loss, _ = IMPALA(IMPALAConfig(unroll=6), SPEC).loss(network, batch)
    policy, values = torch.autograd.grad(loss, [network.policy, network.values])
    assert not policy[-1].any()
    assert not values[-1].any()
    assert policy[:-1].any()
    assert values[:-1].all()
    with torch.no_grad():
        network.values[-1] += 1.0
    again, _ = IMPALA(IMPALAConfig(unroll=6), SPEC).loss(network, batch)
    assert float(again.detach()) != float(loss.detach())


@pytest.mark.parametrize("core", ["none", "lstm", "gru"])
def test_impala_check_7_recomputed_log_probs_equal_those_of_the_actor_at_lag_0(core: Any) -> None:
    # Over several unrolls with episodes ending inside them: state, resets and the overlap of unrolls must all be right.
    settings = EnvironmentConfig("redline/Recall-v0")
    environment = make(settings, 3)
    try:
        torch.manual_seed(0)
        network = networks.build(
            environment.spec, NetworkConfig(hidden=(16,), core=core, core_size=8), "actor_critic"
        )
        learner = Learner(
            network,
            LearnerConfig(device="cpu", precision="fp32", learning_rate=1e-2),
            seed=0,
            num_envs=3,
            gamma=0.9,
        )
        algorithm = IMPALA(IMPALAConfig(unroll=7, reduction="mean"), environment.spec)
        unroll = allocate(algorithm, learner.network, environment.spec, 7, 3, debug=True)
        assert set(unroll.record) == {"log_prob"}
        actor = Actor([environment], algorithm, learner.acting, seed=0)
        ends = 0
        for k in range(5):
            actor.collect(unroll, 21 * k, learner.version)
            metrics = algorithm.update(learner, unroll, 0.0)
            ends += int((unroll.terminated | unroll.truncated).sum())
            assert abs(float(metrics["approximate_kl"])) < 1e-9
            assert float(metrics["rho"]) == pytest.approx(1.0, abs=1e-5)
            assert float(metrics["rho_clipped"]) == 0.0
            assert float(metrics["lag"]) == 0.0
            assert torch.isfinite(learner.flat).all()
        assert ends > 3
    finally:
        environment.close()


def test_lag_is_reported_from_the_stamps() -> None:
    learner, unroll = make_learner("actor_critic"), make_unroll()
    learner.version = 9
    unroll.policy_version = torch.tensor([[4, 7], [5, 7]])
    metrics = IMPALA(IMPALAConfig(unroll=6), SPEC).update(learner, unroll, 0.0)
    assert float(metrics["lag"]) == 3.5
    assert float(metrics["lag_max"]) == 5.0


ONE_STATE = Spec("one state", gymnasium.spaces.Box(0, 1, (1,), np.float32), gymnasium.spaces.Discrete(3))


@pytest.mark.parametrize("correction", ["vtrace", "none"])
def test_impala_check_5_fixed_point_is_pi_rho(correction: Any) -> None:
    # One state, behaviour mu, target pi held fixed: the value converges to that of pi_rho = [.4, .4, .2]. Without the
    # correction it converges to the behaviour's, which is how the test knows that V-trace did it.
    mu, pi = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.2, 0.5, 0.3])
    reward_of, gamma = torch.tensor([1.0, -2.0, 9.0]), 0.5

    class Table(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = torch.nn.Parameter(torch.zeros(()))

        def forward(self, observation, state, reset):  # type: ignore[no-untyped-def]
            return Output(pi.log().expand(*reset.shape, 3), self.value.expand(reset.shape)), state

    config = IMPALAConfig(unroll=5, gamma=gamma, entropy_cost=0.0, value_cost=1.0, correction=correction)
    algorithm = IMPALA(config, ONE_STATE)
    settings = LearnerConfig(
        device="cpu",
        precision="fp32",
        optimizer="rmsprop",
        learning_rate=0.02,
        anneal=True,
        max_grad_norm=None,
    )
    learner = Learner(Table(), settings, seed=0, num_envs=4096, gamma=gamma)
    torch.manual_seed(0)
    for k in range(300):
        learner.set_progress(k / 300)
        action = torch.multinomial(mu, 5 * 4096, replacement=True).reshape(5, 4096)
        unroll = make_unroll(5, 1).map(lambda x: x.expand(*x.shape[:-1], 4096) if x.shape[-1] == 1 else x)
        unroll = replace(unroll, observation=torch.zeros(6, 4096, 1), action=action, reward=reward_of[action])
        unroll.record = {"log_prob": mu.log()[action]}
        algorithm.update(learner, unroll, 0.0)
    policy = {"vtrace": torch.tensor([0.4, 0.4, 0.2]), "none": mu}[correction]
    assert float(learner.flat) == pytest.approx(float((policy * reward_of).sum() / (1 - gamma)), abs=0.05)
    others = {"pi": pi, "mu": mu, "rho": torch.tensor([0.4, 0.4, 0.2])}
    far = [
        name
        for name, p in others.items()
        if abs(float((p * reward_of).sum() / (1 - gamma) - learner.flat)) > 0.3
    ]
    assert len(far) == 2


def test_bad_numbers_are_refused_with_the_value() -> None:
    for change in ({"unroll": 0}, {"gamma": 1.5}, {"rho_bar": -2.0}, {"c_bar": 3.0}, {"lambda_": 2.0}):
        with pytest.raises(ValueError, match=str(next(iter(change.values())))):
            replace(IMPALAConfig(), **change)
