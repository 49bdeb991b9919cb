"""Ape-X against its section of the systems sheet: the ladder, priorities for nothing, copies after batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from redline.actors import Actor, allocate
from redline.algorithms.apex import Apex, ApexConfig
from redline.algorithms.dqn import DQN, DQNConfig
from redline.environments import make
from redline.environments.config import EnvironmentConfig
from redline.ops.apex import actor_priorities
from redline.ops.returns import episode_ends
from redline.types import ActInput
from tests.algorithms.helpers import SPEC, make_learner
from tests.algorithms.test_dqn import batch

NEVER = 10**9  # agent steps: far beyond any schedule


class Counting(torch.nn.Module):
    """A network that counts its calls."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network, self.calls = network, 0

    def initial_state(self, count: int) -> Any:
        return self.network.initial_state(count)  # type: ignore[operator]

    def forward(self, *arguments: Any) -> Any:
        self.calls += 1
        return self.network(*arguments)


def x_of(count: int, steps: int, **more: Any) -> ActInput:
    reset, generator = torch.zeros(count, dtype=torch.bool), torch.Generator().manual_seed(0)
    return ActInput(torch.randn(1, 3).expand(count, 3), None, reset, None, generator, steps, **more)


def test_apex_check_1_ladder_never_anneals() -> None:
    algorithm = Apex(ApexConfig(), SPEC)
    first = algorithm.epsilons(x_of(8, 0))
    eight = [0.4, 0.16, 0.064, 0.0256, 0.01024, 0.004096, 0.0016384, 0.00065536]
    assert first.tolist() == pytest.approx(eight, rel=1e-6)
    assert torch.equal(algorithm.epsilons(x_of(8, NEVER)), first)
    part = x_of(3, 5, first_environment=4, num_environments=8)  # an actor of a few among the run's eight
    assert torch.equal(algorithm.epsilons(part), first[4:7])
    assert algorithm.epsilons(x_of(1, 0)).tolist() == pytest.approx([0.4])
    assert algorithm.epsilons(x_of(4, 0, explore=False)).tolist() == [0.0] * 4


def test_environments_act_as_randomly_as_their_place_on_the_ladder_says() -> None:
    learner, algorithm = make_learner("q"), Apex(ApexConfig(), SPEC)
    x = x_of(2, 0)
    greedy, _ = algorithm.act(learner.acting, x._replace(explore=False))
    acted = torch.stack([algorithm.act(learner.acting, x)[0]["action"] for _ in range(4000)])
    shares = (acted != greedy["action"]).float().mean(0)
    assert shares.tolist() == pytest.approx([0.4 * 3 / 4, 0.00065536 * 3 / 4], abs=0.02)


@pytest.mark.parametrize("algorithm", [Apex(ApexConfig(gamma=0.9), SPEC), DQN(DQNConfig(gamma=0.9), SPEC)])
def test_apex_check_3_priorities_cost_no_forward_pass(algorithm: Any) -> None:
    environment = make(EnvironmentConfig("redline/Catch-v0"), 3)
    try:
        algorithm = type(algorithm)(algorithm.config, environment.spec)
        torch.manual_seed(0)
        from redline import networks
        from redline.networks.config import NetworkConfig

        network = Counting(networks.build(environment.spec, NetworkConfig(hidden=(16,)), "q"))
        unroll = allocate(algorithm, network, environment.spec, 25, 3, debug=True)
        Actor([environment], algorithm, network, seed=0).collect(unroll, 0, 0)
        assert (
            network.calls == 25
        )  # one for each step: what replay bootstraps from is decided when it is drawn
        reward, discount = episode_ends(
            unroll.reward, unroll.terminated, unroll.truncated, unroll.final_value, 0.9
        )
        best = unroll.record["q_max"]  # of rows 0 to 24: whole windows begin at the first 22
        found = actor_priorities(reward[:24], discount[:24], unroll.record["q_taken"][:22], best, 3)
        assert network.calls == 25
        with torch.no_grad():
            values = network(unroll.observation, None, unroll.reset)[0].policy
        t = next(t for t in range(20) if bool((discount[t : t + 3, 1] > 0).all()))
        target = sum(0.9**k * float(reward[t + k, 1]) for k in range(3)) + 0.9**3 * float(
            values[t + 3, 1].max()
        )
        expected = abs(target - float(values[t, 1, unroll.action[t, 1]]))
        assert float(found[t, 1]) == pytest.approx(expected, abs=1e-5)
    finally:
        environment.close()


