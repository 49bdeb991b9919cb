"""Which algorithm runs on which architecture, and why not where it does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redline.architectures.config import ParallelConfig
from redline.architectures.model import Architecture, lag_bound

_ACTORS, _BUNDLES = ("impala", "seed"), ("gorila", "gorila_global")
# Numbers of ``parallel`` that some architectures do not read -> those that do.
READ_BY: dict[str, tuple[str, ...]] = {
    "queue": (*_ACTORS, "apex", *_BUNDLES),
    "batch": _ACTORS,
    "late": _ACTORS,
    "give_way": _ACTORS,
    "delay": _ACTORS,
    "slot": ("apex",),
    "publish_every": ("apex",),
    "replay_ratio": ("apex",),
    "hosts": ("seed",),
    "max_batch": ("seed",),
    "max_wait": ("seed",),
    "servers": (*_BUNDLES, "accel_async"),
    "fetch_every": _BUNDLES,
    "target_every": _BUNDLES,
    "max_staleness": _BUNDLES,
    "outlier": _BUNDLES,
    "collective": ("accel_sync",),
}
AT_THEIR_PACE = ("publish_every", "replay_ratio", "max_batch", "max_wait")  # read only with a queue above 0


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


def without_effect(parallel: ParallelConfig, settings: Sequence[str], algorithm: Any) -> str | None:
    """Which number of ``parallel`` that ``settings`` (``a.b=c``) ask for would do nothing, in one line; or None.

    What a recipe brings along for its own architecture is not asked for, and stays unsaid; so does what asks for
    nothing but the default. ``algorithm``: as ``refusal`` takes it.
    """
    for setting in settings:
        group, _, name = setting.partition("=")[0].strip().partition(".")
        if group == "parallel" and hasattr(parallel, name):
            value = getattr(parallel, name)
            reason = None if value in _left_open(parallel, name) else _why_idle(parallel, name, algorithm)
            if reason is not None:
                return f"parallel.{name}={value}: {reason}"
    return None


def is_read(name: str, architecture: str) -> bool:
    """Whether the number ``name`` of ``parallel`` does something in an architecture."""
    return architecture in READ_BY.get(name, (architecture,))


def _left_open(parallel: ParallelConfig, name: str) -> list[Any]:
    """Values that ask for nothing; of the one loop also those that it has."""
    idle = [ParallelConfig()]
    if parallel.architecture == "synchronous":
        idle.append(ParallelConfig(copies=1, queue=0))
    return [getattr(each, name) for each in idle]


def _why_idle(parallel: ParallelConfig, name: str, algorithm: Any) -> str | None:
    """Why a number does nothing, and what would help; None where it does something."""
    architecture = parallel.architecture
    if name in ("architecture", "runtime", "replay"):  # refused elsewhere
        return None
    if architecture == "synchronous":
        return "architecture synchronous has one loop; choose another with parallel.architecture"
    if not is_read(name, architecture):
        first, *others = READ_BY[name]
        which = f"{first} (or {', '.join(others)})" if others else first
        return f"architecture {architecture} has no use for it; leave it out, or set parallel.architecture={which}"
    if parallel.queue == 0 and name in AT_THEIR_PACE:
        return "with parallel.queue=0 all take turns; leave it out, or set parallel.queue=1"
    if name == "replay_ratio" and getattr(algorithm, "paced", False):
        return f"{algorithm.name} learns once every algorithm.update_every agent steps; set that, or use recipe apex"
    return None
