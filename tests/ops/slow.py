"""The papers' definitions, slow and literal, in f64 numpy: what the fast versions are held against."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Array = np.ndarray


def n_step_return(rewards: Array, discounts: Array, values: Array, t: int, n: int) -> float:
    """Sum of discounted rewards from t over at most n steps of one environment, plus the bootstrap."""
    end = min(t + n, len(rewards))
    total, weight = 0.0, 1.0
    for k in range(t, end):
        total += weight * rewards[k]
        weight *= discounts[k]
    return total + weight * values[end]


def lambda_return(rewards: Array, discounts: Array, values: Array, t: int, lambda_: float) -> float:
    """The weighted mean of all n-step returns; the longest takes the weight that is left."""
    longest = len(rewards) - t
    total = sum(
        (1 - lambda_) * lambda_ ** (n - 1) * n_step_return(rewards, discounts, values, t, n)
        for n in range(1, longest)
    )
    return total + lambda_ ** (longest - 1) * n_step_return(rewards, discounts, values, t, longest)


def generalised_advantage(rewards: Array, discounts: Array, values: Array, t: int, lambda_: float) -> float:
    """Equation 16: the sum over l of (gamma lambda)^l delta_{t+l}, a product of discounts for gamma^l."""
    total = 0.0
    for k in range(t, len(rewards)):
        delta = rewards[k] + discounts[k] * values[k + 1] - values[k]
        total += np.prod(discounts[t:k]) * lambda_ ** (k - t) * delta
    return total


def vtrace_target(
    rhos: Array,
    rewards: Array,
    discounts: Array,
    values: Array,
    s: int,
    rho_bar: float,
    c_bar: float,
    lambda_: float,
) -> float:
    """Equation 1: V(x_s) plus the sum over t of gamma^(t-s) (product of c_s .. c_{t-1}) delta_t V."""
    total = values[s]
    for t in range(s, len(rewards)):
        trace = np.prod([lambda_ * min(c_bar, rhos[i]) for i in range(s, t)])
        delta = min(rho_bar, rhos[t]) * (rewards[t] + discounts[t] * values[t + 1] - values[t])
        total += np.prod(discounts[s:t]) * trace * delta
    return total


def retrace_target(
    rhos: Array, rewards: Array, discounts: Array, values: Array, taken: Array, s: int, lambda_: float
) -> float:
    """Equation 3 with equation 4's traces: the product of c_{s+1} .. c_t, times TD errors with E_pi Q."""
    total = taken[s]
    for t in range(s, len(rewards)):
        trace = np.prod([lambda_ * min(1.0, rhos[i]) for i in range(s + 1, t + 1)])
        total += np.prod(discounts[s:t]) * trace * (rewards[t] + discounts[t] * values[t + 1] - taken[t])
    return total


def everywhere(function: Callable[..., float], *arrays: Array, **numbers: float) -> Array:
    """``function`` at every step of every environment: arrays [T, B] or [T+1, B] -> [T, B]."""
    length, batch = arrays[0].shape
    return np.array(
        [
            [function(*(array[:, b] for array in arrays), t, **numbers) for b in range(batch)]
            for t in range(length)
        ]
    )
