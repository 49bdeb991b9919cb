"""Is the simulator right about history? Published costs in, published tables out, side by side: ``docs/history.md``.

Each figure of a system is *taken* from its paper as a cost, or a cost is *fitted* so that the simulator meets it, or it
is *predicted*: then its error says how far the simulator can be trusted. ``python -m redline.planner.history PAGE``
writes the tables into the page. Frames/s include the action repeat of 4.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from redline.architectures.catalogue import A3C, ACCEL_ASYNC, ACCEL_SYNC, APEX, GORILA, IMPALA, SEED
from redline.architectures.model import Architecture
from redline.planner.costs import Curve, Prediction, Work, Workload
from redline.planner.simulate import simulate

REPEAT = 4  # frames of an agent step: Atari, DMLab
STATED = {  # largest relative error of predicted figures
    "impala": 0.2,
    "accel": 0.15,
    "apex": 0.02,
    "staleness": 0.05,
}
MISSED = {  # predicted figures that are further off than that, and are said to be
    ("accel", "PPO, barrier, 8 GPUs"): 0.45,
}


@dataclass(frozen=True)
class Row:
    """A published figure, and what the simulator makes of it."""

    what: str
    published: float
    simulated: float
    use: str  # taken, fitted, predicted

    @property
    def error(self) -> float:
        """Relative."""
        return self.simulated / self.published - 1.0


def _run(architecture: Architecture, load: Workload, seconds: float = 20.0) -> Prediction:
    return simulate(architecture, load, seconds=seconds, warm=seconds / 8, most=None)


# IMPALA, table 1 (Espeholt et al. 2018, arXiv 1802.01561): frames/s on two DMLab tasks, the second with slow restarts

UNROLL, BATCH = 100, 32  # agent steps, unrolls (their DMLab settings)
SLOW = 0.01  # assumed: share of steps that are slow (restarts, heavy scenes)
SERVE = 1e-3  # assumed: seconds of a P100 for one acting pass of up to 48
ROWS = {  # frames/s of both tasks
    "A3C, 32 workers": (6_500.0, 9_000.0),
    "batched A2C, sync step": (9_000.0, 5_000.0),
    "batched A2C, sync step, GPU": (13_000.0, 5_500.0),
    "batched A2C, sync trajectory": (16_000.0, 17_500.0),
    "IMPALA, 48 actors": (17_000.0, 20_500.0),
    "IMPALA, 48 actors, dynamic batch on a GPU": (21_000.0, 24_000.0),
    "distributed A3C, 200 workers": (46_000.0, 50_000.0),
}
SCALED = {150: 80_000.0, 375: 200_000.0, 500: 250_000.0}  # distributed IMPALA: actors -> frames/s


def _each(copies: float, frames: float) -> float:
    """Seconds of an agent step of one of so many copies that make so many frames/s together."""
    return copies * REPEAT / frames


class DMLab:
    """Costs of one task, solved for from the rows that say most about each."""

    def __init__(self, task: int) -> None:
        rows = {name: frames[task] for name, frames in ROWS.items()}
        # The learner keeps up with 250K frames/s, the most that was published.
        self.learn = _each(1, SCALED[500])
        # A served worker waits for half a batch under way and for its own. Acting on a core costs what that saves, and
        # a step is what is left of an actor's time. (Acting is the same network in both tasks: solved from the first.)
        dynamic = _each(48, ROWS["IMPALA, 48 actors, dynamic batch on a GPU"][0]) - 1.5 * SERVE
        self.act = _each(48, ROWS["IMPALA, 48 actors"][0]) - dynamic
        self.step = _each(48, rows["IMPALA, 48 actors"]) - self.act
        # A round in step waits for the slowest of 48: in a share ``some`` of rounds, some step is slow.
        some = 1.0 - (1.0 - SLOW) ** 48
        slowest = _each(48, rows["batched A2C, sync step, GPU"]) - SERVE - 48 * self.learn
        self.slow = (slowest - self.step) / (some - SLOW)  # seconds more that a slow step takes
        self.usual = self.step - SLOW * self.slow
        # One pass for all 48 on the cores: what they lose to the GPU on the first task.
        first = ROWS["batched A2C, sync step"][0], ROWS["batched A2C, sync step, GPU"][0]
        self.act_all = SERVE + _each(48, first[0]) - _each(48, first[1])
        # A worker that learns by itself does so on a core.
        self.learn_alone = _each(200, ROWS["distributed A3C, 200 workers"][0])
        self.learn_alone -= _each(48, ROWS["IMPALA, 48 actors"][0])

    def stepping(self) -> Work:
        """One step of one environment, with its stragglers."""
        usual, slow = self.usual / self.step, (self.usual + self.slow) / self.step
        count = round(1.0 / SLOW)
        return Work(core=self.step, tail=(usual,) * (count - 1) + (slow,))

    def load(self, take: int, cores: int = 48) -> Workload:
        """Actors with a core each, and a learner that takes none of them."""
        return Workload(
            cores=cores,
            polite=False,
            unroll=UNROLL,
            environments=1,
            step=self.stepping(),
            act=Work(core=self.act),
            learn=Work(wait=self.learn * take * UNROLL),
        )


def _frames(architecture: Architecture, load: Workload, **changed: Any) -> float:
    return REPEAT * _run(architecture, replace(load, **changed)).steps_per_second


def _dmlab(task: int) -> dict[str, float]:
    """Frames/s of every row of the table."""
    lab = DMLab(task)
    whole, part = lab.load(48), lab.load(BATCH)
    gpu: dict[str, Any] = {"serve_gpu": Curve.of([(48, SERVE)]), "gpus": 1}
    cpu: dict[str, Any] = {"serve": Curve.of([(48, lab.act_all)])}
    alone: dict[str, Any] = {"learn": Work(core=lab.learn_alone * UNROLL)}
    return {
        "A3C, 32 workers": _frames(A3C.sized(32), lab.load(1, 64), **alone),
        "batched A2C, sync step": _frames(SEED.sized(48, capacity=0), whole, **cpu),
        "batched A2C, sync step, GPU": _frames(SEED.sized(48, capacity=0), whole, **gpu),
        "batched A2C, sync trajectory": _frames(IMPALA.sized(48, capacity=0), whole),
        "IMPALA, 48 actors": _frames(IMPALA.sized(48, take=BATCH), part),
        "IMPALA, 48 actors, dynamic batch on a GPU": _frames(SEED.sized(48, take=BATCH), part, **gpu),
        "distributed A3C, 200 workers": _frames(A3C.sized(200), lab.load(1, 200), **alone),
    }


FITTED = {  # rows of which a cost was solved for, by task
    "batched A2C, sync step": (0,),
    "batched A2C, sync step, GPU": (0, 1),
    "IMPALA, 48 actors": (0, 1),
    "IMPALA, 48 actors, dynamic batch on a GPU": (0,),
    "distributed A3C, 200 workers": (0,),
}


@functools.cache
def impala() -> list[Row]:
    """IMPALA's table 1."""
    rows = []
    made = [_dmlab(task) for task in (0, 1)]
    for name, published in ROWS.items():
        for task in (0, 1):
            use = "fitted" if task in FITTED.get(name, ()) else "predicted"
            rows.append(Row(f"{name}, task {task + 1}", published[task], made[task][name], use))
    lab = DMLab(0)
    remote = Work(
        core=_each(150, SCALED[150]) - lab.act
    )  # their distributed actors are faster than those of one box
    for actors, frames in SCALED.items():
        batch = 128 if actors == 500 else BATCH
        load = replace(lab.load(batch, actors), step=remote)
        use = "predicted" if actors == 375 else "fitted"
        made_frames = _frames(IMPALA.sized(actors, take=batch), load)
        rows.append(Row(f"distributed IMPALA, {actors} actors", frames, made_frames, use))
    return rows


