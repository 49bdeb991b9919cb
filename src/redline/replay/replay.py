"""Replay: a storage, a sampler and the buffers that batches are handed out in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from redline.replay.buffers import Buffers
from redline.replay.columns import take_folder
from redline.replay.config import ReplayConfig
from redline.replay.samplers import PrioritizedSampler, Sampler, UniformSampler
from redline.replay.storage import Block, Storage
from redline.runs.rng import load_rng_state, rng_state
from redline.types import ReplayBatch, RunError, Spec, Tree, UserError


class Replay:
    """n-step transitions of B environments, newest ``capacity`` kept, drawn uniformly or by priority.

    A step becomes drawable when the step n later has been added; at steady state between ``capacity - B *
    n_step`` and ``capacity`` transitions are. Not thread-safe: one thread adds and draws (arrays of a drawn
    batch may be read by any). Drawn tensors are overwritten two draws later: copy what must live longer.
    """

    def __init__(
        self,
        spec: Spec,
        config: ReplayConfig,
        num_envs: int,
        gamma: float = 0.99,
        seed: int = 0,
        pin_memory: bool = False,
    ) -> None:
        """pin_memory: batches in page-locked memory, for asynchronous copies to a CUDA device."""
        self.config, self.num_envs = config, num_envs
        if config.memory_map is not None:
            take_folder(Path(config.memory_map), self)
        self.storage = Storage(spec, config, num_envs, gamma)
        self.sampler: Sampler = (
            PrioritizedSampler(config, self.storage.slots * num_envs)
            if config.prioritized
            else UniformSampler()
        )
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self._envs = np.arange(num_envs)
        self._buffers = Buffers(spec, pin_memory=pin_memory)

    def __len__(self) -> int:
        """Transitions that can be drawn."""
        first, past = self.storage.live()
        return past - first

    @property
    def added(self) -> int:
        """Transitions ever added."""
        return self.storage.head * self.num_envs

    def add(
        self,
        observation: Tree,
        action: np.ndarray,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        final_observation: Tree = None,
        action_mask: np.ndarray | None = None,
        priority: np.ndarray | None = None,
    ) -> None:
        """Store one step of every environment (arrays are copied).

        Args:
          observation: [B, ...] what was acted on, and ``action_mask`` bool[B, A] the actions legal in it.
          action: i64[B], i64[B, K] or f32[B, K].   reward: f32[B].   terminated, truncated: bool[B].
          final_observation: [B, ...] as in ``Step``; needed where truncated.
          priority: f32[B] |TD error| of the transitions that this step makes drawable, those of n steps ago, where
            the actor knows it (Ape-X): they enter with it instead of with the largest priority seen. NaN: not known.

        Raises UserError for shapes or dtypes that are not the spec's, or a stack that does not move on by one
        frame.
        """
        before = self.storage.live()
        self.storage.add(observation, action, reward, terminated, truncated, final_observation, action_mask)
        after = self.storage.live()
        if after[0] > before[0]:
            self.sampler.leave(before[0] + self._envs)
        if after[1] > before[1]:
            self._enter(before[1] + self._envs, priority)

    def extend(self, block: Block) -> None:
        """Store T steps of every environment at once: the same as T times ``add``, and many times cheaper."""
        length, longest = len(block.reward), self.storage.longest
        for first in range(0, length, longest):
            piece = block if length <= longest else block.cut(slice(first, first + longest))
            before = self.storage.live()
            self.storage.extend(piece)
            after = self.storage.live()
            if after[0] > before[0]:  # first: what enters may take the places of these
                self.sampler.leave(np.arange(before[0], min(after[0], before[1])))
            ids = np.arange(before[1], after[1])
            known = piece.priority
            self._enter(ids, None if known is None else known.reshape(-1)[known.size - len(ids) :])

    def _enter(self, ids: np.ndarray, priority: np.ndarray | None) -> None:
        if len(ids) == 0:
            return
        unknown = None if priority is None else np.isnan(priority)
        if priority is None or unknown is None or unknown.all():
            self.sampler.enter(ids, None)
        elif unknown.any():
            self.sampler.enter(ids[unknown], None)
            self.sampler.enter(ids[~unknown], priority[~unknown])
        else:
            self.sampler.enter(ids, priority)

    def evict(self, newest: int) -> int:
        """Let go of the oldest transitions until at most ``newest`` rows are kept; returns how many went."""
        first, past = self.storage.live()
        self.storage.floor = max(self.storage.floor, self.storage.head - newest)
        gone = min(self.storage.live()[0], past) - first
        if gone > 0:
            self.sampler.leave(np.arange(first, first + gone))
        return max(gone, 0)

    def sample(self, batch_size: int, beta: float = 0.4) -> ReplayBatch:
        """Draw ``batch_size`` transitions, with replacement, as CPU tensors valid until two draws later.

        beta: exponent of the importance weights (prioritised only); see ``ReplayConfig.beta_at``.
        """
        live = self.storage.live()
        if batch_size < 1:
            raise UserError(f"batch of {batch_size} from replay: it must be at least 1")
        if batch_size > self.config.capacity:
            raise UserError(
                f"batch of {batch_size} from a replay of {self.config.capacity}: raise replay.capacity"
            )
        if live[0] == live[1]:
            raise UserError("replay is empty: add at least n_step + 1 steps before drawing")
        ids, weight = self.sampler.draw(batch_size, beta, live, self._rng)
        buffer = self._buffers.next(batch_size)
        buffer.arrays["index"][:], buffer.arrays["weight"][:] = ids, weight
        self.storage.gather(ids, buffer.arrays)
        return buffer.batch

    def update_priorities(self, index: Tensor | np.ndarray, td_error: Tensor | np.ndarray) -> None:
        """TD errors f32[N] of the transitions i64[N] of a batch; those overwritten since are passed over."""
        ids = np.asarray(index.cpu() if isinstance(index, Tensor) else index)
        errors = np.asarray(td_error.detach().float().cpu() if isinstance(td_error, Tensor) else td_error)
        first, past = self.storage.live()
        there = (ids >= first) & (ids < past)
        self.sampler.update(ids[there], errors[there])

    def break_episodes(self) -> None:
        """Say that the environments were started afresh, as after resuming without their state.

        Open episodes end as truncated, each at its newest observation, whose own step (one an environment) is
        dropped.
        """
        before = self.storage.live()
        self.storage.break_episodes()
        after = self.storage.live()
        if after[1] < before[1]:
            self.sampler.leave(np.arange(after[1], before[1]))

    def nbytes(self) -> int:
        """Bytes taken by stored transitions, priorities included."""
        return self.storage.nbytes() + self.sampler.nbytes()

    def state(self) -> dict[str, Any]:
        """A tree of plain values and arrays for a checkpoint: views, valid until the next add.

        Memory-mapped observations are referred to, not copied: steps overwritten in the files between this
        call and ``load_state`` are then missing from the replay (the oldest ones), everything else is exact.
        """
        return {
            "storage": self.storage.state(),
            "sampler": self.sampler.state(),
            "rng": rng_state(self._rng),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to a state that ``state`` gave under the same configuration: the same draws follow."""
        if ("priority" in state["sampler"]) != self.config.prioritized:
            raise RunError("the checkpoint's replay differs in replay.prioritized")
        self.storage.load_state(state["storage"])
        self.sampler.load_state(state["sampler"])
        load_rng_state(self._rng, state["rng"])
        first, past = max(0, self.storage.head - self.storage.rows) * self.num_envs, self.storage.live()[0]
        if past > first:
            self.sampler.leave(np.arange(first, past))
