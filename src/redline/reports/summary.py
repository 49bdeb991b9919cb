"""Plain sentences about a run: what holds it up, and how it plays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from redline.reports.scales import short

_DOING = {
    "stepping": "Stepping the environments",
    "acting": "Choosing actions",
    "learning": "Learning",
    "waiting": "Waiting for others",
    "other": "Everything around stepping, acting and learning",
}
BUSY = 0.85  # share of the wall clock from which on a role counts as busy all the time
FULL, EMPTY = 0.75, 0.25  # share of a queue's room
LEAD = 1.5  # times as busy as any other: who acts is what the rest waits for, even on a machine that others use too
_NAMES = {  # of roles that act, or learn by themselves: plural
    "actor": "actors",
    "worker": "workers",
    "bundle": "bundles",
    "replica": "replicas",
}
_RELIEF = {  # of roles that are alone
    "learner": "fewer actors lose nothing; a larger batch, bf16 or {device} would help.",
    "inference": "bf16, more environments a worker or {device} would help; more workers would not.",
    "replay": "larger batches, drawn less often, would help; more actors would not.",
    "server": "more shards (parallel.servers) or rarer gradients would help; more bundles would not.",
}


def bottleneck(
    shares: Mapping[str, float],
    *,
    device: str = "cpu",
    epochs: int | None = None,
    num_envs: int | None = None,
) -> str:
    """One sentence: what takes most of the time, what would relieve it and what would not.

    Args:
      shares: share of the wall clock in ``stepping``, ``acting``, ``learning`` and ``other``, each 0..1.
      device: where the network computes.
      epochs: passes over each batch of an on-policy algorithm; None where there are none.
      num_envs: environments stepped together.
    """
    known = {name: share for name, share in shares.items() if name in _DOING and math.isfinite(share)}
    total = sum(known.values())
    if total <= 0:
        return "Where the time goes has not been measured yet."
    name = max(known, key=lambda key: known[key])
    share = known[name] / total
    if share < 0.4:
        ranked = sorted(known, key=lambda key: -known[key])[:2]
        pair = " and ".join(f"{key} {known[key] / total:.0%}" for key in ranked)
        return f"No single bottleneck ({pair}): a faster processor or more cores would help most."
    return f"{_DOING[name]} takes {share:.0%} of the time: {_relief(name, device, epochs, num_envs)}"


def role_bottleneck(
    roles: Mapping[str, float],
    queues: Mapping[str, float] | None = None,
    rooms: Mapping[str, float] | None = None,
    *,
    lag_bound: int | None = None,
    device: str = "cpu",
) -> str:
    """One sentence on roles side by side: which of them the others wait for, and what would relieve it.

    Args:
      roles: share of the wall clock that each was busy, 0..1.
      queues: how much waits, by name.   rooms: how much can wait, by the same names.
      lag_bound: batches; 0 means that the roles take turns.
      device: where the learner computes.
    """
    busy = {name: share for name, share in roles.items() if math.isfinite(share)}
    if not busy:
        return "How busy the roles are has not been measured yet."
    acting = next((name for name in busy if name in _NAMES), None)
    if len(busy) == 1:
        return _alone(*next(iter(busy.items())))
    fill = _fill(queues or {}, rooms or {})
    shown = ", ".join(f"{name} {share:.0%}" for name, share in busy.items())
    top = max(busy, key=lambda name: busy[name])
    learns = "learner" in busy
    if learns and acting and min(busy["learner"], busy[acting]) >= BUSY:
        return f"Nobody waits ({shown}): this machine is used up; more cores or a GPU would help."
    if learns and (busy["learner"] >= BUSY or (top == "learner" and fill is not None and fill >= FULL)):
        return _is_bottleneck("learner", _waiting(queues or {}, rooms or {}, shown), device)
    others = max(share for name, share in busy.items() if name != top)
    leads = (
        top == acting and lag_bound != 0 and busy[top] >= LEAD * others and (fill is None or fill <= EMPTY)
    )
    if busy[top] >= BUSY or leads:
        return _is_bottleneck(top, shown, device)
    if lag_bound == 0:
        return f"The roles take turns, since lag is 0 ({shown}): parallel.queue=1 would let them overlap."
    return (
        f"The roles wait for each other ({shown}): more room (parallel.queue) or longer unrolls would help."
    )


def _alone(name: str, share: float) -> str:
    plural = _NAMES.get(name, name)
    if share >= BUSY:
        return (
            f"All {plural} are busy {share:.0%} of the time: more cores would help; more {plural} would not."
        )
    return f"The {plural} wait for each other {1 - share:.0%} of the time: fewer of them or longer unrolls would help."


def _is_bottleneck(name: str, why: str, device: str) -> str:
    if name in _NAMES:
        plural = _NAMES[name]
        help_ = f"more {plural} or cores, or a faster simulator, would help; a faster learner would not."
        return f"{plural.capitalize()} are the bottleneck ({why}): {help_}"
    relief = _RELIEF.get(name, "what it does needs to become faster; more of the others would not help.")
    other = "a GPU" if device.startswith("cpu") else "a faster GPU"
    return f"The {name} is the bottleneck ({why}): {relief.format(device=other)}"


def _fill(queues: Mapping[str, float], rooms: Mapping[str, float]) -> float | None:
    """How full the fullest queue is, 0..1, or None where no room is known."""
    shares = [queues[name] / rooms[name] for name in queues if rooms.get(name)]
    return max(shares, default=None)


def _waiting(queues: Mapping[str, float], rooms: Mapping[str, float], shown: str) -> str:
    waits = [
        f"{short(depth)} of {short(rooms[name])} {name} wait"
        for name, depth in queues.items()
        if rooms.get(name)
    ]
    return ", ".join([shown, *waits])


def describe_returns(returns: Sequence[float]) -> str:
    """``487 over 100 episodes (from 211 to 500)``: mean and range of the returns of whole episodes."""
    finite = [value for value in returns if math.isfinite(value)]
    if not finite:
        return "no episode has ended yet"
    mean = sum(finite) / len(finite)
    if len(finite) == 1:
        return f"{short(mean)} in one episode"
    return f"{short(mean)} over {len(finite)} episodes (from {short(min(finite))} to {short(max(finite))})"


def _relief(name: str, device: str, epochs: int | None, num_envs: int | None) -> str:
    if name == "stepping":
        return "more cores or a faster simulator would help; a GPU would not."
    if name == "acting":
        few = num_envs is not None and num_envs < 64
        if device.startswith("cpu") and not few:
            return "a GPU or a smaller network would help; more environments would not."
        return "more environments per forward pass would help; more cores for stepping would not."
    if name == "learning":
        fewer = "fewer epochs" if epochs is not None and epochs > 1 else "fewer updates per step"
        if device.startswith("cpu"):
            return f"a GPU or {fewer} would help; more environments would not."
        return f"larger minibatches, bf16 or {fewer} would help; more environments would not."
    return "longer unrolls and rarer checkpoints, evaluations and log lines would help; a GPU would not."
