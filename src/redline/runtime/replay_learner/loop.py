"""Ape-X's arrangement (Horgan et al. 2018): actors -> sharded prioritised replay -> learner.

    actor: newest weights -> T steps into a slot, first priorities beside them -> its number
    replay: a slot's rows go into its actor's shard, the slot goes back at once; batches come from the union
    learner: batch -> update -> priorities back to the replay, weights down to the actors

Nothing is a barrier: learner and actors run at their own rates. With ``queue=0`` they take turns instead, one time
step at a time, and a run equals the in-process one bit for bit.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from redline.architectures.model import Architecture
from redline.runtime.crew.crews import START, Muster, muster_actors
from redline.runtime.crew.weights import Publication
from redline.runtime.in_process import CHUNK, Stop
from redline.runtime.parts import Parts
from redline.runtime.replay_learner.feeder import Feeder
from redline.runtime.replay_learner.pace import Pace
from redline.types import Episode, Gauges, Interruption, Metrics, ReplayBatch, tree_leaves

PATIENCE = 0.05  # seconds between looks at whether the run shall stop
SLICE = 0.1  # seconds of one iteration, so that the run may be shown, saved and stopped
LARGE_BATCH = (
    2**20
)  # bytes from which a batch is worth gathering beside the update (a hand-over costs about 50 us)


class ReplayLearnerLoop:
    """The learner's side, and the replay's. ``iterate`` collects and learns for a while."""

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
        self.muster: Muster = muster_actors(parts, 1 + edge.capacity)
        try:
            self.feeder = Feeder(parts, self.muster, soft=not self.lock_step)
        except BaseException:
            self.muster.close()
            raise
        self.num_envs = experiment.sampler.num_envs
        round_steps = parallel.slot * self.num_envs
        self.pace = Pace(parts.algorithm, round_steps=round_steps, ratio=parallel.replay_ratio)
        self._publish_every = 1 if self.lock_step else parallel.publish_every
        self._publication = Publication(learner)
        self._idle = [(actor, slot) for actor in range(self.copies) for slot in range(1 + edge.capacity)]
        self._out: set[tuple[int, int]] = set()  # slots with their actors
        self._uncounted = 0  # agent steps taken in while the run was being saved
        self._episodes: list[Episode] = []
        self._waiting_slots: deque[int] = deque([0], maxlen=100)  # found full, look by look
        self._beside: ThreadPoolExecutor | None = None
        self._ahead: ReplayBatch | None = None  # drawn while the last update ran
        self.last: Metrics = {}
        self.learning = self.waiting = 0.0
        self._begun = time.perf_counter()

    @property
    def clock(self) -> dict[str, float]:
        """Seconds of the main thread's wall clock: updates, the replay's upkeep, and waiting for actors."""
        return {"waiting": self.waiting, "learning": self.learning, "replay": self.feeder.seconds}

    def iterate(self, steps: int, fraction: float, stop: Stop) -> tuple[int, Metrics]:
        """Collect and learn for about ``CHUNK`` agent steps or ``SLICE`` seconds."""
        self.parts.learner.set_progress(fraction)
        run = self._take_turns if self.lock_step else self._run_freely
        taken = run(steps, fraction, stop)
        return taken, {name: float(value) for name, value in self.last.items()} | self.feeder.lag()

    def _take_turns(self, steps: int, fraction: float, stop: Stop) -> int:
        """The order of ``ReplayLoop``: actors act and step, meanwhile come the updates that are due, then the step is
        stored. Weights are published between two steps, never during one."""
        algorithm, learner = self.parts.algorithm, self.parts.learner
        taken = 0
        while taken < CHUNK and not stop():
            self.muster.board.steps = steps + taken
            self.muster.weights.publish(self._publication.views(), learner.version)
            self._hand_out()
            before, taken = steps + taken, taken + self.num_envs
            due = algorithm.due(steps + taken, self.num_envs) if len(self.feeder.replay) else 0
            for _ in range(due):
                self._update(fraction)
            if algorithm.target_due(before, steps + taken):
                learner.copy_target()
            self._await_all(stop)
        return taken

    def _await_all(self, stop: Stop) -> None:
        begin, upkeep = time.perf_counter(), self.feeder.seconds
        arrived: list[tuple[int, int]] = []
        while len(arrived) < self.copies:
            arrived += self.muster.crew.wait(PATIENCE)
            self._revive()
            if self._idle and len(arrived) < self.copies:
                self._hand_out()
            if stop() and len(arrived) < self.copies:
                raise Interruption
        for actor, slot in sorted(arrived):
            self.pace.produced += self._take(actor, slot)
        self.waiting += time.perf_counter() - begin - (self.feeder.seconds - upkeep)

    def _run_freely(self, steps: int, fraction: float, stop: Stop) -> int:
        taken, self._uncounted = self._uncounted, 0
        end = time.perf_counter() + SLICE
        self._publish(force=True)
        while not stop() and taken < CHUNK and time.perf_counter() < end:
            ready = self.pace.may_update() and len(self.feeder.replay) > 0
            before = steps + taken
            taken += self._drain(before, 0.0 if ready else PATIENCE)
            if self.parts.algorithm.target_due(before, steps + taken):
                self.parts.learner.copy_target()
            if ready:
                self._update(fraction)
                self.pace.updated()
                self._publish()
        return taken

    def _drain(self, steps: int, timeout: float) -> int:
        """Take in all full slots and hand free ones out; returns agent steps that came."""
        begin, upkeep = time.perf_counter(), self.feeder.seconds
        self._hand_out()
        arrived = self.muster.crew.wait(timeout)
        self._waiting_slots.append(len(arrived))
        taken = 0
        for actor, slot in arrived:
            count = self._take(actor, slot)
            taken += count
            self.pace.came(steps + taken, count)
        self._revive()
        self.muster.board.steps = steps + taken
        self._hand_out()
        self.waiting += time.perf_counter() - begin - (self.feeder.seconds - upkeep)
        return taken

    def _take(self, actor: int, slot: int) -> int:
        """Copy a full slot into the replay: from now on it is free."""
        self._out.discard((actor, slot))
        self._idle.append((actor, slot))
        self._episodes += self.muster.episodes(actor, slot)
        return self.feeder.add(actor, slot)

    def _hand_out(self) -> None:
        if not self.pace.may_act():
            return
        for actor, slot in self._idle:
            self._out.add((actor, slot))
            self.muster.crew.tell(actor, slot)
        self._idle.clear()

    def _revive(self) -> None:
        """Actors that were started anew begin new episodes; what they had not finished is handed out again. All that
        the dead had announced has been taken in before."""
        for actor in self.muster.crew.revived():
            if self.feeder.replay.shards[actor].storage.head:
                self.feeder.replay.break_episodes(actor)
            lost = sorted(key for key in self._out if key[0] == actor)
            self._out.difference_update(lost)
            self._idle += lost

    def _update(self, fraction: float) -> None:
        """One update; a large next batch is drawn beside it, before this one's priorities are known."""
        learner, feeder = self.parts.learner, self.feeder
        batch = self._ahead if self._ahead is not None else feeder.draw(fraction, learner.version)
        self._ahead = None
        index = batch.index
        beside = None
        if not self.lock_step and _nbytes(batch) >= LARGE_BATCH:
            self._beside = self._beside or ThreadPoolExecutor(1, "redline-replay")
            beside = self._beside.submit(feeder.draw, fraction, learner.version + 1)
        begin = time.perf_counter()
        try:
            if learner.device.type == "cuda":
                batch = batch.map(lambda x: x.to(learner.device, non_blocking=True))
            self.last, errors = self.parts.algorithm.update(learner, batch)
            measured = errors.cpu().numpy()
        finally:
            self._ahead = beside.result() if beside is not None else None
        self.learning += time.perf_counter() - begin
        feeder.learned(index, measured)

    def _publish(self, *, force: bool = False) -> None:
        """Weights of the newest update, every so many of them."""
        version = self.parts.learner.version
        published = self.muster.weights.version
        if version != published and (force or version - published >= self._publish_every):
            self.muster.weights.publish(self._publication.views(), version)

    def finished_episodes(self) -> list[Episode]:
        """Episodes ended since the last call."""
        ended, self._episodes = self._episodes, []
        return ended

    def events(self) -> dict[str, int]:
        """Crashes and hangs of environments, restarts of actors."""
        return self.muster.board.events() | self.muster.crew.events()

    def gauges(self) -> Gauges:
        """Utilisation of each role, full slots found waiting, transitions in replay, lag and replay ratio."""
        seconds = max(time.perf_counter() - self._begun, 1e-9)
        return Gauges(
            roles={
                "actor": self.muster.utilisation(seconds),
                "replay": min(self.feeder.seconds / seconds, 1.0),
                "learner": min(self.learning / seconds, 1.0),
            },
            queues={
                "unrolls": float(np.mean(self._waiting_slots)),
                "replay": float(len(self.feeder.replay)),
            },
            lag={name.removeprefix("lag_"): float(value) for name, value in self.feeder.lag().items()},
            replay_ratio=self.pace.replay_ratio,
        )

    def state(self) -> dict[str, Any]:
        """The actors' states (None for one that did not answer in time), and unless the run leaves it out the replay,
        with all that the actors had finished when they told their state."""
        actors = self.muster.ask_all("state")
        for actor, slot in self.muster.crew.wait(0.0):
            count = self._take(actor, slot)
            self._uncounted += count
            self.pace.came(self.muster.board.steps + self._uncounted, count)
        saved = self.feeder.replay.state() if self.parts.experiment.run.save_replay else None
        return {
            "actors": actors,
            "replay": saved,
            "pace": self.pace.state(),
            "uncounted": self._uncounted,
            "last": {name: float(value) for name, value in self.last.items()},
        }

    def load_state(self, state: dict[str, Any]) -> bool:
        """Restore; False where episodes in progress or the replay could not be."""
        self.last, self._ahead = dict(state["last"]), None
        restored = [
            saved is not None and bool(self.muster.crew.ask(actor, "load_state", saved, timeout=START))
            for actor, saved in enumerate(state["actors"])
        ]
        if state["replay"] is None:
            return False
        self.feeder.replay.load_state(state["replay"])
        self.pace.load_state(state["pace"])
        self._uncounted = int(state["uncounted"])
        for actor, exact in enumerate(restored):
            if not exact:
                self.feeder.replay.break_episodes(actor)
        return all(restored)

    def close(self) -> None:
        """End the actors; free what was shared."""
        if self._beside is not None:
            self._beside.shutdown()
        self.muster.close()


def _nbytes(batch: ReplayBatch) -> int:
    return sum(leaf.nbytes for leaf in tree_leaves(batch.observation))
