"""An actor's first priorities: golden numbers (reference: Ape-X, check 3), episode ends, windows across slots."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from redline import environments
from redline.actors import Actor, allocate
from redline.actors.priorities import FirstPriorities
from redline.algorithms.apex import Apex, ApexConfig
from redline.environments.config import EnvironmentConfig
from redline.networks import build
from redline.networks.config import NetworkConfig
from redline.types import Unroll


def unroll_of(
    reward: list[float],
    taken: list[float],
    best: list[float],
    terminated: tuple[int, ...] = (),
    truncated: tuple[int, ...] = (),
) -> Unroll:
    """One environment's rows; the ends are at the numbers given."""
    length = len(reward)
    flags = {
        name: torch.tensor([[row in rows] for row in range(length)])
        for name, rows in (("terminated", terminated), ("truncated", truncated))
    }
    column = [torch.tensor(values)[:, None] for values in (reward, taken, best)]
    return Unroll(
        observation=torch.zeros(length + 1, 1),
        action=torch.zeros(length, 1, dtype=torch.int64),
        reward=column[0],
        reset=torch.zeros(length + 1, 1, dtype=torch.bool),
        final_value=torch.zeros(length, 1),
        record={"q_taken": column[1], "q_max": column[2]},
        **flags,
    )


def test_check_3_the_reference_s_numbers() -> None:
    """r = [1, 0, 2], gamma 0.99, max Q(S_3) = 1.5, Q(S_0, A_0) = 2: G = 4.415649, p = 2.415649."""
    unroll = unroll_of([1.0, 0.0, 2.0, 7.0], [2.0, 9.0, 9.0, 9.0], [8.0, 8.0, 8.0, 1.5])
    found = FirstPriorities(3, 0.99, 1, clip=False).of(unroll)
    assert np.isnan(found[:3]).all()  # no window was complete
    assert found[3, 0] == pytest.approx(4.415649 - 2.0, abs=1e-6)


def test_check_3_not_one_forward_pass_is_added() -> None:
    """Ape-X, check 3: as many network calls as time steps, over several slots and episode ends."""
    config = EnvironmentConfig(id="CartPole-v1")
    environment = environments.make(config, 4)
    spec = environment.spec
    algorithm = Apex(ApexConfig(), spec)
    network = build(spec, NetworkConfig(hidden=(8,)), "q")
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    network.register_forward_hook(count)
    actor = Actor([environment], algorithm, network, seed=0, num_envs=4)
    priorities = FirstPriorities(3, 0.99, 4, clip=False)
    unroll = allocate(algorithm, network, spec, 20, 4, debug=True)
    try:
        for slot in range(5):
            actor.collect(unroll, 80 * slot, 0)
            found = priorities.of(unroll)
            assert np.isfinite(found[3 if slot == 0 else 0 :]).all()
        assert actor.episodes  # ends were among it
        assert calls == 5 * 20
    finally:
        actor.close()


@pytest.mark.parametrize("n_step", [1, 3, 5])
@pytest.mark.parametrize("clip", [False, True])
def test_windows_across_slots_and_ends_are_those_of_a_literal_sum(n_step: int, clip: bool) -> None:
    rng = np.random.default_rng(n_step)
    length, gamma = 200, 0.9
    reward = (rng.normal(size=length) * 2).round(3)
    taken, best = rng.normal(size=length), rng.normal(size=length)
    ends = rng.choice(length, 40, replace=False)
    terminated, truncated = set(ends[:20].tolist()), set(ends[20:].tolist())
    priorities = FirstPriorities(n_step, gamma, 1, clip=clip)
    found, start = [], 0
    while start < length:
        stop = min(start + int(rng.integers(1, 9)), length)
        rows = range(start, stop)
        piece = unroll_of(
            reward[start:stop].tolist(),
            taken[start:stop].tolist(),
            best[start:stop].tolist(),
            tuple(row - start for row in rows if row in terminated),
            tuple(row - start for row in rows if row in truncated),
        )
        found += priorities.of(piece)[:, 0].tolist()
        saved, priorities = priorities.state(), FirstPriorities(n_step, gamma, 1, clip=clip)
        priorities.load_state(saved)  # as often as can be: nothing else is remembered
        start = stop
    for row in range(length - n_step):
        total, discount, at = 0.0, 1.0, row
        while True:
            total += discount * (float(np.clip(reward[at], -1, 1)) if clip else reward[at])
            discount *= gamma
            if at in terminated:
                break
            if at in truncated:  # the final observation was never acted on: the one before stands in
                total += discount * best[at]
                break
            at += 1
            if at == row + n_step:
                total += discount * best[at]
                break
        assert found[row + n_step] == pytest.approx(abs(total - taken[row]), abs=1e-5)
