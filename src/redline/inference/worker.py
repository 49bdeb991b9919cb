"""A worker: steps its environments with actions that it finds, and writes what came of them. It knows no network.

    rung --> action from ``sent`` --> steps --> rest of row t, observation t + 1 --> calls

It calls with one number, ``CALLS * worker`` plus what happened. This file does without torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from redline.environments.inline import EnvironmentCrash
from redline.environments.workers import GENERATION, MAX_FAILURES
from redline.inference.tables import SLOT, STEP, TICKET, Tables
from redline.types import Environment, Step, Tree, tree_map

CALLS = 4
# Stepped; stepped and an episode was truncated; (re)started: what it was at is lost; crashed, and will be fresh.
DONE, CUT, FRESH, LOST = range(CALLS)


@dataclass
class _Row:
    """Where one step of the worker's columns is written: step t, and the observation after it."""

    seen: Tree
    reset: np.ndarray
    legal: np.ndarray | None
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


class Worker:
    """Environments of one span. ``run`` returns when ``stopping`` says so."""

    def __init__(
        self,
        number: int,
        tables: Tables,
        make: Callable[[int], Environment],
        seed: int,
        wait: Callable[[], Any],
        call: Callable[[int], None],
        stopping: Callable[[], bool],
    ) -> None:
        """Args:
        make: n -> n environments.   seed: of the run's environment 0.
        wait: returns when the server has rung (it may return for nothing).   call: tells the server a number.
        """
        self.number, self.tables, self.seed = number, tables, seed
        self.first, self.last = tables.shape.spans[number]
        self._make, self._wait, self._call, self._stopping = make, wait, call, stopping
        self.environment: Environment | None = None
        self.stepping = 0.0  # seconds
        self.steps = 0  # agent steps
        self.crashes = 0
        self._failures = 0  # restarts since the last successful step
        self._order = tables.order[number]
        self._sent = tables.sent[self.first : self.last]
        self._rows: dict[tuple[int, int], _Row] = {}

    def run(self) -> None:
        """Serve until told to stop. Environments that crash are made anew; RunError where they keep crashing."""
        try:
            while not self._stopping():
                try:
                    self._live()
                except EnvironmentCrash as crash:
                    self.crashes += 1
                    self._failures += 1
                    if self._failures >= MAX_FAILURES:
                        message = f"{crash} ({MAX_FAILURES} failures in a row)"
                        raise EnvironmentCrash(message) from None
                    self._call(CALLS * self.number + LOST)  # now: environments may take long to be made
                    self.close()
        finally:
            self.close()

    def close(self) -> None:
        """Close the environments. Safe to call twice."""
        if self.environment is not None:
            self.environment.close()
            self.environment = None

    def _live(self) -> None:
        ticket = int(self._order[TICKET])  # what was ordered of a predecessor is none of our business
        self.environment = environment = self._make(self.last - self.first)
        starts = self.tables.starts
        seed = self.seed + self.first + GENERATION * int(starts[self.number])
        starts[self.number] += 1
        self.show_now(environment.reset(seed))
        self._call(CALLS * self.number + FRESH)
        while True:
            self._wait()
            if self._stopping():
                return
            order = self._order.tolist()
            if order[TICKET] == ticket:
                continue
            ticket = order[TICKET]
            begin = time.perf_counter()
            environment.send(self._sent)
            step = environment.recv()
            self.stepping += time.perf_counter() - begin
            self._write(order[SLOT], order[STEP], step)
            self._failures = 0
            self.steps += self.last - self.first
            cut = step.final_observation is not None and bool(step.truncated.any())
            self._call(CALLS * self.number + (CUT if cut else DONE))

    def show_now(self, step: Step, reset: Any = True) -> None:
        """Write what the next unroll begins with."""
        now, span = self.tables.now, slice(self.first, self.last)
        tree_map(lambda x, y: np.copyto(x[span], y), now["observation"], step.observation)
        now["reset"][span] = reset
        if step.action_mask is not None:
            now["action_mask"][span] = step.action_mask

    def _write(self, slot: int, t: int, step: Step) -> None:
        row = self._rows.get((slot, t))
        if row is None:
            row = self._rows[slot, t] = self._row(slot, t)
        row.reward[...] = step.reward
        row.terminated[...] = step.terminated
        row.truncated[...] = step.truncated
        tree_map(np.copyto, row.seen, step.observation)
        if row.legal is not None:
            row.legal[...] = step.action_mask
        row.reset[...] = False
        if step.final_observation is not None:
            row.reset[...] = step.terminated | step.truncated
            span = slice(self.first, self.last)
            tree_map(lambda x, y: np.copyto(x[span], y), self.tables.final, step.final_observation)
            self.tables.add_episodes(self.number, slot, t, step.episodes)
        if t + 1 == self.tables.shape.length:
            self.show_now(step, row.reset)

    def _row(self, slot: int, t: int) -> _Row:
        unroll = self.tables.slot(slot, self.first, self.last)
        return _Row(
            seen=tree_map(lambda leaf: leaf[t + 1], unroll["observation"]),
            reset=unroll["reset"][t + 1],
            legal=unroll["action_mask"][t + 1] if "action_mask" in unroll else None,
            reward=unroll["reward"][t],
            terminated=unroll["terminated"][t],
            truncated=unroll["truncated"][t],
        )
