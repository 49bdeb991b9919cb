"""Gorila's global replay: one for all bundles (Nair et al. 2015, section 4), a role of its own beside the servers.

A bundle and the replay have one letter of a step, two batches and one letter of TD errors in memory that both see;
flags say whose turn it is, bells wake whoever waits. A bundle that dies leaves what it stored; a replay that dies is
started anew, empty, and is drawn from again when it holds as much as there was before the first update.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from redline.replay import frames
from redline.replay.buffers import Buffer, Form, batch_forms, buffer_over
from redline.replay.config import ReplayConfig
from redline.replay.shards import ShardedReplay
from redline.replay.storage import Block, action_layout
from redline.runtime.crew.ports import REQUEST, Port
from redline.runtime.crew.region import Region
from redline.runtime.experiment import Experiment
from redline.runtime.parts import shares_of
from redline.runtime.replicas.locks import Doorbell
from redline.runtime.replicas.memory import Memory
from redline.runtime.replicas.servers import NAP, TURN
from redline.types import Interruption, ReplayBatch, Spec, Tree, tree_map

SHELVES = 2  # batches of a bundle: one being learned from, one drawn ahead
IDLE, ASKED, FILLED = range(3)  # a batch


def step_forms(spec: Spec, num_envs: int) -> dict[str, Any]:
    """Shapes and dtypes of one step of ``num_envs`` environments, by ``Block``'s names; observations by path."""

    def form(shape: tuple[int, ...], dtype: Any) -> Form:
        return (1, num_envs, *shape), np.dtype(dtype).name

    spaces = frames.space_leaves(spec.observation)
    forms: dict[str, Any] = {
        name: {path: form(space.shape or (), space.dtype) for path, space in spaces.items()}
        for name in ("observation", "final_observation")
    }
    forms["action"] = form(*action_layout(spec.action))
    forms["reward"] = form((), np.float32)
    forms |= {name: form((), bool) for name in ("terminated", "truncated")}
    if spec.action_mask:
        forms["action_mask"] = form((sum(spec.choices),), bool)
    return forms


class Desk:
    """What bundles and their replay share. Pickles while a process is being spawned, where it is ``shared``."""

    def __init__(self, spec: Spec, batch: int, sizes: Sequence[int], *, shared: bool) -> None:
        """batch: transitions of one update.   sizes: environments of each bundle."""
        self.sizes, bundles = list(sizes), len(sizes)
        each = (bundles,), "int64"
        forms = {
            "step": {bundle: step_forms(spec, size) for bundle, size in enumerate(sizes)},
            "batch": {place: batch_forms(spec, batch) for place in range(bundles * SHELVES)},
            "error": ((bundles, batch), "float32"),
            "beta": ((bundles,), "float64"),
            # Written by bundle and replay in turn:
            "stored": each,  # 1: a step waits to be stored
            "asked": each,  # of the batch ``shelf``: IDLE, ASKED, FILLED
            "learned": each,  # 1: TD errors of the batch ``from`` wait
            # By the bundle, before it hands over its turn:
            "afresh": each,  # 1: the step that waits does not follow the one before it
            "final": each,  # 1: it has final observations
            "shelf": each,
            "from": each,
            # By the replay:
            "life": ((bundles, SHELVES), "int64"),  # which of its lives drew a batch
            "added": each,  # transitions of the bundle that came into its present life
            "size": ((1,), "int64"),  # transitions that can be drawn; none while it fills again
            "lives": ((1,), "int64"),
        }
        self.to_replay = Doorbell(shared=shared)
        self.to_bundle = [Doorbell(shared=shared) for _ in sizes]
        self._hold(Region(forms, shared=shared))

    def _hold(self, region: Region) -> None:
        self.region, self.arrays = region, region.arrays
        batches = region.arrays["batch"]
        self.buffers: list[Buffer] = [
            buffer_over(tree_map(torch.from_numpy, batches[place])) for place in range(len(batches))
        ]

    def buffer(self, bundle: int, shelf: int) -> Buffer:
        """The memory of a bundle's batch."""
        return self.buffers[bundle * SHELVES + shelf]

    def waiting(self) -> bool:
        """Whether the replay has something left to do."""
        arrays = self.arrays
        asked = arrays["size"][0] > 0 and (arrays["asked"] == ASKED).any()
        return bool(arrays["stored"].any() or arrays["learned"].any() or asked)

    def close(self) -> None:
        """Give up this process's hold. Safe to call twice."""
        self.region.close()
        for bell in (self.to_replay, *self.to_bundle):
            bell.close()

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"arrays": None, "buffers": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._hold(state["region"])


