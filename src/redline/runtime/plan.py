"""Settings left to Redline ("auto", 0), chosen for this machine and written down, so that a run can be repeated."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Literal

import torch

from redline import environments
from redline.architectures.catalogue import find
from redline.architectures.compatible import is_read, refusal
from redline.architectures.config import ParallelConfig
from redline.architectures.model import Architecture, lag_bound
from redline.environments.workers import GENERATION
from redline.runs.provenance import usable_cores
from redline.runtime.experiment import ALGORITHMS, Experiment, check_minibatches, uses_replay
from redline.types import Spec, UserError

FEW = 3  # actors that share an interpreter without waiting for each other much
OUTSIDE = ("vector", "envpool", "atari", "cartpole")  # environments that step without the interpreter's lock
WINDOWS = os.name == "nt"
POSIX = (
    "gorila",
    "gorila_global",
    "accel_async",
    "seed",
)  # their bells and locks Windows hands to no process
LARGE_NETWORK = (
    200_000  # parameters from which two gradient shards beat one (threads cost about 50 us a hand-over)
)


def first_seed(seed: int, life: int = 0) -> int:
    """Seed of a run's environment 0; environment i gets this plus i, so that runs of nearby seeds share none.

    life: how often who asks was started before; a successor shall not see and do its predecessor's all over again.
    """
    return (seed * 1000 + GENERATION * life) % (2**31 - 100_000)


def architecture_of(experiment: Experiment) -> Architecture:
    """The architecture of an experiment whose automatic choices are made, with its numbers."""
    parallel = experiment.parallel
    return find(parallel.architecture).sized(parallel.copies, parallel.queue, parallel.batch or None)


def resolve(experiment: Experiment, spec: Spec, parameters: int) -> Experiment:
    """The experiment with every automatic choice made that needs no measurement. ``parameters``: size of the network.

    ``learner.precision`` stays ``auto`` where it is worth measuring (``precision.measure_precision``): for images on a
    processor that multiplies bf16.
    """
    device = choose_device(experiment.learner.device)
    cores = usable_cores()
    images = any(len(shape) >= 3 for shape in _shapes(spec.observation))
    learner, sampler, run = experiment.learner, experiment.sampler, experiment.run
    precision = learner.precision
    if precision == "auto" and not (images and has_bf16(device)):
        precision = "fp32"
    elif precision == "auto" and device != "cpu":
        precision = "bf16"
    parallel = parallelism(experiment, spec, cores)
    # Actors beside the learner need cores of their own: compute threads never outnumber the cores.
    free = cores if parallel.architecture == "synchronous" else max(cores - parallel.copies, 1)
    if find(parallel.architecture).shares_gradients:  # each copy steps and computes by itself
        free = cores = max((cores - _servers_at_work(parallel)) // parallel.copies, 1)
    threads = learner.threads or (free if parameters >= LARGE_NETWORK else 1)
    threads = 1 if device != "cpu" else threads
    shards, groups = sampler.shards, sampler.groups
    if uses_replay(experiment):
        if shards > 1 or groups > 1:
            raise UserError(
                f"sampler.shards and sampler.groups: {ALGORITHMS[type(experiment.algorithm)].name} collects "
                "with one actor; leave them 0 or 1"
            )
        shards, groups = 1, 1
    beside = spec.threaded and parameters >= LARGE_NETWORK and device == "cpu"
    shards = shards or (min(cores, sampler.num_envs // max(groups, 1)) if beside else 1)
    overlaps = device != "cpu" or experiment.environment.backend == "workers"
    if parallel.architecture == "seed":
        shards, groups = 1, _served_groups(groups, parallel.copies)
    groups = groups or (2 if overlaps and sampler.num_envs >= 2 * shards else 1)
    replay = experiment.replay
    if replay is not None and uses_replay(experiment):  # no larger than the run can fill
        room = max(run.steps, experiment.algorithm.batch)  # type: ignore[union-attr]
        replay = replace(replay, capacity=min(replay.capacity, room))
    return replace(
        experiment,
        parallel=parallel,
        replay=replay,
        learner=replace(learner, device=device, precision=precision, threads=threads),
        sampler=replace(sampler, shards=shards, groups=groups),
    )


def parallelism(experiment: Experiment, spec: Spec, cores: int) -> ParallelConfig:
    """Copies, queue and runtime, chosen where left open; refuses what cannot work, with the reason."""
    parallel = experiment.parallel
    architecture = find(parallel.architecture)
    if parallel.replay == "process" and architecture.name != "apex":
        raise UserError(
            f"parallel.replay=process: in architecture {architecture.name} the replay is no role of its own; "
            "use parallel.architecture=apex, or leave it thread"
        )
    if parallel.architecture == "synchronous":
        if parallel.runtime not in ("auto", "in_process"):
            raise UserError(
                f"parallel.runtime={parallel.runtime}: architecture synchronous has one loop, in_process; "
                "choose another with parallel.architecture"
            )
        return replace(parallel, runtime="in_process", copies=1, queue=0)
    if parallel.runtime == "in_process":
        raise UserError(
            f"parallel.runtime=in_process: architecture {architecture.name} has roles side by side: "
            "use threads or processes"
        )
    outside = spec.threaded or experiment.environment.backend in OUTSIDE
    serves = architecture.name == "seed"  # two workers at least, so that one steps while the other is served
    # Of Accel RL's chunks there are three; a server is a role of its own.
    parallel = replace(parallel, servers=parallel.servers or (3 if architecture.name == "accel_async" else 1))
    every = cores if serves else cores - 1
    if architecture.shares_gradients:
        every = cores - _servers_at_work(parallel)
    copies = parallel.copies or max(every, 2 if serves else 1)
    copies = min(copies, experiment.sampler.num_envs)
    # Threads that act ask for the interpreter at every operation: many of them queue for it.
    few = copies <= FEW or serves or not isinstance(experiment.environment.id, str)
    runtime = _runtime(experiment, beside=outside and few)
    if architecture.shares_gradients:
        parallel = _sharing(experiment, parallel)
    if parallel.copies > experiment.sampler.num_envs:
        raise UserError(
            f"parallel.copies={parallel.copies} is more than the {experiment.sampler.num_envs} environments: "
            f"raise sampler.num_envs, or use {experiment.sampler.num_envs}"
        )
    hosts = min(parallel.hosts or cores, copies) if serves else parallel.hosts
    parallel = replace(parallel, runtime=runtime, copies=copies, hosts=hosts)
    parallel = replace(parallel, queue=_queue(experiment, parallel))
    check_minibatches(experiment, _fewest(experiment, parallel), " (in the smallest batch that may come)")
    if serves and parallel.queue == 0 and parallel.batch not in (0, copies):
        raise UserError(
            f"parallel.batch={parallel.batch}: in lock-step a server waits for all {copies} workers, so a batch is one "
            "unroll of each; leave it 0, or set parallel.queue=1"
        )
    if parallel.replay == "process" and (runtime != "processes" or parallel.queue == 0):
        wrong = f"runtime={runtime}" if runtime != "processes" else "queue=0"
        raise UserError(
            f"parallel.replay=process with parallel.{wrong}: a replay apart needs parallel.runtime=processes and "
            "parallel.queue=1"
        )
    return replace(parallel, slot=_slot(experiment, parallel))


def _runtime(experiment: Experiment, *, beside: bool) -> Literal["in_process", "threads", "processes"]:
    """Threads or processes: as asked, or threads where roles go well ``beside`` each other or can be nothing else."""
    asked, reason = experiment.parallel.runtime, _no_processes(experiment)
    if asked == "processes" and reason is not None:
        raise UserError(f"parallel.runtime=processes: {reason}; use threads")
    if asked == "auto":
        return "threads" if beside or reason is not None else "processes"
    return asked


def _no_processes(experiment: Experiment) -> str | None:
    """Why roles cannot be processes, or None."""
    architecture = experiment.parallel.architecture
    if WINDOWS and architecture in POSIX:
        return f"architecture {architecture} needs Linux or macOS"
    reason = environments.out_of_reach(experiment.environment)
    if reason is not None:
        name = environments.name_of(experiment.environment)
        return f"environment {name!r} cannot be sent to another process: {reason}"
    return None


def _served_groups(groups: int, workers: int) -> int:
    """Groups of workers that an inference server serves in turns: two, unless said otherwise."""
    if groups > workers:
        raise UserError(
            f"sampler.groups={groups} is more than the {workers} workers: raise parallel.copies, or use {workers}"
        )
    return groups or min(2, workers)


def _servers_at_work(parallel: ParallelConfig) -> int:
    """Roles beside the copies that compute."""
    return parallel.servers if find(parallel.architecture).served else 0


def _sharing(experiment: Experiment, parallel: ParallelConfig) -> ParallelConfig:
    """Choices of copies that share gradients; refuses what would give each of them another network."""
    together = find(parallel.architecture).sized(1)
    if experiment.network.normalize_observation and lag_bound(together) != 0:
        raise UserError(
            f"network.normalize_observation=true: copies of {parallel.architecture} would each normalise by statistics "
            "of their own; use parallel.architecture=accel_sync, or normalize_observation=false"
        )
    if parallel.collective == "auto":
        parallel = replace(parallel, collective="shared")
    return parallel


def _queue(experiment: Experiment, parallel: ParallelConfig) -> int:
    """Room for unrolls that wait: as asked, or as many up to two as the algorithm bears the lag of. With two, neither
    side waits for the other's slower moments."""
    algorithm = ALGORITHMS[type(experiment.algorithm)]
    for queue in (2, 1, 0) if parallel.queue is None else (parallel.queue,):
        sized = find(parallel.architecture).sized(parallel.copies, queue, parallel.batch or None)
        reason = refusal(sized, algorithm)
        if reason is None:
            return queue
    raise UserError(str(reason))


