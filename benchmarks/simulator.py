"""How fast the planner's simulator is: thousands of actors for a simulated minute. One JSON line.

    python benchmarks/simulator.py [--actors 10000] [--seconds 60]

Each actor has a core of its own, steps four environments for 30 ms (exponential stragglers) and acts for 10. It sends
what its paper sends: unrolls of 20 steps to a learner (IMPALA on Atari), 50 transitions at a time to a shared replay
(Ape-X). The wall clock, the rate, and what the closed form says it cannot exceed, stand beside each other.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from redline.architectures.catalogue import APEX, IMPALA
from redline.architectures.model import Architecture
from redline.planner.bound import bound
from redline.planner.costs import Work, Workload
from redline.planner.simulate import simulate
from redline.runs.provenance import provenance

TAIL = tuple(float(x) for x in -np.log(1.0 - (np.arange(200) + 0.5) / 200))  # an exponential's quantiles
BATCH = 100  # unrolls


def workload(actors: int, unroll: int) -> Workload:
    """A core for everyone; a learner that keeps up."""
    tail = tuple(x / float(np.mean(TAIL)) for x in TAIL)
    return Workload(
        cores=actors + 1,
        unroll=unroll,
        environments=4,
        step=Work(core=30e-3, tail=tail),
        act=Work(core=10e-3),
        learn=Work(core=1e-3),
    )


def measure(name: str, architecture: Architecture, load: Workload, seconds: float) -> dict[str, float | str]:
    """One simulation."""
    begin = time.perf_counter()
    found = simulate(architecture, load, seconds=seconds, warm=1.0, most=None)
    return {
        "architecture": name,
        "wall_seconds": round(time.perf_counter() - begin, 2),
        "steps_per_second": round(found.steps_per_second, 1),
        "bound": round(bound(architecture, load), 1),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Simulate both and print one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--actors", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="simulated")
    options = parser.parse_args(argv)
    n, seconds = options.actors, options.seconds
    replayed = replace(workload(n, 50), samples=512, ratio=1.0)
    rows = [
        measure("impala", IMPALA.sized(n, 1, BATCH), workload(n, 20), seconds),
        measure("apex", APEX.sized(n), replayed, seconds),
    ]
    print(
        json.dumps(
            {"benchmark": "simulator", "actors": options.actors, "simulated_seconds": options.seconds}
            | {"rows": rows, "provenance": provenance()}
        )
    )


if __name__ == "__main__":
    main()
