"""The actor's job: build environments, algorithm and network from the experiment, then fill slot after slot."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from redline import environments
from redline.actors import Actor
from redline.actors.priorities import FirstPriorities
from redline.learners.flat import flatten_parameters, twin
from redline.learners.graphs import GraphedActing, can_be_recorded
from redline.networks.packed import tell, watch
from redline.runtime.crew.board import Board, Watched, total
from redline.runtime.crew.ports import REQUEST, Port
from redline.runtime.crew.slots import Slots
from redline.runtime.crew.weights import WeightStore, byte_views
from redline.runtime.experiment import Experiment, make_algorithm
from redline.runtime.parts import build_network, shares_of
from redline.runtime.plan import first_seed, has_bf16
from redline.runtime.system import give_way, keep_freed_memory
from redline.types import Spec


class ActingNetwork:
    """A network to act with, and where its published weights go: to the host, and from there to another device."""

    def __init__(self, experiment: Experiment, spec: Spec, kind: Any, device: str = "cpu") -> None:
        network = build_network(experiment, spec, kind)
        flat = flatten_parameters(network)
        if experiment.learner.precision == "bf16":
            flat = flat.to(torch.bfloat16)
        landing = twin(network, flat, trainable=False)
        self._views: list[np.ndarray] = byte_views(flat, landing)
        landed = [flat, *landing.buffers()]
        self.module: nn.Module = landing
        self._onward: list[
            tuple[Tensor, Tensor]
        ] = []  # where what has landed goes on to, and where it landed
        if device == "cpu" and experiment.learner.device != "cpu" and not has_bf16("cpu"):
            there = flat.float()  # what a GPU multiplies well, this processor may not
            self.module = twin(landing, there, trainable=False)
            self._onward = [(there, flat)]
        elif device != "cpu":
            there = flat.to(device)
            self.module = twin(landing.to(device), there, trainable=False)
            self._onward = list(zip([there, *self.module.buffers()], landed, strict=True))
            if experiment.learner.cuda_graphs and can_be_recorded(self.module):
                self.module = GraphedActing(self.module)
        self._watching = watch(self.module)

    def read(self, weights: WeightStore) -> int:
        """Take the newest weights; returns their version."""
        version = weights.read(self._views)
        for there, landed in self._onward:
            there.copy_(landed)
        tell(self._watching)
        return version


@dataclass
class ActorJob:
    """What one actor needs to know."""

    name: str
    role: int  # its row of the board
    experiment: Experiment  # every automatic choice made
    spec: Spec
    first_column: int  # its first environment among those of the run
    num_envs: int
    threads: int  # cores that its environments may keep busy
    slots: Slots
    weights: WeightStore
    board: Board

    def run(self, port: Port) -> None:
        """Fill the slots whose numbers come, each with the newest weights, until the run ends."""
        keep_freed_memory()
        give_way(self.experiment, self.threads if self.spec.threaded else 1)
        network = ActingNetwork(self.experiment, self.spec, self._algorithm().network_kind)
        actor, priorities = self._make_actor(network), self._make_priorities()
        waited, before = 0.0, self.board.role_events(self.role)  # of those who had this role before
        try:
            while True:
                begin = time.perf_counter()
                number = port.get()
                waited += time.perf_counter() - begin
                if number == REQUEST:
                    port.answer(self._answer(actor, priorities, *port.request()))
                    continue
                unroll = self.slots.unrolls[number]
                if unroll.policy_version is not None:
                    self.weights.announce(unroll.policy_version[0].numpy())
                version = network.read(self.weights)
                actor.collect(
                    unroll, self.board.steps, version, lambda: self.board.stopping or port.orphaned()
                )
                room = self.slots.priority(number)
                if room is not None and priorities is not None:
                    room[...] = priorities.of(unroll)
                self.slots.write_episodes(number, actor.episodes)
                actor.episodes.clear()
                self.board.taken[self.role] += unroll.action.shape[0] * unroll.action.shape[1]
                self.board.write_clock(self.role, actor.clock | {"waiting": waited})
                counts = [group.environment.events() for group in actor.groups]
                self.board.write_events(self.role, total(before, *counts))
                port.put(number)
        finally:
            actor.close()

    def _algorithm(self) -> Any:
        return make_algorithm(self.experiment, self.spec)

    def _make_actor(self, network: ActingNetwork) -> Actor:
        sizes = shares_of(self.num_envs, min(self.experiment.sampler.groups, self.num_envs))
        made = [environments.make(self.experiment.environment, n, threads=self.threads) for n in sizes]
        return Actor(
            [Watched(self.board, self.role, side, each) for side, each in enumerate(made)],
            self._algorithm(),
            network.module,
            seed=first_seed(self.experiment.run.seed, self.board.live(self.role)),
            first_column=self.first_column,
            num_envs=self.experiment.sampler.num_envs,
            own_columns=True,
        )

    def _make_priorities(self) -> FirstPriorities | None:
        replay = self.experiment.replay
        if replay is None or self.slots.priority(0) is None:
            return None
        clip = self.experiment.learner.reward == "clip"
        return FirstPriorities(replay.n_step, self.experiment.algorithm.gamma, self.num_envs, clip=clip)

    @staticmethod
    def _answer(actor: Actor, priorities: FirstPriorities | None, what: str, argument: Any) -> Any:
        if what == "state":
            return actor.state() | ({} if priorities is None else {"priorities": priorities.state()})
        if what == "load_state":
            if priorities is not None:
                priorities.load_state(argument["priorities"])
            return actor.load_state(argument)
        raise ValueError(f"an actor is not asked {what!r}")