@pytest.mark.parametrize(("loss", "slope"), [("squared", [3.0, 1.0, 0.4]), ("huber", [1.0, 1.0, 0.4])])
def test_loss_is_half_the_square_or_hubers(loss: Any, slope: list[float]) -> None:
    error = torch.tensor([3.0, 1.0, 0.4], requires_grad=True)
    (gradient,) = torch.autograd.grad(Apex(ApexConfig(loss=loss), SPEC).per_sample(error).sum(), [error])
    assert gradient.tolist() == pytest.approx(slope)


def test_target_is_copied_after_so_many_updates() -> None:
    learner, algorithm = make_learner("q"), Apex(ApexConfig(target_every_updates=3), SPEC)
    learner.make_target()
    copied = []
    for _ in range(9):
        algorithm.update(learner, batch())
        copied.append(torch.equal(learner._target, learner.compute))
    assert copied == [False, False, True] * 3
    assert not algorithm.target_due(0, NEVER)


def test_update_weighs_samples_and_gives_new_priorities() -> None:
    learner, data = make_learner("q", max_grad_norm=None), batch()
    learner.make_target()
    data.weight = torch.rand(8)
    algorithm = Apex(ApexConfig(), SPEC)
    error = algorithm.loss(learner.network, data, learner.target)[1]["td_error"]
    metrics, priorities = algorithm.update(learner, data)
    torch.testing.assert_close(priorities, torch.as_tensor(error).abs())
    assert float(metrics["q_loss"]) == pytest.approx(float((data.weight * 0.5 * error**2).mean()), rel=1e-5)


def test_dqn_remembers_values_only_when_asked() -> None:
    learner, algorithm = make_learner("q"), DQN(DQNConfig(learning_starts=1000), SPEC)
    network = Counting(learner.acting)
    random, _ = algorithm.act(network, x_of(50, 0))
    assert (set(random), network.calls) == ({"action"}, 0)
    recorded, _ = algorithm.act(network, x_of(50, 0, record=True))
    assert (set(recorded), network.calls) == ({"action", "q_taken", "q_max"}, 1)
    assert torch.equal(random["action"], recorded["action"])  # the same draws, with and without
    assert bool((recorded["q_taken"] <= recorded["q_max"]).all())


def test_bad_numbers_are_refused_with_the_value() -> None:
    for change in ({"batch": 0}, {"gamma": 1.5}, {"target_every_updates": 0}, {"epsilon_base": 2.0}):
        with pytest.raises(ValueError, match=str(next(iter(change.values())))):
            replace(ApexConfig(), **change)


def test_actors_say_which_of_the_runs_environments_they_act_for() -> None:
    seen: list[list[float]] = []

    class Watching(Apex):
        def epsilons(self, x: ActInput) -> torch.Tensor:
            seen.append(super().epsilons(x).tolist())
            return torch.tensor(seen[-1])

    groups = [make(EnvironmentConfig("redline/Catch-v0"), count) for count in (2, 1)]
    try:
        from redline import networks
        from redline.networks.config import NetworkConfig

        algorithm = Watching(ApexConfig(), groups[0].spec)
        network = networks.build(groups[0].spec, NetworkConfig(hidden=(16,)), "q")
        unroll = allocate(algorithm, network, groups[0].spec, 1, 3)
        Actor(groups, algorithm, network, seed=0, first_column=4, own_columns=True, num_envs=8).collect(
            unroll, 0, 0
        )
    finally:
        for group in groups:
            group.close()
    assert [len(part) for part in seen] == [2, 1]
    assert [x for part in seen for x in part] == pytest.approx([0.01024, 0.004096, 0.0016384], rel=1e-6)
