"""PPO's whole objective and what is reported with it, for any distribution, and at once for Categorical policies.

Schulman et al. 2017, arXiv 1707.06347, equation 9: the clipped surrogate, a value error and an entropy bonus.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from redline.ops.distributions import ILLEGAL, Distribution
from redline.ops.policy import approximate_kl, clip_fraction, ppo_clip_loss, value_loss
from redline.types import Metrics

METRICS = ("policy_loss", "value_loss", "entropy", "approximate_kl", "clip_fraction")


class Samples(Protocol):
    """What was done and what came of it: all f32[...] but the action and the mask."""

    action: Tensor  # [..., *action_shape]
    log_prob: Tensor  # of the action under the policy that acted
    value: Tensor  # by the weights that acted; read only with ``value_clip``
    advantage: Tensor
    target: Tensor  # of the value
    action_mask: Tensor | None  # bool[..., A], True is legal
    clip: Any  # the paper's epsilon: a number or f32[]


def ppo_loss(
    distribution: Distribution,
    parameters: Tensor,
    value: Tensor,
    samples: Samples,
    *,
    value_cost: float,
    entropy_cost: float,
    value_clip: float | None = None,
) -> tuple[Tensor, Metrics]:
    """Mean clipped surrogate + value_cost x mean value loss - entropy_cost x mean entropy, term by term.

    Args:
      parameters: f32[..., P] of ``distribution``.   value: f32[...].   value_clip: as in ``ops.policy.value_loss``.
    Returns: scalar loss and, without gradients, ``METRICS`` f32[] each.
    """
    log_prob, entropy = distribution.log_prob_entropy(parameters, samples.action, samples.action_mask)
    surrogate = ppo_clip_loss(log_prob, samples.log_prob, samples.advantage, samples.clip).mean()
    error = value_loss(value, samples.target, samples.value, value_clip).mean()
    entropy = entropy.mean()
    total = surrogate + value_cost * error - entropy_cost * entropy
    kl = approximate_kl(log_prob, samples.log_prob)
    outside = clip_fraction(log_prob, samples.log_prob, samples.clip)
    means = (surrogate.detach(), error.detach(), entropy.detach(), kl, outside)
    return total, dict(zip(METRICS, means, strict=True))


def categorical_ppo_loss(
    logits: Tensor,
    value: Tensor,
    samples: Samples,
    *,
    value_cost: float,
    entropy_cost: float,
    value_clip: float | None = None,
) -> tuple[Tensor, Metrics]:
    """``ppo_loss`` of a Categorical policy with logits f32[..., A], as one node of the graph with its own gradients.

    With small networks the upkeep of the many nodes of ``ppo_loss`` costs as much as the network's forward pass.
    """
    for name in ("action", "log_prob", "advantage", "target"):
        shape = getattr(samples, name).shape
        if not shape == value.shape == logits.shape[:-1]:
            raise ValueError(
                f"{name} has shape {list(shape)} with values {list(value.shape)} and logits {list(logits.shape)}"
            )
    total, means = _CategoricalObjective.apply(logits, value, samples, value_cost, entropy_cost, value_clip)
    return total, _named(means)


def categorical_ppo_slopes(
    logits: Tensor,
    value: Tensor,
    samples: Samples,
    *,
    value_cost: float,
    entropy_cost: float,
    value_clip: float | None = None,
) -> tuple[Metrics, Tensor, Tensor]:
    """Metrics of ``categorical_ppo_loss``, and its slopes f32[..., A] in the logits and f32[...] in the values.

    Without a graph. The caller sees to the shapes, which ``categorical_ppo_loss`` checks.
    """
    means, for_logits, for_value = _slopes(logits, value, samples, value_cost, entropy_cost, value_clip)
    return _named(means), for_logits, for_value


def _named(means: Tensor) -> Metrics:
    return dict(zip(METRICS, means.unbind(), strict=True))


class _CategoricalObjective(torch.autograd.Function):
    """The forward pass leaves the gradients behind; the backward pass scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        value: Tensor,
        samples: Samples,
        value_cost: float,
        entropy_cost: float,
        value_clip: float | None,
    ) -> tuple[Tensor, Tensor]:
        means, for_logits, for_value = _slopes(logits, value, samples, value_cost, entropy_cost, value_clip)
        ctx.save_for_backward(for_logits, for_value)
        policy_mean, error_mean, entropy_mean, _, _ = means.unbind()
        total = policy_mean.add(error_mean, alpha=value_cost).sub_(entropy_mean, alpha=entropy_cost)
        ctx.mark_non_differentiable(means)
        return total, means

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        for_logits, for_value = ctx.saved_tensors
        return grad * for_logits, grad * for_value, None, None, None, None


