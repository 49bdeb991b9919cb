"""The main role of copies that step together (Accel RL's synchronous way): it is copy 0 itself.

Every copy collects its share of an unroll, and at each update all meet, average their gradients and step alike. When
a copy dies, the others give up the update they wait in; once it has been started again all adopt the weights and
statistics of copy 0, and the iteration is begun anew. Copies with replays then wait until the successor's has filled:
an update that one of them does not make would leave the others waiting for ever.
"""

from __future__ import annotations

import time
from typing import Any, ClassVar

from redline.architectures.model import Architecture
from redline.runtime import in_process
from redline.runtime.crew.board import patience, total, working
from redline.runtime.crew.processes import ProcessCrew
from redline.runtime.crew.shares import Shares
from redline.runtime.crew.threads import Crew, ThreadCrew
from redline.runtime.experiment import Experiment, uses_replay
from redline.runtime.in_process import Loop, Stop
from redline.runtime.parts import Parts
from redline.runtime.replicas.job import ReplicaJob, copy_state, load_copy_state
from redline.runtime.replicas.memory import Memory
from redline.runtime.replicas.reducers import Abandoned, MeetingPlace, Rows
from redline.runtime.replicas.share import check_shares, share_parts
from redline.types import Episode, Gauges, Interruption, Metrics, RunError

ANSWER = 2.5  # seconds for a copy to tell its state
START = 120.0  # seconds for copies to start
PATIENCE = 0.05  # seconds between looks at whether the run shall stop


