"""The plans there are for an experiment: every architecture that its algorithm can run on, in every size worth a look.

What learning depends on stays as the recipe has it: samples in a batch, the replay ratio, the bound on lag, memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from redline.architectures.catalogue import ARCHITECTURES, find
from redline.architectures.compatible import is_read
from redline.architectures.model import lag_bound
from redline.planner.costs import Machine
from redline.planner.measured import Costs
from redline.planner.options import Option
from redline.planner.workload import SHELVES, architecture_of
from redline.runtime.experiment import ALGORITHMS, Experiment, make_algorithm, uses_replay
from redline.runtime.plan import OUTSIDE, parallelism
from redline.runtime.replicas.share import check_shares
from redline.types import Spec, UserError

ASYNCHRONOUS = (
    "a3c",
    "accel_async",
    "gorila",
    "gorila_global",
)  # each copy learns from a batch of its own: another recipe's choice
SHORTEST = 5  # time steps of an unroll: shorter ones bootstrap from a value at almost every step
PROCESS = 350 * 2**20  # bytes of a process with torch in it
MOST_THREADS = 16  # of a learner: more share out too little
WORKER = 60 * 2**20  # bytes of one without


@dataclass(frozen=True)
class Search:
    """An experiment, what is known of it, and the machine that plans are made for."""

    experiment: Experiment
    spec: Spec
    costs: Costs
    machine: Machine
    only: str | None = None  # an architecture that was asked for
    asked: frozenset[str] = frozenset()  # settings that shall stay as the experiment has them

    @property
    def replays(self) -> bool:
        """Whether it learns from replay."""
        return uses_replay(self.experiment)

    @property
    def unroll(self) -> int:
        """The recipe's time steps of an unroll; 0 where it learns from replay."""
        return 0 if self.replays else int(self.experiment.algorithm.unroll)  # type: ignore[union-attr]

    def broken(self, option: Option) -> str | None:
        """The first setting that was asked for and that a complete option would change, if there is one."""
        return next((key for key in sorted(self.asked) if key in option.settings and _said(self, key)), None)

    def sizes(self) -> list[tuple[int, int]]:
        """(environments in all, time steps of an unroll) with the recipe's batch, its own first."""
        envs = self.experiment.sampler.num_envs
        if self.replays:
            wider = [n for n in (2 * envs, 4 * envs, 8 * envs) if n <= 8]
            return [(n, 1) for n in dict.fromkeys([envs, *wider])]
        found = [(envs, self.unroll)]
        most = 2 if self.machine.cores <= envs else self.machine.cores / envs
        factor = 2
        while factor <= most and self.unroll % factor == 0 and self.unroll // factor >= SHORTEST:
            found.append((envs * factor, self.unroll // factor))
            factor *= 2
        return found

    def waits(self) -> bool:
        """Whether stepping waits for something that is not this machine's cores."""
        return any(work.wait > work.core for work in self.costs.step.values())


def options(search: Search) -> tuple[list[Option], list[str]]:
    """Every plan worth predicting, and the architectures that cannot run the experiment, with the reason."""
    found: dict[str, Option] = {}
    refused: list[str] = []
    own = search.experiment.parallel.architecture
    names = [search.only] if search.only else [n for n in ARCHITECTURES if n not in ASYNCHRONOUS or n == own]
    for name in names:
        envs, cores = search.experiment.sampler.num_envs, search.machine.cores
        reason = f"{name}: wants two copies at least, and here are {envs} environments and {cores} core(s)"
        for option in _of(name, search):
            reason = ""
            try:
                complete = _complete(option, search)
            except UserError as error:
                reason = str(error)
                continue
            if broken := search.broken(complete):
                reason = f"{name}: no plan keeps {broken}={_said(search, broken)}, which was asked for"
            elif complete.memory <= (search.machine.memory or complete.memory):
                found[repr(replace(complete, settings={}))] = complete
            else:
                reason = f"{name}: needs about {complete.memory / 2**30:.1f} GiB of memory"
        if reason and not any(each.architecture == name for each in found.values()):
            refused.append(reason)
    return list(found.values()), refused


def _of(name: str, search: Search) -> Iterator[Option]:
    """Sizes of one architecture."""
    if name == "synchronous":
        yield from _loops(search)
        return
    parallel = search.experiment.parallel
    places = _places(search, acts_on_gpu=acts_where_it_learns(name))
    for envs, unroll in search.sizes():
        for copies, runtime in itertools.product(_copies(name, envs, search), _runtimes(search)):
            base = Option(
                architecture=name,
                runtime=runtime,
                copies=copies,
                environments=max(envs // copies, 1),
                unroll=unroll,
                queue=-1
                if parallel.queue is None
                else parallel.queue,  # -1: the most that the algorithm bears
                groups=min(2, copies) if name == "seed" else 1,
                servers=3 if name == "accel_async" else 1,
                largest=parallel.max_batch if name == "seed" else 0,
                ratio=ratio_on(search.experiment, name, parallel.queue),
                paced=paced_on(search.experiment, name),
            )
            for (act_on, learn_on), apart in itertools.product(places, _apart(name, runtime, search)):
                for threads in _learner_threads(name, copies, learn_on, search):
                    yield replace(base, act_on=act_on, learn_on=learn_on, apart=apart, threads=threads)


def ratio_on(experiment: Experiment, architecture: str, queue: int | None) -> float | None:
    """Samples learned from per sample collected; None where it does not learn from replay, or nothing bounds them.

    An algorithm that is not paced (Ape-X) counts updates by steps wherever collecting and learning take turns; beside
    actors on their way only ``parallel.replay_ratio`` holds it back.
    """
    algorithm: Any = experiment.algorithm
    if not uses_replay(experiment):
        return None
    if architecture == "apex" and queue != 0 and not ALGORITHMS[type(algorithm)].paced:
        return experiment.parallel.replay_ratio
    return algorithm.batch / algorithm.update_every


def paced_on(experiment: Experiment, architecture: str) -> bool:
    """Whether actors wait for a learner from replay that is a round behind."""
    return architecture != "apex" or bool(getattr(ALGORITHMS[type(experiment.algorithm)], "paced", False))


def _learner_threads(name: str, copies: int, learn_on: str, search: Search) -> list[int]:
    """One, or as many as the other roles leave cores for."""
    left = min(search.machine.cores - copies, MOST_THREADS)
    if not find(name).has_learner or not learn_on.startswith("cpu") or left < 2:
        return [1]
    return [1, left]


def _loops(search: Search) -> Iterator[Option]:
    cores, cpu = search.machine.cores, _cpu(search)
    for envs, unroll in search.sizes():
        for act_on, learn_on in _places(search, acts_on_gpu=True):
            if (act_on == cpu) != (learn_on == cpu):
                continue  # one loop has one device
            base = Option("synchronous", "in_process", 1, envs, unroll, act_on=act_on, learn_on=learn_on)
            base = replace(base, ratio=ratio_on(search.experiment, "synchronous", None))
            threads = _numbers(min(cores, MOST_THREADS), *search.costs.learn.get(learn_on, {1: 0.0}))
            for learners in threads if learn_on == cpu else [1]:
                here = 1 if _pay(search, envs) else 0  # left open, workers would be started by themselves
                for shards in [1] if search.replays or act_on != cpu else _numbers(min(cores, envs)):
                    # On a GPU one group steps while it acts for the other.
                    for groups in (1, 2) if act_on != cpu and envs >= 2 and not search.replays else (1,):
                        yield replace(base, threads=learners, shards=shards, workers=here, groups=groups)
                if here:
                    for workers in sorted({min(cores, envs), envs}):
                        for groups in (1, 2) if envs >= 2 and not search.replays else (1,):
                            yield replace(base, threads=learners, workers=workers, groups=groups)


def _pay(search: Search, envs: int) -> bool:
    """Whether environments in Python step slowly enough for worker processes."""
    if search.spec.threaded or search.experiment.environment.backend in OUTSIDE or envs < 2:
        return False
    each = max(work.core + work.wait for work in search.costs.step.values())
    return each > 2e-3


def _copies(name: str, envs: int, search: Search) -> list[int]:
    cores = search.machine.cores
    most = min(envs, 64 if search.waits() else 2 * cores if cores > 2 else cores)
    least = 2 if name in ("seed", "accel_sync", "accel_async", "a3c") else 1
    return [n for n in _numbers(most, cores - 1) if n >= least and envs % n == 0]


def _numbers(most: int, *also: int) -> list[int]:
    """1, 2, 4, ... with ``most`` and others."""
    powers = {2**power for power in range(most.bit_length())}
    return sorted(n for n in powers | {most, *also} if 1 <= n <= most)


def _runtimes(search: Search) -> list[str]:
    asked = search.experiment.parallel.runtime
    return [asked] if asked in ("threads", "processes") else ["threads", "processes"]


def acts_where_it_learns(name: str) -> bool:
    """Whether actions are chosen on the learner's device: by a loop, by copies that learn, by an inference server."""
    return name in ("synchronous", "seed") or find(name).shares_gradients


def _apart(name: str, runtime: str, search: Search) -> list[bool]:
    """Whether a replay that is a role has a process of its own: looked at both ways, unless it shall be so."""
    if name != "apex" or runtime != "processes":
        return [False]
    return [True] if search.experiment.parallel.replay == "process" else [False, True]


def _said(search: Search, key: str) -> Any:
    """What the experiment has for a setting; None, 0, "auto" where that leaves it open."""
    part, _, name = key.partition(".")
    value = getattr(getattr(search.experiment, part, None), name, None)
    return None if value in (0, "", "auto") else value


def _cpu(search: Search) -> str:
    return next(place for place in search.costs.learn if place.startswith("cpu"))


def _places(search: Search, *, acts_on_gpu: bool) -> list[tuple[str, str]]:
    """(where actions are chosen, where gradients are computed)."""
    cpu, asked = _cpu(search), search.experiment.learner
    found = [(cpu, cpu)] if not asked.device.startswith("cuda") else []
    if search.machine.gpus is not None and asked.device != "cpu":
        cuda = [place for place in search.costs.learn if place.startswith("cuda")]
        if asked.precision != "auto":
            cuda = [place for place in cuda if place.endswith(asked.precision)]
        found += [(place if acts_on_gpu else cpu, place) for place in cuda]
    return found


def _complete(option: Option, search: Search) -> Option:
    """With queue, lag bound, memory and settings. Raises: UserError where it cannot run."""
    made = configure(search.experiment, option)
    configured = parallelism(made, search.spec, search.machine.cores)
    make_algorithm(made, search.spec)  # refuses, for one, more minibatches than there are environments
    if find(option.architecture).shares_gradients:
        check_shares(replace(made, parallel=configured), search.spec)
    queue = 0 if option.architecture == "synchronous" else int(configured.queue or 0)
    take = made.parallel.batch if option.architecture != "synchronous" else 0
    option = replace(option, queue=queue, take=take)
    unroll = option.unroll
    if search.replays and option.architecture == "apex":
        unroll = max(configured.slot, 1)
    polite = search.experiment.parallel.give_way
    done = replace(option, unroll=unroll, polite=polite, lag_bound=lag_bound(architecture_of(option)))
    done = replace(done, memory=_memory(done, search))
    return replace(done, settings=settings_of(done, search))


def _memory(option: Option, search: Search) -> int:
    """Bytes, about: processes, slots, replay."""
    envs, experiment = option.environments * option.copies, search.experiment
    observation = search.costs.observation_bytes
    slots = (option.unroll + 1) * envs * observation * (2 + option.queue)
    shelves = SHELVES * 2 * search.costs.batch * observation if option.apart else 0
    replay = 0
    if search.replays and experiment.replay is not None:
        stack = max(search.spec.frame_stack, 1)
        mapped = (
            experiment.replay.memory_map is not None
        )  # a file: the system holds as much of it as there is room
        replay = (
            0 if mapped else min(experiment.replay.capacity, experiment.run.steps) * (observation // stack)
        )
    outside, served = option.runtime == "processes", option.architecture == "seed"
    processes = 1 + ((1 if served else option.copies) if outside else 0) + option.apart
    workers = option.copies if served and outside else option.workers
    return PROCESS * processes + WORKER * workers + slots + shelves + replay + 16 * search.costs.parameters


def configure(experiment: Experiment, option: Option) -> Experiment:
    """The experiment as the option has it."""
    algorithm: Any = experiment.algorithm
    envs = option.environments * option.copies
    if hasattr(algorithm, "unroll"):
        algorithm = replace(algorithm, unroll=option.unroll)
    environment = experiment.environment
    if option.workers > 1:
        environment = replace(environment, backend="workers", workers=option.workers)
    elif option.workers == 1:
        environment = replace(environment, backend="inline", workers=0)
    place, precision = option.learn_on.split()
    asked = experiment.learner.device
    place = asked if asked.startswith(f"{place}:") else place  # that GPU and no other
    return replace(
        experiment,
        algorithm=algorithm,
        environment=environment,
        sampler=replace(experiment.sampler, num_envs=envs, shards=option.shards, groups=option.groups),
        learner=replace(experiment.learner, device=place, precision=precision, threads=option.threads),  # type: ignore[arg-type]
        parallel=replace(
            experiment.parallel,
            architecture=option.architecture,
            runtime="auto" if option.architecture == "synchronous" else option.runtime,  # type: ignore[arg-type]
            copies=option.copies,
            batch=_batch(experiment, option),
            queue=option.queue if option.queue >= 0 and is_read("queue", option.architecture) else None,
            servers=option.servers if is_read("servers", option.architecture) else 0,
            replay="process" if option.apart else experiment.parallel.replay,
            replay_ratio=experiment.parallel.replay_ratio,
        ),
    )


def _batch(experiment: Experiment, option: Option) -> int:
    """Unrolls that a batch takes: the share of all that the recipe has it take, if it says so."""
    parallel = experiment.parallel
    if not parallel.batch or not is_read("batch", option.architecture):
        return 0
    if not parallel.copies:
        return min(parallel.batch, option.copies)
    return max(round(parallel.batch * option.copies / parallel.copies), 1)


def settings_of(option: Option, search: Search) -> dict[str, Any]:
    """What makes the experiment the option's, as ``--set`` takes it: the values that differ."""
    before, after = search.experiment, configure(search.experiment, option)
    found: dict[str, Any] = {}
    for part in ("parallel", "sampler", "learner", "environment", "algorithm"):
        old, new = getattr(before, part), getattr(after, part)
        for name in new.__dataclass_fields__:
            if getattr(old, name) != getattr(new, name):
                found[f"{part}.{name}"] = getattr(new, name)
    return found
