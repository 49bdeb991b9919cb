"""From an architecture to the loop that runs it: the one place where the two are joined."""

from __future__ import annotations

from collections.abc import Callable

from redline.architectures.model import Architecture
from redline.runtime import in_process
from redline.runtime.actor_learner import ActorLearnerLoop
from redline.runtime.in_process import Loop
from redline.runtime.parts import Parts
from redline.runtime.plan import architecture_of
from redline.runtime.replay_learner import ReplayLearnerLoop
from redline.runtime.replicas.lockstep import SynchronousLoop
from redline.runtime.replicas.loop import ReplicaLoop
from redline.runtime.serving.muster import muster_server
from redline.types import UserError

LOOPS: dict[str, Callable[[Parts, Architecture], Loop]] = {
    "synchronous": lambda parts, _: in_process.make_loop(parts),
    "impala": ActorLearnerLoop,
    "seed": lambda parts, architecture: ActorLearnerLoop(parts, architecture, muster_server),
    "apex": ReplayLearnerLoop,
    "gorila": ReplicaLoop,
    "gorila_global": ReplicaLoop,
    "a3c": ReplicaLoop,
    "accel_async": ReplicaLoop,
    "accel_sync": SynchronousLoop,
}


def make_loop(parts: Parts) -> Loop:
    """The loop of an experiment's architecture."""
    architecture = architecture_of(parts.experiment)
    if architecture.name not in LOOPS:
        raise UserError(f"architecture {architecture.name} has no loop yet")
    return LOOPS[architecture.name](parts, architecture)
