"""The probe: an experiment's pieces measured on this machine, in about half a minute. What it finds is ``Costs``.

Environments, network, actor and learner are the experiment's own, at the sizes that plans will use, with the loss, the
optimiser and the buffers that training has.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from redline.architectures.config import ParallelConfig
from redline.ops.returns import gae
from redline.planner.costs import GPU, Curve, Machine
from redline.planner.measured import Costs
from redline.runtime.experiment import Experiment, uses_replay
from redline.runtime.in_process import ReplayLoop
from redline.runtime.parts import Parts, assemble
from redline.runtime.plan import usable_cores
from redline.runtime.planning import crews, pieces
from redline.runtime.planning.pieces import Collecting, fastest_half
from redline.runtime.planning.trial import soon
from redline.runtime.training import one_thread_each

Say = Callable[[str], None]
PASSES = (1, 8, 32, 128, 512)  # sizes of the network's passes
LARGE = 2**18  # bytes of an observation from which the largest passes are left out


@dataclass(frozen=True)
class Budget:
    """Seconds for each kind of measurement."""

    round: float = 0.6
    learn: float = 1.5
    network: float = 3.0
    crew: float = 1.2


def probe(experiment: Experiment, say: Say = lambda _: None, budget: Budget | None = None) -> Costs:
    """Measure an experiment's pieces. Raises: UserError and RunError as training would."""
    with one_thread_each():
        return _Probe(experiment, say, budget or Budget()).run()


def alone(experiment: Experiment, threads: int = 1) -> Experiment:
    """The experiment as one loop with one actor thread, on the CPU."""
    return replace(
        experiment,
        parallel=ParallelConfig(),
        sampler=replace(experiment.sampler, shards=1, groups=1),
        learner=replace(experiment.learner, threads=threads, device="cpu"),
    )


