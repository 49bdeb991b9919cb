"""DQN against its section of the systems sheet: clipped error, target copies, bootstrapping, epsilon."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch

from redline.algorithms.dqn import DQN, DQNConfig
from redline.replay import Replay, ReplayConfig
from redline.types import ActInput, ReplayBatch, Spec
from tests.algorithms.helpers import SPEC, make_learner


def batch(count: int = 8, *, seed: int = 0) -> ReplayBatch:
    torch.manual_seed(seed)
    return ReplayBatch(
        observation=torch.randn(count, 3),
        action=torch.randint(0, 4, (count,)),
        reward=torch.randn(count),
        discount=torch.full((count,), 0.9),
        next_observation=torch.randn(count, 3),
        weight=torch.ones(count),
        index=torch.arange(count),
    )


@torch.no_grad()
def values(network: torch.nn.Module, observation: torch.Tensor) -> torch.Tensor:
    reset = torch.ones(1, len(observation), dtype=torch.bool)
    return network(observation[None], None, reset)[0].policy[0]


@pytest.mark.parametrize("double", [False, True])
def test_target_is_the_papers(double: bool) -> None:
    learner, data = make_learner("q"), batch()
    learner.make_target()
    with torch.no_grad():
        learner.flat.add_(0.3 * torch.randn_like(learner.flat))  # online and target now differ
    data.discount[3] = 0.0
    algorithm = DQN(DQNConfig(double=double), SPEC)
    error = algorithm.loss(learner.network, data, learner.target)[1]["td_error"]
    for i in range(8):
        after = values(learner.target, data.next_observation[i : i + 1])[0]
        best = (
            values(learner.network, data.next_observation[i : i + 1])[0].argmax()
            if double
            else after.argmax()
        )
        expected = data.reward[i] + data.discount[i] * after[best]
        chosen = values(learner.network, data.observation[i : i + 1])[0, data.action[i]]
        assert float(error[i]) == pytest.approx(float(chosen - expected), abs=1e-5)


def test_gradient_with_respect_to_q_is_clipped_not_the_loss() -> None:
    # systems.md section 2 check 1: error 3.0 and error 1.0 give gradients of size 1, error 0.4 gives 0.4.
    class Table(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q = torch.nn.Parameter(torch.tensor([3.0, 1.0, 0.4]))

        def forward(self, observation, state, reset):  # type: ignore[no-untyped-def]
            return SPEC_OUTPUT(self.q[None, :, None], self.q[None]), state

    from redline.types import Output as SPEC_OUTPUT

    table, data = Table(), batch(3)
    data.action.zero_()
    data.reward.zero_()
    data.discount.zero_()
    total, _ = DQN(DQNConfig(), SPEC).loss(table, data, table)
    (gradient,) = torch.autograd.grad(total * 3, [table.q])
    assert gradient.tolist() == pytest.approx([1.0, 1.0, 0.4])


def test_truncated_bootstraps_and_terminal_does_not() -> None:
    # systems.md section 2 check 5, from the environment's flags through replay to the target.
    targets = []
    for flag in ("truncated", "terminated"):
        replay = Replay(SPEC, ReplayConfig(capacity=64), 1, gamma=0.9, seed=0)
        final = np.full((1, 3), 0.5, np.float32)
        for t in range(3):
            ended = np.array([t == 0])
            never = np.zeros(1, bool)
            replay.add(
                np.full((1, 3), t * 0.1, np.float32),
                np.array([1]),
                np.ones(1, np.float32),
                ended if flag == "terminated" else never,
                ended if flag == "truncated" else never,
                final if t == 0 else None,
            )
        learner = make_learner("q")
        learner.make_target()
        drawn = replay.sample(64)
        row = int((drawn.observation == 0).all(-1).nonzero()[0])
        expected = 1.0
        if flag == "truncated":
            expected += 0.9 * float(values(learner.target, torch.full((1, 3), 0.5)).max())
        error = DQN(DQNConfig(), SPEC).loss(learner.network, drawn, learner.target)[1]["td_error"]
        chosen = float(values(learner.network, torch.zeros(1, 3))[0, 1])
        targets.append(chosen - float(error[row]))
        assert targets[-1] == pytest.approx(expected, abs=1e-5)
    assert targets[0] != targets[1]


def test_epsilon_anneals_over_agent_steps_after_the_warm_up() -> None:
    algorithm = DQN(DQNConfig(learning_starts=1000, epsilon_steps=1000, epsilon_final=0.1), SPEC)
    assert [algorithm.epsilon(n) for n in (0, 1000, 2000, 9000)] == pytest.approx([1.0, 1.0, 0.1, 0.1])
    assert algorithm.epsilon(1500) == pytest.approx(0.55)


def test_updates_fall_due_once_every_so_many_agent_steps_whatever_the_batch_of_environments() -> None:
    config = DQNConfig(learning_starts=100, update_every=4)
    for num_envs in (1, 3, 4, 8, 10):
        algorithm = DQN(config, SPEC)
        steps = range(num_envs, 1001, num_envs)
        total = sum(algorithm.due(n, num_envs) for n in steps)
        assert total == (max(steps) // 4) - 100 // 4
        assert all(algorithm.due(n, num_envs) == 0 for n in steps if n < 100)


def test_random_actions_are_uniform_over_legal_ones() -> None:
    algorithm = DQN(DQNConfig(), SPEC)
    count = 4000
    mask = torch.tensor([True, False, True, True]).expand(count, 4)
    x = ActInput(
        torch.zeros(count, 3), None, torch.zeros(count, dtype=torch.bool), mask, torch.Generator(), 0
    )
    record, state = algorithm.act(None, x)  # no network is called while epsilon is 1
    shares = torch.bincount(record["action"], minlength=4) / count
    assert float(shares[1]) == 0.0
    assert shares[[0, 2, 3]].tolist() == pytest.approx([1 / 3] * 3, abs=0.05)
    assert state is None


def test_greedy_actions_maximise_over_legal_ones() -> None:
    learner = make_learner("q")
    observation = torch.randn(50, 3)
    mask = torch.rand(50, 4) < 0.5
    mask[:, 0] = True
    x = ActInput(
        observation, None, torch.zeros(50, dtype=torch.bool), mask, torch.Generator(), 0, explore=False
    )
    record, _ = DQN(DQNConfig(epsilon_evaluation=0.0), SPEC).act(learner.acting, x)
    expected = values(learner.network, observation).masked_fill(~mask, -torch.inf).argmax(-1)
    assert torch.equal(record["action"], expected)


def test_update_returns_new_priorities() -> None:
    learner, data = make_learner("q", threads=2), batch()
    learner.make_target()
    algorithm = DQN(DQNConfig(), SPEC)
    expected = algorithm.loss(learner.network, data, learner.target)[1]["td_error"]
    metrics, errors = algorithm.update(learner, data)
    torch.testing.assert_close(errors, expected.abs())
    assert learner.version == 1
    assert np.isfinite(float(metrics["q_loss"]))


def test_continuous_actions_are_refused_by_the_experiment() -> None:
    from redline.recipes import find
    from redline.runtime.experiment import make_algorithm
    from redline.types import UserError

    spec = Spec("Pendulum-v1", SPEC.observation, gymnasium.spaces.Box(-2, 2, (1,)))
    with pytest.raises(UserError, match="dqn needs one discrete action"):
        make_algorithm(find("dqn"), spec)