def _slopes(logits: Tensor, value: Tensor, samples: Samples, *numbers: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Means f32[5] in the order of ``METRICS``, and the mean objective's slopes in logits and value."""
    kernel = _kernel() if logits.device.type == "cpu" else None
    if kernel is None:
        return _in_torch(logits, value, samples, *numbers)
    return _in_rows(kernel, logits, value, samples, *numbers)


def _in_torch(
    logits: Tensor,
    value: Tensor,
    samples: Samples,
    value_cost: float,
    entropy_cost: float,
    value_clip: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    illegal = None if samples.action_mask is None else ~samples.action_mask
    log_probs = (logits if illegal is None else logits.masked_fill(illegal, ILLEGAL)).log_softmax(-1)
    action = samples.action.unsqueeze(-1)
    surrogate, slope, kl, outside = _surrogate(log_probs.gather(-1, action).squeeze(-1), samples)
    probs = log_probs.exp()
    entropy = (probs * log_probs).sum(-1).neg_()
    error, for_value = _value_error(value, samples, value_clip)

    # With g the surrogate's slope in log pi(a|s), c the entropy's cost and H the entropy, the slope in logit j is
    # g (1[j = a] - p_j) + c p_j (log p_j + H): every row's is 0 in sum, and 0 where p_j is.
    for_logits = (log_probs + entropy.unsqueeze(-1)).mul_(entropy_cost).sub_(slope.unsqueeze(-1))
    for_logits.mul_(probs).scatter_add_(-1, action, slope.unsqueeze(-1))
    means = torch.stack([surrogate, error, entropy, kl, outside]).flatten(1).mean(1)
    return means, for_logits.div_(value.numel()), for_value.mul_(value_cost / value.numel())


def _in_rows(
    kernel: Any,
    logits: Tensor,
    value: Tensor,
    samples: Samples,
    value_cost: float,
    entropy_cost: float,
    value_clip: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """By ``compiled.categorical_objective``."""
    if samples.action_mask is not None:
        logits = logits.masked_fill(~samples.action_mask, ILLEGAL)
    columns = (samples.log_prob, samples.advantage, samples.target, samples.value)
    numbers = (samples.clip, value_cost, entropy_cost, torch.inf if value_clip is None else value_clip)
    for_logits, for_value = torch.empty(logits.shape), torch.empty(value.shape)
    means = kernel(
        logits.numpy().reshape(-1, logits.shape[-1]),
        value.numpy().reshape(-1),
        samples.action.numpy().reshape(-1),
        tuple(column.numpy().reshape(-1) for column in columns),
        np.array(numbers, np.float32),
        for_logits.numpy().reshape(-1, logits.shape[-1]),
        for_value.numpy().reshape(-1),
    )
    return torch.from_numpy(means), for_logits, for_value


@functools.cache
def _kernel() -> Any:
    """The compiled objective, or None without Numba (late: it takes half a second to import)."""
    try:
        from redline.ops.compiled import categorical_objective
    except ImportError:
        return None
    return categorical_objective


def _surrogate(log_prob: Tensor, samples: Samples) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Per element: the clipped surrogate (smaller is better), its slope in log_prob, KL estimate, 1.0 if outside."""
    cost = -samples.advantage
    log_ratio = log_prob - samples.log_prob
    ratio = log_ratio.exp()
    excess = ratio - 1
    outside = (excess.abs() > samples.clip).to(ratio.dtype)
    clipped = ratio.clamp(1 - samples.clip, 1 + samples.clip).mul_(cost)
    plain = ratio.mul_(cost)
    # The slope of -r A is -r A itself; where the clipped term is the worse, it is 0.
    slope = plain.masked_fill(plain < clipped, 0.0)
    return torch.maximum(plain, clipped), slope, excess.sub_(log_ratio), outside


def _value_error(value: Tensor, samples: Samples, clip: float | None) -> tuple[Tensor, Tensor]:
    """Per element: half the squared error and its slope in the value."""
    slope = value - samples.target
    error = slope.square()
    if clip is not None:
        moved = value - samples.value
        held = (samples.value + moved.clamp(-clip, clip)).sub_(samples.target).square_()
        # The value held within the clip does not move; inside it, it is the value.
        slope.masked_fill_((held > error) & (moved.abs() > clip), 0.0)
        error = torch.maximum(error, held)
    return error.mul_(0.5), slope
