"""Gorila's servers as roles: letters from bundles in shared memory, one a bundle and server; newest weights back.

A bundle writes its gradient, marks the letter full and rings; the server applies it, publishes its slice, marks the
letter empty and rings back. A letter that is still full makes its sender wait. Weights and their version are read
together, never torn, so a stamp says exactly which weights a gradient was computed at.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from redline.learners.exchanges.chunks import cut
from redline.learners.exchanges.parameter_server import Shard
from redline.runtime.crew.ports import REQUEST, Port
from redline.runtime.crew.region import Region
from redline.runtime.crew.weights import WeightStore
from redline.runtime.experiment import Experiment, uses_replay
from redline.runtime.replicas.locks import Doorbell
from redline.runtime.replicas.memory import Memory
from redline.types import Interruption

TURN = 0.05  # seconds for which a role works before it looks at its port
NAP = 0.02  # seconds between looks at whether to give up waiting


class Post:
    """Letters, published slices and bells of all servers and bundles."""

    def __init__(self, size: int, servers: int, copies: int, *, shared: bool) -> None:
        """size: of the flat parameters."""
        self.slices = cut(size, servers)
        count = len(self.slices)
        self.region = Region(
            {
                "gradient": ((copies, size), "float32"),
                "full": ((count, copies), "int64"),
                "stamp": ((count, copies), "int64"),
                "rate": ((count, copies), "float64"),
                "target": ((count,), "int64"),
            },
            shared=shared,
        )
        sizes = [4 * (each.stop - each.start) for each in self.slices]
        self.newest = [WeightStore([size], shared=shared) for size in sizes]
        self.targets = [WeightStore([size], shared=shared) for size in sizes]
        self.to_server = [Doorbell(shared=shared) for _ in self.slices]
        self.to_bundle = [Doorbell(shared=shared) for _ in range(copies)]

    def waiting(self) -> int:
        """Gradients that have not been applied yet."""
        return int(self.region.arrays["full"].sum())

    def close(self) -> None:
        """Give up this process's hold. Safe to call twice."""
        for each in (self.region, *self.newest, *self.targets, *self.to_server, *self.to_bundle):
            each.close()  # type: ignore[attr-defined]


def _bytes(weights: Tensor) -> np.ndarray:
    return weights.numpy().view(np.uint8)


class Line:
    """A bundle's line to one server; a ``parameter_server.Server``."""

    def __init__(
        self, post: Post, server: int, bundle: int, give_up: Callable[[], bool], *, waits: bool
    ) -> None:
        """give_up: asked while waiting; True raises Interruption.   waits: for every gradient to be applied."""
        self.post, self.server, self.bundle = post, server, bundle
        self.slice = post.slices[server]
        self._give_up, self._waits = give_up, waits
        self._arrays = post.region.arrays

    def _wait_until_empty(self) -> None:
        while self._arrays["full"][self.server, self.bundle]:
            if not self.post.to_bundle[self.bundle].wait(NAP) and self._give_up():
                raise Interruption

    def push(self, gradient: Tensor, stamp: int, rate: float) -> None:
        """Write a letter once the last one has been read."""
        self._wait_until_empty()
        arrays, place = self._arrays, (self.server, self.bundle)
        np.copyto(arrays["gradient"][self.bundle, self.slice], gradient.numpy())
        arrays["stamp"][place], arrays["rate"][place] = stamp, rate
        arrays["full"][place] = 1
        self.post.to_server[self.server].ring()

    def settle(self) -> None:
        """Wait until the letter has been read, where it must be."""
        if self._waits:
            self._wait_until_empty()

    def fetch(self, weights: Tensor) -> int:
        """The newest weights and their version."""
        return self.post.newest[self.server].read([_bytes(weights)])

    def fetch_target(self, weights: Tensor) -> int:
        """The weights at the newest multiple of N updates, and which multiple."""
        return self.post.targets[self.server].read([_bytes(weights)])

    def target(self) -> int:
        """The newest multiple of N updates."""
        return int(self._arrays["target"][self.server])


