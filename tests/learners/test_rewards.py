"""Reward transforms against a literal computation."""

from __future__ import annotations

import numpy as np
import torch

from redline.learners.rewards import RewardTransform


def test_clip_and_raw() -> None:
    reward, done = torch.tensor([[3.0, -0.5]]), torch.zeros(1, 2, dtype=torch.bool)
    assert RewardTransform("raw", 2, 0.9)(reward, done).tolist() == [[3.0, -0.5]]
    assert RewardTransform("clip", 2, 0.9)(reward, done).tolist() == [[1.0, -0.5]]


def test_normalize_divides_by_the_deviation_of_discounted_returns() -> None:
    torch.manual_seed(0)
    transform = RewardTransform("normalize", 3, 0.9)
    seen: list[float] = []
    running = np.zeros(3)
    for _ in range(20):
        reward, done = torch.randn(50, 3) * 4 + 1, torch.rand(50, 3) < 0.1
        scaled = transform(reward, done)
        for t in range(50):
            running = running * 0.9 + reward[t].numpy().astype(np.float64)
            seen.extend(running)
            running = running * ~done[t].numpy()
    assert (
        transform.variance == np.float64(np.var(seen)).item()
        or abs(transform.variance / np.var(seen) - 1) < 1e-3
    )
    expected = (reward / np.sqrt(np.var(seen))).clamp(-10, 10)
    torch.testing.assert_close(scaled, expected, rtol=1e-2, atol=1e-3)


def test_state_comes_back() -> None:
    first, second = RewardTransform("normalize", 2, 0.9), RewardTransform("normalize", 2, 0.9)
    done = torch.zeros(4, 2, dtype=torch.bool)
    first(torch.randn(4, 2), done)
    second.load_state(first.state())
    reward = torch.randn(4, 2)
    assert torch.equal(first(reward, done), second(reward, done))