def make_desk(experiment: Experiment, spec: Spec, *, shared: bool) -> Desk:
    """The desk of an experiment's bundles."""
    sizes = shares_of(experiment.sampler.num_envs, experiment.parallel.copies)
    return Desk(spec, int(experiment.algorithm.batch), sizes, shared=shared)  # type: ignore[union-attr]


class GlobalReplay:
    """A bundle's end, with what its loop asks of a ``Replay``.

    Without ``waits`` a step travels while the bundle goes on, and the next batch is drawn while it learns from this
    one: priorities are then an update older. With it all is done when a method returns, in the order of one loop.
    """

    def __init__(
        self, desk: Desk, bundle: int, config: ReplayConfig, give_up: Callable[[], bool], *, waits: bool
    ) -> None:
        """give_up: asked while waiting; True raises Interruption."""
        self.config = config
        self._desk, self._bundle, self._give_up, self._waits = desk, bundle, give_up, waits
        self._arrays = desk.arrays
        self._taken = 0  # the shelf of the batch drawn last
        self._afresh = True  # a bundle that died before this one may have left episodes open
        self._life = 0  # of the replay when it was last asked for a batch

    def __len__(self) -> int:
        """Transitions of all bundles that can be drawn."""
        return int(self._arrays["size"][0])

    @property
    def added(self) -> int:
        """Transitions of this bundle that came into the replay as it lives now."""
        return int(self._arrays["added"][self._bundle])

    def add(
        self,
        observation: Tree,
        action: np.ndarray,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        final_observation: Tree = None,
        action_mask: np.ndarray | None = None,
    ) -> None:
        """Store one step of every environment; see ``Replay.add``."""
        self._wait_for("stored", 0)
        step = Block(observation, action, reward, terminated, truncated, final_observation, action_mask)
        for name, memory in self._arrays["step"][self._bundle].items():
            given = getattr(step, name)
            if given is None:
                continue
            leaves = memory if isinstance(memory, dict) else {(): memory}
            for path, rows in leaves.items():
                rows[0] = frames.tree_at(given, path)
        self._arrays["final"][self._bundle] = final_observation is not None
        self._arrays["afresh"][self._bundle], self._afresh = self._afresh, False
        self._hand_over("stored", 1)
        if self._waits:
            self._wait_for("stored", 0)

    def sample(self, batch_size: int, beta: float = 0.4) -> ReplayBatch:
        """A batch of all bundles' transitions; it lives until the next call. Raises: Interruption where the replay died
        meanwhile."""
        arrays, bundle = self._arrays, self._bundle
        if arrays["asked"][bundle] == IDLE:
            self._ask(beta)
        self._wait_for("asked", FILLED, whole_life=True)
        shelf = int(arrays["shelf"][bundle])
        batch = self._desk.buffer(bundle, shelf).batch
        assert len(batch.index) == batch_size, "a global replay knows one size of batch"
        self._taken = shelf
        arrays["asked"][bundle] = IDLE
        if not self._waits:
            self._ask(beta)
        return batch

    def _ask(self, beta: float) -> None:
        self._life = int(self._arrays["lives"][0])
        self._arrays["beta"][self._bundle] = beta
        self._arrays["shelf"][self._bundle] ^= 1
        self._hand_over("asked", ASKED)

    def update_priorities(self, index: Tensor | np.ndarray, td_error: Tensor | np.ndarray) -> None:
        """TD errors f32[N] of the batch drawn last."""
        self._wait_for("learned", 0)
        self._arrays["error"][self._bundle] = td_error
        self._arrays["from"][self._bundle] = self._taken
        self._hand_over("learned", 1)
        if self._waits:
            self._wait_for("learned", 0)

    def break_episodes(self) -> None:
        """Say that the environments were started afresh."""
        self._afresh = True

    def state(self) -> dict[str, Any]:
        """Nothing: the replay tells its own. (Not None, which would say that what was remembered is lost.)"""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """The replay is where ``state`` was told, and so are this bundle's episodes unless ``break_episodes`` says
        otherwise."""
        self._afresh = False

    def _hand_over(self, flag: str, value: int) -> None:
        self._arrays[flag][self._bundle] = value
        self._desk.to_replay.ring()

    def _wait_for(self, flag: str, value: int, *, whole_life: bool = False) -> None:
        while self._arrays[flag][self._bundle] != value:
            rang = self._desk.to_bundle[self._bundle].wait(NAP)
            if whole_life and self._arrays["lives"][0] != self._life:
                self._life = int(self._arrays["lives"][0])
                raise Interruption
            if not rang and self._give_up():
                raise Interruption


