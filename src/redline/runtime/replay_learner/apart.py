"""A replay in a process of its own, as the learner's process sees it: a ``Feeder`` whose work is done elsewhere.

A slot is free when the replay says that it has copied it. Batches are drawn ahead, into memory that both see, so their
priorities are as many updates older. A replay that dies is started anew, empty, and the learner waits for it to fill.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from redline.replay.config import ReplayConfig
from redline.runtime.crew.crews import START
from redline.runtime.crew.slots import Slots
from redline.runtime.crew.threads import Crew
from redline.runtime.replay_learner.feeder import Lags
from redline.runtime.replay_learner.job import SHELVES, Numbers, Shelves
from redline.types import ReplayBatch, RunError

UNDER_WAY = 100  # slots told of and not yet stored, at most: a socket holds a few hundred numbers


class Distant:
    """See ``Feeder``."""

    ahead = True

    def __init__(
        self,
        config: ReplayConfig,
        slots: Sequence[Slots],
        shelves: Shelves,
        numbers: Numbers,
        crew: Crew,
    ) -> None:
        """crew: its last role is the replay."""
        self.lags = Lags()
        self._config, self._slots, self._shelves, self._numbers = config, slots, shelves, numbers
        self._crew, self._role = crew, len(slots)
        self._waiting: deque[tuple[int, int | None]] = deque()  # slots to tell of; None: an actor began anew
        self._told: set[tuple[int, int]] = set()
        self._freed: list[tuple[int, int]] = []
        self._empty = list(range(SHELVES))
        self._full: deque[int] = deque()
        self._taken: int | None = None  # the shelf that is being learned from
        self._void = False  # its transitions died with their replay

    @property
    def size(self) -> int:
        """Transitions that can be drawn."""
        return int(self._shelves.numbers["size"][0])

    @property
    def seconds(self) -> float:
        """That the replay has spent at work."""
        return float(self._shelves.numbers["seconds"][0])

    def add(self, actor: int, slot: int) -> int:
        """Have a full slot copied; returns its agent steps. ``freed`` tells when it is free."""
        self._waiting.append((actor, slot))
        self._tell()
        return self._slots[actor].unrolls[slot].reward.numel()

    def _tell(self) -> None:
        while self._waiting and len(self._told) < UNDER_WAY:
            actor, slot = self._waiting.popleft()
            if slot is None:
                self._crew.tell(self._role, self._numbers.anew(actor))
                continue
            self._told.add((actor, slot))
            self._crew.tell(self._role, actor * self._numbers.slots + slot)

    def hear(self, number: int) -> None:
        """What the replay says: a slot is stored, or a shelf is full."""
        if number >= self._numbers.shelf:
            self._full.append(number - self._numbers.shelf)
            return
        key = divmod(number, self._numbers.slots)
        self._told.discard(key)
        self._freed.append(key)
        self._tell()

    def freed(self) -> list[tuple[int, int]]:
        """(actor, slot) of those copied since the last call."""
        freed, self._freed = self._freed, []
        return freed

    def ready(self, fraction: float) -> bool:
        """Whether a batch is there, when ``fraction`` of the run is done; more are asked for."""
        self._shelves.numbers["beta"][0] = self._config.beta_at(fraction)
        while self._empty:
            self._crew.tell(self._role, self._numbers.shelf + self._empty.pop(0))
        return bool(self._full)

    def draw(self, fraction: float, version: int) -> ReplayBatch:
        """The batch drawn longest ago, when the learner's weights are ``version``. Its memory is the learner's until
        ``learned``."""
        self._taken, self._void = self._full.popleft(), False
        self.lags.add(version - self._shelves.version[self._taken])
        return self._shelves.buffers[self._taken].batch

    def learned(self, index: Tensor, errors: np.ndarray) -> None:
        """An update measured TD errors f32[N] of the batch that was drawn."""
        assert self._taken is not None
        if not self._void:
            self._shelves.error[self._taken][:] = errors
            self._crew.tell(self._role, self._numbers.learned(self._taken))
        self._empty.append(self._taken)
        self._taken = None

    def break_episodes(self, actor: int) -> None:
        """An actor's environments were started afresh, after all that it has handed in."""
        self._waiting.append((actor, None))
        self._tell()

    def revived(self) -> None:
        """The replay was started anew: what it held, and what it was told, is lost."""
        self._freed += self._told
        self._freed += [(actor, slot) for actor, slot in self._waiting if slot is not None]
        self._told.clear()
        self._waiting.clear()
        self._full.clear()
        self._empty = [shelf for shelf in range(SHELVES) if shelf != self._taken]
        self._void = True
        self._shelves.numbers["size"][0] = 0

    def state(self) -> Any:
        """The replay's, for a checkpoint; None where it did not answer."""
        return self._crew.ask(self._role, "state", timeout=START)

    def load_state(self, state: Any) -> None:
        """Go back to a state that ``state`` gave."""
        if not self._crew.ask(self._role, "load_state", state, timeout=START):
            raise RunError("the replay's process did not take what the checkpoint holds for it")

    def close(self) -> None:
        """Free the shared batches."""
        self._shelves.close()