def _slot(experiment: Experiment, parallel: ParallelConfig) -> int:
    """Agent steps of each environment in an actor's slot: 0 where the algorithm says how long its unrolls are; one in
    lock-step; else about Ape-X's 50 transitions, but enough to be worth a message and few enough to stay fresh."""
    if not uses_replay(experiment):
        return 0
    if parallel.queue == 0:
        if parallel.slot > 1:
            raise UserError(
                f"parallel.slot={parallel.slot}: with parallel.queue=0 actors and learner take turns at every step; "
                "leave it 0, or set parallel.queue=1"
            )
        return 1
    share = -(-experiment.sampler.num_envs // parallel.copies)
    return parallel.slot or min(max(-(-50 // share), 8), 50)


def _fewest(experiment: Experiment, parallel: ParallelConfig) -> int:
    """Environments in the smallest batch that may come of copies with their shares of all; copies that learn by
    themselves are looked at one by one (``check_shares``)."""
    if not is_read("batch", parallel.architecture):
        return experiment.sampler.num_envs
    share, larger = divmod(experiment.sampler.num_envs, parallel.copies)
    take = parallel.batch or parallel.copies
    if parallel.queue:  # one actor may have several unrolls in a batch, and it may be one of the smaller
        return take * share
    return take * share + max(take - (parallel.copies - larger), 0)


def choose_device(device: str) -> str:
    """cpu or cuda[:N]; auto takes a GPU where there is one. Unknown or absent devices are refused."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device != "cpu" and not device.startswith("cuda"):
        raise UserError(f"learner.device={device}: unknown; use cpu, cuda, cuda:N or auto")
    if device.startswith("cuda"):
        count = torch.cuda.device_count()
        number = device.removeprefix("cuda").removeprefix(":") or "0"
        if not number.isdigit() or int(number) >= count:
            raise UserError(
                f"learner.device={device}: this machine has {count} CUDA devices; use cpu or auto"
            )
    return device


def has_bf16(device: str) -> bool:
    """Whether the device multiplies bf16 natively."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported()
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(probe and probe())


def _shapes(space: object) -> list[tuple[int, ...]]:
    parts = getattr(space, "spaces", None)
    if isinstance(parts, dict):
        return [shape for part in parts.values() for shape in _shapes(part)]
    return [tuple(getattr(space, "shape", None) or ())]