@dataclass
class GlobalReplayJob:
    """The replay's role."""

    name: str
    role: int  # its row of the board
    experiment: Experiment  # the run's, every automatic choice made
    spec: Spec
    memory: Memory
    desk: Desk

    def run(self, port: Port) -> None:
        """Store and draw until the run ends; a number is leave to work for a turn."""
        experiment, arrays = self.experiment, self.desk.arrays
        assert experiment.replay is not None
        self._replay = ShardedReplay(
            self.spec,
            experiment.replay,
            self.desk.sizes,
            gamma=experiment.algorithm.gamma,
            seed=experiment.run.seed,
            soft=False,
        )
        arrays["lives"][0] += 1
        starts = int(experiment.algorithm.learning_starts)  # type: ignore[union-attr]
        self._least = 1 if arrays["lives"][0] == 1 else starts
        self._tell_sizes()
        busy = 0.0
        while True:
            number = port.get()
            if number == REQUEST:
                port.answer(self._answer(*port.request()))
                continue
            busy += self._turn(port)
            self.memory.board.write_clock(self.role, {"learning": busy})
            port.put(number)

    def _turn(self, port: Port) -> float:
        """Serve until the turn is over; returns the seconds at work."""
        end, busy = time.perf_counter() + TURN, 0.0
        while not (self.memory.board.stopping or port.orphaned()):
            begin = time.perf_counter()
            served = [self._serve(bundle) for bundle in range(len(self.desk.sizes))]
            now = time.perf_counter()
            busy += now - begin if any(served) else 0.0
            if now >= end:
                break
            if not any(served):
                self.desk.to_replay.wait(min(end - now, NAP))
        return busy

    def _serve(self, bundle: int) -> bool:
        """What a bundle waits for, in the order in which it may have asked; False: for nothing."""
        arrays = self.desk.arrays
        done = list(self._take(bundle))
        if arrays["asked"][bundle] == ASKED and arrays["size"][0] > 0:
            shelf = int(arrays["shelf"][bundle])
            buffer = self.desk.buffer(bundle, shelf)
            self._replay.sample(len(buffer.batch.index), float(arrays["beta"][bundle]), into=buffer)
            arrays["life"][bundle, shelf] = arrays["lives"][0]
            arrays["asked"][bundle] = FILLED
            done.append("asked")
        if done:
            self.desk.to_bundle[bundle].ring()
        return bool(done)

    def _take(self, bundle: int) -> Iterator[str]:
        arrays = self.desk.arrays
        if arrays["learned"][bundle]:
            shelf = int(arrays["from"][bundle])
            if arrays["life"][bundle, shelf] == arrays["lives"][0] and self._replay.config.prioritized:
                index = self.desk.buffer(bundle, shelf).batch.index
                self._replay.update_priorities(index, arrays["error"][bundle])
            arrays["learned"][bundle] = 0
            yield "learned"
        if arrays["stored"][bundle]:
            if arrays["afresh"][bundle] and self._replay.shards[bundle].storage.head:
                self._replay.break_episodes(bundle)
            self._replay.extend(bundle, self._block(bundle))
            self._tell_sizes()
            arrays["stored"][bundle] = 0
            yield "stored"

    def _block(self, bundle: int) -> Block:
        memory = self.desk.arrays["step"][bundle]
        whole = {
            name: frames.tree_of(leaf) if isinstance(leaf, dict) else leaf for name, leaf in memory.items()
        }
        if not self.desk.arrays["final"][bundle]:
            whole["final_observation"] = None
        return Block(**whole)

    def _tell_sizes(self) -> None:
        arrays, size = self.desk.arrays, len(self._replay)
        arrays["added"][:] = [shard.added for shard in self._replay.shards]
        if size >= self._least:
            self._least = 1
        arrays["size"][0] = size if size >= self._least else 0

    def _answer(self, what: str, argument: Any) -> Any:
        if what == "state":
            return self._replay.state()
        if what == "load_state":
            self._replay.load_state(argument)
            self._least = 1
            self._tell_sizes()
            return True
        raise ValueError(f"a replay is not asked {what!r}")
