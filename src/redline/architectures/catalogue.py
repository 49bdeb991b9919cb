"""The arrangements that the field has learned from, side by side: what differs between two can be printed.

Numbers of copies are planned, and so are capacities unless the system fixes them.
"""

from __future__ import annotations

import difflib

from redline.architectures.model import PLANNED, Architecture, Edge, Role
from redline.types import UserError

SYNCHRONOUS = Architecture(
    "synchronous",
    "A2C, PPO, DQN: one loop that collects, then learns",
    roles=(Role("loop", runs="train"),),
)

IMPALA = Architecture(
    "impala",
    "IMPALA (Espeholt et al. 2018): actors with a policy of their own, one learner",
    roles=(Role("actor", runs="collect", copies=PLANNED), Role("learner", runs="learn")),
    edges=(
        Edge("actor", "learner", "unroll", capacity=1),
        Edge("learner", "actor", "weights", when_full="replace"),
    ),
)

SEED = Architecture(
    "seed",
    "SEED (Espeholt et al. 2020) and the inference engine of Accel RL: workers step, one batched forward pass acts",
    roles=(
        Role("worker", runs="step", copies=PLANNED),
        Role("inference", runs="infer"),
        Role("learner", runs="learn"),
    ),
    edges=(
        Edge("worker", "inference", "observation", capacity=0),
        Edge("inference", "worker", "action", capacity=0),
        Edge("inference", "learner", "unroll", capacity=1, per="worker"),
        Edge("learner", "inference", "weights", when_full="replace"),
    ),
)

APEX = Architecture(
    "apex",
    "Ape-X (Horgan et al. 2018): actors with initial priorities, shared prioritised replay, one learner",
    roles=(
        Role("actor", runs="collect", copies=PLANNED),
        Role("replay", runs="replay"),
        Role("learner", runs="learn"),
    ),
    edges=(
        Edge("actor", "replay", "unroll", capacity=1, take=1),
        Edge("replay", "learner", "batch"),
        Edge("learner", "replay", "priority"),
        Edge("learner", "actor", "weights", when_full="replace"),
    ),
)

GORILA = Architecture(
    "gorila",
    "Gorila (Nair et al. 2015), bundled: each bundle acts, remembers and differentiates; a sharded server steps",
    roles=(Role("bundle", runs="train", copies=PLANNED), Role("server", runs="combine")),
    edges=(
        Edge("bundle", "server", "gradient", take=1),
        Edge("server", "bundle", "weights", when_full="replace"),
    ),
)

GORILA_GLOBAL = Architecture(
    "gorila_global",
    "Gorila with its global replay: bundles act and differentiate, one replay remembers for all of them",
    roles=(
        Role("replay", runs="replay"),
        Role("bundle", runs="train", copies=PLANNED),
        Role("server", runs="combine"),
    ),
    edges=(
        Edge("bundle", "replay", "unroll", take=1),
        Edge("replay", "bundle", "batch", take=1, per="bundle"),
        Edge("bundle", "replay", "priority", take=1),
        Edge("bundle", "server", "gradient", take=1),
        Edge("server", "bundle", "weights", when_full="replace"),
    ),
)

A3C = Architecture(
    "a3c",
    "A3C (Mnih et al. 2016): workers share parameters and RMSProp statistics without a lock",
    roles=(Role("worker", runs="train", copies=PLANNED),),
    edges=(Edge("worker", "worker", "gradient", when_full="race"),),
)

ACCEL_SYNC = Architecture(
    "accel_sync",
    "Accel RL (Stooke & Abbeel 2018), synchronous: replicas average gradients, then clip and step alike",
    roles=(Role("replica", runs="train", copies=PLANNED),),
    edges=(Edge("replica", "replica", "gradient", when_full="barrier"),),
)

ACCEL_ASYNC = Architecture(
    "accel_async",
    "Accel RL, asynchronous: central parameters and optimiser statistics in chunks, each with its own lock",
    roles=(Role("replica", runs="train", copies=PLANNED),),
    edges=(Edge("replica", "replica", "gradient", when_full="lock"),),
)

ARCHITECTURES: dict[str, Architecture] = {
    each.name: each
    for each in (SYNCHRONOUS, IMPALA, SEED, APEX, GORILA, GORILA_GLOBAL, A3C, ACCEL_SYNC, ACCEL_ASYNC)
}


def find(name: str) -> Architecture:
    """The architecture of a name. Raises: UserError with the nearest one's name."""
    if name not in ARCHITECTURES:
        near = difflib.get_close_matches(name, ARCHITECTURES, n=1, cutoff=0.0)[0]
        raise UserError(
            f"architecture {name!r} is unknown: did you mean {near!r}? valid: {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[name]
