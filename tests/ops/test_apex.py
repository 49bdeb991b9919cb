"""Priorities that Ape-X's actors give, against the sheet's number and a slow sum that stops at episode ends."""

from __future__ import annotations

import pytest
import torch

from redline.ops.apex import actor_priorities


def test_apex_check_3_actor_priority() -> None:
    rewards = torch.tensor([[1.0], [0.0], [2.0]])
    best = torch.tensor([[9.0], [9.0], [9.0], [1.5]])  # the rows between play no part in the first window
    found = actor_priorities(rewards, torch.full_like(rewards, 0.99), torch.tensor([[2.0]]), best, 3)
    assert found.shape == (1, 1)
    assert float(found) == pytest.approx(4.4156485 - 2.0, abs=1e-6)


@pytest.mark.parametrize("n", [1, 3, 10])
def test_windows_stop_at_episode_ends_and_at_the_last_row(n: int) -> None:
    torch.manual_seed(0)
    length, batch = 7, 3
    rewards, taken, best = (
        torch.randn(length, batch),
        torch.randn(length, batch),
        torch.randn(length + 1, batch),
    )
    discounts = torch.where(torch.rand(length, batch) < 0.3, 0.0, 0.9)
    assert (discounts == 0).any()
    found = actor_priorities(rewards, discounts, taken, best, n)
    for b in range(batch):
        for t in range(length):
            total, weight = 0.0, 1.0
            for k in range(t, min(t + n, length)):
                total += weight * float(rewards[k, b])
                weight *= float(discounts[k, b])
            total += weight * float(best[min(t + n, length), b])
            assert float(found[t, b]) == pytest.approx(abs(total - float(taken[t, b])), abs=1e-5)


def test_more_actions_than_rewards_are_refused() -> None:
    with pytest.raises(ValueError, match="taken has 4 steps, expected at most those of rewards: 3"):
        actor_priorities(torch.zeros(3, 1), torch.zeros(3, 1), torch.zeros(4, 1), torch.zeros(4, 1), 2)