# Accel RL, table 2 (Stooke & Abbeel 2018, arXiv 1803.02811): hours to 50M agent steps

MILLIONS = 50e6
HOURS = {  # by GPUs, with 5 cores each
    "A2C, barrier": {1: 3.8, 2: 2.2, 4: 1.2, 8: 0.59},
    "A2C, locks (A3C)": {2: 2.4, 4: 1.3, 8: 0.65},
    "PPO, barrier": {1: 4.4, 2: 2.6, 4: 1.5, 8: 1.1},
    "PPO, locks (APPO)": {2: 2.8, 4: 1.5, 8: 0.71},
}
SHAPES = {"A2C": (5, 16, 1), "PPO": (64, 8, 4)}  # horizon, environments of a GPU, updates of a batch


def _replica(algorithm: str) -> Workload:
    """One GPU's replica. How its time divides into parts is assumed: nobody else wants its cores or its GPU."""
    horizon, environments, updates = SHAPES[algorithm]
    hours = HOURS[f"{algorithm}, barrier"]
    steps = horizon * environments
    turn = steps * 3600 * hours[1] / MILLIONS  # seconds, alone
    shared = 2 * steps * 3600 * hours[2] / MILLIONS - turn  # seconds more in company
    part = turn / 3
    return Workload(
        cores=5,
        gpus=1,
        unroll=horizon,
        environments=environments,
        step=Work(core=5 * part / horizon, width=5),
        act=Work(gpu=part / horizon),
        learn=Work(gpu=part),
        updates=float(updates),
        publish=Work(wait=shared / updates),
        chunks=3,
    )


