"""From an architecture to the loop that runs it: the one place where the two are joined."""

from __future__ import annotations

from redline.architectures.catalogue import find
from redline.architectures.model import Architecture, lag_bound
from redline.runtime import in_process
from redline.runtime.actor_learner import ActorLearnerLoop
from redline.runtime.experiment import Experiment
from redline.runtime.in_process import Loop
from redline.runtime.parts import Parts
from redline.runtime.replicas.lockstep import SynchronousLoop
from redline.runtime.replicas.loop import ReplicaLoop
from redline.types import UserError


def architecture_of(experiment: Experiment) -> Architecture:
    """The architecture of an experiment whose automatic choices are made, with its numbers."""
    parallel = experiment.parallel
    return find(parallel.architecture).sized(parallel.copies, parallel.queue, parallel.batch or None)


def make_loop(parts: Parts) -> Loop:
    """The loop of an experiment's architecture."""
    architecture = architecture_of(parts.experiment)
    if architecture.name == "synchronous":
        return in_process.make_loop(parts)
    if architecture.name == "impala":
        return ActorLearnerLoop(parts, architecture)
    if architecture.shares_gradients:
        together = lag_bound(architecture) == 0
        return SynchronousLoop(parts, architecture) if together else ReplicaLoop(parts, architecture)
    raise UserError(f"architecture {architecture.name} has no loop yet")
