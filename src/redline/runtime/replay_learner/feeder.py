"""Between slots and batches: the replay with what the learner tells it. Used by one thread at a time.

``Feeder`` keeps the replay itself; ``apart.Distant`` speaks to one that has a process of its own.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from redline.replay.buffers import Buffer
from redline.replay.shards import EVICT_EVERY, ShardedReplay
from redline.replay.storage import Block
from redline.runtime.crew.slots import Slots
from redline.runtime.experiment import Experiment
from redline.types import ReplayBatch, Spec, Tree, tree_map

RECENT = 50  # batches over which lag is reported


class Lags:
    """How old what was drawn is: updates between the weights that acted and those that learn, sample by sample."""

    def __init__(self) -> None:
        self._recent: deque[np.ndarray] = deque(maxlen=RECENT)

    def add(self, lags: np.ndarray) -> None:
        """Those i64[N] of a batch."""
        self._recent.append(lags)

    def state(self) -> np.ndarray | None:
        """Those of the newest batches i64[batches, N], oldest first; None before the first."""
        return np.stack(list(self._recent)) if self._recent else None

    def load_state(self, lags: np.ndarray | None) -> None:
        """Put back what ``state`` gave."""
        self._recent.clear()
        self._recent.extend(lags if lags is not None else ())

    def metrics(self) -> dict[str, float]:
        """Mean, 95th percentile and largest of the newest batches."""
        if not self._recent:
            return {}
        lags = np.concatenate(list(self._recent))
        return {
            "mean": float(lags.mean()),
            "p95": float(np.percentile(lags, 95)),
            "max": float(lags.max()),
        }


class Feeder:
    """Puts slots into the actors' shards, draws batches, takes priorities back, and knows how old what it drew is."""

    ahead = False  # whether batches are drawn before they are asked for

    def __init__(
        self,
        experiment: Experiment,
        spec: Spec,
        slots: Sequence[Slots],
        *,
        soft: bool,
        pin_memory: bool = False,
    ) -> None:
        assert experiment.replay is not None
        self.config, self.batch = experiment.replay, int(experiment.algorithm.batch)  # type: ignore[union-attr]
        self.replay = ShardedReplay(
            spec,
            experiment.replay,
            [each.unrolls[0].action.shape[1] for each in slots],
            gamma=experiment.algorithm.gamma,
            seed=experiment.run.seed,
            soft=soft,
            pin_memory=pin_memory,
        )
        self.lags = Lags()
        self.seconds = 0.0
        self._clip = experiment.learner.reward == "clip"
        self._slots = slots
        self._blocks: dict[tuple[int, int], Block] = {}
        self._freed: list[tuple[int, int]] = []
        self._updates = 0

    @property
    def size(self) -> int:
        """Transitions that can be drawn."""
        return len(self.replay)

    def ready(self, fraction: float) -> bool:
        """Whether there is something to draw, when ``fraction`` of the run is done."""
        return len(self.replay) > 0

    def hear(self, number: int) -> None:
        """What a replay elsewhere says: there is none."""

    def freed(self) -> list[tuple[int, int]]:
        """(actor, slot) of those copied since the last call."""
        freed, self._freed = self._freed, []
        return freed

    def add(self, actor: int, slot: int) -> int:
        """Copy a full slot into its actor's shard; returns agent steps. ``freed`` tells when the slot is free."""
        begin = time.perf_counter()
        slots = self._slots[actor]
        if (actor, slot) not in self._blocks:
            self._blocks[actor, slot] = block_of(slots.unrolls[slot], slots.priority(slot))
        block = self._blocks[actor, slot]
        if self._clip:
            block = replace(block, reward=np.clip(block.reward, -1.0, 1.0))
        version = slots.unrolls[slot].policy_version
        assert version is not None
        self.replay.extend(actor, block, int(version[0, 0]))
        self._freed.append((actor, slot))
        self.seconds += time.perf_counter() - begin
        return int(block.reward.size)

    def draw(self, fraction: float, version: int) -> ReplayBatch:
        """A batch, when ``fraction`` of the run is done and the learner's weights are ``version``."""
        begin = time.perf_counter()
        batch = self.replay.sample(self.batch, self.config.beta_at(fraction))
        self.lags.add(version - self.replay.versions(batch.index.numpy()))
        self.seconds += time.perf_counter() - begin
        return batch

    def draw_into(self, buffer: Buffer, beta: float) -> np.ndarray:
        """Draw a batch into ``buffer``; returns the versions i64[N] of the weights that acted."""
        begin = time.perf_counter()
        batch = self.replay.sample(self.batch, beta, into=buffer)
        versions = self.replay.versions(batch.index.numpy())
        self.seconds += time.perf_counter() - begin
        return versions

    def learned(self, index: Tensor, errors: np.ndarray) -> None:
        """An update measured TD errors f32[N] of transitions i64[N]; now and then the excess is let go of."""
        begin = time.perf_counter()
        if self.config.prioritized:
            self.replay.update_priorities(index, errors)
        self._updates += 1
        if self._updates % EVICT_EVERY == 0:
            self.replay.evict()
        self.seconds += time.perf_counter() - begin

    def break_episodes(self, actor: int) -> None:
        """An actor's environments were started afresh."""
        if self.replay.shards[actor].storage.head:
            self.replay.break_episodes(actor)

    def revived(self) -> None:
        """A replay elsewhere was started anew: there is none."""

    def state(self) -> Any:
        """The replay's, for a checkpoint."""
        return self.replay.state()

    def load_state(self, state: Any) -> None:
        """Go back to a state that ``state`` gave."""
        self.replay.load_state(state)

    def close(self) -> None:
        """Nothing is shared."""


def block_of(unroll: Any, priority: np.ndarray | None) -> Block:
    """A slot's memory as a replay takes it: without the row after the last step, whose action is yet to come."""

    def rows(tree: Tree) -> Tree:
        return tree_map(lambda x: x[: len(unroll.action)].numpy(), tree)

    return Block(
        observation=rows(unroll.observation),
        action=rows(unroll.action),
        reward=rows(unroll.reward),
        terminated=rows(unroll.terminated),
        truncated=rows(unroll.truncated),
        final_observation=rows(unroll.final_observation),
        action_mask=rows(unroll.action_mask),
        priority=priority,
    )
