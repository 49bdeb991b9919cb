"""The inference engine, measured: alternation, workers that only wait, and sampling beside the actor of one process.

    python benchmarks/inference.py [alternating waiting sampling ...] [--seconds 4] [--workers 64 256] [--each 1 8]

Nobody learns: a slot that is handed in is handed out again at once, so this is what the engine can do, not a run.

    alternating  10 ms of stepping and 10 ms of acting for half of the environments: milliseconds of half a round in two
                 groups that take turns and in one. In turns the two hide each other: about 10, not 20. (`redline study
                 alternating` has other ratios.)
    waiting      W workers that each step 1 or 8 environments, in turn, which sleep 5 ms, around one server: steps/s
                 beside W times those of one worker, and beside W / 5 ms, which no engine reaches (a sleep is longer
                 than it says). `sleeps_alone` is what as many threads reach that do nothing but sleep.
    sampling     agent steps/s of CartPole (NumPy, 16 in a batch) and Pong (16 games): the actor of one process with the
                 server's groups, then lock-step (the same bits), then whoever is ready.

One JSON line.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import threading
import time
from typing import Any

from redline import api
from redline.actors import Actor, allocate
from redline.runs.provenance import provenance, usable_cores
from redline.runtime.parts import Parts, assemble
from redline.runtime.plan import first_seed
from redline.runtime.pool import one_thread_each
from redline.runtime.serving.muster import ServerMuster
from redline.studies.alternating import engine, measure

SLEEPING = (
    "worlds:Sleeping"  # beside this script, whose folder is where Python looks first, in worker processes too
)
UNROLL = 20
PRECISION = "learner.precision=fp32"


def rate(parts: Parts, muster: ServerMuster, seconds: float) -> float:
    """Agent steps/s, once every worker has handed in two unrolls: between two of the server's own counts."""
    workers = parts.experiment.parallel.copies
    lock_step, rest, seen = parts.experiment.parallel.queue == 0, [], 0
    counted, begin = -1, None
    while True:
        for key in muster.crew.wait(0.02):
            seen += 1
            rest.append(key)
        if not lock_step or len(rest) >= workers:  # as a learner at lag zero: all go back together
            for key in rest:
                muster.crew.tell(*key)
            rest.clear()
        now, served = time.perf_counter(), int(muster.board.taken[0])  # told four times a second
        if served == counted or seen < 2 * workers:
            continue
        counted = served
        if begin is None:
            begin = now, served
        elif now - begin[0] >= seconds:
            return (served - begin[1]) / (now - begin[0])


def waiting(workers: list[int], each_steps: int, seconds: float, *overrides: str) -> dict[str, Any]:
    """Steps/s of workers that only wait, with ``each_steps`` environments each."""
    each: dict[str, Any] = {}
    one = 0.0
    for count in [1, *workers]:
        envs = f"sampler.num_envs={count * each_steps}"
        settings = [
            f"parallel.copies={count}",
            envs,
            "parallel.runtime=processes",
            "environment.backend=inline",
        ]
        with engine(SLEEPING, 1, *settings, *overrides) as (parts, muster):
            got = rate(parts, muster, seconds)
            busy = muster.board.clock(0)["acting"]
        one = one or got
        each[str(count)] = {
            "steps_per_second": round(got),
            "of_one_times_workers": round(got / (one * count), 3),
            "of_5_ms": round(got * 0.005 / count, 3),
            "seconds_acting": round(busy, 2),
        }
    return each


def _sleep_in_threads(threads: int, seconds: float, core: int, answer: Any) -> None:
    """Put on ``answer`` how many sleeps a second so many threads of this process finish."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[core]})  # as a host of many workers
    counts, end = [0] * threads, time.perf_counter() + seconds

    def sleep(number: int) -> None:
        while time.perf_counter() < end:
            time.sleep(0.005)
            counts[number] += 1

    each = [threading.Thread(target=sleep, args=(number,)) for number in range(threads)]
    for thread in each:
        thread.start()
    for thread in each:
        thread.join()
    answer.put(sum(counts) / seconds)


def sleeps_alone(workers: int, seconds: float) -> float:
    """What ``waiting`` could reach if stepping were all: sleeps/s of so many threads, a process for each core."""
    context = multiprocessing.get_context("spawn")
    answers, cores = context.Queue(), usable_cores()
    shares = [workers * (k + 1) // cores - workers * k // cores for k in range(cores)]
    each = [
        context.Process(target=_sleep_in_threads, args=(share, seconds, core, answers))
        for core, share in enumerate(shares)
    ]
    for process in each:
        process.start()
    total = sum(answers.get() for _ in each)
    for process in each:
        process.join()
    return float(total)


def in_process(environment: str, seconds: float, groups: int, *overrides: str) -> float:
    """Agent steps/s of the actor of one process."""
    settings = [
        PRECISION,
        f"sampler.groups={groups}",
        "sampler.shards=1",
        f"algorithm.unroll={UNROLL}",
        *overrides,
    ]
    parts = assemble(api.make_experiment(environment, "a2c", overrides=settings))
    envs = parts.experiment.sampler.num_envs
    unroll = allocate(parts.algorithm, parts.learner.acting, parts.spec, UNROLL, envs)
    actor = Actor(parts.make_environments()[0], parts.algorithm, parts.learner.acting, seed=first_seed(0))
    try:
        actor.collect(unroll, 0, 0)
        begin, steps = time.perf_counter(), 0
        while time.perf_counter() - begin < seconds:
            actor.collect(unroll, steps, 0)
            steps += unroll.reward.numel()
        return steps / (time.perf_counter() - begin)
    finally:
        actor.close()
        parts.close()


def sampling(seconds: float) -> dict[str, Any]:
    """The engine beside the actor of one process: CartPole, and Pong where ale-py is installed."""
    found: dict[str, Any] = {}
    envs = "sampler.num_envs=16"
    for environment in ("CartPole-v1", "ALE/Pong-v5"):
        each: dict[str, float] = {"one_process": round(in_process(environment, seconds, 2, envs))}
        for name, queue, copies in (("lock_step", 0, 2), ("whoever_is_ready", 1, 4)):
            settings = [envs, f"parallel.copies={copies}", "parallel.runtime=threads"]
            with engine(environment, queue, *settings) as (parts, muster):
                each[name] = round(rate(parts, muster, seconds))
        found[environment] = each
    return found


def main() -> None:
    """Measure what is asked for and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=["alternating", "waiting", "sampling"])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--workers", type=int, nargs="+", default=[64, 256])
    parser.add_argument(
        "--each", type=int, nargs="+", default=[1, 8], help="environments of a waiting worker"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", help="override for the part `waiting`"
    )
    arguments = parser.parse_args()
    found: dict[str, Any] = {"cores": usable_cores(), "provenance": provenance()}
    with one_thread_each():
        if "alternating" in arguments.parts:
            each = {name: measure(10.0, 10.0, groups) for name, groups in (("in_turns", 2), ("one_group", 1))}
            found["milliseconds_of_half_a_round"] = {
                name: round(one.half_round, 2) for name, one in each.items()
            }
        if "waiting" in arguments.parts:
            found["sleeps_alone_of_5_ms"] = {
                str(count): round(sleeps_alone(count, arguments.seconds) * 0.005 / count, 3)
                for count in [1, *arguments.workers]
            }
            found["waiting"] = {
                f"{each}_each": waiting(arguments.workers, each, arguments.seconds, *arguments.set)
                for each in arguments.each
            }
        if "sampling" in arguments.parts:
            found["sampling"] = sampling(arguments.seconds)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
