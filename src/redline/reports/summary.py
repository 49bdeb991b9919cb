"""Plain sentences about a run: what holds it up, and how it plays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from redline.reports.scales import short

_DOING = {
    "stepping": "Stepping the environments",
    "acting": "Choosing actions",
    "learning": "Learning",
    "other": "Everything around stepping, acting and learning",
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
