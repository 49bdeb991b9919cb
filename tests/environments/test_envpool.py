"""EnvPool behind the contract, where it is installed: its next-step resets become same-step ones."""

from __future__ import annotations

import numpy as np
import pytest

from redline.environments import EnvironmentConfig, make

pytest.importorskip("envpool")


@pytest.mark.parametrize("id", ["CartPole-v1", "ALE/Breakout-v5"])
def test_finals_episodes_and_seeds(id: str) -> None:
    environment = make(EnvironmentConfig(id, backend="envpool"), 4, threads=2)
    rng, actions = np.random.default_rng(0), int(environment.spec.action.n)  # type: ignore[attr-defined]
    previous = environment.reset(3).observation.copy()
    totals, lengths, ended = np.zeros(4), np.zeros(4, int), 0
    for _ in range(300):
        environment.send(rng.integers(actions, size=4))
        step = environment.recv()
        totals += step.reward
        lengths += 1
        assert len(step.episodes) == int((step.terminated | step.truncated).sum())
        for episode in step.episodes:
            index = episode.index
            assert (episode.episode_return, episode.length) == (totals[index], lengths[index])
            if id == "CartPole-v1":  # a fresh start is within 0.05, a fallen pole is not
                assert (
                    np.abs(step.final_observation[index]).max() > 0.2 > np.abs(step.observation[index]).max()
                )
            else:
                np.testing.assert_array_equal(step.final_observation[index, :3], previous[index, 1:])
            totals[index], lengths[index] = 0.0, 0
            ended += 1
        previous = step.observation.copy()
    assert ended >= 4
    first, shifted = environment.reset(3).observation.copy(), environment.reset(4).observation.copy()
    np.testing.assert_array_equal(first[1:], shifted[:-1])
    environment.close()
    environment.close()