@functools.cache
def accel() -> list[Row]:
    """Accel RL's scaling from one to eight GPUs."""
    rows = []
    for name, hours in HOURS.items():
        load = _replica(name[:3])
        for gpus, published in hours.items():
            architecture = (ACCEL_SYNC if "barrier" in name else ACCEL_ASYNC).sized(gpus)
            publish = load.publish if gpus > 1 else Work()
            made = _run(architecture, replace(load, cores=5 * gpus, gpus=gpus, publish=publish))
            use = "fitted" if "barrier" in name and gpus <= 2 else "predicted"
            label = f"{name}, {gpus} GPU{'s' * (gpus > 1)}"
            rows.append(Row(label, published, MILLIONS / made.steps_per_second / 3600, use))
    return rows


# Ape-X (Horgan et al. 2018, arXiv 1803.00933)

ACTORS, ACTOR_FRAMES, LEARNER, SAMPLES = 360, 139.0, 19.0, 512


@functools.cache
def apex() -> list[Row]:
    """Ape-X DQN's rates: an actor's frames/s and the learner's batches/s are taken from the paper."""
    load = Workload(
        cores=ACTORS + 16,
        gpus=1,
        unroll=100,  # an actor takes new weights every 400 frames
        environments=1,
        step=Work(
            core=0.75 * REPEAT / ACTOR_FRAMES
        ),  # what part is acting is assumed, and makes no difference
        act=Work(core=0.25 * REPEAT / ACTOR_FRAMES),
        learn=Work(gpu=1.0 / LEARNER),
        samples=SAMPLES,
    )
    one = _run(APEX.sized(1), load)
    all_ = _run(APEX.sized(ACTORS), load)
    replayed = all_.updates_per_second * SAMPLES
    return [
        Row("frames/s of one actor", ACTOR_FRAMES, REPEAT * one.steps_per_second, "taken"),
        Row("batches/s of 512, beside 360 actors", LEARNER, all_.updates_per_second, "taken"),
        Row("frames/s of 360 actors", 50_000.0, REPEAT * all_.steps_per_second, "predicted"),
        Row("transitions/s into the replay", 12_500.0, all_.steps_per_second, "predicted"),
        Row("transitions/s learned from", 9_700.0, replayed, "predicted"),
        Row("replay ratio", 9_700 / 12_500, all_.replay_ratio or 0.0, "predicted"),
    ]


# Staleness of gradients: A3C and Gorila, "about K - 1"


@functools.cache
def staleness() -> list[Row]:
    """Updates by others between a copy's weights and its gradient's arrival, of K copies alike."""
    load = Workload(
        cores=200,
        unroll=5,
        environments=1,
        step=Work(core=2e-3, tail=(0.5, 0.75, 1.0, 1.75)),
        act=Work(core=1e-3),
        learn=Work(core=5e-3),
        hand=Work(core=1e-5),
        publish=Work(core=1e-4),
        chunks=31,
    )
    rows = []
    for architecture, copies in ((A3C, 2), (A3C, 4), (A3C, 16), (GORILA, 4), (GORILA, 100)):
        found = _run(architecture.sized(copies), load, 2.0).lag["mean"]
        title = {"a3c": "A3C", "gorila": "Gorila"}[architecture.name]
        rows.append(Row(f"{title}, K = {copies}", copies - 1.0, found, "predicted"))
    return rows


TABLES: dict[str, tuple[str, Callable[[], list[Row]]]] = {
    "impala": ("frames/s", impala),
    "accel": ("hours to 50M steps", accel),
    "apex": ("", apex),
    "staleness": ("mean staleness, updates", staleness),
}


def table(name: str) -> str:
    """One table in Markdown."""
    unit, rows = TABLES[name]
    head = unit or "figure"
    lines = [f"| {head} | published | simulated | error | |", "|---|---:|---:|---:|---|"]
    for row in rows():
        error = f"{round(100 * row.error):+d}%"
        bold = f"**{error}**" if row.use == "predicted" else error
        lines.append(
            f"| {row.what} | {_number(row.published)} | {_number(row.simulated)} | {bold} | {row.use} |"
        )
    return "\n".join(lines)


def _number(x: float) -> str:
    """Two or three digits that mean something."""
    if x >= 1000:
        return f"{float(f'{x:.3g}'):,.0f}"
    return f"{x:.0f}" if x >= 100 else f"{x:.3g}"


def filled(page: str) -> str:
    """The page with every table made anew between its markers. Raises: ValueError where a marker is missing."""
    for name in TABLES:
        begin, end = re.compile(rf"<!-- {name}: [^>]* -->\n"), f"<!-- end of {name} -->"
        found = begin.search(page)
        if found is None or end not in page:
            raise ValueError(f"the page has no place for the table {name}")
        page = page[: found.end()] + f"\n{table(name)}\n\n" + page[page.index(end) :]
    return page


def main(words: list[str]) -> None:
    """Write the tables into a page, or print them."""
    if words:
        page = Path(words[0])
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print("\n\n".join(map(table, TABLES)))


if __name__ == "__main__":
    main(sys.argv[1:])
