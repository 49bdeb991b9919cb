"""Mustering actors: their slots, the weights they read and the board, made and handed to threads or processes."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from redline.actors.unroll import unroll_forms
from redline.runs.provenance import usable_cores
from redline.runtime.crew.acting import ActorJob
from redline.runtime.crew.board import Board, patience
from redline.runtime.crew.processes import ProcessCrew
from redline.runtime.crew.slots import Slots
from redline.runtime.crew.threads import Crew, Job, ThreadCrew
from redline.runtime.crew.weights import Publication, WeightStore
from redline.runtime.experiment import Experiment, uses_replay
from redline.runtime.parts import Parts, shares_of
from redline.types import Episode, Unroll

START = 120.0  # seconds for roles to start and take a saved state
ANSWER = 2.5  # seconds for an actor to reach the end of its unroll and tell its state


@dataclass
class Muster:
    """Actors at work and what they share with the learner."""

    crew: Crew
    slots: Sequence[Any]  # of each actor: ``Slots``, or what gives unrolls and episodes like them
    weights: WeightStore
    board: Board
    first_columns: list[int]  # of each actor, among the run's environments

    def joined(self, batch: Sequence[tuple[int, int]]) -> Unroll | None:
        """The unrolls of (actor, slot) pairs, where they lie side by side as one; else they are to be gathered."""
        return None

    def episodes(self, batch: Sequence[tuple[int, int]]) -> list[Episode]:
        """The episodes that ended in the slots of (actor, slot) pairs; ``index`` counts the run's environments."""
        return [
            Episode(self.first_columns[actor] + episode.index, episode.episode_return, episode.length)
            for actor, slot in batch
            for episode in self.slots[actor].episodes(slot)
        ]

    def busy(self) -> dict[str, float]:
        """Seconds that a role has spent at work so far: an actor stepping and acting, in the mean."""
        clocks = [self.board.clock(role) for role in range(len(self.slots))]
        return {"actor": sum(clock["stepping"] + clock["acting"] for clock in clocks) / len(clocks)}

    def ask_all(self, what: str) -> list[Any]:
        """Every actor's answer, or None where it did not come within ``ANSWER`` seconds for all of them."""
        end = time.monotonic() + ANSWER
        return [
            self.crew.ask(role, what, timeout=max(end - time.monotonic(), 0.05))
            for role in range(len(self.slots))
        ]

    def restore(self, states: list[Any]) -> bool:
        """Hand saved states to the actors; False unless every one is back where it was."""
        if len(states) != len(self.slots):
            return False
        return all(
            [
                state is not None and bool(self.crew.ask(role, "load_state", state, timeout=START))
                for role, state in enumerate(states)
            ]
        )

    def close(self) -> None:
        """End the actors, then free the memory. Safe to call twice."""
        self.board.stop()
        self.crew.close()
        for slots in self.slots:
            slots.close()
        self.weights.close()
        self.board.close()


def sends_priorities(experiment: Experiment) -> bool:
    """Whether actors give first priorities: those that run freely beside a prioritised replay. In lock-step, as in one
    loop, transitions enter with the largest priority."""
    replay = experiment.replay
    return bool(uses_replay(experiment) and replay and replay.prioritized and experiment.parallel.queue)


def muster_actors(
    parts: Parts, slots_each: int, others: Callable[[Sequence[Slots]], Sequence[Job]] = lambda _: ()
) -> Muster:
    """Start the experiment's actors, each with ``slots_each`` slots. ``others`` makes the crew's last roles."""
    experiment, learner = parts.experiment, parts.learner
    copies = experiment.parallel.copies
    shared = experiment.parallel.runtime == "processes"
    board = Board(copies, shared=shared)
    weights = WeightStore(Publication(learner).sizes, shared=shared)
    sizes = shares_of(experiment.sampler.num_envs, copies)
    first = [0, *itertools.accumulate(sizes)][:copies]
    length: int = experiment.parallel.slot or experiment.algorithm.unroll  # type: ignore[union-attr]
    # An emulator's threads take what the learner leaves; worker processes are for cores that nobody else has.
    cores = usable_cores() if parts.spec.threaded else usable_cores() - 1
    spare = max(1, cores // copies)
    slots = [
        Slots(
            unroll_forms(parts.algorithm, learner.acting, parts.spec, length, size),
            slots_each,
            shared=shared,
            debug=experiment.run.debug,
            priorities=sends_priorities(experiment),
        )
        for size in sizes
    ]
    weights.publish(Publication(learner).views(), learner.version)
    jobs: list[Job] = [
        ActorJob(
            f"actor-{role}",
            role,
            experiment,
            parts.spec,
            first[role],
            sizes[role],
            spare,
            slots[role],
            weights,
            board,
        )
        for role in range(copies)
    ]
    jobs += others(slots)
    wait = patience(board, experiment.environment.step_timeout)
    crew: Crew = ProcessCrew(jobs, patience=wait) if shared else ThreadCrew(jobs, patience=wait)
    return Muster(crew, slots, weights, board, first)
