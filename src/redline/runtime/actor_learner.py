"""Actors beside one learner, as in IMPALA: unrolls come up in slots, weights go down, lag is bounded and known.

    actor: newest weights -> T steps into a slot -> its number      learner: numbers -> batch -> update -> publish

Unrolls are learned from oldest first. Before a batch that would make some unroll on its way too old, the learner waits
for that unroll (or, told to drop late ones, goes on and throws it away when it comes), so the bound that the
architecture states is never exceeded.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from redline.architectures.model import Architecture, held, lag_bound
from redline.learners.transfer import Transfer
from redline.runtime.crew.board import total
from redline.runtime.crew.crews import Muster, muster_actors
from redline.runtime.crew.shares import Shares
from redline.runtime.crew.slots import Gatherer
from redline.runtime.crew.weights import Publication
from redline.runtime.experiment import unroll_replay
from redline.runtime.in_process import Stop
from redline.runtime.parts import Parts
from redline.types import Episode, Gauges, Interruption, Metrics, Unroll, UserError, lag_gauges, tree_map

NOT_BEGUN = -1  # instead of a version
PATIENCE = 0.1  # seconds between looks at whether the run shall stop


@dataclass
class Flight:
    """One slot on its way: since when, and whether it has come."""

    since: int  # batches that its weights have learned from, at least: as many as when it was handed out, or begun
    arrived: bool = False
    order: int = 0  # of arrival
    void: bool = False  # to be thrown away when it comes


class Pacer:
    """Chooses which unrolls make the next batch, and keeps to the bound on lag. Knows numbers only."""

    def __init__(
        self, bound: int, take: int, *, drop: bool, begun: Callable[[int, int], int] = lambda actor, slot: 0
    ) -> None:
        """Args:
        bound: batches.   take: unrolls in a batch.   drop: throw late ones away instead of waiting for them.
        begun: of an actor's slot, the batches that its weights have learned from at least, by what is known now.
        """
        self.bound, self.take, self.drop, self.begun = bound, take, drop, begun
        self.flights: dict[tuple[int, int], Flight] = {}
        self.batches = 0  # learned from so far
        self.dropped = 0
        self._arrivals = 0

    def hand_out(self, actor: int, slot: int) -> None:
        """A free slot goes to an actor."""
        self.flights[actor, slot] = Flight(self.batches)

    def arrive(self, actor: int, slot: int) -> bool:
        """A slot came back full; False where it came too late and shall be handed out again."""
        flight = self.flights[actor, slot]
        self._arrivals += 1
        flight.arrived, flight.order = True, self._arrivals
        flight.since = max(flight.since, self.begun(actor, slot))
        if flight.void:
            self.dropped += 1
        return not flight.void

    def ready(self) -> list[tuple[int, int]] | None:
        """The slots of the next batch, by actor, or None while the learner must wait."""
        full = [key for key, flight in self.flights.items() if flight.arrived and not flight.void]
        if len(full) < self.take:
            return None
        full.sort(key=lambda key: (self.flights[key].since, self.flights[key].order))
        batch = full[: self.take]
        if not self._in_time(batch) and not self._in_time_as_begun(batch):
            if not self.drop:
                return None
            late = [key for key, flight in self.flights.items() if not flight.arrived and not flight.void]
            for key in sorted(late, key=lambda key: self.flights[key].since):
                self.flights[key].void = True
                if self._in_time(batch):
                    break
        return sorted(batch)

    def _in_time(self, batch: list[tuple[int, int]]) -> bool:
        """Whether all that is left after ``batch`` can still be learned from within the bound, earliest due first."""
        left = sorted(
            flight.since for key, flight in self.flights.items() if not flight.void and key not in batch
        )
        following = self.batches + 1
        return all(since + self.bound >= following + place // self.take for place, since in enumerate(left))

    def _in_time_as_begun(self, batch: list[tuple[int, int]]) -> bool:
        """The same, having looked which of those on their way have begun since they were handed out, and when."""
        for key, flight in self.flights.items():
            if not flight.arrived:
                flight.since = max(flight.since, self.begun(*key))
        return self._in_time(batch)

    def learned(self) -> None:
        """A batch has been learned from."""
        self.batches += 1


def _oldest(unroll: Unroll) -> np.ndarray:
    """i64[B]: the oldest version of the weights that act in it, in place. Written before those weights are taken."""
    assert unroll.policy_version is not None
    return unroll.policy_version[0].numpy()


class ActorLearnerLoop:
    """The learner's side. ``iterate`` learns from one batch."""

    needs: ClassVar[tuple[str, ...]] = ("actors", "lags")

    def __init__(
        self,
        parts: Parts,
        architecture: Architecture,
        muster: Callable[[Parts, int], Muster] = muster_actors,
    ) -> None:
        """muster: starts whoever hands unrolls in, each with so many slots."""
        self.parts, self.architecture = parts, architecture
        experiment, learner = parts.experiment, parts.learner
        parallel = experiment.parallel
        edge = architecture.edge("unroll")
        assert edge is not None
        self.copies = architecture.senders(edge)
        bound = lag_bound(architecture)
        assert bound is not None
        take = edge.take or self.copies
        if (
            experiment.learner.reward == "normalize"
            and self.copies > 1
            and (edge.capacity or take != self.copies)
        ):
            raise UserError(
                "learner.reward=normalize follows each environment's return, and batches here mix whichever unrolls "
                "come first: set parallel.queue=0, parallel.copies=1, or learner.reward=clip"
            )
        self.pacer = Pacer(bound, take, drop=parallel.late == "drop", begun=self._begun)
        self.delay = parallel.delay
        self._held_back: deque[tuple[list[np.ndarray], int]] = deque()
        self.muster = muster(parts, 1 + edge.capacity)
        cuda = learner.device.type == "cuda"
        self._transfer = Transfer(learner.device)
        length: int = experiment.algorithm.unroll  # type: ignore[union-attr]
        self.gatherer = Gatherer(parts.algorithm, learner.acting, parts.spec, length, pin=cuda)
        self.mixer = unroll_replay(experiment)
        self.held = held(architecture)
        self._begins = [[_oldest(unroll) for unroll in slots.unrolls] for slots in self.muster.slots]
        self._publication = Publication(learner)
        self._episodes: list[Episode] = []
        self._idle: list[tuple[int, int]] = [
            (actor, slot) for actor in range(self.copies) for slot in range(1 + edge.capacity)
        ]
        self._at_work: set[int] = set()  # actors that have handed in an unroll
        self._stamps: dict[int, int] = {learner.version: 0}  # version published -> batches learned by then
        self._recent: deque[int] = deque(maxlen=10_000)
        self.lags: Counter[int] = Counter()  # batches -> unrolls
        self.learning = self.waiting = 0.0
        self._shares = Shares()
        self._publish()

    @property
    def clock(self) -> dict[str, float]:
        """Seconds of the learner's wall clock: what it waited for actors, and what it learned."""
        return {"waiting": self.waiting, "learning": self.learning}

    def _publish(self) -> None:
        learner = self.parts.learner
        views, version = self._publication.views(), learner.version
        if self.delay:
            self._held_back.append(([view.copy() for view in views], version))
            if len(self._held_back) > self.delay + 1:
                self._held_back.popleft()
            views, version = self._held_back[0]
        self.muster.weights.publish(views, version)
        self._stamps[learner.version] = self.pacer.batches
        if len(self._stamps) > 4096:
            for version in list(self._stamps)[:2048]:
                del self._stamps[version]

    def _hand_out(self) -> None:
        """Free slots go back to their actors, who find the newest weights published."""
        for actor, slot in self._idle:
            self.pacer.hand_out(actor, slot)
            self._begins[actor][slot][...] = NOT_BEGUN
            self.muster.crew.tell(actor, slot)
        self._idle.clear()

    def iterate(self, steps: int, fraction: float, stop: Stop) -> tuple[int, Metrics]:
        """One batch and what the algorithm makes of it."""
        begin = time.perf_counter()
        self.muster.board.steps = steps
        self._hand_out()
        batch = self._next_batch(stop)
        unrolls = [self.muster.slots[actor].unrolls[slot] for actor, slot in batch]
        whole = self.muster.joined(batch) if self.held else None
        self._transfer.wait()
        unroll = self.gatherer.join(unrolls) if whole is None else whole
        lags = [self._lag(each) for each in unrolls]
        self.waiting += time.perf_counter() - begin
        taken = unroll.action.shape[0] * unroll.action.shape[1]
        self._episodes += self.muster.episodes(batch)
        if not self.held:  # copied: the actors may have them back while the learner computes
            self._idle += batch
            self._hand_out()
        begin = time.perf_counter()
        metrics = self._learn(unroll, steps + taken, fraction, stop)
        self.pacer.learned()
        self._publish()
        if self.held:
            for key in batch:
                del self.pacer.flights[key]
            self._idle += batch
            if self.pacer.bound > 0:  # at lag zero they wait, so that a checkpoint finds every actor idle
                self._hand_out()
        self.lags.update(lags)
        self._recent.extend(lags)
        self.learning += time.perf_counter() - begin
        return taken, metrics

    def _learn(self, unroll: Unroll, steps: int, fraction: float, stop: Stop) -> Metrics:
        learner = self.parts.learner
        learner.stop = stop
        learner.set_progress(fraction, steps)
        fresh = unroll.action.shape[1]
        unroll = self._transfer(self.mixer.mix(unroll))
        metrics = self.parts.algorithm.update(learner, unroll, fraction)
        normalize: Callable[[Any], None] = learner.network.update_normalizer  # type: ignore[assignment]
        normalize(tree_map(lambda x: x[:-1, :fresh].flatten(0, 1), unroll.observation))
        return metrics

    def _next_batch(self, stop: Stop) -> list[tuple[int, int]]:
        while True:
            batch = self.pacer.ready()
            if batch is not None:
                return batch
            if stop():
                raise Interruption
            for actor, slot in self.muster.crew.wait(PATIENCE):
                self._at_work.add(actor)
                if not self.pacer.arrive(actor, slot):
                    self._idle.append((actor, slot))
            for actor in self.muster.crew.revived():
                self._reclaim(actor)
            self._hand_out()

    def _reclaim(self, actor: int) -> None:
        """An actor was started anew: what it had not finished is handed to its successor; what it had, stays."""
        for key, flight in list(self.pacer.flights.items()):
            if key[0] == actor and not flight.arrived:
                self._idle.append(key)

    def _begun(self, actor: int, slot: int) -> int:
        """Batches published when the weights that act in a slot were taken; what has not begun will have the newest.

        Actors that are still on their way to their first unroll are waited for: not all is learned from the earliest.
        """
        version = int(self._begins[actor][slot][0])
        if version == NOT_BEGUN:
            return self.pacer.batches if actor in self._at_work else 0
        return min(self._stamps[version] + self.delay, self.pacer.batches)

    def _lag(self, unroll: Unroll) -> int:
        return self.pacer.batches - self._stamps[int(_oldest(unroll).min())]

    def finished_episodes(self) -> list[Episode]:
        """Episodes ended since the last call."""
        ended, self._episodes = self._episodes, []
        return ended

    def events(self) -> dict[str, int]:
        """Crashes and hangs of environments, restarts of actors, unrolls dropped."""
        dropped = {"dropped": self.pacer.dropped} if self.pacer.dropped else {}
        return total(self.muster.board.events(), self.muster.crew.events(), dropped)

    def gauges(self) -> Gauges:
        """Utilisation of each role, full slots that wait, and lag."""
        full = sum(flight.arrived for flight in self.pacer.flights.values())
        return Gauges(
            roles=self._shares.of(self.muster.busy() | {"learner": self.learning}),
            queues={"unrolls": float(full)},
            rooms={"unrolls": float(sum(map(len, self.muster.slots)))},
            lag=lag_gauges(Counter(self._recent)),
            lag_bound=self.pacer.bound + self.delay,
        )

    def state(self) -> dict[str, Any]:
        """What the actors can tell of themselves; None for one that did not answer in time."""
        actors = self.muster.ask_all("state")
        kept = self.mixer.state() if self.parts.experiment.run.save_replay else None
        return {"actors": actors, "lags": dict(self.lags), "unrolls": kept}

    def load_state(self, state: dict[str, Any]) -> bool:
        """Restore; False where episodes in progress could not be."""
        self._stamps = {self.parts.learner.version: 0}
        self._held_back.clear()  # the first weights, of a version that no stamp knows any more
        self._publish()
        self.lags = Counter({int(lag): int(count) for lag, count in state["lags"].items()})
        whole = self.mixer.load_state(state.get("unrolls"))
        return self.muster.restore(state["actors"]) and self.pacer.bound == 0 and whole

    def close(self) -> None:
        """End the actors; free what was shared."""
        self.muster.close()