class SynchronousLoop:
    """Copy 0, and the others beside it. ``iterate`` is one iteration of all."""

    needs: ClassVar[tuple[str, ...]] = ("copies", "taken")

    def __init__(self, parts: Parts, architecture: Architecture) -> None:
        self.parts = parts
        experiment, learner = parts.experiment, parts.learner
        parallel = experiment.parallel
        self.copies = parallel.copies
        shared = parallel.runtime == "processes"
        check_shares(experiment, parts.spec)
        self.memory = memory = Memory(self.copies, 0, shared=shared)
        self.own = share_parts(
            experiment, parts.spec, 0, learns_from=lambda: memory.learns_from, learner=learner
        )
        self.rows: Rows | None = None
        self.place: MeetingPlace | None = None
        if parallel.collective == "torch":
            self.place = MeetingPlace()
        else:
            statistics = sum(buffer.numel() for buffer in learner.network.buffers())
            self.rows = Rows(
                self.copies, 4 * (learner.flat.numel() + 64) + 16 * (statistics + 8), shared=shared
            )
        every = [
            ReplicaJob(
                f"{architecture.acting.name}-{role}",
                role,
                experiment,
                parts.spec,
                self.memory,
                rows=self.rows,
                meeting=None if self.place is None else self.place.port,
            )
            for role in range(self.copies)
        ]
        self._me = every[0]
        self._deaths = self._successors = 0  # deaths made good, and copies that were started again
        self._back: set[int] = set()  # copies whose iteration is over, and those started again since
        self._generation = 0
        self._unfilled = _fill(
            experiment
        )  # agent steps, from the next iteration on, before replays are learned from
        self._shares = Shares()
        jobs: list[Any] = every[1:]
        wait = patience(self.memory.board, experiment.environment.step_timeout, first=1)
        self.crew: Crew = ProcessCrew(jobs, patience=wait) if shared else ThreadCrew(jobs, patience=wait)
        try:
            learner.share(self._me.make_exchange(self._lost, learner.device))
            self.loop: Loop = in_process.make_loop(self.own)
        except BaseException:
            self._close()
            raise

    @property
    def clock(self) -> dict[str, float]:
        """Seconds of copy 0's wall clock."""
        return self.loop.clock

    def _hear(self, timeout: float) -> None:
        for other, _ in self.crew.wait(timeout):
            self._back.add(1 + other)
        for other in self.crew.revived():
            self._back.add(1 + other)
            self._successors += 1

    @property
    def _restarts(self) -> int:
        """Deaths so far, of copies that have a successor and of those that will have one."""
        return self.crew.events().get("restarts", 0)

    def _lost(self) -> bool:
        """Whether a copy that is waited for will not come: asked while copy 0 waits at an update."""
        if self.copies > 1:
            self._hear(0.0)
        return self._restarts > self._deaths or self.own.learner.stop()

    def iterate(self, steps: int, fraction: float, stop: Stop) -> tuple[int, Metrics]:
        """One iteration of every copy; returns the agent steps of all."""
        board = self.memory.board
        board.steps = steps
        if self._unfilled:
            self.memory.learns_from = max(self.memory.learns_from, steps + self._unfilled)
            self._unfilled = 0
        before = int(board.taken.sum())
        self._back = set()
        for other in range(self.copies - 1):
            self.crew.tell(other, 0)
        replays = isinstance(self.loop, in_process.ReplayLoop)
        self.own.learner.stop = stop
        try:
            taken, metrics = self.loop.iterate(steps, fraction, bool if replays else stop)
            self._gather(stop)
        except Interruption:
            self._abandon()
            if stop():
                raise
            self._recover(stop)
            return 0, {}
        board.taken[0] += taken
        self._report()
        return int(board.taken.sum()) - before, metrics

    def _gather(self, stop: Stop) -> None:
        while len(self._back) < self.copies - 1:
            self._hear(PATIENCE)
            if self._restarts > self._deaths:
                raise Abandoned
            if stop():
                raise Interruption

    def _report(self) -> None:
        memory = self.memory
        memory.reports.write_episodes(0, self.loop.finished_episodes(), 0)
        memory.board.write_clock(0, self.loop.clock)
        memory.board.write_events(0, self.loop.events())

    def _abandon(self) -> None:
        """Call off the iteration that the others are in; none of it counts."""
        self.memory.abandoned = True
        until = time.perf_counter() + ANSWER
        while len(self._back) < self.copies - 1 and time.perf_counter() < until:
            self._hear(PATIENCE)
            if self._restarts > self._deaths:
                break

    def _recover(self, stop: Stop) -> None:
        """After deaths: wait until nobody is missing, then go on from copy 0's weights and statistics.

        Another copy may die meanwhile, its iteration over or not: every death must have been followed by a successor.
        """
        until = time.perf_counter() + START
        self._unfilled = _fill(self.parts.experiment)  # a successor's replay is empty
        while True:
            self._hear(PATIENCE)
            deaths = self._restarts
            everyone = len(self._back) == self.copies - 1 and self._successors == deaths
            if everyone and self._align():
                self._deaths = deaths  # as many as before: who has died since is missed at the next update
                return
            if stop():
                raise Interruption
            if time.perf_counter() > until:
                raise RunError("not all copies came back after a death: go on by `redline resume`")

    def _align(self) -> bool:
        """All copies adopt copy 0's learner and meet from the start; False where one did not answer."""
        self._generation += 1
        if self.rows is not None:
            self.rows.start_over()
        assert self._me.reducer is not None
        self._me.reducer.start_over(self._generation)
        message = {"learner": self.own.learner.state(), "generation": self._generation}
        done = [
            bool(self.crew.ask(other, "adopt", message, timeout=START)) for other in range(self.copies - 1)
        ]
        self.memory.abandoned = False
        return all(done)

    def weights(self) -> list[Any]:
        """f32[P] of every copy."""
        return [
            self.own.learner.flat.clone(),
            *(self.crew.ask(other, "weights", timeout=ANSWER) for other in range(self.copies - 1)),
        ]

    def finished_episodes(self) -> list[Episode]:
        """Episodes ended since the last call, copy by copy."""
        return [episode for role in range(self.copies) for episode in self.memory.reports.read_episodes(role)]

    def events(self) -> dict[str, int]:
        """Crashes and hangs of environments, restarts of copies."""
        return total(self.memory.board.events(), self.crew.events())

    def gauges(self) -> Gauges:
        """Utilisation of the copies; staleness is zero."""
        busy = sum(working(self.memory.board.clock(role)) for role in range(self.copies)) / self.copies
        return Gauges(roles=self._shares.of({"replica": busy}), lag={"mean": 0.0}, lag_bound=0)

    def state(self) -> dict[str, Any]:
        """What each copy alone knows; None for one that did not answer in time."""
        others = [self.crew.ask(other, "state", timeout=ANSWER) for other in range(self.copies - 1)]
        return {
            "copies": [copy_state(self.own, self.loop), *others],
            "taken": self.memory.board.taken.tolist(),
            "learns_from": self.memory.learns_from,
        }

    def load_state(self, state: dict[str, Any]) -> bool:
        """Restore; False where episodes in progress could not be."""
        self._align()
        if len(state["copies"]) != self.copies:
            return False
        self.memory.board.taken[:] = state["taken"]
        own, *others = state["copies"]
        exact = [  # a list: every copy goes back to what it can, whatever the others could
            load_copy_state(self.own, self.loop, own),
            *(
                saved is not None and bool(self.crew.ask(other, "load_state", saved, timeout=START))
                for other, saved in enumerate(others)
            ),
        ]
        if all(saved is not None and saved["loop"].get("replay") is not None for saved in state["copies"]):
            self.memory.learns_from = int(state.get("learns_from", 0))  # older checkpoints have no such entry
            self._unfilled = 0 if all(exact) else _window(self.parts.experiment)
        return all(exact)

    def close(self) -> None:
        """End the copies; free what was shared. Safe to call twice."""
        self._close()
        self.loop.close()
        self.own.close()

    def _close(self) -> None:
        self.memory.board.stop()
        self.crew.close()
        if self._me.reducer is not None:
            self._me.reducer.close()
        self.memory.close()
        if self.rows is not None:
            self.rows.close()
        if self.place is not None:
            self.place.close()


def _window(experiment: Experiment) -> int:
    """Agent steps of the run in which every copy's replay gets something to draw; 0 where there is none.

    A transition can be drawn when the step n later is there, and a step enters after the updates made beside it.
    """
    if not uses_replay(experiment):
        return 0
    assert experiment.replay is not None
    return (experiment.replay.n_step + 2) * experiment.sampler.num_envs


def _fill(experiment: Experiment) -> int:
    """Agent steps of the run in which replays fill that begin empty."""
    return max(getattr(experiment.algorithm, "learning_starts", 0), _window(experiment))
