"""A run's parts, made from an experiment: environments, network, learner, and the loop that joins them."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from redline import environments, networks
from redline.architectures.draw import lag_sentence
from redline.learners.learner import Learner, serial
from redline.runs.provenance import usable_cores
from redline.runtime.experiment import Experiment, make_algorithm
from redline.runtime.plan import architecture_of, first_seed, resolve
from redline.runtime.pool import Pool
from redline.runtime.precision import measure_precision
from redline.runtime.system import keep_freed_memory
from redline.types import Environment, Spec

_SEEDING = (
    threading.Lock()
)  # the global generator is everyone's: copies in threads draw their weights one by one


@dataclass(frozen=True)
class Place:
    """Where a copy's share lies in the whole run. A run of one copy is all of it, and this its place."""

    first_column: int = 0  # its first environment among those of the run; moves seeds along
    environments: int = 0  # of the run; 0: as many as it has
    stride: int = (
        0  # agent steps of the run that pass with one step of its environments; 0: as many as it has
    )
    head_start: int = 0  # agent steps by which its updates from replay begin early: others fill replays too
    whole: Callable[[int], int] | None = None  # its steps in this iteration -> agent steps of the run
    learns_from: Callable[[], int] | None = None  # agent steps of the run before which nothing is learned
    life: int = 0  # how often this copy was started before; moves seeds along, too
    cores: int = 0  # that its environments may keep busy; 0: every one


@dataclass
class Parts:
    """What a loop needs, assembled."""

    experiment: Experiment  # every automatic choice made
    spec: Spec
    algorithm: Any
    learner: Learner
    pool: Pool
    choices: list[str] = field(default_factory=list)  # what was measured and chosen, a sentence each
    place: Place = field(default_factory=Place)
    watched: Callable[[int, Environment], Environment] = lambda _, environment: (
        environment
    )  # numbered, as made

    def make_environments(self) -> list[list[Environment]]:
        """The environments of each shard, in groups; ``num_envs`` in all."""
        sampler = self.experiment.sampler
        made: list[list[Environment]] = []
        for size in shares_of(sampler.num_envs, sampler.shards):
            # In one process stepping and learning take turns, so stepping may have every core.
            threads = max(1, (self.place.cores or usable_cores()) // sampler.shards)
            groups = shares_of(size, sampler.groups)
            made.append([environments.make(self.experiment.environment, n, threads=threads) for n in groups])
        side = itertools.count()
        return [[self.watched(next(side), each) for each in groups] for groups in made]

    def close(self) -> None:
        """Let the threads end."""
        self.pool.close()


def shares_of(total: int, parts: int) -> list[int]:
    """``total`` cut into ``parts`` whole numbers as equal as can be."""
    return [total * (k + 1) // parts - total * k // parts for k in range(parts)]


def assemble(experiment: Experiment) -> Parts:
    """Make algorithm, network and learner; weights are drawn from the run's seed and nothing else."""
    keep_freed_memory()
    spec = environments.probe(experiment.environment)
    algorithm = make_algorithm(experiment, spec)
    network = build_network(experiment, spec, algorithm.network_kind)
    experiment = resolve(experiment, spec, sum(p.numel() for p in network.parameters()))
    experiment, choices = measure_precision(experiment, spec, network)
    config = experiment.learner
    pool = Pool(max(config.threads, experiment.sampler.shards))
    learner = Learner(
        network,
        config,
        seed=experiment.run.seed,
        num_envs=experiment.sampler.num_envs,
        gamma=experiment.algorithm.gamma,
        parallel=pool if config.threads > 1 else serial,
    )
    if algorithm.target_network:
        learner.make_target()
    return Parts(experiment, spec, algorithm, learner, pool, choices)


def build_network(experiment: Experiment, spec: Spec, kind: Any) -> nn.Module:
    """The experiment's network with weights drawn from its seed, the global generator left as it was."""
    with _SEEDING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(experiment.run.seed)
        return networks.build(spec, experiment.network, kind)


def rules(parts: Parts) -> Sequence[str]:
    """The run's rules, one plain sentence each: what is bootstrapped, clipped, normalised, seeded."""
    experiment = parts.experiment
    learner, sampler = experiment.learner, experiment.sampler
    reward = {
        "raw": "rewards are learned from as they are",
        "clip": "rewards are clipped to [-1, 1] for learning; returns shown are raw",
        "normalize": "rewards are divided by the returns' running deviation; returns shown are raw",
    }[learner.reward]
    observed = (
        "normalised by running mean and deviation"
        if experiment.network.normalize_observation
        else "not normalised"
    )
    architecture = architecture_of(experiment)
    place = f"architecture {architecture.name}, runtime {experiment.parallel.runtime}: {lag_sentence(architecture)}"
    stepping = f"{sampler.shards} actor thread(s)"
    if architecture.edges:
        stepping = (
            f"{architecture.acting.copies} {architecture.acting.name}(s), in {experiment.parallel.runtime}"
        )
    return [
        *parts.spec.rules,
        *([place] if architecture.edges else []),
        f"one agent step is {parts.spec.action_repeat} frame{'s' if parts.spec.action_repeat > 1 else ''}",
        "truncated episodes bootstrap from their final observation; terminated ones do not",
        reward,
        f"observations are {observed}",
        f"{learner.precision} on {learner.device}, {learner.threads} gradient shard(s), "
        f"{sampler.num_envs} environments in {stepping}",
        *parts.choices,
        f"seed {experiment.run.seed}: environment i is seeded with {first_seed(experiment.run.seed)} + i",
    ]
