"""Books kept inside a run that is about to lose its roles: what its main role accepted, and what became of it."""

from __future__ import annotations

import json
import os
import time
import zlib
from pathlib import Path
from typing import Any

from redline.runtime.actor_learner import ActorLearnerLoop
from redline.runtime.replay_learner import ReplayLearnerLoop
from redline.runtime.training import Training

EVERY = 0.05  # seconds between entries


class Books:
    """Unrolls of one run since its start."""

    def __init__(self, loop: Any) -> None:
        self.accepted = self.learned = 0
        self.lost = 0  # given back to be filled again before anyone had learned from them
        self.changed = 0  # no longer, when learned from, what they were when accepted
        self.steps = 0  # agent steps accepted
        self._waiting: dict[tuple[int, int], int] = {}  # (actor, slot) -> checksum
        self._loop = loop
        if isinstance(loop, ActorLearnerLoop):
            self._watch_pacer(loop)
        elif isinstance(loop, ReplayLearnerLoop):
            self._watch_intake(loop)

    def _checksum(self, actor: int, slot: int) -> int:
        unroll = self._loop.muster.slots[actor].unrolls[slot]
        leaves = (unroll.action, unroll.reward, unroll.reset, unroll.policy_version)
        return zlib.crc32(b"".join(leaf.numpy().tobytes() for leaf in leaves))

    def _watch_pacer(self, loop: Any) -> None:
        pacer = loop.pacer
        arrive, hand_out, next_batch = pacer.arrive, pacer.hand_out, loop._next_batch

        def arrived(actor: int, slot: int) -> bool:
            wanted = arrive(actor, slot)
            if wanted:
                self.accepted += 1
                self.steps += loop.muster.slots[actor].unrolls[slot].action.numel()
                self._waiting[actor, slot] = self._checksum(actor, slot)
            return wanted

        def handed_out(actor: int, slot: int) -> None:
            self.lost += self._waiting.pop((actor, slot), None) is not None
            hand_out(actor, slot)

        def batch(stop: Any) -> Any:
            found = next_batch(stop)
            for key in found:
                self.learned += 1
                self.changed += self._waiting.pop(key) != self._checksum(*key)
            return found

        pacer.arrive, pacer.hand_out, loop._next_batch = arrived, handed_out, batch

    def _watch_intake(self, loop: Any) -> None:
        """What a replay accepts it has already stored; so what came from the crew is compared with what was stored."""
        crew, feeder, actors = loop.muster.crew, loop.feeder, len(loop.muster.slots)
        wait, add = crew.wait, feeder.add

        def waited(timeout: float) -> Any:
            self.lost = self.accepted - self.learned  # all that came before has been stored by now
            arrived = wait(timeout)
            self.accepted += sum(role < actors for role, _ in arrived)  # a replay apart speaks here, too
            return arrived

        def added(actor: int, slot: int) -> int:
            count = add(actor, slot)
            self.learned += 1
            self.steps += count
            return count

        crew.wait, feeder.add = waited, added


def install(path: Path) -> None:
    """Have the run that this process is about to make write its books into ``path`` as it goes on."""
    make, iterate = Training.__init__, Training._iterate

    def made(training: Any, parts: Any, loop: Any, *rest: Any) -> None:
        training.books, training.written = Books(loop), 0.0
        make(training, parts, loop, *rest)

    def iterated(training: Any) -> bool:
        going_on = iterate(training)
        if time.monotonic() - training.written > EVERY:
            training.written = time.monotonic()
            loop, books = training.loop, training.books
            board = loop.muster.board if hasattr(loop, "muster") else loop.memory.board
            entry = {name: value for name, value in vars(books).items() if not name.startswith("_")}
            entry |= {"total": training.counters.steps, "updates": training.parts.learner.version}
            entry |= {"taken": board.taken.tolist(), "events": loop.events()}
            aside = path.with_suffix(".aside")
            aside.write_text(json.dumps(entry))
            os.replace(aside, path)
        return going_on

    Training.__init__, Training._iterate = made, iterated  # type: ignore[assignment, method-assign]
