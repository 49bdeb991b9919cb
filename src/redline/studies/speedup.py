"""How much faster do more A3C workers reach a score? (Mnih et al. 2016, table 2)

Throughput and time to score are told apart: asynchronous workers that only produced more of the same would speed up the
first and not the second. On a machine with few cores, more workers than cores only help where environments wait; so
the workers' environments sleep at every step, and the table says so.
"""

from __future__ import annotations

import statistics
from typing import Any

from redline.studies.result import Curve, Options, Result, spread, train

WORKERS = (1, 2, 4, 8, 16)
LATENCY = 5.0  # milliseconds a step
SCORE = 100.0  # mean return of the newest 100 episodes
RATE = (
    5e-4  # at which one worker's five steps make an update that every seed survives; the recipe's is for many
)
PAPER = {1: 1.0, 2: 2.1, 4: 3.7, 8: 6.9, 16: 12.5}  # A3C, time to score, mean over games


def _rate(curve: Curve) -> float:
    """Agent steps/s from the first report on: by then all processes are at work."""
    return (curve.steps[-1] - curve.steps[0]) / (curve.seconds[-1] - curve.seconds[0])


def _seconds(curve: Curve) -> float:
    """Seconds from the first report to the score; infinite where it was not reached."""
    reached = curve.seconds_to(SCORE)
    return float("inf") if reached is None else reached - curve.seconds[0]


def speedup(options: Options) -> Result:
    """A3C on CartPole with 5 ms of latency a step and 1 to 16 workers: throughput, and time to a return of 100."""
    curves: dict[str, list[Curve]] = {}
    rates: dict[int, list[float]] = {}
    times: dict[int, list[float]] = {}
    for workers in WORKERS:
        label = f"{workers} worker{'s' if workers > 1 else ''}"
        settings = ["parallel.architecture=a3c", "parallel.runtime=processes", f"parallel.copies={workers}"]
        settings += [f"sampler.num_envs={workers}", f"environment.kwargs.milliseconds={LATENCY}"]
        settings += [f"run.stop_at_return={SCORE}", "run.log_every=500", f"learner.learning_rate={RATE}"]
        name = f"a3c latency {LATENCY:g} ms {label}"
        curves[label] = train(options, name, "redline.studies.environments:make_late", "a3c", settings)
        rates[workers] = [_rate(curve) for curve in curves[label]]
        times[workers] = [_seconds(curve) for curve in curves[label]]
    one_rate, one_time = statistics.median(rates[1]), statistics.median(times[1])
    rows: list[dict[str, Any]] = [
        {
            "workers": workers,
            "agent steps/s": spread(rates[workers]),
            f"seconds to {SCORE:g}": spread(times[workers]),
            "throughput x": round(statistics.median(rates[workers]) / one_rate, 2),
            "time to score x": round(one_time / statistics.median(times[workers]), 2),
            "paper, time to score x": PAPER[workers],
        }
        for workers in WORKERS
    ]
    last = rows[-1]
    answer = (
        f"With {last['workers']} workers A3C takes {last['throughput x']} times as many steps a second and reaches the "
        f"score {last['time to score x']} times as soon as one worker does (the paper: 12.5, mean over five games)."
    )
    notes = [
        f"Latency-bound: every environment step sleeps {LATENCY:g} ms, so that cores are not the limit.",
        "Workers are processes. Starting them (16 on two cores: half a minute) is not counted: clocks start with the "
        "first report, after about 500 agent steps.",
        f"One environment and updates of five steps in each worker; learning rate {RATE:g} for any number of them.",
    ]
    return Result(
        "a3c-speedup", "How much faster do more A3C workers get there?", answer, rows, curves, notes
    )
