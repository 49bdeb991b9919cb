"""Return and advantage estimators. Time-major: rewards f32[T, B], discounts f32[T, B], values f32[T+1, B].

``discounts[t]`` is 0 where the episode ended at step t and gamma elsewhere: ``episode_ends`` makes it, and
nothing leaks across. All estimators are constants to the gradient. Arguments come in one order everywhere:
rewards, discounts, values.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from redline.ops.checks import check_shapes


class VTrace(NamedTuple):
    """What V-trace gives."""

    vs: Tensor  # f32[T, B] value targets
    pg_advantages: Tensor  # f32[T, B] weights of grad log pi


@torch.no_grad()
def episode_ends(
    reward: Tensor, terminated: Tensor, truncated: Tensor, final_value: Tensor, gamma: float
) -> tuple[Tensor, Tensor]:
    """Turn end-of-episode flags into reward and discount: the only place where they are told apart.

    A terminated step has nothing after it. A truncated one would have gone on: the value of its final
    observation is bootstrapped, always. Both flags at once is a termination.

    Args:
      reward: f32[T, B].   terminated, truncated: bool[T, B].
      final_value: f32[T, B] value of the final observation where truncated; not read elsewhere.
      gamma: discount per agent step.

    Returns:
      (reward f32[T, B], discount f32[T, B] 0 where the episode ended, else gamma)
    """
    check_shapes("T B", reward=reward, terminated=terminated, truncated=truncated, final_value=final_value)
    cut = truncated & ~terminated
    bootstrapped = torch.where(cut, reward + gamma * final_value, reward)
    discount = (~(terminated | truncated)).to(reward.dtype) * gamma
    return bootstrapped, discount


@torch.no_grad()
def reverse_scan(addend: Tensor, factor: Tensor, initial: Tensor) -> Tensor:
    """x_t = addend_t + factor_t x_{t+1}, backwards from x_T = initial: what every estimator here rests on.

    On the CPU a loop of numpy rows (a fifth of the cost of a loop of torch operations); elsewhere recursive
    doubling, log2(T) rounds of three kernels. Both are deterministic; they differ in the last bits.

    Args:
      addend, factor: f32[T, B] or f64.   initial: [B].
    """
    check_shapes("T B; T B; B", addend=addend, factor=factor, initial=initial)
    if addend.device.type == "cpu" and addend.dtype in (torch.float32, torch.float64):
        return _scan_rows(addend, factor.to(addend.dtype), initial.to(addend.dtype))
    return _scan_doubling(addend, factor, initial)


def _scan_rows(addend: Tensor, factor: Tensor, initial: Tensor) -> Tensor:
    result = torch.empty_like(addend, memory_format=torch.contiguous_format)
    rows, factors = result.numpy(), factor.detach().numpy()
    rows[...] = addend.detach().numpy()
    following = initial.detach().numpy()
    for row, multiplier in zip(rows[::-1], factors[::-1], strict=True):
        row += multiplier * following
        following = row
    return result


def _scan_doubling(addend: Tensor, factor: Tensor, initial: Tensor) -> Tensor:
    total = torch.cat([addend, initial[None]])
    scale = torch.cat([factor, torch.zeros_like(initial)[None]])
    step = 1
    while step < len(total):
        # Row t now covers t .. t+step-1; appending what row t+step covers doubles its reach.
        total = torch.cat([total[:-step] + scale[:-step] * total[step:], total[-step:]])
        scale = torch.cat([scale[:-step] * scale[step:], scale[-step:]])
        step *= 2
    return total[:-1]


@torch.no_grad()
def gae(rewards: Tensor, discounts: Tensor, values: Tensor, lambda_: float) -> Tensor:
    """Generalised advantage estimates (Schulman et al. 2016, equation 16).

    Args:
      rewards, discounts: f32[T, B].   values: f32[T+1, B], the last row being the bootstrap.
      lambda_: 0 gives one-step TD errors, 1 the bootstrapped Monte Carlo return minus the value.

    Returns:
      advantages f32[T, B]. The value target is ``advantages + values[:-1]``.
    """
    check_shapes("T B; T B; T+1 B", rewards=rewards, discounts=discounts, values=values)
    td = rewards + discounts * values[1:] - values[:-1]
    return reverse_scan(td, discounts * lambda_, torch.zeros_like(td[0]))


@torch.no_grad()
def lambda_returns(rewards: Tensor, discounts: Tensor, values: Tensor, lambda_: float) -> Tensor:
    """Lambda returns G_t = r_t + d_t ((1 - lambda) V_{t+1} + lambda G_{t+1}) (Sutton and Barto 2018, 12.1).

    Args:
      rewards, discounts: f32[T, B].   values: f32[T+1, B], the last row being the bootstrap.

    Returns:
      returns f32[T, B]; equal to ``gae(...) + values[:-1]`` up to rounding.
    """
    check_shapes("T B; T B; T+1 B", rewards=rewards, discounts=discounts, values=values)
    return reverse_scan(
        rewards + discounts * (1 - lambda_) * values[1:], discounts * lambda_, values[-1].contiguous()
    )


@torch.no_grad()
def bootstrapped_returns(rewards: Tensor, discounts: Tensor, bootstrap_value: Tensor) -> Tensor:
    """Each state's longest n-step return within the unroll: T steps for the first, one for the last.

    Mnih et al. 2016 (A3C), algorithm S3: R <- r_i + gamma R, backwards from the bootstrap.

    Args:
      rewards, discounts: f32[T, B].   bootstrap_value: f32[B] value of observation T.

    Returns:
      returns f32[T, B].
    """
    check_shapes("T B; T B; B", rewards=rewards, discounts=discounts, bootstrap_value=bootstrap_value)
    return reverse_scan(rewards, discounts, bootstrap_value)


@torch.no_grad()
def n_step_returns(rewards: Tensor, discounts: Tensor, values: Tensor, n: int) -> Tensor:
    """n-step returns, each window ending at the unroll's end if that comes first.

    Args:
      rewards, discounts: f32[T, B].   values: f32[T+1, B], the last row being the bootstrap.
      n: steps in a window, at least 1.

    Returns:
      returns f32[T, B].
    """
    length = check_shapes("T B; T B; T+1 B", rewards=rewards, discounts=discounts, values=values)["T"]
    if n < 1:
        raise ValueError(f"n is {n}, expected at least 1")
    n = min(n, length)
    returns = torch.cat([values[n:], values[-1:].expand(n - 1, -1)])  # V_{min(t+n, T)}
    for offset in reversed(range(n)):
        reach = length - offset  # beyond the unroll's end there is no reward and no discount
        head = rewards[offset:] + discounts[offset:] * returns[:reach]
        returns = torch.cat([head, returns[reach:]])
    return returns


@torch.no_grad()
def vtrace(
    log_rhos: Tensor,
    rewards: Tensor,
    discounts: Tensor,
    values: Tensor,
    *,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
    pg_rho_bar: float = 1.0,
    lambda_: float = 1.0,
) -> VTrace:
    """V-trace targets (Espeholt et al. 2018, section 4.1). On policy these are n-step returns.

    Args:
      log_rhos: f32[T, B] log of target over behaviour probability of the action taken.
      rewards, discounts: f32[T, B].   values: f32[T+1, B] of the learner's own network.
      rho_bar: clips the TD errors' weights: sets the fixed point.   c_bar: clips the traces: sets the speed.
      pg_rho_bar: clips the weights of the policy gradient.   lambda_: scales the traces (remark 2).
    """
    check_shapes(
        "T B; T B; T B; T+1 B", log_rhos=log_rhos, rewards=rewards, discounts=discounts, values=values
    )
    rhos = log_rhos.exp()
    td = rhos.clamp(max=rho_bar) * (rewards + discounts * values[1:] - values[:-1])
    trace = discounts * (lambda_ * rhos.clamp(max=c_bar))
    vs = values[:-1] + reverse_scan(td, trace, torch.zeros_like(td[0]))
    next_vs = torch.cat([vs[1:], values[-1:]])  # v_{s+1}, not V(x_{s+1}): section 4.2
    return VTrace(vs, rhos.clamp(max=pg_rho_bar) * (rewards + discounts * next_vs - values[:-1]))


@torch.no_grad()
def retrace(
    log_rhos: Tensor,
    rewards: Tensor,
    discounts: Tensor,
    values: Tensor,
    action_values: Tensor,
    lambda_: float = 1.0,
) -> Tensor:
    """Retrace(lambda) targets for the action values of the actions taken (Munos et al. 2016, equation 4).

    Args:
      log_rhos: f32[T, B] log of target over behaviour probability of the action taken.
      rewards, discounts: f32[T, B].
      values: f32[T+1, B] expected action value under the target policy; row 0 is not used.
      action_values: f32[T, B] Q(x_t, a_t).

    Returns:
      targets f32[T, B]; without the action at T the last step's target is r + d V_T.
    """
    check_shapes(
        "T B; T B; T B; T+1 B; T B",
        log_rhos=log_rhos,
        rewards=rewards,
        discounts=discounts,
        values=values,
        action_values=action_values,
    )
    td = rewards + discounts * values[1:] - action_values
    # The trace of step t carries the *next* step's ratio: c_{t+1} weighs the correction at t+1.
    next_trace = lambda_ * torch.cat([log_rhos[1:].exp().clamp(max=1.0), torch.zeros_like(log_rhos[:1])])
    return action_values + reverse_scan(td, discounts * next_trace, torch.zeros_like(td[0]))