def target_every(experiment: Experiment) -> int:
    """Server updates between refreshes of the target network: as asked, or as many as the algorithm's steps make."""
    algorithm: Any = experiment.algorithm
    if experiment.parallel.target_every:
        return experiment.parallel.target_every
    if getattr(algorithm, "target_every_updates", 0):  # Ape-X counts updates itself
        return int(algorithm.target_every_updates)
    if not hasattr(algorithm, "target_every"):
        return 60_000  # Nair et al. 2015; nobody looks at it
    if uses_replay(experiment):
        return max(algorithm.target_every // algorithm.update_every, 1)
    steps = (
        algorithm.unroll * experiment.sampler.num_envs / experiment.parallel.copies
    )  # of a bundle's unroll
    return max(round(algorithm.target_every / steps), 1)


def publish_all(memory: Memory, post: Post) -> None:
    """Publish the central weights and the target network: before the servers begin, and after a restart."""
    central, targets = memory.central(), post.region.arrays["target"]
    for number, piece in enumerate(post.slices):
        post.newest[number].publish([_bytes(central.weights[piece])], int(central.updates[number]))
        post.targets[number].publish([_bytes(central.target[piece])], int(targets[number]))


@dataclass
class ServerJob:
    """One server."""

    name: str
    role: int  # its row of the board
    number: int  # among the servers
    experiment: Experiment
    memory: Memory
    post: Post

    def run(self, port: Port) -> None:
        """Apply gradients until the run ends; a number is leave to work for a turn."""
        shard: Shard | None = None
        busy = 0.0
        while True:
            number = port.get()
            if number == REQUEST:
                port.request()
                port.answer({})
                continue
            if shard is None:  # now: what is restored has been restored
                shard = self._make_shard()
            busy += self._turn(shard, port)
            self.memory.board.write_clock(self.role, {"learning": busy})
            port.put(number)

    def _make_shard(self) -> Shard:
        central, piece = self.memory.central(), self.post.slices[self.number]
        self._central, self._piece = central, piece
        self._every = target_every(self.experiment)
        self._rejected = int(self.memory.board.role_events(self.role)["stale"])
        return Shard(
            central.weights[piece],
            {name: tensor[piece] for name, tensor in central.statistics.items()},
            self.experiment.learner,
            max_staleness=self.experiment.parallel.max_staleness,
            version=int(central.updates[self.number]),
        )

    def _turn(self, shard: Shard, port: Port) -> float:
        """Serve until the turn is over; returns the seconds that it took to apply gradients."""
        end, busy = time.perf_counter() + TURN, 0.0
        full = self.post.region.arrays["full"][self.number]
        board = self.memory.board
        while not (board.stopping or port.orphaned()):
            begin = time.perf_counter()
            # As a list at once: numpy's searches refuse arrays that others write to meanwhile.
            letters = [bundle for bundle, mark in enumerate(full.tolist()) if mark]
            for bundle in letters:
                self._serve(shard, bundle)
            now = time.perf_counter()
            busy += now - begin if letters else 0.0
            if now >= end:
                break
            if not letters:
                self.post.to_server[self.number].wait(min(end - now, NAP))
        return busy

    def _serve(self, shard: Shard, bundle: int) -> None:
        arrays, place = self.post.region.arrays, (self.number, bundle)
        gradient = torch.from_numpy(arrays["gradient"][bundle, self._piece])
        staleness = shard.apply(gradient, int(arrays["stamp"][place]), float(arrays["rate"][place]))
        if staleness is None:
            events: dict[str, Any] = {"stale": self._rejected + shard.rejected}
            self.memory.board.write_events(self.role, events)
        else:
            self._central.record(self.number, staleness)
            self.post.newest[self.number].publish([_bytes(shard.weights)], shard.version)
            if shard.version % self._every == 0:
                self._central.target[self._piece].copy_(shard.weights)
                self.post.targets[self.number].publish([_bytes(shard.weights)], shard.version)
                arrays["target"][self.number] = shard.version
        arrays["full"][place] = 0
        self.post.to_bundle[bundle].ring()
