"""The probe: an experiment's pieces measured on this machine, in about a minute. What it finds is ``Costs``.

Environments, network, actor and learner are the experiment's own, at the sizes that plans will use, with the loss, the
optimiser and the buffers that training has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from redline.architectures.config import ParallelConfig
from redline.environments.atari import only_timed
from redline.environments.workers.kept import kept_processes
from redline.learners.transfer import Transfer
from redline.ops.returns import gae
from redline.planner.costs import Curve
from redline.planner.measured import Costs
from redline.runs.provenance import usable_cores
from redline.runtime.experiment import Experiment, unroll_replay, uses_replay
from redline.runtime.in_process import ReplayLoop
from redline.runtime.parts import Parts, assemble
from redline.runtime.planning import crews, loops, pieces
from redline.runtime.planning.machine import this_machine
from redline.runtime.planning.pieces import Collecting, fastest_half, median_of
from redline.runtime.planning.together import ON_GPU, Budget, in_company, sharing, with_servers
from redline.runtime.planning.trial import Shorter, shortened, soon
from redline.runtime.planning.wholes import looks, with_wholes
from redline.runtime.pool import one_thread_each
from redline.runtime.precision import Work, network_passes

Say = Callable[[str], None]
LOOKS = 3  # at a round once more, after all else: one busy moment does not make the first one wrong
UNSURE = 0.1  # relative: measurements that lie further apart are told
PASSES = (1, 8, 32, 128, 512)  # sizes of the network's passes


def probe(experiment: Experiment, say: Say = lambda _: None, budget: Budget | None = None) -> Costs:
    """Measure an experiment's pieces. Raises: UserError and RunError as training would."""
    with one_thread_each(), only_timed(), kept_processes():
        return _Probe(experiment, say, budget or Budget()).run()


def alone(experiment: Experiment, threads: int = 1) -> Experiment:
    """The experiment as one loop with one actor thread, on the CPU."""
    return replace(
        experiment,
        parallel=ParallelConfig(),
        sampler=replace(experiment.sampler, shards=1, groups=1),
        learner=replace(experiment.learner, threads=threads, device="cpu"),
    )


