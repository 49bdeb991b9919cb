"""Which algorithm runs on which architecture, and why not where it does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redline.architectures.config import ParallelConfig
from redline.architectures.model import Architecture, lag_bound


def refusal(architecture: Architecture, algorithm: Any) -> str | None:
    """Why ``algorithm`` (a class or instance with ``name``, ``experience`` and ``max_lag``) cannot run on a sized
    architecture, in one line; None where it can."""
    name, place = algorithm.name, f"architecture {architecture.name}"
    if architecture.has_replay and algorithm.experience != "replay":
        why = (
            "it learns from whole unrolls in order, not from replay"
            if algorithm.max_lag is None
            else f"on-policy, needs lag <= {algorithm.max_lag}, and replay has no bound"
        )
        return f"{name} cannot run on {place}: {why}; use dqn or apex"
    if architecture.shares_gradients or architecture.name == "synchronous":
        return None
    if not architecture.has_replay and algorithm.experience == "replay":
        return (
            f"{name} cannot run on {place}: it learns from replay, and there is none; use architecture apex"
        )
    bound = lag_bound(architecture)
    if algorithm.max_lag is not None and bound is not None and bound > algorithm.max_lag:
        copies = architecture.acting.copies
        return (
            f"{name} is on-policy and needs lag <= {algorithm.max_lag}; {place} with {copies} copies allows {bound}: "
            "set parallel.queue=0, or use appo or impala"
        )
    return None


def without_effect(parallel: ParallelConfig, settings: Sequence[str]) -> str | None:
    """Which number of ``parallel`` that ``settings`` (``a.b=c``) ask for would do nothing, in one line; or None.

    What a recipe brings along for its own architecture is not asked for, and stays unsaid.
    """
    if parallel.architecture != "synchronous":
        return None
    idle = ParallelConfig(copies=1, queue=0), ParallelConfig()  # as the one loop has them, or left to Redline
    for setting in settings:
        group, _, name = setting.partition("=")[0].strip().partition(".")
        if group != "parallel" or name in ("", "architecture", "runtime", "replay"):  # refused elsewhere
            continue
        value = getattr(parallel, name)
        if value not in [getattr(each, name) for each in idle]:
            return (
                f"parallel.{name}={value}: architecture synchronous has one loop; "
                "choose another with parallel.architecture"
            )
    return None
