"""From an architecture to the loop that runs it: the one place where the two are joined. And what a checkpoint holds of
that loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from redline.architectures.model import Architecture
from redline.learners.fitting import CHANGED
from redline.runtime import in_process
from redline.runtime.actor_learner import ActorLearnerLoop
from redline.runtime.experiment import Experiment, uses_replay
from redline.runtime.in_process import Loop
from redline.runtime.parts import Parts
from redline.runtime.plan import architecture_of
from redline.runtime.replay_learner import ReplayLearnerLoop
from redline.runtime.replicas.lockstep import SynchronousLoop
from redline.runtime.replicas.loop import ReplicaLoop
from redline.runtime.serving.muster import muster_server
from redline.types import RunError, UserError

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


def check_loop(saved: dict[str, Any], needs: tuple[str, ...], experiment: Experiment) -> None:
    """Refuse the saved state of a loop that lacks what it ``needs``. Raises: RunError."""
    missing = [name for name in needs if name not in saved]
    if missing:
        raise RunError(
            f"the checkpoint has no {', '.join(missing)}, which architecture {experiment.parallel.architecture} of its "
            f"config.yaml goes on from: {CHANGED}"
        )


def inexact(loop: dict[str, Any], experiment: Experiment) -> str:
    """What a resumed run, whose loop's saved state is ``loop``, has not got back."""
    if not _remembers(loop, experiment):
        what = "replay" if uses_replay(experiment) else "replay of older unrolls"
        return (
            f"resumed without the {what}, which was not saved (run.save_replay): it fills again; episodes in "
            "progress begin anew where the environments cannot go on with them, all else is restored"
        )
    return "resumed: everything but the episodes in progress is restored; those begin anew"


def with_saved_replay(experiment: Experiment, asked: Experiment, state: dict[str, Any]) -> Experiment:
    """The experiment with a replay as large as that of a checkpoint's ``state``: what was saved fits into no other.

    asked: the experiment as config.yaml has it, with the capacity of checkpoints that do not tell theirs.
    """
    if experiment.replay is None or asked.replay is None or not _remembers(state.get("loop", {}), experiment):
        return experiment
    capacity = state.get("capacity") or asked.replay.capacity
    return replace(experiment, replay=replace(experiment.replay, capacity=capacity))


def _remembers(loop: dict[str, Any], experiment: Experiment) -> bool:
    """Whether a loop's saved state holds what the algorithm learns from again: its own, or some copy's; True, too,
    where it learns from nothing twice."""
    if not uses_replay(experiment) and not getattr(experiment.algorithm, "replay_share", 0.0):
        return True
    name = "replay" if uses_replay(experiment) else "unrolls"
    copies = [copy.get("loop", {}) for copy in loop.get("copies", ()) if copy is not None]
    return any(each.get(name) for each in (loop, *copies))  # a copy's end of a replay for all is empty
