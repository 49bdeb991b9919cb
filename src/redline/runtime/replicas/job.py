"""A copy's job: its share of the run in the ordinary in-process loop, around a learner that shares its gradients."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeGuard

import torch

from redline.learners.exchange import Exchange
from redline.learners.exchanges.allreduce import AllReduce
from redline.learners.exchanges.chunks import ChunkLocked
from redline.learners.exchanges.parameter_server import OutlierRule, ToServers
from redline.learners.exchanges.race import Race
from redline.runtime import in_process
from redline.runtime.crew.board import Watched, total
from redline.runtime.crew.ports import REQUEST, Port
from redline.runtime.experiment import Experiment
from redline.runtime.in_process import Loop
from redline.runtime.parts import Parts
from redline.runtime.replicas.global_replay import Desk, GlobalReplay
from redline.runtime.replicas.locks import Locks
from redline.runtime.replicas.memory import Memory
from redline.runtime.replicas.reducers import Rows, SharedReducer, TorchReducer
from redline.runtime.replicas.servers import TURN, Line, Post
from redline.runtime.replicas.share import share_parts
from redline.types import Interruption, Metrics, Spec


def copy_state(parts: Parts, loop: Loop) -> dict[str, Any]:
    """What a copy alone knows: its environments and what its learner does not share."""
    learner = parts.learner
    return {
        "loop": loop.state(),
        "generator": learner.generator.get_state(),
        "rewards": learner.rewards.state(),
        "exchange": learner.exchange.state(),
    }


def load_copy_state(parts: Parts, loop: Loop, state: dict[str, Any]) -> bool:
    """Go back to what ``copy_state`` gave; False where episodes in progress could not be."""
    learner = parts.learner
    learner.generator.set_state(state["generator"].cpu())
    learner.rewards.load_state(state["rewards"])
    learner.exchange.load_state(state["exchange"])
    return loop.load_state(state["loop"])


@dataclass
class ReplicaJob:
    """What one copy needs to know. Its architecture brings ``locks``, a ``post`` and perhaps a ``desk``, ``rows`` or a
    ``meeting``."""

    name: str
    role: int
    experiment: Experiment  # the run's, every automatic choice made
    spec: Spec
    memory: Memory
    locks: Locks | None = None
    post: Post | None = None
    desk: Desk | None = None
    rows: Rows | None = None
    meeting: int | None = None  # port of the place where the copies of a torch process group find each other
    reducer: SharedReducer | TorchReducer | None = field(default=None, init=False)

    def run(self, port: Port) -> None:
        """Train whenever a number comes, which is leave to work for a turn, until the run ends."""
        memory, role = self.memory, self.role
        board = memory.board

        def give_up() -> bool:
            return board.stopping or port.orphaned()

        parts = share_parts(
            self.experiment,
            self.spec,
            role,
            whole=lambda taken: memory.whole + taken,
            learns_from=lambda: memory.learns_from,
            life=board.live(role),
        )
        parts.watched = partial(Watched, board, role)
        device = parts.learner.device
        parts.learner.share(self.make_exchange(lambda: give_up() or memory.abandoned, device))
        loop = in_process.make_loop(parts, self._global_replay(give_up))
        if board.taken[role] and self._replays(loop):
            loop.refill()  # this copy had one before it, and what that one remembered is lost
        waited, self._before = 0.0, board.role_events(role)  # of copies that had this role before
        try:
            while True:
                begin = time.perf_counter()
                number = port.get()
                waited += time.perf_counter() - begin
                if number == REQUEST:
                    port.answer(self._answer(parts, loop, *port.request()))
                    continue
                work = self._turn if self.reducer is None else self._together
                metrics = work(loop, give_up)
                self._report(parts, loop, metrics, waited)
                port.put(number)
        finally:
            loop.close()
            parts.close()
            self._close_reducer()

    def make_exchange(self, give_up: Any, device: torch.device) -> Exchange:
        """The end of this copy, whose learner is on ``device``, by the run's architecture.

        give_up: asked while waiting for others.
        """
        experiment, memory, role = self.experiment, self.memory, self.role
        parallel, config = experiment.parallel, experiment.learner
        if parallel.architecture == "a3c":
            return Race(memory.central(), role, config)
        if self.locks is not None:
            return ChunkLocked(memory.central(), role, config, list(self.locks))
        if self.post is not None:
            lines = [
                Line(self.post, server, role, give_up, waits=parallel.queue == 0)
                for server in range(len(self.post.slices))
            ]
            return ToServers(lines, config, OutlierRule(parallel.outlier), fetch_every=parallel.fetch_every)
        summed = getattr(experiment.algorithm, "reduction", "mean") == "sum"
        return AllReduce(self.make_reducer(give_up, device), summed=summed)

    def _global_replay(self, give_up: Any) -> GlobalReplay | None:
        """This copy's end of the replay that all share, where there is one."""
        if self.desk is None:
            return None
        assert self.experiment.replay is not None
        waits = self.experiment.parallel.queue == 0
        return GlobalReplay(self.desk, self.role, self.experiment.replay, give_up, waits=waits)

    def make_reducer(self, give_up: Any, device: torch.device) -> SharedReducer | TorchReducer:
        """The end of this copy where copies meet. NCCL wants every copy to come with a device of its own."""
        if self.rows is not None:
            self.reducer = SharedReducer(self.rows, self.role, give_up)
        else:
            assert self.meeting is not None
            self.reducer = TorchReducer(self.meeting, self.role, self.experiment.parallel.copies, device)
        return self.reducer

    def _close_reducer(self) -> None:
        if self.reducer is not None:
            self.reducer.close()

    def _turn(self, loop: Loop, give_up: Any) -> Metrics:
        """Train for a turn at this copy's own pace."""
        memory, total = self.memory, self.experiment.run.steps
        end = time.perf_counter() + TURN
        metrics: Metrics = {}
        while not (give_up() or memory.paused) and (whole := memory.whole) < total:
            own = int(memory.board.taken[self.role])
            steps = own if self._replays(loop) else whole
            try:
                taken, metrics = loop.iterate(steps, whole / total, give_up)
            except Interruption:
                break
            memory.board.taken[self.role] += taken
            if time.perf_counter() >= end:
                break
        return metrics

    @staticmethod
    def _replays(loop: Loop) -> TypeGuard[in_process.ReplayLoop]:
        """Whether the loop counts its own steps and asks for those of the run."""
        return isinstance(loop, in_process.ReplayLoop)

    def _together(self, loop: Loop, give_up: Any) -> Metrics:
        """One iteration in step with all other copies, at the step that the board shows."""
        steps, total = self.memory.board.steps, self.experiment.run.steps
        stop = bool if self._replays(loop) else lambda: give_up() or self.memory.abandoned
        try:
            taken, metrics = loop.iterate(steps, min(steps / total, 1.0), stop)
        except Interruption:
            return {}
        self.memory.board.taken[self.role] += taken
        return metrics

    def _report(self, parts: Parts, loop: Loop, metrics: Metrics, waited: float) -> None:
        memory, role = self.memory, self.role
        memory.reports.write_episodes(role, loop.finished_episodes(), parts.place.first_column)
        if metrics:
            memory.reports.write_metrics(role, metrics)
        memory.board.write_clock(role, loop.clock | {"waiting": waited})
        exchange = parts.learner.exchange
        outliers = {"outliers": exchange.outliers} if isinstance(exchange, ToServers) else {}
        memory.board.write_events(role, total(self._before, loop.events(), outliers))

    def _answer(self, parts: Parts, loop: Loop, what: str, argument: Any) -> Any:
        learner = parts.learner
        if what == "state":
            return copy_state(parts, loop)
        if what == "load_state":
            return load_copy_state(parts, loop, argument)
        if what == "refill":
            if self._replays(loop):
                loop.refill()
            return True
        if what == "adopt":  # the learner's state of copy 0, but for what each copy has of its own
            # Returns under way are its environments' own; moments are pooled, so those of all are the same.
            shared = {"moments": argument["learner"]["rewards"]["moments"]}
            own = {
                "generator": learner.generator.get_state(),
                "rewards": learner.rewards.state() | shared,
            }
            learner.load_state(argument["learner"] | own)
            assert self.reducer is not None
            self.reducer.start_over(argument["generation"])
            return True
        if what == "weights":
            return learner.flat.clone()
        raise ValueError(f"a copy is not asked {what!r}")
