"""The worked example of docs/guide/new-algorithm.md: it learns, resumes, and its config.yaml can be run again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gymnasium import spaces

import examples.kl_penalty as example
import redline
from redline.algorithms.on_policy import Samples
from redline.types import Output, Spec


class Fixed(torch.nn.Module):
    """Gives the logits and values it was made with."""

    def __init__(self, logits: torch.Tensor, value: torch.Tensor) -> None:
        super().__init__()
        self.logits, self.value = torch.nn.Parameter(logits), torch.nn.Parameter(value)

    def forward(self, observation: object, state: object, reset: object) -> tuple[Output, None]:
        return Output(self.logits, self.value), None


def test_the_loss_is_the_papers() -> None:
    """Against the sum written out with probabilities, sample by sample."""
    spec = Spec("two actions", spaces.Box(-1, 1, (4,)), spaces.Discrete(2))
    algorithm = example.KLPenalty(example.KLPenaltyConfig(beta=3.0, value_cost=0.5), spec)
    logits = torch.randn(1, 6, 2)
    action = torch.tensor([[0, 1, 1, 0, 1, 0]])
    old = torch.rand(1, 6) * 0.8 + 0.1
    advantage, target, value = torch.randn(3, 1, 6)
    batch = Samples(
        observation=torch.zeros(1, 6, 4),
        action=action,
        log_prob=old.log(),
        value=value,
        advantage=advantage,
        target=target,
        reset=torch.zeros(1, 6, dtype=torch.bool),
        action_mask=None,
    )
    total, _ = algorithm.loss(Fixed(logits, value), batch)
    expected = 0.0
    for i in range(6):
        new = float(torch.softmax(logits[0, i], -1)[action[0, i]])
        ratio = new / float(old[0, i])
        kl = ratio - 1 - float(torch.tensor(ratio).log())
        expected += -ratio * float(advantage[0, i]) + 3.0 * kl + 0.25 * float(value[0, i] - target[0, i]) ** 2
    torch.testing.assert_close(float(total.detach()), expected / 6, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_it_learns_resumes_and_runs_again(tmp_path: Path) -> None:
    run = redline.train("CartPole-v1", "kl_penalty", steps=24_576, seed=1, folder=tmp_path, name="first")
    assert run.mean_return > 80  # at random: 22
    longer = redline.resume(run, steps=run.steps + 256)
    assert longer.steps == run.steps + 256
    again = redline.train(
        config=tmp_path / "first" / "config.yaml", steps=256, folder=tmp_path, overrides=["algorithm.beta=2"]
    )
    assert "beta: 2" in (again.path / "config.yaml").read_text()
