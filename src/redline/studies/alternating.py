"""What is gained when one group of environments steps while the other is acted for? (Stooke & Abbeel 2018, section 3)

Steps keep cores busy and acting keeps a device busy, both for as long as there are environments to serve: for half of
the environments t_step and t_act. In one group the two follow each other, and each half costs t_step + t_act; two
groups that take turns hide the shorter behind the longer, and it costs max(t_step, t_act).

Both are slept, not computed, on an emulated machine of two cores and a device, so the answer is that of the inference
engine and not of this machine's processor. Nobody learns: a slot that is handed in is handed out again at once.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from redline import api
from redline.runtime.parts import Parts, assemble
from redline.runtime.pool import one_thread_each
from redline.runtime.serving.job import InferenceJob
from redline.runtime.serving.muster import ServerMuster, muster_server
from redline.studies.environments import CORES
from redline.studies.result import Options, Result, spread

ACTING = 10.0  # milliseconds of the device for half of the environments
STEPPING = (2.5, 5.0, 10.0, 20.0, 40.0)  # milliseconds of the cores for half of the environments
ENVIRONMENTS = 2 * CORES  # half of them keep all cores busy
STEPS = 400  # agent steps of each measurement
WARM_UP = 10 * ENVIRONMENTS  # agent steps
PATIENCE = 60.0  # seconds without a step after which something is wrong


@contextlib.contextmanager
def engine(
    environment: str, queue: int, *overrides: str, job: Callable[..., InferenceJob] = InferenceJob
) -> Iterator[tuple[Parts, ServerMuster]]:
    """An inference server with its workers, all slots handed out.

    Args:
      queue: finished unrolls of a worker that may wait; 0: lock-step.
      job: makes the server's.
    """
    fixed = [
        "learner.precision=fp32",
        "parallel.architecture=seed",
        "parallel.queue=0",
        "algorithm.unroll=20",
    ]
    parts = assemble(api.make_experiment(environment, "a2c", overrides=[*fixed, *overrides]))
    parallel = replace(parts.experiment.parallel, queue=queue)  # nobody learns: lag is of no account
    parts.experiment = replace(parts.experiment, parallel=parallel)
    muster = muster_server(parts, 1 + queue, job)
    try:
        for worker in range(parallel.copies):
            for slot in range(1 + queue):
                muster.crew.tell(worker, slot)
        yield parts, muster
    finally:
        muster.close()
        parts.close()


@dataclass
class DeviceJob(InferenceJob):
    """An inference server whose device is busy for ``seconds`` an environment, and that notes each batch."""

    seconds: float = 0.0
    notes: list[tuple[float, int]] = field(default_factory=list)  # (when it began to act, environments)

    def _loop(self, desk: Any) -> Any:
        loop = super()._loop(desk)
        act = loop.server.algorithm.act

        def busy(network: Any, x: Any) -> Any:
            self.notes.append((time.perf_counter(), len(x.reset)))
            time.sleep(self.seconds * len(x.reset))
            return act(network, x)

        loop.server.algorithm.act = busy
        return loop


@dataclass(frozen=True)
class Measured:
    """What one arrangement did."""

    steps_per_second: float  # agent steps
    half_round: float  # milliseconds from one half of the environments acted for to the next, median
    batch: int  # environments acted for together


def measure(stepping: float, acting: float, groups: int, steps: int = STEPS) -> Measured:
    """Run the engine for ``steps`` agent steps.

    Args:
      stepping, acting: milliseconds for half of the environments.
      groups: 2 that take turns, or 1.
    """
    notes: list[tuple[float, int]] = []
    half = ENVIRONMENTS // 2
    job = functools.partial(DeviceJob, seconds=acting / 1e3 / half, notes=notes)
    settings = [
        f"parallel.copies={ENVIRONMENTS}",
        f"sampler.num_envs={ENVIRONMENTS}",
        f"sampler.groups={groups}",
    ]
    settings += ["parallel.runtime=threads", f"environment.kwargs.milliseconds={stepping * CORES / half}"]
    environment = "redline.studies.environments:make_occupying"
    with one_thread_each(), engine(environment, 0, *settings, job=job) as (_, muster):
        back: list[tuple[int, int]] = []
        heard = time.monotonic()
        while sum(count for _, count in notes) < WARM_UP + steps and time.monotonic() - heard < PATIENCE:
            for key in muster.crew.wait(0.05):
                back.append(key)
                heard = time.monotonic()
            if len(back) == ENVIRONMENTS:  # as a learner at lag zero: all go back together
                for key in back:
                    muster.crew.tell(*key)
                back.clear()
        taken = list(notes)
    acted = list(itertools.accumulate((count for _, count in taken), initial=0))
    taken = taken[next(place for place, count in enumerate(acted) if count >= WARM_UP) :]
    gaps = [
        1e3 * (after - before) * half / count for (before, count), (after, _) in itertools.pairwise(taken)
    ]
    done = sum(count for _, count in taken[:-1])
    return Measured(
        done / (taken[-1][0] - taken[0][0]), statistics.median(gaps), max(count for _, count in taken)
    )


def theory(stepping: float, acting: float, groups: int) -> Measured:
    """What it would be if nothing else took time."""
    half_round = max(stepping, acting) if groups == 2 else stepping + acting
    return Measured(1e3 * (ENVIRONMENTS // 2) / half_round, half_round, ENVIRONMENTS // groups)


def alternating(options: Options) -> Result:
    """The inference engine with one group of environments and with two in turns, over ratios of stepping to acting."""
    rows: list[dict[str, Any]] = []
    ratios = [stepping / ACTING for stepping in STEPPING]
    medians: dict[str, list[float]] = {}
    half_rounds: list[float] = []
    for stepping in STEPPING:
        row: dict[str, Any] = {"stepping / acting, ms": f"{stepping:g} / {ACTING:g}"}
        middle: dict[int, float] = {}
        for groups, name in ((1, "one group"), (2, "in turns")):
            options.tell(f"{stepping:g} ms of stepping, {ACTING:g} ms of acting, {name}")
            each = [measure(stepping, ACTING, groups, options.steps or STEPS) for _ in range(options.seeds)]
            rates, ideal = [one.steps_per_second for one in each], theory(stepping, ACTING, groups)
            middle[groups] = statistics.median(rates)
            medians.setdefault(f"{name}, measured", []).append(middle[groups])
            medians.setdefault(f"{name}, theory", []).append(ideal.steps_per_second)
            row |= {f"{name}, agent steps/s": spread(rates), f"{name}, theory": round(ideal.steps_per_second)}
        half_rounds.append(statistics.median(one.half_round for one in each))
        ideal_gain = (
            theory(stepping, ACTING, 2).steps_per_second / theory(stepping, ACTING, 1).steps_per_second
        )
        row |= {"gain": round(middle[2] / middle[1], 2), "gain, theory": round(ideal_gain, 2)}
        row["half a round in turns, ms"] = f"{half_rounds[-1]:.1f} (theory {max(stepping, ACTING):g})"
        rows.append(row)
    most = max(rows, key=lambda row: row["gain"])
    even = min(range(len(ratios)), key=lambda place: abs(ratios[place] - 1.0))
    answer = (
        f"Most, {most['gain']} times as many steps (theory {most['gain, theory']}), at {most['stepping / acting, ms']} "
        f"ms for half of the environments. At {STEPPING[even]:g} + {ACTING:g} ms half a round takes "
        f"{half_rounds[even]:.1f} ms in turns, not {STEPPING[even] + ACTING:g}."
    )
    notes = [
        f"Emulated: {ENVIRONMENTS} environments share {CORES} cores and a device, and both only sleep.",
        "Milliseconds are for half of the environments.",
        f"Medians and ranges of {options.seeds} measurements; nobody learns.",
    ]
    return Result(
        "alternating",
        "What do two groups in turns gain?",
        answer,
        rows,
        notes=notes,
        points={label: (ratios, rates) for label, rates in medians.items()},
        axes=("stepping time / acting time", "agent steps/s"),
    )
