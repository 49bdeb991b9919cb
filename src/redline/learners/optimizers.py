"""Optimisers by name, and the same ones over statistics that several learners share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from redline.learners.config import LearnerConfig

# What each optimiser keeps of the past for every coordinate, by torch's names. Steps are counted apart.
STATISTICS: dict[str, tuple[str, ...]] = {
    "adam": ("exp_avg", "exp_avg_sq"),
    "rmsprop": ("square_avg",),
    "adagrad": ("sum",),
    "sgd": (),
}


def make_optimizer(
    config: LearnerConfig, weights: nn.Parameter, rate: Any, *, capturable: bool = False
) -> torch.optim.Optimizer:
    """The configured optimiser of one flat parameter f32[N] whose ``grad`` is set.

    Args:
      rate: the learning rate, a number or f32[].   capturable: its steps can be recorded (CUDA).
    """
    if config.optimizer == "adam":
        return torch.optim.Adam([weights], lr=rate, eps=config.epsilon, fused=True, capturable=capturable)
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(
            [weights], lr=rate, alpha=config.decay, eps=config.epsilon, capturable=capturable
        )
    if (
        config.optimizer == "adagrad"
    ):  # Duchi et al. 2011; the parameter server's rule in DistBelief and Gorila
        return torch.optim.Adagrad([weights], lr=rate, eps=config.epsilon)
    return torch.optim.SGD([weights], lr=rate)


def shared_optimizer(
    config: LearnerConfig, weights: Tensor, gradient: Tensor, statistics: Mapping[str, Tensor]
) -> torch.optim.Optimizer:
    """The configured optimiser stepping ``weights`` f32[N] in place by ``gradient`` f32[N].

    Its per-coordinate ``statistics`` (f32[N] by the names of ``STATISTICS``) are the tensors given, in place too, so
    whoever has the same memory shares them. Adam's count of steps is this optimiser's own.
    """
    parameter = nn.Parameter(weights)
    parameter.grad = gradient
    made = make_optimizer(config, parameter, config.learning_rate)
    names = STATISTICS[config.optimizer]
    if names:
        made.state[parameter] = {"step": torch.zeros(()), **{name: statistics[name] for name in names}}
    return made


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Change the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def steps_of(optimizer: torch.optim.Optimizer) -> float:
    """Steps that an optimiser of one parameter has counted: Adam's t."""
    return max((float(each["step"]) for each in optimizer.state.values() if "step" in each), default=0.0)


def set_steps(optimizer: torch.optim.Optimizer, steps: float) -> None:
    """Go on as after ``steps`` steps."""
    for each in optimizer.state.values():
        if "step" in each:
            each["step"].fill_(steps)
