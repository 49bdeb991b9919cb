"""Python environments in worker processes: many to a worker, arrays in shared memory, one byte to wake a process."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from redline.environments.batch import Buffers, EpisodeCounter
from redline.environments.config import EnvironmentConfig
from redline.environments.workers.link import Link, Lost, release
from redline.environments.workers.memory import Layout, SharedMemory
from redline.environments.workers.process import Shared
from redline.types import Episode, RunError, Spec, Step, Tree, UserError, tree_leaves, tree_map

MAX_FAILURES = 5  # restarts in a row without one successful step until the run is given up
GENERATION = 1_000_003  # a restarted worker's seeds are this much further on, clear of all others


class Workers:
    """B environments in W processes. ``send`` wakes them, ``recv`` waits for them: others compute in between.

    A worker that dies, raises or takes longer than ``step_timeout`` is replaced. Its environments start afresh, and
    their episodes are truncated with the last observation known as the final one; they are left out of ``episodes``,
    whose returns are of whole episodes. Arrays of a step stay as they are until the second ``send`` after it.
    """

    def __init__(self, config: EnvironmentConfig, spec: Spec, num_envs: int, workers: int) -> None:
        """Spawns ``workers`` processes and waits until their environments are made."""
        self.spec = spec
        self.num_envs = num_envs
        size = Layout()
        Shared.lay_out(spec, num_envs, size)
        memory = SharedMemory(size.size)
        self._shared = Shared.lay_out(spec, num_envs, Layout(memory))
        self._slot = 0
        self._counter = EpisodeCounter(num_envs)
        self._events = {"crashes": 0, "hangs": 0}
        self._seed = 0
        self._in_flight = False
        bounds = np.linspace(0, num_envs, min(workers, num_envs) + 1).astype(int).tolist()
        self._links = [Link(config, spec, num_envs, span, memory) for span in itertools.pairwise(bounds)]
        self._finalizer = weakref.finalize(self, release, self._links, memory)
        try:
            for link in self._links:
                link.start()
            for link in self._links:
                link.answer()
        except Lost as lost:
            self.close()
            raise RunError(str(lost)) from None
        except BaseException:
            self.close()
            raise

    def reset(self, seed: int) -> Step:
        """Start every environment afresh; environment ``i`` is seeded with ``seed + i``."""
        _check_idle(self._in_flight)
        self._seed = seed
        for link in self._links:
            link.tell("reset", self._slot, seed)
        for link in self._links:
            try:
                link.answer()
            except Lost as lost:
                self._replace(link, lost)
        self._counter.clear()
        return self.observe()

    def send(self, action: np.ndarray) -> None:
        """Wake every worker with actions i64[B], i64[B, K] or f32[B, K]."""
        if action.shape != self._shared.action.shape:
            raise ValueError(f"actions have shape {action.shape}, not {self._shared.action.shape}")
        _check_idle(self._in_flight)
        self._shared.action[...] = action
        self._slot = 1 - self._slot
        self._in_flight = True
        for link in self._links:
            link.ring(self._slot)

    def recv(self) -> Step:
        """Wait for every worker, and replace those that are lost."""
        if not self._in_flight:
            raise RuntimeError("no step is in flight: send comes first")
        self._in_flight = False
        broken: list[tuple[Link, Lost]] = []
        for link in self._links:
            try:
                # One that hung has used up everybody's time; one that crashed has not.
                link.wait(patient=not any(lost.hung for _, lost in broken))
            except Lost as lost:
                broken.append((link, lost))
        buffers = self._shared.slots[self._slot]
        for link, reason in broken:
            self._truncate(link, buffers)
            self._replace(link, reason)
        self._counter.add(buffers.reward)
        if not np.count_nonzero(buffers.terminated) and not np.count_nonzero(buffers.truncated):
            return buffers.step(False, ())
        ended = np.flatnonzero(buffers.terminated | buffers.truncated).tolist()
        cut = {index for link, _ in broken for index in range(link.first, link.last)}
        episodes: Sequence[Episode] = [item for item in self._counter.finish(ended) if item.index not in cut]
        return buffers.step(True, episodes)

    def render(self, index: int = 0) -> np.ndarray | None:
        """u8[H, W, 3], or None where the environment cannot draw itself."""
        _check_idle(self._in_flight)
        link = next(item for item in self._links if item.first <= index < item.last)
        try:
            link.tell("render", self._slot, index - link.first)
            return link.answer()
        except Lost:
            return None  # the next step finds the worker lost, and replaces it

    def state(self) -> dict[str, Any] | None:
        """Everything needed to go on bit for bit (the same as the in-process backend gives), or None."""
        _check_idle(self._in_flight)
        for link in self._links:
            link.tell("state", self._slot, None)
        parts = [
            _answer_or_none(link) for link in self._links
        ]  # of all: one unread would be taken for the next
        if any(part is None for part in parts):
            return None
        environments = [item for part in parts for item in part.pop("environments").values()]
        merged = tree_map(lambda *leaves: np.concatenate(leaves), *parts)
        numbered = {str(index): item for index, item in enumerate(environments)}
        return {"environments": numbered, **merged, **self._counter.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to what ``state`` gave, whatever the number of workers was then."""
        if len(state["environments"]) != self.num_envs:
            saved = len(state["environments"])
            raise UserError(f"environment {self.spec.name!r}: saved with {saved} copies, not {self.num_envs}")
        _check_idle(self._in_flight)
        arrays = {key: value for key, value in state.items() if key != "environments"}
        for link in self._links:
            span = range(link.first, link.last)
            part = tree_map(_rows(span), arrays)
            part["environments"] = {
                str(row): state["environments"][str(index)] for row, index in enumerate(span)
            }
            link.tell("load_state", self._slot, part)
        try:
            for link in self._links:
                link.answer()
        except Lost as lost:
            raise RunError(str(lost)) from None
        self._counter.load_state(state)

    def observe(self) -> Step:
        """The current observation again (reward 0, nothing ended)."""
        return self._shared.slots[self._slot].still()

    def events(self) -> dict[str, int]:
        """How many workers crashed, and how many hung; all were replaced."""
        return dict(self._events)

    def close(self) -> None:
        """End the workers and free the memory. Safe to call twice."""
        self._finalizer()

    def _truncate(self, link: Link, buffers: Buffers) -> None:
        """End the episodes of a lost worker with the observations that its last whole step left."""
        rows = slice(link.first, link.last)
        before = self._shared.slots[1 - self._slot]
        pairs = zip(tree_leaves(buffers.final_observation), tree_leaves(before.observation), strict=True)
        for final, last in pairs:
            final[rows] = last[rows]
        buffers.reward[rows] = 0.0
        buffers.terminated[rows] = False
        buffers.truncated[rows] = True

    def _replace(self, link: Link, reason: Lost | None) -> None:
        """Start a new worker in place of a lost one, and reset its environments into the present slot."""
        while reason is not None:
            self._events["hangs" if reason.hung else "crashes"] += 1
            link.failures += 1
            link.generation += 1
            link.end()
            if link.failures >= MAX_FAILURES:
                raise RunError(f"{reason} ({MAX_FAILURES} failures in a row)")
            try:
                link.start()
                link.answer()
                link.tell("reset", self._slot, self._seed + GENERATION * link.generation)
                link.answer()
                reason = None
            except Lost as again:
                reason = again


def _answer_or_none(link: Link) -> Any:
    try:
        return link.answer()
    except Lost:
        return None  # the next step finds the worker lost, and replaces it


def _check_idle(in_flight: bool) -> None:
    if in_flight:
        raise RuntimeError("a step is in flight: recv comes first")


def _rows(span: range) -> Callable[[Tree], Tree]:
    return lambda leaf: leaf[span.start : span.stop]
