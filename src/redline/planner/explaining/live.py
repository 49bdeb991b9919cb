"""A run beside what the planner's model says of it: how far apart they are, and where, and what that means."""

from __future__ import annotations

from redline.types import Expected

APART = 0.10  # of a role's time: less is chance
FAR = 1.0  # errors beyond which a rate is not what was predicted


def beside(expected: Expected, steps_per_second: float, roles: dict[str, float]) -> list[str]:
    """Sentences: the rate beside the predicted one, the roles that differ, and advice where the facts have changed.

    Args:
        steps_per_second: agent steps, as they are now; 0: not known yet.
        roles: share of the wall clock that each role is busy; empty where one loop does all.
    """
    if steps_per_second <= 0 or expected.steps_per_second <= 0:
        return [f"predicted {expected.steps_per_second:,.0f} agent steps/s"]
    ratio = steps_per_second / expected.steps_per_second
    how = (
        "as predicted"
        if abs(ratio - 1) < 0.005
        else f"{abs(ratio - 1):.0%} {'more' if ratio > 1 else 'less'}"
    )
    sentences = [
        f"predicted {expected.steps_per_second:,.0f} agent steps/s, {how} now{_roles(expected, roles)}"
    ]
    if ratio < 1.0 - FAR * expected.error:
        sentences.append(_advice(expected, roles))
    return sentences


def _roles(expected: Expected, roles: dict[str, float]) -> str:
    parts = [
        f"{name} {share:.0%} busy ({expected.roles[name]:.0%})"
        for name, share in roles.items()
        if name in expected.roles
    ]
    return "; " + ", ".join(parts) if parts else ""


def _advice(expected: Expected, roles: dict[str, float]) -> str:
    """Far slower than predicted: a role is busier than it should be, or none is, and the cores are elsewhere."""
    apart = {name: share - expected.roles[name] for name, share in roles.items() if name in expected.roles}
    busier = max(apart, key=lambda name: apart[name], default=None)
    if busier is not None and apart[busier] > APART:
        return f"slower because {busier} takes longer than when it was measured: plan again with --fresh"
    return "slower than its pieces were when measured: other programs have the cores, or the machine is throttled"
