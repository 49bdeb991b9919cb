"""Prioritised replay in shards, one for each actor: its rows go into its own ring, batches come from their union.

Adding never blocks, so capacity is *soft* (Horgan et al. 2018, section 4.1 and appendix): shards run over it, and what
is too much leaves in bulk, oldest first, every so many updates. Where room for the excess runs out as well, a shard
overwrites its oldest rows at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from redline.replay.buffers import Buffer, Buffers
from redline.replay.config import ReplayConfig
from redline.replay.replay import Replay
from redline.replay.samplers import PrioritizedSampler
from redline.replay.storage import Block, check_memory
from redline.runs.rng import load_rng_state, rng_state
from redline.types import ReplayBatch, RunError, Spec, UserError

ROOM = 0.1  # of the capacity: memory for what comes between two evictions
EVICT_EVERY = 100  # updates


class ShardedReplay:
    """Transitions of several actors, drawn as from one replay. With one shard it draws the very same batches as
    ``Replay``.

    Capacity is shared out to the shards by their environments. Ids are ``id in shard * shards + shard``. Not
    thread-safe: one thread at a time may add, draw or update priorities.
    """

    def __init__(
        self,
        spec: Spec,
        config: ReplayConfig,
        sizes: Sequence[int],
        *,
        gamma: float = 0.99,
        seed: int = 0,
        soft: bool = True,
        pin_memory: bool = False,
    ) -> None:
        """sizes: environments of each actor.   soft: capacity may be exceeded until ``evict``; else never is.

        Raises: UserError or RunError for a capacity that is too small or does not fit into memory.
        """
        self.config, self.soft = config, soft
        rows = config.capacity // sum(sizes)
        if rows < config.n_step + 2:
            raise UserError(
                f"replay.capacity is {config.capacity}: {sum(sizes)} environments with n_step {config.n_step} "
                f"need at least {sum(sizes) * (config.n_step + 2)}"
            )
        room = max(int(rows * ROOM), config.n_step + 2) if soft else 0
        check_memory(spec, config, (rows + room) * sum(sizes))
        self.rows = rows  # kept of each environment when ``evict`` is done
        self.shards = [
            Replay(spec, _share(config, index, len(sizes), (rows + room) * size), size, gamma, seed)
            for index, size in enumerate(sizes)
        ]
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self._buffers = Buffers(spec, pin_memory=pin_memory)
        self._versions = [np.zeros(shard.storage.slots, np.int64) for shard in self.shards]
        self.evicted = 0  # transitions that ``evict`` let go of

    def __len__(self) -> int:
        """Transitions that can be drawn."""
        return sum(len(shard) for shard in self.shards)

    @property
    def capacity(self) -> int:
        """Transitions kept when ``evict`` is done."""
        return self.rows * sum(shard.num_envs for shard in self.shards)

    @property
    def produced(self) -> int:
        """Transitions ever added."""
        return sum(shard.added for shard in self.shards)

    def extend(self, shard: int, block: Block, version: int = 0) -> None:
        """Store T steps of one actor's environments; ``version`` of the weights that acted."""
        storage = self.shards[shard].storage
        rows = np.arange(storage.head, storage.head + len(block.reward))
        self._versions[shard][rows[-storage.slots :] % storage.slots] = version
        self.shards[shard].extend(block)

    def sample(self, batch_size: int, beta: float = 0.4, into: Buffer | None = None) -> ReplayBatch:
        """Draw ``batch_size`` transitions of all shards, with replacement; see ``Replay.sample``.

        into: memory for the batch; None: the replay's own, which takes turns.
        """
        if batch_size < 1:
            raise UserError(f"batch of {batch_size} from replay: it must be at least 1")
        if batch_size > self.config.capacity:
            raise UserError(
                f"batch of {batch_size} from a replay of {self.config.capacity}: raise replay.capacity"
            )
        if len(self) == 0:
            raise UserError("replay is empty: add at least n_step + 1 steps before drawing")
        buffer = into or self._buffers.next(batch_size)
        if self.config.prioritized:
            self._draw_prioritized(buffer, batch_size, beta)
        else:
            self._draw_uniformly(buffer, batch_size)
        return buffer.batch

    def _draw_prioritized(self, buffer: Buffer, count: int, beta: float) -> None:
        """One draw from each of ``count`` equal strata of the sum over all shards.

        w = (M P)^-beta over its largest, M transitions in all: M and the sum cancel, which leaves each transition's
        p^alpha over the smallest of any shard.
        """
        samplers = [_prioritized(shard) for shard in self.shards]
        bounds = np.cumsum([0.0, *(sampler.total for sampler in samplers)])
        low = min(sampler.low for sampler in samplers)
        targets = (np.arange(count) + self._rng.random(count)) * (bounds[-1] / count)
        for shard, first, past in _runs(targets, bounds):
            sampler, replay = samplers[shard], self.shards[shard]
            ids, masses = sampler.at(targets[first:past] - bounds[shard], replay.storage.live())
            arrays = buffer.rows(first, past)
            arrays["weight"][:] = (masses / low) ** -beta
            self._gather(shard, ids, arrays)

    def _draw_uniformly(self, buffer: Buffer, count: int) -> None:
        bounds = np.cumsum([0, *(len(shard) for shard in self.shards)])
        places = self._rng.integers(0, bounds[-1], count)
        if len(self.shards) > 1:
            places.sort()
        buffer.arrays["weight"][:] = 1.0
        for shard, first, past in _runs(places, bounds):
            ids = places[first:past] - bounds[shard] + self.shards[shard].storage.live()[0]
            self._gather(shard, ids, buffer.rows(first, past))

    def _gather(self, shard: int, ids: np.ndarray, arrays: dict[str, Any]) -> None:
        arrays["index"][:] = ids * len(self.shards) + shard
        self.shards[shard].storage.gather(ids, arrays)

    def update_priorities(self, index: Tensor | np.ndarray, td_error: Tensor | np.ndarray) -> None:
        """TD errors f32[N] of the transitions i64[N] of a batch; those that have left since are passed over."""
        index = np.asarray(index.cpu() if isinstance(index, Tensor) else index)
        errors = np.asarray(td_error.detach().float().cpu() if isinstance(td_error, Tensor) else td_error)
        ids, shards = np.divmod(index, len(self.shards))
        for number, shard in enumerate(self.shards):
            mine = shards == number
            shard.update_priorities(ids[mine], errors[mine])
        if self.config.prioritized:  # what enters without a priority shall not depend on whose it is
            samplers = [_prioritized(shard) for shard in self.shards]
            largest = max(sampler.largest for sampler in samplers)
            for sampler in samplers:
                sampler.largest = largest

    def versions(self, index: np.ndarray) -> np.ndarray:
        """Versions i64[N] of the weights that acted in transitions i64[N] of a batch."""
        ids, shards = np.divmod(index, len(self.shards))
        found = np.zeros(len(index), np.int64)
        for number, shard in enumerate(self.shards):
            mine = shards == number
            rows = ids[mine] // shard.num_envs
            found[mine] = self._versions[number][rows % shard.storage.slots]
        return found

    def evict(self) -> int:
        """Let go of what exceeds the capacity, oldest first; returns how many transitions went."""
        gone = sum(shard.evict(self.rows) for shard in self.shards) if self.soft else 0
        self.evicted += gone
        return gone

    def break_episodes(self, shard: int) -> None:
        """Say that an actor's environments were started afresh; see ``Replay.break_episodes``."""
        self.shards[shard].break_episodes()

    def nbytes(self) -> int:
        """Bytes taken by stored transitions, priorities included."""
        return sum(shard.nbytes() for shard in self.shards)

    def state(self) -> dict[str, Any]:
        """A tree of plain values and arrays for a checkpoint; see ``Replay.state``."""
        return {
            "shards": [shard.state() for shard in self.shards],
            "versions": self._versions,
            "rng": rng_state(self._rng),
            "evicted": self.evicted,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to a state that ``state`` gave under the same configuration: the same draws follow."""
        if len(state["shards"]) != len(self.shards):
            raise RunError(
                f"the checkpoint's replay has {len(state['shards'])} shards, one for each actor: "
                f"set parallel.copies={len(state['shards'])}"
            )
        for shard, saved in zip(self.shards, state["shards"], strict=True):
            shard.load_state(saved)
        for versions, kept in zip(self._versions, state["versions"], strict=True):
            versions[:] = kept
        load_rng_state(self._rng, state["rng"])
        self.evicted = int(state["evicted"])


def _share(config: ReplayConfig, index: int, count: int, capacity: int) -> ReplayConfig:
    """What one shard is made with: files of its own where there are several."""
    folder = config.memory_map
    if folder is not None and count > 1:
        folder = str(Path(folder) / f"shard-{index}")
    return replace(config, capacity=capacity, memory_map=folder)


def _prioritized(shard: Replay) -> PrioritizedSampler:
    assert isinstance(shard.sampler, PrioritizedSampler)
    return shard.sampler


def _runs(places: np.ndarray, bounds: np.ndarray) -> list[tuple[int, int, int]]:
    """Which of the ascending ``places`` [N] lie in which shard: (shard, first, past the last), empty ones left out.

    bounds: [S + 1] where each shard begins and ends. With one shard any order will do.
    """
    widths = np.diff(bounds)
    last = int(np.flatnonzero(widths > 0)[-1])  # rounding may put a place at the very end
    if len(widths) == 1:
        return [(0, 0, len(places))]
    cuts = [0, *np.searchsorted(places, bounds[1 : last + 1]).tolist(), len(places)]
    return [
        (shard, cuts[shard], cuts[shard + 1]) for shard in range(last + 1) if cuts[shard + 1] > cuts[shard]
    ]
