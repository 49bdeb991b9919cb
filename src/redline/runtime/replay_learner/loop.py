"""Ape-X's arrangement (Horgan et al. 2018): actors -> sharded prioritised replay -> learner.

    actor: newest weights -> T steps into a slot, first priorities beside them -> its number
    replay: a slot's rows go into its actor's shard, the slot goes back at once; batches come from the union
    learner: batch -> update -> priorities back to the replay, weights down to the actors

Nothing is a barrier: learner and actors run at their own rates. With ``queue=0`` they take turns instead, one time
step at a time, and a run equals the in-process one bit for bit.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np

from redline.architectures.model import Architecture
from redline.learners.transfer import Transfer
from redline.runtime.crew.board import total
from redline.runtime.crew.crews import START, Muster, muster_actors
from redline.runtime.crew.shares import Shares
from redline.runtime.crew.weights import Publication
from redline.runtime.in_process import CHUNK, Stop
from redline.runtime.parts import Parts
from redline.runtime.replay_learner.apart import Distant
from redline.runtime.replay_learner.feeder import Feeder
from redline.runtime.replay_learner.intake import PATIENCE, Intake
from redline.runtime.replay_learner.job import Numbers, ReplayJob, Shelves
from redline.runtime.replay_learner.pace import Pace
from redline.types import Episode, Gauges, Interruption, Metrics, ReplayBatch, RunError, tree_leaves

SLICE = 0.1  # seconds of one iteration, so that the run may be shown, saved and stopped
LARGE_BATCH = (
    2**20
)  # bytes from which a batch is worth gathering beside the update (a hand-over costs about 50 us)


class ReplayLearnerLoop:
    """The learner's side, and the replay's. ``iterate`` collects and learns for a while."""

    needs: ClassVar[tuple[str, ...]] = ("actors", "replay", "pace", "uncounted", "last", "lags")

    def __init__(self, parts: Parts, architecture: Architecture) -> None:
        self.parts, self.architecture = parts, architecture
        experiment, learner = parts.experiment, parts.learner
        parallel = experiment.parallel
        edge = architecture.edge("unroll")
        assert edge is not None
        self.copies = architecture.role(edge.source).copies
        self.lock_step = edge.capacity == 0
        if learner.target is None:
            learner.make_target()
        self.num_envs = experiment.sampler.num_envs
        round_steps = parallel.slot * self.num_envs
        paced = parts.algorithm.paced and not self.lock_step
        self.pace = Pace(parts.algorithm, paced=paced, round_steps=round_steps, ratio=parallel.replay_ratio)
        self.muster, self.feeder = _muster(parts, 1 + edge.capacity, soft=not self.lock_step)
        self.intake = Intake(self.muster, self.feeder, self.pace, 1 + edge.capacity)
        self._publish_every = parallel.publish_every
        self._publication = Publication(learner)
        self._transfer = Transfer(parts.learner.device)
        self._beside: ThreadPoolExecutor | None = None
        self._ahead: ReplayBatch | None = None  # drawn while the last update ran
        self._counted = 0  # agent steps told of
        self._uncounted = 0  # of a restored run, that came in too late to be told of
        self.last: Metrics = {}
        self.learning = self.waiting = 0.0
        self._shares = Shares()

    @property
    def clock(self) -> dict[str, float]:
        """Seconds of the learner's wall clock: updates, and waiting for experience or a batch."""
        return {"waiting": self.waiting, "learning": self.learning}

    def iterate(self, steps: int, fraction: float, stop: Stop) -> tuple[int, Metrics]:
        """Collect and learn for about ``CHUNK`` agent steps or ``SLICE`` seconds."""
        self.parts.learner.set_progress(fraction, steps)
        with self.intake.lock:  # the intake counts on meanwhile
            self.intake.total = max(self.intake.total, steps + self._uncounted)
        self._uncounted = 0
        self._counted = (self._take_turns if self.lock_step else self._run_freely)(steps, fraction, stop)
        return self._counted - steps, {name: float(value) for name, value in self.last.items()}

    def _take_turns(self, steps: int, fraction: float, stop: Stop) -> int:
        """The order of ``ReplayLoop``: actors act and step, meanwhile come the updates that are due, then the step is
        stored. Weights are published between two steps, never during one. Returns the agent steps of the run."""
        algorithm, learner = self.parts.algorithm, self.parts.learner
        end = self.intake.total + CHUNK
        while self.intake.total < end and not stop():
            before = self.intake.total
            after = before + self.num_envs
            self._publish(1)
            self.muster.board.steps = before
            self.intake.hand_out()
            for _ in range(algorithm.due(after, self.num_envs) if self.feeder.size else 0):
                self._update(fraction)
            if algorithm.target_due(before, after):
                learner.copy_target()
            begin = time.perf_counter()
            while self.intake.total < after:
                self.intake.take_in(PATIENCE)
                self.intake.hand_out(lost=True)
                if stop():
                    raise Interruption
            self.waiting += time.perf_counter() - begin
        return self.intake.total

    def _run_freely(self, steps: int, fraction: float, stop: Stop) -> int:
        """Update while there is something to learn from; experience comes in meanwhile.

        Returns the agent steps up to which the target network was looked after: what comes in during the last update,
        or between two slices, is the next slice's to look at.
        """
        intake, algorithm = self.intake, self.parts.algorithm
        end, seen = time.perf_counter() + SLICE, steps
        intake.go()
        while not stop():
            with intake.came:
                intake.check()
                ready = self.pace.may_update() and self.feeder.ready(fraction)
                if not ready:
                    begin = time.perf_counter()
                    intake.came.wait(PATIENCE)
                    self.waiting += time.perf_counter() - begin
                before, seen = seen, intake.total
            if algorithm.target_due(before, seen):
                self.parts.learner.copy_target()
            if ready:
                self._update(fraction)
                self._publish(self._publish_every)
            if seen - steps >= CHUNK or time.perf_counter() >= end:
                break
        return seen

    def _update(self, fraction: float) -> None:
        """One update; a large next batch is drawn beside it, before this one's priorities are known."""
        learner = self.parts.learner
        begin = time.perf_counter()
        batch = self._ahead if self._ahead is not None else self._draw(fraction, learner.version)
        self._ahead = None
        index, beside = batch.index, None
        self.waiting += time.perf_counter() - begin
        if not (self.lock_step or self.feeder.ahead) and _nbytes(batch) >= LARGE_BATCH:
            self._beside = self._beside or ThreadPoolExecutor(1, "redline-draw")
            beside = self._beside.submit(self._draw, fraction, learner.version + 1)
        begin = time.perf_counter()
        try:
            self.last, errors = self.parts.algorithm.update(learner, self._transfer(batch))
            measured = errors.cpu().numpy()
        finally:
            learned = time.perf_counter()
            self._ahead = beside.result() if beside is not None else None
        self.learning += learned - begin
        with self.intake.lock:
            self.feeder.learned(index, measured)
            self.pace.updated()
        self.waiting += time.perf_counter() - learned

    def _draw(self, fraction: float, version: int) -> ReplayBatch:
        with self.intake.lock:
            return self.feeder.draw(fraction, version)

    def _publish(self, every: int) -> None:
        """Weights, unless those of less than ``every`` updates ago are there already."""
        version = self.parts.learner.version
        if version - self.muster.weights.version >= every:
            self.muster.weights.publish(self._publication.views(), version)

    def finished_episodes(self) -> list[Episode]:
        """Episodes ended since the last call."""
        with self.intake.lock:
            ended, self.intake.episodes = self.intake.episodes, []
        return ended

    def events(self) -> dict[str, int]:
        """Crashes and hangs of environments, restarts of actors."""
        return total(self.muster.board.events(), self.muster.crew.events())

    def gauges(self) -> Gauges:
        """Utilisation of each role, full slots found waiting, transitions in replay, lag and replay ratio."""
        with self.intake.lock:
            busy = self.muster.busy() | {"replay": self.feeder.seconds, "learner": self.learning}
            return Gauges(
                roles=self._shares.of(busy),
                queues={
                    "unrolls": float(np.mean(self.intake.waited)),
                    "replay": float(self.feeder.size),
                },
                lag=self.feeder.lags.metrics(),
                replay_ratio=self.pace.replay_ratio,
            )

    def state(self) -> dict[str, Any]:
        """The actors' states (None for one that did not answer in time), and unless the run leaves it out the replay,
        with all that the actors had finished when they told their state. Nothing comes in until ``iterate``."""
        self.intake.pause()
        actors = self.muster.ask_all("state")
        self.intake.take_in(0.0)
        saved = self.feeder.state() if self.parts.experiment.run.save_replay else None
        return {
            "actors": actors,
            "replay": saved,
            "pace": self.pace.state(),
            "uncounted": self._uncounted + self.intake.total - self._counted,
            "last": {name: float(value) for name, value in self.last.items()},
            "lags": self.feeder.lags.state(),
        }

    def load_state(self, state: dict[str, Any]) -> bool:
        """Restore; False where episodes in progress or the replay could not be."""
        if (saved := len(state["actors"])) != len(self.muster.slots):
            raise RunError(
                f"the checkpoint is of {saved} actors, config.yaml asks for {len(self.muster.slots)}: "
                f"set parallel.copies={saved}"
            )
        self.last, self._ahead = dict(state["last"]), None
        self._uncounted = int(state["uncounted"])
        self.feeder.lags.load_state(state["lags"])
        self.muster.weights.publish(self._publication.views(), self.parts.learner.version)
        restored = [
            told is not None and bool(self.muster.crew.ask(actor, "load_state", told, timeout=START))
            for actor, told in enumerate(state["actors"])
        ]
        self.pace.load_state(state["pace"])
        if state["replay"] is None:
            self.pace.emptied()
            return False
        self.feeder.load_state(state["replay"])
        for actor, exact in enumerate(restored):
            if not exact:
                self.feeder.break_episodes(actor)
        return all(restored)

    def close(self) -> None:
        """End the actors; free what was shared."""
        self.intake.pause()
        if self._beside is not None:
            self._beside.shutdown()
        self.muster.close()
        self.feeder.close()


def _muster(parts: Parts, slots_each: int, *, soft: bool) -> tuple[Muster, Feeder | Distant]:
    """Actors, and a replay: beside the learner, or in a process of its own."""
    experiment, spec = parts.experiment, parts.spec
    if experiment.parallel.replay == "thread":
        muster = muster_actors(parts, slots_each)
        pinned = parts.learner.device.type == "cuda"
        try:
            return muster, Feeder(experiment, spec, muster.slots, soft=soft, pin_memory=pinned)
        except BaseException:
            muster.close()
            raise
    assert experiment.replay is not None
    shelves = Shelves(spec, int(experiment.algorithm.batch))  # type: ignore[union-attr]
    numbers = Numbers(experiment.parallel.copies, slots_each)
    try:
        muster = muster_actors(
            parts, slots_each, lambda slots: [ReplayJob("replay", experiment, spec, slots, shelves, numbers)]
        )
    except BaseException:
        shelves.close()
        raise
    return muster, Distant(experiment.replay, muster.slots, shelves, numbers, muster.crew)


def _nbytes(batch: ReplayBatch) -> int:
    return sum(leaf.nbytes for leaf in tree_leaves(batch.observation))
