"""An architecture is a value: roles, and edges between them. It says who does what, who waits for whom, and how old
what travels may become. The launcher, the diagram and the bound on policy lag read the same value.

A *role* is a loop that runs in ``copies``. An *edge* carries one kind of thing from a role to another: how many may
wait, what happens when no more fit, and what the receiver takes at a turn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

PLANNED = 0  # copies of a role, left to the plan

Runs = Literal[
    "train",  # steps environments and learns, all in one loop
    "collect",  # steps environments with a policy of its own and writes unrolls
    "step",  # steps environments with actions it is sent
    "infer",  # answers observations with actions, many at once
    "learn",  # turns batches into updates
    "replay",  # keeps experience and draws from it
    "combine",  # applies gradients that others computed to parameters that all read
]
Carries = Literal[
    "unroll",  # experience, up: a slot of T steps
    "batch",  # experience drawn from replay
    "priority",  # TD errors of a batch, back to replay
    "observation",
    "action",
    "gradient",
    "weights",  # the newest version; whoever is late skips some
]
WhenFull = Literal[
    "block",  # the sender waits
    "replace",  # the newest takes the place of the one before
    "race",  # nothing waits and nothing is whole: single coordinates are overwritten in place
    "barrier",  # everyone waits for everyone
    "lock",  # one piece at a time, each behind its own lock
]


@dataclass(frozen=True)
class Role:
    """A loop, and how many run side by side."""

    name: str
    runs: Runs
    copies: int = 1  # PLANNED: chosen for the machine, or by the user


@dataclass(frozen=True)
class Edge:
    """What travels from ``source`` to ``target``. Capacities are per copy of the source, or of the role ``per``."""

    source: str
    target: str
    carries: Carries
    capacity: int = (
        1  # that may wait, beside the one being made (0: the source waits until the target is done with it)
    )
    when_full: WhenFull = "block"
    take: int = 0  # of them the target consumes at a turn; 0: one from each copy of the source
    per: str = ""  # the role whose copies the source serves one by one; empty: the source itself
    max_lag: int | None = None  # batches; older ones are refused. None: what follows from the capacities


@dataclass(frozen=True)
class Architecture:
    """Roles and edges. ``system`` names whose arrangement it is."""

    name: str
    system: str
    roles: tuple[Role, ...]
    edges: tuple[Edge, ...] = ()

    def __post_init__(self) -> None:
        for problem in problems(self):
            raise ValueError(f"architecture {self.name}: {problem}")

    def role(self, name: str) -> Role:
        """The role of a name; KeyError where there is none."""
        return {role.name: role for role in self.roles}[name]

    def edge(self, carries: Carries) -> Edge | None:
        """The first edge that carries it, or None."""
        return next((edge for edge in self.edges if edge.carries == carries), None)

    def senders(self, edge: Edge) -> int:
        """Over how many copies the edge's capacity is counted."""
        return self.role(edge.per or edge.source).copies

    @property
    def acting(self) -> Role:
        """The role that steps environments: the one whose copies are worth choosing."""
        return next(role for role in self.roles if role.runs in ("train", "collect", "step"))

    @property
    def shares_gradients(self) -> bool:
        """Whether copies train by themselves and share gradients, rather than sending experience to a learner."""
        return self.edge("gradient") is not None

    @property
    def has_learner(self) -> bool:
        """Whether a role of its own learns, and nothing else."""
        return any(role.runs == "learn" for role in self.roles)

    @property
    def served(self) -> bool:
        """Whether gradients go to a server that applies them."""
        return any(role.runs == "combine" for role in self.roles)

    @property
    def has_replay(self) -> bool:
        """Whether experience waits in a replay of its own role."""
        return any(role.runs == "replay" for role in self.roles)

    def sized(self, copies: int, capacity: int | None = None, take: int | None = None) -> Architecture:
        """The same with numbers: copies of the planned roles; capacity and take of the edge of unrolls."""
        roles = tuple(replace(role, copies=copies) if role.copies == PLANNED else role for role in self.roles)
        edges = tuple(
            edge
            if edge.carries != "unroll"
            else replace(
                edge,
                capacity=edge.capacity if capacity is None else capacity,
                take=edge.take if take is None else take,
            )
            for edge in self.edges
        )
        return replace(self, roles=roles, edges=edges)


def problems(architecture: Architecture) -> list[str]:
    """What is wrong with an architecture, a line each."""
    names = [role.name for role in architecture.roles]
    found = [f"two roles are named {name!r}" for name in sorted(set(names)) if names.count(name) > 1]
    if not any(role.runs in ("train", "collect", "step") for role in architecture.roles):
        found.append("no role steps environments")
    if not any(role.runs in ("train", "learn") for role in architecture.roles):
        found.append("no role learns")
    for edge in architecture.edges:
        label = f"edge {edge.source} -> {edge.target} ({edge.carries})"
        found += [
            f"{label}: there is no role {end!r}"
            for end in (edge.source, edge.target, edge.per or edge.source)
            if end not in names
        ]
        if edge.capacity < 0 or edge.take < 0:
            found.append(f"{label}: capacity and take are 0 or more")
        if edge.carries == "weights" and edge.when_full == "block":
            found.append(f"{label}: weights never make the learner wait; replace the older ones")
        if edge.carries in ("unroll", "batch", "observation", "action") and edge.when_full != "block":
            found.append(f"{label}: experience is neither overwritten nor torn; its sender waits")
    return found


def lag_bound(architecture: Architecture) -> int | None:
    """Most batches learned between the weights that acted and the weights that learn from it; None: no bound.

    Of unrolls on their way to the learner: N copies have ``1 + capacity`` of them each in flight, and k are consumed
    at a turn. Consumed oldest first, one is at most ``ceil(N (1 + capacity) / k) - 1`` turns old, and one more where
    the slot goes back before the update that used it is done. The learner keeps to this by waiting for whoever would
    otherwise come too late. Replay is bounded by its capacity only, gradients by the rule of whoever combines them.
    """
    edge = architecture.edge("unroll")
    if architecture.shares_gradients:
        gradient = architecture.edge("gradient")
        assert gradient is not None
        return 0 if gradient.when_full == "barrier" else gradient.max_lag
    if edge is None:
        return 0
    if architecture.has_replay:
        return None
    if edge.max_lag is not None:
        return edge.max_lag
    copies = architecture.senders(edge)
    flying = copies * (1 + edge.capacity)
    take = edge.take or copies
    return -(-flying // take) - 1 + (0 if held(architecture) else 1)


def gives_way(architecture: Architecture, cores: int, threads: int = 1) -> bool:
    """Whether all others let the learner have a core first: where those who make unrolls, each on ``threads`` threads,
    could keep every core busy.

    Work is done at the same rate either way. But with equal shares a learner that wants more than its own falls behind,
    and the unrolls that wait for it grow older than those who wait for it need them to be.
    """
    if architecture.has_replay or not any(role.runs == "learn" for role in architecture.roles):
        return False
    return sum(role.copies for role in architecture.roles if role.runs != "learn") * threads >= cores


def held(architecture: Architecture) -> bool:
    """Whether a slot goes back only when the update that used it is published (nothing was copied, or lag is zero)."""
    edge = architecture.edge("unroll")
    if edge is None:
        return True
    take = edge.take or architecture.senders(edge)
    return edge.capacity == 0 or take == 1
