"""The main role of copies that train at their own pace (A3C, Gorila, Accel RL's asynchronous way).

It supervises: hands out turns, counts steps and episodes, shows staleness, and copies the shared weights into the run's
learner, which Training evaluates and saves. A copy has two turns at hand, so that it never waits for this role.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any, ClassVar

import numpy as np
import torch

from redline.architectures.model import Architecture
from redline.learners.exchanges.central import Central
from redline.runtime.crew.board import CLOCK, patience, total, working
from redline.runtime.crew.processes import ProcessCrew
from redline.runtime.crew.shares import Shares
from redline.runtime.crew.threads import Crew, ThreadCrew
from redline.runtime.in_process import Stop
from redline.runtime.parts import Parts
from redline.runtime.replicas.global_replay import GlobalReplayJob, make_desk
from redline.runtime.replicas.job import ReplicaJob
from redline.runtime.replicas.locks import Locks
from redline.runtime.replicas.memory import Memory
from redline.runtime.replicas.servers import TURN, Post, ServerJob, publish_all
from redline.runtime.replicas.share import check_shares
from redline.types import Episode, Gauges, Interruption, Metrics, lag_gauges

TURNS = 2  # of a copy that may be at hand
REST = 3.0  # seconds for copies to come to rest before a checkpoint
ANSWER = 2.5  # seconds for a copy at rest to tell its state
START = 120.0  # seconds for copies to start and take a saved state


class ReplicaLoop:
    """Copies side by side, each with its share of the environments; ``iterate`` looks at what they have done."""

    needs: ClassVar[tuple[str, ...]] = ("copies", "central", "taken", "uncounted", "target")

    def __init__(self, parts: Parts, architecture: Architecture) -> None:
        self.parts = parts
        experiment, learner = parts.experiment, parts.learner
        parallel = experiment.parallel
        self.copies = parallel.copies
        shared = parallel.runtime == "processes"
        check_shares(experiment, parts.spec)
        size = learner.flat.numel()
        self.post = Post(size, parallel.servers, self.copies, shared=shared) if architecture.served else None
        servers = len(self.post.slices) if self.post is not None else 0
        self.desk = make_desk(experiment, parts.spec, shared=shared) if architecture.has_replay else None
        self.memory = Memory(self.copies, servers + (self.desk is not None), shared=shared)
        self.central: Central = self.memory.make_central(size, servers or self.copies, experiment.learner)
        self.central.initialise(learner.flat.cpu())
        self.locks = Locks(parallel.servers, shared=shared) if architecture.name == "accel_async" else None
        jobs: list[Any] = [
            ReplicaJob(
                f"{architecture.acting.name}-{role}",
                role,
                experiment,
                parts.spec,
                self.memory,
                locks=self.locks,
                post=self.post,
                desk=self.desk,
            )
            for role in range(self.copies)
        ]
        if self.post is not None:
            publish_all(self.memory, self.post)
            jobs += [
                ServerJob(f"server-{k}", self.copies + k, k, experiment, self.memory, self.post)
                for k in range(servers)
            ]
        if self.desk is not None:
            jobs.append(GlobalReplayJob("replay", len(jobs), experiment, parts.spec, self.memory, self.desk))
        wait = patience(self.memory.board, experiment.environment.step_timeout, roles=self.copies)
        self.crew: Crew = ProcessCrew(jobs, patience=wait) if shared else ThreadCrew(jobs, patience=wait)
        self._turns = [0] * len(jobs)  # at hand of each role
        self._names = (architecture.acting.name, "server", "replay")
        self._counted = 0
        self._shares = Shares()

    @property
    def clock(self) -> dict[str, float]:
        """Seconds of the wall clock of a copy, averaged over them."""
        clocks = [self.memory.board.clock(role) for role in range(self.copies)]
        return {name: sum(clock[name] for clock in clocks) / len(clocks) for name in CLOCK}

    def _hand_out(self, first: int = 0) -> None:
        """Turns to all roles from ``first`` on."""
        for role, at_hand in enumerate(self._turns[first:], start=first):
            for _ in range(TURNS - at_hand):
                self.crew.tell(role, 0)
            self._turns[role] = max(at_hand, TURNS)

    def _hear(self, timeout: float) -> None:
        """Take back turns that are over; roles that were started anew have none."""
        for role, _ in self.crew.wait(timeout):
            self._turns[role] -= 1
        for role in self.crew.revived():
            self._turns[role] = 0

    def iterate(self, steps: int, fraction: float, stop: Stop) -> tuple[int, Metrics]:
        """What the copies have done in about a turn; returns agent steps that were not counted yet."""
        memory, total = self.memory, self.parts.experiment.run.steps
        memory.paused = False
        until = time.perf_counter() + TURN
        while True:
            self._hand_out()
            self._hear(max(until - time.perf_counter(), 0.0))
            if memory.whole >= total or time.perf_counter() >= until:
                break
            if stop():
                raise Interruption
        if memory.whole >= total:
            self._rest()
        taken, self._counted = memory.whole - self._counted, memory.whole
        self.parts.learner.set_progress(fraction, self._counted)
        self._adopt()
        return taken, memory.reports.read_metrics()

    def _rest(self) -> None:
        """Wait until no role is at work: weights, counts and states then belong together.

        Servers go on until the last gradient is applied: a bundle may be waiting for that.
        """
        self.memory.paused = True
        until = time.perf_counter() + REST
        while time.perf_counter() < until:
            waiting = any(each.waiting() for each in (self.post, self.desk) if each is not None)
            if any(self._turns[: self.copies]) or waiting:
                self._hand_out(self.copies)
            elif not any(self._turns):
                break
            self._hear(0.02)

    @torch.no_grad()
    def _adopt(self) -> None:
        """The shared weights become the run's learner's."""
        learner = self.parts.learner
        learner.adopt(self.central.weights)
        if learner.target is not None:
            learner.adopt_target(self.central.target)
        learner.version = self.updates

    @property
    def updates(self) -> int:
        """Gradients applied: to the most advanced slice, where servers have one each."""
        updates = self.central.updates
        return int(updates.max() if self.post is not None else updates.sum())

    @property
    def lags(self) -> Counter[int]:
        """Staleness in updates -> gradients applied with it (``LAGS - 1`` counts all that are older, too)."""
        return Counter({lag: count for lag, count in enumerate(self.central.lags.sum(0).tolist()) if count})

    def finished_episodes(self) -> list[Episode]:
        """Episodes ended since the last call, copy by copy."""
        return [episode for role in range(self.copies) for episode in self.memory.reports.read_episodes(role)]

    def events(self) -> dict[str, int]:
        """Crashes and hangs of environments, restarts of copies, gradients rejected as stale or as outliers."""
        return total(self.memory.board.events(), self.crew.events())

    def gauges(self) -> Gauges:
        """Utilisation of copies and servers, and staleness."""
        busy = [working(self.memory.board.clock(role)) for role in range(len(self._turns))]
        totals = {self._names[0]: float(np.mean(busy[: self.copies]))}
        if self.post is not None:
            totals[self._names[1]] = float(np.mean(busy[self.copies :][: len(self.post.slices)]))
        queues = {}
        if self.desk is not None:
            totals[self._names[2]] = busy[-1]
            queues["replay"] = float(self.desk.arrays["size"][0])
        # Servers reject what is older; nobody else does.
        bound = self.parts.experiment.parallel.max_staleness if self.post is not None else None
        lag = lag_gauges(self.lags)
        return Gauges(roles=self._shares.of(totals), queues=queues, lag=lag, lag_bound=bound)

    def state(self) -> dict[str, Any]:
        """Shared statistics, and what each copy can tell of itself (None for one that did not come to rest in time)."""
        self._rest()
        copies = [
            None if self._turns[role] else self.crew.ask(role, "state", timeout=ANSWER)
            for role in range(self.copies)
        ]
        self._adopt()
        target = self.post.region.arrays["target"].tolist() if self.post is not None else []
        return {
            "copies": copies,
            "central": self.central.state(),
            "taken": self.memory.board.taken.tolist(),
            "uncounted": self.memory.whole - self._counted,  # taken on the way to rest, and not told of yet
            "target": target,
            "replay": self._replay_state(),
        }

    def _replay_state(self) -> Any:
        """The global replay's, where there is one and the run saves it; None as well where it did not answer."""
        if self.desk is None or not self.parts.experiment.run.save_replay:
            return None
        return self.crew.ask(len(self._turns) - 1, "state", timeout=START)

    def load_state(self, state: dict[str, Any]) -> bool:
        """Restore; False where episodes in progress could not be."""
        taken, learner = self.memory.board.taken, self.parts.learner
        copies = state["copies"] if len(state["copies"]) == self.copies else [None] * self.copies
        if len(state["copies"]) == self.copies:  # only they take steps, whatever the number of servers
            taken[: self.copies] = state["taken"][: self.copies]
        else:
            taken[0] = sum(state["taken"])
        self._counted = self.memory.whole - int(state["uncounted"])
        self.central.initialise(learner.flat.cpu())
        self.central.load_state(state["central"], sliced=self.post is not None)
        if self.post is not None:
            marks = self.post.region.arrays["target"]
            marks[:] = (
                state["target"] if len(state["target"]) == len(marks) else max(state["target"], default=0)
            )
            publish_all(self.memory, self.post)
        remembers = self.desk is None or self._restore_replay(state["replay"])
        return all([self._restore_copy(role, saved, remembers) for role, saved in enumerate(copies)])

    def _restore_replay(self, state: Any) -> bool:
        """The global replay goes back to ``state``; False where it stays empty."""
        assert self.desk is not None
        if state is None or len(state["shards"]) != self.copies:
            return False
        return bool(self.crew.ask(len(self._turns) - 1, "load_state", state, timeout=START))

    def _restore_copy(self, role: int, saved: Any, remembers: bool) -> bool:
        """A copy goes back to ``saved``; False where its episodes, or what it learns from, begin anew."""
        exact = saved is not None and bool(self.crew.ask(role, "load_state", saved, timeout=START))
        if saved is None or not remembers:
            self.crew.ask(role, "refill", timeout=START)
        return exact and remembers

    def close(self) -> None:
        """End the copies; free what was shared. Safe to call twice."""
        self.memory.board.stop()
        self.crew.close()
        for each in (self.memory, self.post, self.desk, self.locks):
            if each is not None:
                each.close()