def counts_of(envs: int, cores: int, threaded: bool) -> list[int]:
    """Environments of one thread that plans may have: from half a core's share to twice the recipe's.

    Of simulators that step by themselves (``threaded``) two counts tell all: they take as long as there are of them,
    and an emulator's takes a sixth of a second to be made and seeded.
    """
    share = max(envs // cores, 1)
    if threaded and share < envs:
        return [share, envs]
    return sorted({max(envs // (2 * cores), 1), share, envs, 2 * envs})


def _training(parts: Parts) -> float:
    """Seconds that the training passes of a batch take on one thread, about."""
    experiment, learner = parts.experiment, parts.learner
    work = Work.of(experiment)
    dtype = torch.bfloat16 if experiment.learner.precision == "bf16" else torch.float32
    _, learn = network_passes(learner.network, dtype, parts.spec, 1, work.minibatch)
    steps = experiment.algorithm.unroll * experiment.sampler.num_envs  # type: ignore[union-attr]
    return fastest_half(learn, 0.1) * steps * work.passes / work.minibatch


class _Probe:
    def __init__(self, experiment: Experiment, say: Say, budget: Budget) -> None:
        self.experiment, self.say, self.budget = soon(experiment), say, budget
        self.cores = usable_cores()
        self.replays = uses_replay(experiment)
        self.parts: Parts = assemble(alone(self.experiment))
        # What was measured once is kept: precision is not asked again. Roles side by side are those of the CPU's plans.
        learner = replace(
            self.experiment.learner, device="cpu", precision=self.parts.experiment.learner.precision
        )
        self.experiment = replace(self.experiment, learner=learner)
        self.place = f"cpu {self.parts.experiment.learner.precision}"
        self.short = Shorter(self.experiment)  # batches, perhaps
        self.notes: list[str] = []
        self.together = 1.0  # see ``Costs``
        self.rooms: dict[int, Collecting] = {}  # by environments: making and resetting some takes seconds
        self.rounds: dict[int, pieces.Round] = {}

    def room(self, count: int) -> Collecting:
        """Real actors with so many environments, made once."""
        if count not in self.rooms:
            self.rooms[count] = Collecting(self.parts, count)
        return self.rooms[count]

    def round(self, count: int) -> pieces.Round:
        """A round of so many environments on one thread, measured once."""
        if count not in self.rounds:
            self.rounds[count] = self.room(count).measure(self.budget.round)
        return self.rounds[count]

    def _shorten(self, each: pieces.Round) -> Parts:
        """From here on batches are short ones, which take less of the probe's time; ``each``: a round of all."""
        if not self.replays:
            collect = self._length * each.alone
            self.short = shortened(self.experiment, collect + _training(self.parts))
        if self.short.experiment is not self.experiment:
            self.experiment = self.short.experiment
            self.parts.close()
            self.parts = assemble(alone(self.experiment))
        return self.parts

    def run(self) -> Costs:
        envs, threaded = self.experiment.sampler.num_envs, self.parts.spec.threaded
        try:
            self.say("stepping and acting")
            for count in counts_of(envs, self.cores, threaded):
                self.round(count)
            rounds = self.rounds = pieces.of_one_wait(self.rounds)
            parts = self._shorten(rounds[envs])
            self.say("learning")
            learn, batch, updates, unroll = self._learning()
            self.say("the network alone")
            act, train = self._network()
            self.say("roles side by side")
            turns = loops.alone(self)
            self.together = loops.together(self, turns)
            company = in_company(self, learn, unroll)
            flops, kernels = pieces.arithmetic(parts)
            self._note_company()
            costs = Costs(
                environment=parts.spec.name,
                recipe=self.experiment.recipe,
                algorithm=parts.algorithm.name,
                machine=this_machine(),
                parameters=parts.learner.flat.numel(),
                observation_bytes=_observation_bytes(parts.spec.observation),
                batch=batch,
                updates=updates,
                minibatch=self._minibatch(batch),
                envs=envs,
                action_repeat=parts.spec.action_repeat,
                step={count: each.step for count, each in rounds.items()},
                act=act | {"actor": Curve.of((n, each.act) for n, each in rounds.items())},
                record=Curve.of((n, each.record) for n, each in rounds.items()),
                train=train,
                learn=learn,
                estimate=self._estimate(learn[self.place][1]),
                hand=dict.fromkeys(("threads", "processes"), self._hand(unroll)),
                publish=crews.publication(parts),
                **self._remembering(envs),
                exchange=sharing(self, learn[self.place][1], updates, unroll),
                **company,
                between=loops.beyond(self, loops.again(self, turns), learn[self.place][1]),
                between_gpu=self._between_on_gpu(learn, act),
                threaded=parts.spec.threaded,
                together=self.together,
                reset=pieces.resets(parts),
                flops=flops,
                kernels=kernels,
                spread=self._spread(envs),
                notes=tuple(self.notes),
            )
            costs = costs if self.replays else with_servers(self, costs)
            return with_wholes(self, costs, looks(self)).longer(self.short.times, self.short.passes)
        finally:
            for room in self.rooms.values():
                room.close()
            self.parts.close()

    def _between_on_gpu(self, learn: dict[str, dict[int, float]], act: dict[str, Curve]) -> float | None:
        if ON_GPU not in act:
            return None
        with self._sized(1, *ON_GPU.split()) as on:
            return loops.beyond_on_gpu(self, on, learn[ON_GPU][1], act[ON_GPU])

    def _spread(self, envs: int) -> float:
        """How far a second look at a round lies from the first, relative: what the machine did to it meanwhile."""
        first, apart = self.round(envs), UNSURE
        for _ in range(LOOKS):
            again = self.room(envs).measure(self.budget.round / 2)
            apart = abs((again.step.alone + again.act) / (first.step.alone + first.act) - 1.0)
            if apart <= UNSURE:
                break
        else:
            self.notes.append(
                f"the same round of steps took {apart:.0%} more or less at the end of the measurements than at their "
                "beginning: measure again (--fresh) when the machine is quiet"
            )
        return max(apart, UNSURE if self.notes else 0.0)

    def _note_company(self) -> None:
        quiet = min(each.quiet for each in self.rounds.values())
        if quiet < 0.9:
            self.notes.append(
                f"other programs had up to {1 - quiet:.0%} of a core while this was measured: measure again "
                "(--fresh) when the machine is quiet"
            )
        # The largest round has seen the most; that of fewer environments is judged by it.
        error = self.rounds[max(self.rounds)].error
        if error > UNSURE:
            self.notes.append(
                f"a few slow rounds (resets) make up most of stepping, and the measurements met too few of them: steps "
                f"may take {error:.0%} more or less, and so may every speed; trials of seconds meet few, too"
            )

    def _learning(self) -> tuple[dict[str, dict[int, float]], int, float, Any]:
        """Seconds of a batch by place and threads; samples and optimiser steps in it; an unroll of it, or an update."""
        seconds: dict[str, dict[int, float]] = {self.place: {}}
        fresh = None if self.replays else self.room(self.experiment.sampler.num_envs).collect(self._length)
        material = fresh
        if fresh is not None:  # where older unrolls are mixed in a batch takes that much longer
            mixer = unroll_replay(self.experiment)
            mixer.mix(fresh)
            material = mixer.mix(fresh)
        updates, work = 1.0, material
        for threads in sorted({1, self.cores}):
            with self._sized(threads) as parts:
                spent, made, done = self._batch(parts, material)
                seconds[self.place][threads] = spent
                updates, work = (done, made) if threads == 1 else (updates, work)
        if torch.cuda.is_available():
            for precision in ("fp32", "bf16"):
                with self._sized(1, "cuda", precision) as parts:
                    seconds[f"cuda {precision}"] = {1: self._batch(parts, material)[0]}
        algorithm: Any = self.experiment.algorithm
        batch = algorithm.batch if fresh is None else fresh.action.numel() // max(_width(fresh), 1)
        return seconds, int(batch), updates, work

    @property
    def _length(self) -> int:
        return int(self.experiment.algorithm.unroll)  # type: ignore[union-attr]

    def _minibatch(self, batch: int) -> int:
        return max(batch // int(getattr(self.experiment.algorithm, "minibatches", 1)), 1)

    @contextmanager
    def _sized(self, threads: int, device: str = "cpu", precision: str | None = None) -> Iterator[Parts]:
        """Parts with a learner of so many threads, or on a GPU."""
        if threads == 1 and device == "cpu":
            yield self.parts
            return
        learner = replace(alone(self.experiment, threads).learner, device=device)
        learner = learner if precision is None else replace(learner, precision=precision)  # type: ignore[arg-type]
        parts = assemble(replace(alone(self.experiment, threads), learner=learner))
        try:
            yield parts
        finally:
            parts.close()

    def _batch(self, parts: Parts, unroll: Any) -> tuple[float, Any, float]:
        """Seconds of one batch, what it is made of (an update from replay: the call), and its optimiser steps."""
        if unroll is None:
            return *self._update(parts), 1.0
        before = parts.learner.version
        parts.learner.set_progress(0.0, 1)  # some algorithms want to know that the run has begun
        parts.algorithm.update(parts.learner, Transfer(parts.learner.device)(unroll), 0.0)
        updates = float(parts.learner.version - before)
        seconds = self.budget.learn if parts.learner.device.type == "cpu" else self.budget.gpu
        return pieces.learning(parts, unroll, seconds), unroll, updates

    def _update(self, parts: Parts) -> tuple[float, Any]:
        """Seconds of one update from a replay, the drawing and the priorities with it; and what does it."""
        loop = ReplayLoop(parts)
        try:
            steps = 0
            while parts.learner.version < 4:
                steps += loop.iterate(steps, 0.0, bool)[0]

            def update() -> None:
                loop._update(0.0, None)

            return median_of(update, self.budget.learn, str(parts.learner.device)), update
        finally:
            loop.close()

    def _network(self) -> tuple[dict[str, Curve], dict[str, Curve]]:
        precision = self.parts.experiment.learner.precision
        act, train = pieces.network_curves(
            self.parts, PASSES, device="cpu", precision=precision, seconds=self.budget.network
        )
        acts, trains = {self.place: act}, {self.place: train}
        if torch.cuda.is_available():
            for kind in ("fp32", "bf16"):
                place, more = f"cuda {kind}", (*PASSES, 2048)
                _, trains[place] = pieces.network_curves(
                    self.parts, more, device="cuda", precision=kind, seconds=self.budget.gpu
                )
                with self._sized(1, "cuda", kind) as parts:
                    acts[place] = pieces.acting_curve(parts, more, self.budget.gpu)
        return acts, trains

    def _estimate(self, learn: float) -> float:
        """Share of a batch's seconds that returns and advantages take."""
        if self.replays:
            return 0.0
        length, envs = self.experiment.algorithm.unroll, self.experiment.sampler.num_envs  # type: ignore[union-attr]
        rewards, values = torch.zeros(length, envs), torch.zeros(length + 1, envs)
        return min(fastest_half(lambda: gae(rewards, rewards, values, 0.95), 0.1) / learn, 1.0)

    def _hand(self, unroll: Any) -> float:
        """Core-seconds of taking in one message: its part of the copy into the batch, and the wake-up."""
        wake = 60e-6
        if self.replays:
            return wake
        share = max(self.experiment.sampler.num_envs // self.cores, 1)
        part = self.room(share).collect(len(unroll.action))
        return wake + crews.joining(self.parts, [part, part])

    def _remembering(self, envs: int) -> dict[str, Any]:
        """``draw`` and ``store`` of ``Costs``."""
        if not self.replays:
            return {}
        return dict(zip(("draw", "store"), pieces.remembering(self.room(envs)), strict=True))


def _width(unroll: Any) -> int:
    return int(np.prod(unroll.action.shape[2:]))


def _observation_bytes(space: Any) -> int:
    parts = getattr(space, "spaces", None)
    if isinstance(parts, dict):
        return sum(_observation_bytes(each) for each in parts.values())
    shape, dtype = getattr(space, "shape", ()) or (), getattr(space, "dtype", None)
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype or np.float32).itemsize
