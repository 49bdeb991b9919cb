"""The replay's way in: full slots are taken from the actors as they come, whatever the learner is doing meanwhile."""

from __future__ import annotations

import threading
from collections import deque
from operator import itemgetter

from redline.runtime.crew.crews import Muster
from redline.runtime.replay_learner.apart import Distant
from redline.runtime.replay_learner.feeder import Feeder
from redline.runtime.replay_learner.pace import Pace
from redline.types import Episode

PATIENCE = 0.05  # seconds between looks at whether to pause or end
SOON = 0.002  # the same while actors wait for the learner


class Intake:
    """Slots out to the actors, their rows into the replay. ``lock`` is held by whoever touches replay or pace.

    ``take_in`` does it once; ``go`` has a thread of its own do it until ``pause``. What stops an actor, or the thread,
    is raised by ``check``.
    """

    def __init__(self, muster: Muster, feeder: Feeder | Distant, pace: Pace, slots_each: int) -> None:
        self.muster, self.feeder, self.pace = muster, feeder, pace
        self.lock = threading.RLock()
        self.came = threading.Condition(self.lock)  # told when steps have come
        self.total = 0  # agent steps of the run
        self.episodes: list[Episode] = []
        self.waited: deque[int] = deque([0], maxlen=100)  # full slots found, look by look
        self._lost: list[tuple[int, int]] = []  # slots that a dead actor had not finished
        self._idle = [(actor, slot) for actor in range(len(muster.slots)) for slot in range(slots_each)]
        self._out: set[tuple[int, int]] = set()  # slots with their actors
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def take_in(self, timeout: float) -> int:
        """Take in all full slots, waiting ``timeout`` seconds for one; free ones are not handed out. Returns how many
        came."""
        arrived = self.muster.crew.wait(timeout)
        revived = self.muster.crew.revived()
        actors = len(self.muster.slots)
        # Actor by actor; an actor's slots in the order it filled them, since its rows go on from one to the next.
        full = sorted(((role, number) for role, number in arrived if role < actors), key=itemgetter(0))
        with self.came:
            for actor, slot in full:
                self._out.discard((actor, slot))
                self.episodes += self.muster.episodes([(actor, slot)])
                count = self.feeder.add(actor, slot)
                self.total += count
                self.pace.came(self.total, count)
            for role, number in arrived:
                if role == actors:
                    self.feeder.hear(number)
            for role in revived:  # all that the dead had announced is among those that arrived
                self._reclaim(role)
            self._idle += self.feeder.freed()
            self.muster.board.steps = self.total
            if full:
                self.waited.append(len(full))
            if arrived:
                self.came.notify_all()
        return len(full)

    def _reclaim(self, role: int) -> None:
        """An actor was started anew: its episodes begin anew, and what it had not finished is handed out again. Or the
        replay was: it is empty."""
        if role == len(self.muster.slots):
            self.feeder.revived()
            self.pace.emptied()
            return
        self.feeder.break_episodes(role)
        self._lost += sorted(key for key in self._out if key[0] == role)

    def hand_out(self, *, lost: bool = False) -> None:
        """Free slots go back to their actors, unless those have to wait for the learner; or only ``lost`` ones, to the
        successors of the dead."""
        with self.lock:
            idle, self._lost = self._lost, []
            if not lost and self.pace.may_act():
                idle, self._idle = idle + self._idle, []
            self._out.update(idle)
        for actor, slot in idle:
            self.muster.crew.tell(actor, slot)

    def go(self) -> None:
        """Take in and hand out in a thread of its own. Does nothing while that goes on already."""
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, name="redline-replay", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self.hand_out()
                self.take_in(SOON if self._idle else PATIENCE)
        except BaseException as error:
            with self.came:
                self._failure = error
                self.came.notify_all()

    def pause(self) -> None:
        """Have the thread end where nothing is half done. Safe to call twice."""
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None

    def check(self) -> None:
        """Raise what went wrong in the thread."""
        if self._failure is not None:
            raise self._failure
