"""Between slots and batches: the replay with what the learner tells it. Used by one thread at a time."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from redline.replay.shards import EVICT_EVERY, ShardedReplay
from redline.replay.storage import Block
from redline.runtime.crew.crews import Muster
from redline.runtime.parts import Parts
from redline.types import ReplayBatch, Tree, tree_map

RECENT = 50  # batches over which lag is reported


class Feeder:
    """Puts slots into the actors' shards, draws batches, takes priorities back, and knows how old what it drew is."""

    def __init__(self, parts: Parts, muster: Muster, *, soft: bool) -> None:
        experiment = parts.experiment
        assert experiment.replay is not None
        self.config, self.batch = experiment.replay, int(parts.algorithm.config.batch)
        self.replay = ShardedReplay(
            parts.spec,
            experiment.replay,
            [slots.unrolls[0].action.shape[1] for slots in muster.slots],
            gamma=experiment.algorithm.gamma,
            seed=experiment.run.seed,
            soft=soft,
            pin_memory=parts.learner.device.type == "cuda",
        )
        self._clip = parts.learner.config.reward == "clip"
        self._muster = muster
        self._blocks: dict[tuple[int, int], Block] = {}
        self._lags: deque[np.ndarray] = deque(maxlen=RECENT)
        self.seconds = 0.0
        self._updates = 0

    def add(self, actor: int, slot: int) -> int:
        """Copy a full slot into its actor's shard; returns agent steps. The slot is free afterwards."""
        begin = time.perf_counter()
        slots = self._muster.slots[actor]
        if (actor, slot) not in self._blocks:
            self._blocks[actor, slot] = _block(slots.unrolls[slot], slots.priority(slot))
        block = self._blocks[actor, slot]
        if self._clip:
            block = replace(block, reward=np.clip(block.reward, -1.0, 1.0))
        version = slots.unrolls[slot].policy_version
        assert version is not None
        self.replay.extend(actor, block, int(version[0, 0]))
        self.seconds += time.perf_counter() - begin
        return int(block.reward.size)

    def draw(self, fraction: float, version: int) -> ReplayBatch:
        """A batch, when ``fraction`` of the run is done and the learner's weights are ``version``."""
        begin = time.perf_counter()
        batch = self.replay.sample(self.batch, self.config.beta_at(fraction))
        self._lags.append(version - self.replay.versions(batch.index.numpy()))
        self.seconds += time.perf_counter() - begin
        return batch

    def learned(self, index: Tensor, errors: np.ndarray) -> None:
        """An update measured TD errors f32[N] of transitions i64[N]; now and then the excess is let go of."""
        begin = time.perf_counter()
        if self.config.prioritized:
            self.replay.update_priorities(index, errors)
        self._updates += 1
        if self._updates % EVICT_EVERY == 0:
            self.replay.evict()
        self.seconds += time.perf_counter() - begin

    def lags(self) -> np.ndarray | None:
        """Lag of every sample of the newest batches i64[batches, N], oldest first; None before the first."""
        return np.stack(list(self._lags)) if self._lags else None

    def load_lags(self, lags: np.ndarray | None) -> None:
        """Put back what ``lags`` gave."""
        self._lags.clear()
        self._lags.extend(lags if lags is not None else ())

    def lag(self) -> dict[str, float]:
        """Updates between the weights that acted and those that learn, per sample of the newest batches."""
        if not self._lags:
            return {}
        lags = np.concatenate(list(self._lags))
        return {
            "mean": float(lags.mean()),
            "p95": float(np.percentile(lags, 95)),
            "max": float(lags.max()),
        }


def _block(unroll: Any, priority: np.ndarray | None) -> Block:
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
