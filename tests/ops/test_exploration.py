"""Which environment explores how much, and that random actions are what they claim to be."""

from __future__ import annotations

import pytest
import torch

from redline.ops.exploration import epsilon_greedy, epsilon_ladder, random_action, shared_out


def test_apex_check_1_epsilon_ladder() -> None:
    eight = [0.4, 0.16, 0.064, 0.0256, 0.01024, 0.004096, 0.0016384, 0.00065536]
    assert epsilon_ladder(0, 8, 8).tolist() == pytest.approx(eight, rel=1e-6)
    assert epsilon_ladder(2, 3, 8).tolist() == pytest.approx(eight[2:5], rel=1e-6)
    many = epsilon_ladder(0, 360, 360)
    assert float(many[0]) == pytest.approx(0.4)
    assert float(many[-1]) == pytest.approx(0.00065536)
    assert float(many.mean()) == pytest.approx(0.0626, abs=5e-5)
    assert epsilon_ladder(0, 1, 1).tolist() == pytest.approx([0.4])
    assert epsilon_ladder(5, 0, 8).tolist() == []
    with pytest.raises(ValueError, match="environments 7 to 8 of 8"):
        epsilon_ladder(7, 2, 8)


def test_shares_are_kept_by_few_and_by_many() -> None:
    values, shares = (1.0, 2.0, 3.0), (0.4, 0.3, 0.3)
    for count in (10, 100, 1000):
        found = shared_out(0, count, values, shares)
        assert [int((found == v).sum()) for v in values] == pytest.approx([s * count for s in shares], abs=2)
    assert torch.equal(shared_out(7, 5, values, shares), shared_out(0, 20, values, shares)[7:12])
    with pytest.raises(ValueError, match="as many shares"):
        shared_out(0, 4, values, (0.5, 0.5))


def test_epsilon_greedy_is_greedy_where_it_is_not_random() -> None:
    torch.manual_seed(0)
    values, mask = torch.randn(6000, 4), torch.rand(6000, 4) < 0.5
    mask[:, 2] = True
    epsilon = torch.tensor([0.0, 0.5, 1.0]).repeat(2000)
    action = epsilon_greedy(values, epsilon, torch.Generator().manual_seed(1), mask)
    assert mask.gather(-1, action[:, None]).all()
    greedy = values.masked_fill(~mask, -torch.inf).argmax(-1)
    chance = (1.0 / mask.sum(-1)).reshape(-1, 3).mean(0)
    agree = (action == greedy).float().reshape(-1, 3).mean(0)
    assert float(agree[0]) == 1.0
    assert float(agree[1]) == pytest.approx(0.5 + 0.5 * float(chance[1]), abs=0.03)
    assert float(agree[2]) == pytest.approx(float(chance[2]), abs=0.03)
    with pytest.raises(ValueError, match="epsilon has shape"):
        epsilon_greedy(values, epsilon[:, None], torch.Generator(), mask)


def test_random_actions_cover_what_is_legal_evenly() -> None:
    uniform = torch.rand(9000)
    assert (torch.bincount(random_action(uniform, 3)) / 9000).tolist() == pytest.approx([1 / 3] * 3, abs=0.03)
    mask = torch.tensor([True, False, True]).expand(9000, 3)
    shares = torch.bincount(random_action(uniform, 3, mask), minlength=3) / 9000
    assert shares.tolist() == pytest.approx([0.5, 0.0, 0.5], abs=0.03)
