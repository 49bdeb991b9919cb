"""A copy's share of a run: some of its environments, seeds that go with them, and its part of the numbers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from redline.architectures.config import ParallelConfig
from redline.environments.workers import GENERATION
from redline.learners.learner import Learner, serial
from redline.learners.rewards import RewardTransform
from redline.runs.provenance import usable_cores
from redline.runtime.experiment import Experiment, make_algorithm, uses_replay
from redline.runtime.parts import Parts, Place, build_network, shares_of
from redline.runtime.pool import Pool
from redline.types import Spec, UserError


def first_columns(experiment: Experiment) -> list[int]:
    """Each copy's first environment among those of the run."""
    sizes = shares_of(experiment.sampler.num_envs, experiment.parallel.copies)
    return [0, *itertools.accumulate(sizes)][: len(sizes)]


def lockstep(experiment: Experiment) -> bool:
    """Whether the copies step together and wait for each other at every update."""
    return experiment.parallel.architecture == "accel_sync"


def share_of(experiment: Experiment, role: int) -> Experiment:
    """What copy ``role`` would be as an experiment of its own.

    It gets its share of the environments and of the replay's capacity. Where copies step together, its share of each
    replay batch as well: together they consume what one would.
    """
    copies, sampler = experiment.parallel.copies, experiment.sampler
    num_envs = shares_of(sampler.num_envs, copies)[role]
    shards = min(sampler.shards, num_envs)
    replay = experiment.replay
    algorithm: Any = experiment.algorithm
    if uses_replay(experiment):
        assert replay is not None
        folder = replay.memory_map
        if folder is not None and copies > 1:  # files of its own
            folder = str(Path(folder) / f"copy-{role}")
        replay = replace(replay, capacity=max(replay.capacity // copies, 1), memory_map=folder)
        if lockstep(experiment):
            if algorithm.batch < copies:
                raise UserError(
                    f"algorithm.batch={algorithm.batch} is less than the {copies} copies that share it: use {copies}"
                )
            algorithm = replace(algorithm, batch=shares_of(algorithm.batch, copies)[role])
    return replace(
        experiment,
        algorithm=algorithm,
        replay=replay,
        parallel=ParallelConfig(),
        sampler=replace(
            sampler, num_envs=num_envs, shards=shards, groups=min(sampler.groups, max(num_envs // shards, 1))
        ),
    )


def check_shares(experiment: Experiment, spec: Spec) -> None:
    """Refuse what some copy's share could not do, before any copy is started. Raises: UserError."""
    for role in range(experiment.parallel.copies):
        make_algorithm(share_of(experiment, role), spec)


def place_of(
    experiment: Experiment,
    role: int,
    whole: Callable[[int], int] | None,
    learns_from: Callable[[], int] | None,
) -> Place:
    """Where the share of copy ``role`` lies; see ``Place``.

    ``whole`` is not asked where copies step together, ``learns_from`` nowhere else.
    """
    copies, together = experiment.parallel.copies, lockstep(experiment)
    starts = getattr(experiment.algorithm, "learning_starts", 0)
    return Place(
        first_column=first_columns(experiment)[role],
        environments=experiment.sampler.num_envs,
        stride=experiment.sampler.num_envs if together else 0,
        head_start=0 if together else starts - starts // copies,
        whole=None if together else whole,
        learns_from=learns_from if together else None,
        cores=max(usable_cores() // copies, 1),
    )


def share_parts(
    experiment: Experiment,
    spec: Spec,
    role: int,
    *,
    whole: Callable[[int], int] | None = None,
    learns_from: Callable[[], int] | None = None,
    learner: Learner | None = None,
    life: int = 0,
) -> Parts:
    """The parts of copy ``role``, its weights drawn as all others' are.

    life: how often it was started before.
    learner: the run's own, for the copy that lives in the main role; None makes one.
    """
    share = share_of(experiment, role)
    if share.learner.device == "cuda" and torch.cuda.device_count() > 1 and learner is None:
        device = f"cuda:{role % torch.cuda.device_count()}"
        share = replace(share, learner=replace(share.learner, device=device))
    place = replace(place_of(experiment, role, whole, learns_from), life=life)
    algorithm = make_algorithm(share, spec)
    config = share.learner
    pool = Pool(max(config.threads, share.sampler.shards))
    if learner is None:
        learner = Learner(
            build_network(share, spec, algorithm.network_kind),
            config,
            seed=share.run.seed + place.first_column + GENERATION * life,
            num_envs=share.sampler.num_envs,
            gamma=share.algorithm.gamma,
            parallel=pool if config.threads > 1 else serial,
        )
    else:
        learner.rewards = RewardTransform(config.reward, share.sampler.num_envs, share.algorithm.gamma)
    if algorithm.target_network and learner.target is None:
        learner.make_target()
    return Parts(share, spec, algorithm, learner, pool, place=place)
