"""A2C and PPO: what they do with an unroll, checked against the papers' equations written out."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from redline import networks
from redline.algorithms.a2c import A2C, A2CConfig
from redline.algorithms.on_policy import Samples
from redline.algorithms.ppo import PPO, PPOConfig
from redline.networks.config import NetworkConfig
from redline.networks.layers import Dense
from redline.types import ActInput
from tests.algorithms.helpers import SPEC, make_learner, make_unroll


def forward(learner: object, observation: Tensor) -> tuple[Tensor, Tensor]:
    shape = observation.shape[:2]
    output, _ = learner.network(observation, None, torch.zeros(shape, dtype=torch.bool))  # type: ignore[attr-defined]
    return output.policy, output.value


def test_a2c_gradient_is_the_papers_sum_over_longest_returns() -> None:
    # systems.md section 6: each state gets the longest available n-step return; the advantage is a constant.
    config = A2CConfig(unroll=6, gamma=0.9, entropy_cost=0.02, value_cost=0.5)
    learner, unroll = make_learner("actor_critic", max_grad_norm=None), make_unroll()
    unroll.terminated[2, 0] = True
    unroll.truncated[3, 1] = True
    unroll.final_value[3, 1] = 0.7
    policy, value = forward(learner, unroll.observation[:-1])
    total = torch.zeros(())
    for b in range(2):
        back = float(unroll.bootstrap_value[b])
        for t in reversed(range(6)):
            if unroll.terminated[t, b]:
                back = 0.0
            if unroll.truncated[t, b]:
                back = float(unroll.final_value[t, b])
            back = float(unroll.reward[t, b]) + 0.9 * back
            logs = policy[t, b].log_softmax(-1)
            advantage = back - float(unroll.record["value"][t, b])
            entropy = -(logs.exp() * logs).sum()
            total = total - logs[unroll.action[t, b]] * advantage - 0.02 * entropy
            total = total + 0.5 * 0.5 * (back - value[t, b]) ** 2
    expected = torch.cat(
        [g.flatten() for g in torch.autograd.grad(total / 12, list(learner.network.parameters()))]
    )
    A2C(config, SPEC).update(learner, unroll, 0.0)
    torch.testing.assert_close(learner.gradient, expected, atol=1e-6, rtol=1e-4)


def test_a3c_check_6_update_is_the_average_over_single_environments() -> None:
    # At the same weights; ends and all.
    unroll, gradients = make_unroll(batch=3), []
    unroll.terminated[2, 0] = unroll.truncated[3, 1] = True
    unroll.final_value[3, 1] = 0.7
    for columns in (slice(0, 1), slice(1, 2), slice(2, 3), slice(0, 3)):
        learner = make_learner("actor_critic", max_grad_norm=None)
        part = unroll.map(lambda x, columns=columns: x[..., columns] if x.shape[-1] == 3 else x)
        part.observation = unroll.observation[:, columns]
        assert part.action.shape[1] == columns.stop - columns.start
        A2C(A2CConfig(unroll=6, gamma=0.9), SPEC).update(learner, part, 0.0)
        gradients.append(learner.gradient.clone())
    torch.testing.assert_close(gradients[3], sum(gradients[:3]) / 3, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("algorithm", ["a2c", "ppo"])
def test_a_single_sample_with_normalised_advantages_is_learned_from(algorithm: str) -> None:
    """It has no deviation: A2C's advantage was divided by NaN, and every weight with it."""
    learner, unroll = make_learner("actor_critic"), make_unroll(length=1, batch=1)
    before = learner.flat.clone()
    if algorithm == "a2c":
        A2C(A2CConfig(unroll=1, normalize_advantage=True), SPEC).update(learner, unroll, 0.0)
    else:
        PPO(PPOConfig(unroll=1, minibatches=1), SPEC).update(learner, unroll, 0.0)
    assert torch.isfinite(learner.flat).all()
    assert not torch.equal(learner.flat, before)


def test_ppo_equals_a2c_gradient_on_first_contact() -> None:
    # At ratio 1 the clipped objective's gradient is the policy gradient.
    unroll = make_unroll()
    learners = [make_learner("actor_critic", max_grad_norm=None) for _ in range(2)]
    with torch.no_grad():
        logits, _ = forward(learners[0], unroll.observation[:-1])
        unroll.record["log_prob"] = logits.log_softmax(-1).gather(-1, unroll.action[..., None])[..., 0]
    ppo = PPOConfig(unroll=6, epochs=1, minibatches=1, gamma=0.9, gae_lambda=1.0, normalize_advantage=False)
    PPO(ppo, SPEC).update(learners[0], unroll, 0.0)
    A2C(A2CConfig(unroll=6, gamma=0.9), SPEC).update(learners[1], unroll, 0.0)
    torch.testing.assert_close(learners[0].gradient, learners[1].gradient, atol=1e-6, rtol=1e-4)


