"""What one loop costs beyond its pieces: threads that wait for each other, and what no piece accounts for."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from redline.planner.costs import Curve
from redline.runtime.in_process import make_loop
from redline.runtime.parts import Parts
from redline.runtime.planning.pieces import Collecting
from redline.runtime.planning.together import Bench

TEAMS = 2  # of threads that step together: how well they do depends on the cores that each finds itself on


@dataclass(frozen=True)
class Turns:
    """What a loop does, learning on, for each round of its environments."""

    seconds: float  # the median
    stepping: (
        float  # seconds of the loop's thread; of a loop that learns from replay what learning did not hide
    )


def together(bench: Bench, turns: Turns) -> float:
    """How much longer environments that step on every core take than their core-seconds over the cores."""
    envs = bench.experiment.sampler.num_envs
    width = min(bench.cores, envs)
    if not bench.parts.spec.threaded or width == 1:
        return 1.0
    if not bench.replays:
        return max(turns.stepping * width / bench.round(envs).step.alone, 1.0)
    bench.round(envs)
    found: list[float] = []
    for _ in range(TEAMS):
        room = Collecting(bench.parts, envs, threads=bench.cores)
        try:
            room.measure(bench.budget.round / 2)
            found.append(float(np.median(room.watch.durations)))  # resets come too seldom to be compared
        finally:
            room.close()
    alone = float(np.median(bench.room(envs).watch.durations))
    return max(float(np.median(found)) * width / alone, 1.0)


def alone(bench: Bench) -> Turns:
    """The experiment as one loop, on the CPU."""
    return _loop(bench, bench.parts, bench.budget.learn)


def again(bench: Bench, first: Turns) -> Turns:
    """A second look, after all else, and the faster of the two: a slow second of the machine is no cost of the loop's.
    One look at long batches has met many seconds."""
    if 2 * _length(bench) * first.seconds > bench.budget.learn:
        return first
    return min(first, alone(bench), key=lambda turns: turns.seconds)


def beyond(bench: Bench, turns: Turns, learn: float) -> float:
    """Core-seconds of a loop's batch (of a round, where it learns from replay) that no piece accounts for."""
    whole, each = turns.seconds, bench.round(bench.experiment.sampler.num_envs)
    stepping = _stepping(bench)
    if bench.replays:
        known = each.act + each.record + _side_by_side(stepping, _due(bench), learn)
        return float(np.clip(whole - known, 0.0, whole / 2))
    length = _length(bench)
    known = stepping + each.act + each.record + (each.act + learn) / length  # with the value after its end
    return length * float(np.clip(whole - known, 0.0, whole / 2))


def beyond_on_gpu(bench: Bench, parts: Parts, learn: float, act: Curve) -> float:
    """The same of a loop of ``parts``, which compute on a GPU."""
    envs = bench.experiment.sampler.num_envs
    whole = _loop(bench, parts, bench.budget.gpu).seconds
    stepping, acting, record = _stepping(bench), act.at(envs), bench.round(envs).record
    if bench.replays:
        return max(whole - acting - record - _side_by_side(stepping, _due(bench), learn), 0.0)
    return max(_length(bench) * (whole - stepping - record - acting) - acting - learn, 0.0)


def _side_by_side(stepping: float, due: float, learn: float) -> float:
    """Seconds of a round in the mean, its stepping and ``due`` updates going on side by side.

    Updates come whole: where one is due every few rounds, the others have nothing to hide their stepping behind.
    """
    fewer = int(due)
    more = due - fewer
    return (1.0 - more) * max(stepping, fewer * learn) + more * max(stepping, (fewer + 1) * learn)


def _length(bench: Bench) -> int:
    """Rounds of an iteration."""
    return int(getattr(bench.experiment.algorithm, "unroll", 1))


def _due(bench: Bench) -> float:
    """Updates from replay for each round."""
    experiment = bench.experiment
    return float(experiment.sampler.num_envs / experiment.algorithm.update_every)  # type: ignore[union-attr]


def _stepping(bench: Bench) -> float:
    """Seconds of a round's stepping where one loop has every core."""
    envs = bench.experiment.sampler.num_envs
    step, width = bench.round(envs).step, min(bench.cores, envs) if bench.parts.spec.threaded else 1
    return step.core * bench.together / width + step.wait


def _loop(bench: Bench, parts: Parts, seconds: float) -> Turns:
    loop, envs, learner = make_loop(parts), bench.experiment.sampler.num_envs, parts.learner
    try:
        steps, before = 0, learner.version
        spent: list[float] = []  # of a round
        stepping: list[float] = []
        begun = time.perf_counter()
        while (passed := time.perf_counter() - begun) < seconds or len(spent) < 3:
            if passed > 3 * seconds and len(spent) == 2:
                break
            begin, stepped = time.perf_counter(), loop.clock["stepping"]
            taken = loop.iterate(steps, 0.0, bool)[0]
            steps += taken
            if learner.version > before:  # it has begun to learn
                spent.append((time.perf_counter() - begin) * envs / taken)
                stepping.append((loop.clock["stepping"] - stepped) * envs / taken)
    finally:
        loop.close()
    return Turns(float(np.median(spent[1:])), float(np.median(stepping[1:])))