def counts_of(envs: int, cores: int) -> list[int]:
    """Environments of one thread that plans may have: from a share of half as many to four times as many."""
    return sorted({max(envs // (2 * cores), 1), max(envs // cores, 1), envs, 2 * envs})


class _Probe:
    def __init__(self, experiment: Experiment, say: Say, budget: Budget) -> None:
        self.experiment, self.say, self.budget = soon(experiment), say, budget
        self.cores = usable_cores()
        self.replays = uses_replay(experiment)
        self.parts: Parts = assemble(alone(self.experiment))
        # What was measured once is kept: precision is not asked again.
        self.experiment = replace(
            self.experiment,
            learner=replace(self.experiment.learner, precision=self.parts.experiment.learner.precision),
        )
        self.place = f"cpu {self.parts.experiment.learner.precision}"
        self.notes: list[str] = []

    def run(self) -> Costs:
        parts, envs = self.parts, self.experiment.sampler.num_envs
        try:
            self.say("stepping and acting")
            rounds = self._rounds()
            self.say("learning")
            learn, batch, updates, unroll = self._learning()
            self.say("the network alone")
            act, train = self._network()
            self.say("roles side by side")
            drag = self._drag(rounds[envs], learn, unroll)
            costs = Costs(
                environment=parts.spec.name,
                recipe=self.experiment.recipe,
                algorithm=parts.algorithm.name,
                machine=this_machine(),
                parameters=parts.learner.flat.numel(),
                observation_bytes=_observation_bytes(parts.spec.observation),
                batch=batch,
                updates=updates,
                action_repeat=parts.spec.action_repeat,
                step={count: each.step for count, each in rounds.items()},
                act=act | {"actor": Curve.of((n, each.act) for n, each in rounds.items())},
                record=Curve.of((n, each.record) for n, each in rounds.items()),
                train=train,
                learn={self.place: learn},
                estimate=self._estimate(learn),
                hand={"threads": self._hand(unroll), "processes": self._hand(unroll)},
                publish=crews.publication(parts),
                exchange=self._exchange(),
                drag=drag,
                reset=pieces.resets(parts),
                notes=tuple(self.notes),
            )
            return self._with_server(costs) if not self.replays else costs
        finally:
            parts.close()

    def _rounds(self) -> dict[int, pieces.Round]:
        rounds: dict[int, pieces.Round] = {}
        for count in counts_of(self.experiment.sampler.num_envs, self.cores):
            collecting = Collecting(self.parts, count)
            try:
                rounds[count] = collecting.measure(self.budget.round)
            finally:
                collecting.close()
        return rounds

    def _learning(self) -> tuple[dict[int, float], int, float, Any]:
        """Seconds of a batch by threads; samples and optimiser steps in it; an unroll of it."""
        seconds: dict[int, float] = {}
        unroll: Any = None
        updates = 1.0
        for threads in sorted({1, self.cores}):
            parts = self.parts if threads == 1 else assemble(alone(self.experiment, threads))
            try:
                if self.replays:
                    seconds[threads], unroll = self._update(parts)
                    continue
                if unroll is None:
                    unroll = self._whole_unroll()
                before = parts.learner.version
                parts.algorithm.update(parts.learner, unroll, 0.0)
                updates = float(parts.learner.version - before)
                seconds[threads] = pieces.learning(parts, unroll, self.budget.learn)
            finally:
                if parts is not self.parts:
                    parts.close()
        algorithm: Any = self.experiment.algorithm
        batch = algorithm.batch if self.replays else unroll.action.numel() // max(_width(unroll), 1)
        return seconds, int(batch), updates, unroll

    def _whole_unroll(self) -> Any:
        collecting = Collecting(self.parts, self.experiment.sampler.num_envs, threads=self.cores)
        try:
            return collecting.collect(self.experiment.algorithm.unroll)  # type: ignore[union-attr]
        finally:
            collecting.close()

    def _update(self, parts: Parts) -> tuple[float, Any]:
        """Seconds of one update from a replay, the drawing and the priorities with it; and what it does."""
        loop = ReplayLoop(parts)
        try:
            steps = 0
            while parts.learner.version < 4:
                steps += loop.iterate(steps, 0.0, bool)[0]

            def update() -> None:
                loop._update(0.0, None)

            return fastest_half(update, self.budget.learn), update
        finally:
            loop.close()

    def _network(self) -> tuple[dict[str, Curve], dict[str, Curve]]:
        sizes = PASSES if _observation_bytes(self.parts.spec.observation) < LARGE else PASSES[:4]
        precision = self.parts.experiment.learner.precision
        act, train = pieces.network_curves(
            self.parts, sizes, device="cpu", precision=precision, seconds=self.budget.network
        )
        acts, trains = {self.place: act}, {self.place: train}
        if torch.cuda.is_available():
            for kind in ("fp32", "bf16"):
                acts[f"cuda {kind}"], trains[f"cuda {kind}"] = pieces.network_curves(
                    self.parts, (*sizes, 2048), device="cuda", precision=kind, seconds=self.budget.network
                )
        return acts, trains

    def _estimate(self, learn: dict[int, float]) -> float:
        """Share of a batch's seconds that returns and advantages take."""
        if self.replays:
            return 0.0
        length, envs = self.experiment.algorithm.unroll, self.experiment.sampler.num_envs  # type: ignore[union-attr]
        rewards, values = torch.zeros(length, envs), torch.zeros(length + 1, envs)
        return min(fastest_half(lambda: gae(rewards, rewards, values, 0.95), 0.1) / learn[1], 1.0)

    def _hand(self, unroll: Any) -> float:
        """Core-seconds of taking in one message: its part of the copy into the batch, and the wake-up."""
        wake = 60e-6
        if self.replays:
            return wake
        half = max(unroll.action.shape[1] // 2, 1)
        part = Collecting(self.parts, half)
        try:
            return wake + crews.joining(self.parts, [part.collect(len(unroll.action))] * 2)
        finally:
            part.close()

    def _exchange(self) -> dict[str, float]:
        """Seconds of sharing one gradient between two learners, from passes over the memory that it makes."""
        flat = torch.zeros(self.parts.learner.flat.numel())
        once = fastest_half(lambda: flat.add_(1.0), 0.05)
        meet = 100e-6  # two processes wait for each other
        return {
            "accel_sync": meet + 6 * once,
            "a3c": 4 * once,
            "accel_async": meet + 6 * once,
            "gorila": meet + 4 * once,
        }

    def _drag(self, single: pieces.Round, learn: dict[int, float], unroll: Any) -> dict[str, float]:
        """How much longer things take in company: of ``cores`` actors, and of actors beside a learner."""
        if self.cores == 1:
            return {}
        experiment, budget, envs = self.experiment, self.budget, self.experiment.sampler.num_envs
        drag: dict[str, float] = {}
        learner = self.parts.learner

        def batch() -> None:
            unroll() if self.replays else self.parts.algorithm.update(learner, unroll, 0.0)

        for runtime in ("threads", "processes"):
            beside = self.cores - 1
            one = self._round_seconds(envs // beside)
            work = crews.actors_at_work(experiment, runtime, beside, budget.crew, batch)
            drag[f"{runtime} actor"] = max(one * work.steps_per_second / envs, 1e-9) ** -1
            drag[f"{runtime} learner"] = work.learned / learn[1]
            if envs >= self.cores:
                share = self._round_seconds(envs // self.cores)
                work = crews.actors_at_work(experiment, runtime, self.cores, budget.crew)
                drag[runtime] = max(share * work.steps_per_second / envs, 1e-9) ** -1
        return {name: float(np.clip(value, 0.8, 10.0)) for name, value in drag.items()}

    def _round_seconds(self, count: int) -> float:
        collecting = Collecting(self.parts, max(count, 1))
        try:
            each = collecting.measure(self.budget.round / 2)
            return each.step.alone + each.act + each.record
        finally:
            collecting.close()

    def _with_server(self, costs: Costs) -> Costs:
        """An inference server at work: what a batch costs beyond the pass, from the processor seconds it used."""
        envs = self.experiment.sampler.num_envs
        workers = min(max(self.cores, 2), envs)
        if workers < 2:
            return costs
        begin, core = time.perf_counter(), time.process_time()
        work = crews.server_at_work(self.experiment, "threads", workers, self.budget.crew)
        del begin, core
        # Two groups take turns on as many cores as there are: what a round costs in all, less its known parts.
        half = envs // 2
        known = costs.step[min(costs.step, key=lambda n: abs(n - half))]
        step = known.core * half / min(costs.step, key=lambda n: abs(n - half))
        act = costs.act["actor"].at(half)
        period = half / work.steps_per_second  # of one group
        overhead = max(period - max(step + act if self.cores == 1 else act, 0.0), 0.0)
        return replace(costs, serve=Curve.of([(1, overhead)]), request=0.0)


def _width(unroll: Any) -> int:
    return int(np.prod(unroll.action.shape[2:]))


def _observation_bytes(space: Any) -> int:
    parts = getattr(space, "spaces", None)
    if isinstance(parts, dict):
        return sum(_observation_bytes(each) for each in parts.values())
    shape, dtype = getattr(space, "shape", ()) or (), getattr(space, "dtype", None)
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype or np.float32).itemsize


def this_machine() -> Machine:
    """Name, usable cores, memory and GPUs of this machine."""
    memory = 0
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    gpus = None
    if torch.cuda.is_available():
        about = torch.cuda.get_device_properties(0)
        gpus = GPU(about.name, torch.cuda.device_count(), memory=about.total_memory, measured=True)
    return Machine(_processor(), usable_cores(), memory=memory, gpus=gpus)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