def test_ppo_updates_epochs_times_minibatches_and_sees_every_sample_once_an_epoch() -> None:
    seen: list[list[float]] = []

    class Watching(PPO):
        def loss(self, network, batch: Samples):  # type: ignore[no-untyped-def]
            seen.append(batch.target.flatten().tolist())
            return super().loss(network, batch)

    learner, unroll = make_learner("actor_critic"), make_unroll()
    Watching(PPOConfig(unroll=6, epochs=3, minibatches=4), SPEC).update(learner, unroll, 0.0)
    assert learner.version == 12
    epochs = [sorted(value for part in seen[k : k + 4] for value in part) for k in (0, 4, 8)]
    assert epochs[0] == epochs[1] == epochs[2]
    assert len(set(epochs[0])) == 12
    assert seen[0] != seen[4]


def test_target_kl_stops_the_epochs() -> None:
    config = PPOConfig(unroll=6, epochs=50, minibatches=1, target_kl=1e-4)
    learner = make_learner("actor_critic", learning_rate=0.1)
    PPO(config, SPEC).update(learner, make_unroll(), 0.0)
    assert 1 <= learner.version < 50


def test_clip_anneals_with_the_run() -> None:
    algorithm = PPO(PPOConfig(unroll=6, anneal_clip=True, clip=0.2), SPEC)
    algorithm.update(make_learner("actor_critic"), make_unroll(), 0.75)
    assert algorithm.clip == pytest.approx(0.05)


@pytest.mark.parametrize("algorithm", [PPO(PPOConfig(), SPEC), A2C(A2CConfig(), SPEC)])
def test_acting_records_the_probability_of_what_was_done_and_keeps_off_masked_actions(
    algorithm: PPO | A2C,
) -> None:
    learner = make_learner("actor_critic")
    mask = torch.tensor([True, False, True, False]).expand(500, 4)
    observation = torch.randn(1, 3).expand(500, 3)
    x = ActInput(
        observation, None, torch.zeros(500, dtype=torch.bool), mask, torch.Generator().manual_seed(0), 0
    )
    record, _ = algorithm.act(learner.acting, x)
    assert set(record["action"].tolist()) == {0, 2}
    with torch.no_grad():
        policy, _ = forward(learner, observation[:1][None])
    share = policy[0, 0, [0, 2]].softmax(-1)[0]
    assert math.isclose((record["action"] == 0).float().mean(), float(share), abs_tol=0.1)
    first = record["log_prob"][record["action"] == 0][0]
    assert float(first.exp()) == pytest.approx(float(share), abs=1e-5)
    greedy, _ = algorithm.act(learner.acting, x._replace(explore=False))
    assert len(set(greedy["action"].tolist())) == 1


def test_shards_give_the_same_update() -> None:
    one, two = make_learner("actor_critic"), make_learner("actor_critic", threads=2)
    config = PPOConfig(unroll=6, epochs=2, minibatches=2)
    for learner in (one, two):
        PPO(config, SPEC).update(learner, make_unroll(), 0.0)
    torch.testing.assert_close(one.flat, two.flat, atol=1e-6, rtol=1e-5)


def test_bad_numbers_are_refused_with_the_value() -> None:
    for change in ({"unroll": 0}, {"epochs": 0}, {"gamma": 1.5}, {"clip": -0.1}, {"gae_lambda": 2.0}):
        with pytest.raises(ValueError, match=str(next(iter(change.values())))):
            replace(PPOConfig(), **change)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("minibatches", [1, 3])
def test_gradients_written_down_are_autograds(
    threads: int, masked: bool, minibatches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PPOConfig(unroll=6, epochs=1, minibatches=minibatches, value_clip=0.1)
    unroll, found = make_unroll(), []
    if masked:
        unroll.action_mask = torch.rand(7, 2, 4) < 0.5
        unroll.action_mask[:6].scatter_(-1, unroll.action[..., None], True)
    for one_node in (True, False):
        if not one_node:  # layer by layer, every operation a node of autograd's
            monkeypatch.setattr(Dense, "one_node", False)
        learner = make_learner("actor_critic", max_grad_norm=None, threads=threads)
        gradients, step = [], learner._gather
        learner._gather = lambda each, step=step, all=gradients: (all.extend(each), step(each))[1]  # type: ignore[method-assign,misc]
        metrics = PPO(config, SPEC).update(learner, unroll, 0.0)
        found.append((gradients, metrics, learner.flat))
    (direct, measured, weights), (graph, expected, wanted) = found
    assert len(direct) == len(graph) == threads * minibatches
    torch.testing.assert_close(direct, graph, atol=1e-6, rtol=1e-5)
    assert all(float(g.abs().max()) > 1e-3 for g in graph[0][:4])
    torch.testing.assert_close(measured, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(weights, wanted, atol=1e-5, rtol=1e-5)


def test_networks_without_a_closed_form_learn_by_autograd() -> None:
    torch.manual_seed(0)
    algorithm, samples = PPO(PPOConfig(), SPEC), Samples.of(make_unroll(), torch.zeros(6, 2), recurrent=False)
    samples.clip = 0.2
    for options in ({"activation": "relu"}, {"layer_norm": True}, {"core": "gru"}, {"shared_torso": True}):
        network = networks.build(SPEC, NetworkConfig(hidden=(16,), **options), "actor_critic")
        assert algorithm.gradients(network, samples, 1.0) is None
    plain = networks.build(SPEC, NetworkConfig(hidden=(16,)), "actor_critic")
    assert algorithm.gradients(plain, samples, 1.0) is not None
    assert algorithm.gradients(plain.bfloat16(), samples, 1.0) is None
