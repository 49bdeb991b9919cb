"""Asynchronous PPO: PPO where nothing lags, V-trace's gradient where something does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from redline.algorithms.appo import APPO, APPOConfig
from redline.algorithms.impala import IMPALA, IMPALAConfig
from redline.algorithms.ppo import PPO, PPOConfig
from redline.types import Unroll
from tests.algorithms.helpers import SPEC, make_learner, make_unroll

ONCE: dict[str, Any] = {"epochs": 1, "minibatches": 1, "normalize_advantage": False, "gae_lambda": 1.0}


def collected(learner: Any, *, lagging: bool) -> Unroll:
    """An unroll with ends inside; unless ``lagging``, as the learner's own weights would have made it."""
    unroll = make_unroll()
    unroll.terminated[2, 0] = unroll.truncated[3, 1] = True
    unroll.final_value[3, 1] = 0.7
    unroll.reset[3, 0] = unroll.reset[4, 1] = True
    if lagging:
        unroll.record = {"log_prob": torch.rand(6, 2).log()}
        return unroll
    with torch.no_grad():
        output, _ = learner.network(unroll.observation, None, unroll.reset)
    logs = output.policy[:-1].log_softmax(-1)
    unroll.record["log_prob"] = logs.gather(-1, unroll.action[..., None])[..., 0]
    unroll.record["value"], unroll.bootstrap_value = output.value[:-1], output.value[-1]
    return unroll


@pytest.mark.parametrize("around", ["proximal", "behaviour"])
def test_without_lag_appo_is_ppo(around: Any) -> None:
    learners = [make_learner("actor_critic") for _ in range(2)]
    unroll = collected(learners[0], lagging=False)
    numbers = {**ONCE, "epochs": 3, "minibatches": 2, "normalize_advantage": True, "value_clip": 0.05}
    PPO(PPOConfig(unroll=6, **numbers), SPEC).update(learners[0], unroll, 0.0)
    metrics = APPO(APPOConfig(unroll=6, around=around, **numbers), SPEC).update(learners[1], unroll, 0.0)
    assert learners[1].version == 6
    torch.testing.assert_close(learners[0].flat, learners[1].flat, atol=1e-5, rtol=1e-5)
    assert float(metrics["rho"]) == pytest.approx(1.0)


@pytest.mark.parametrize("correction", ["vtrace", "none"])
def test_first_gradient_under_lag_is_impalas(correction: Any) -> None:
    learners = [make_learner("actor_critic", max_grad_norm=None) for _ in range(2)]
    unroll = collected(learners[0], lagging=True)
    clips: dict[str, Any] = {"rho_bar": 1.5, "c_bar": 1.2, "pg_rho_bar": 1.1, "correction": correction}
    IMPALA(IMPALAConfig(unroll=6, reduction="mean", **clips), SPEC).update(learners[0], unroll, 0.0)
    APPO(APPOConfig(unroll=6, **ONCE, **clips), SPEC).update(learners[1], unroll, 0.0)
    torch.testing.assert_close(learners[0].gradient, learners[1].gradient, atol=1e-6, rtol=1e-4)


def test_the_clip_is_around_the_policy_asked_for() -> None:
    # Every sample here has moved beyond the clip by lag alone: around the behaviour policy, most gradients vanish.
    outside = {}
    for around in ("proximal", "behaviour"):
        learner = make_learner("actor_critic")
        unroll = collected(learner, lagging=True)
        unroll.record["log_prob"] = torch.full((6, 2), 0.01).log()
        metrics = APPO(APPOConfig(unroll=6, around=around, **ONCE), SPEC).update(learner, unroll, 0.0)  # type: ignore[arg-type]
        outside[around] = float(metrics["clip_fraction"])
        assert float(metrics["rho_clipped"]) == 1.0
    assert outside == {"proximal": 0.0, "behaviour": 1.0}


def test_bad_numbers_are_refused_with_the_value() -> None:
    for change in ({"unroll": 0}, {"gamma": 1.5}, {"rho_bar": -2.0}, {"c_bar": 3.0}, {"gae_lambda": 2.0}):
        with pytest.raises(ValueError, match=str(next(iter(change.values())))):
            replace(APPOConfig(), **change)
