"""What the links between processes cost: handing over a slot, publishing weights, reading them. One JSON line.

    python benchmarks/links.py [--repeats 2000]

*Hand-over*: a role in another process fills a slot of 1 MB and rings; the main process hears it and touches the data.
The time is from just before the filling to just after the touch, by a clock that both share, so the copy is in it; the
copy alone, measured in the same run, stands beside. *Publication*: the learner copies the weights of the Nature CNN
(1.69M) into the store; *reading*: an actor copies them out. Medians and 99th percentiles, in microseconds.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np

from redline.runs.provenance import provenance
from redline.runtime.crew.ports import Port
from redline.runtime.crew.processes import ProcessCrew
from redline.runtime.crew.region import Region
from redline.runtime.crew.threads import Crew, ThreadCrew
from redline.runtime.crew.weights import WeightStore

SLOT = 1_000_000  # bytes
WEIGHTS = 1_690_000  # f32 parameters of the Nature CNN


class Filler:
    """Fills the slots whose numbers come."""

    name = "filler"

    def __init__(self, region: Region) -> None:
        self.region = region

    def run(self, port: Port) -> None:
        """Until hung up on."""
        source = np.ones(SLOT, np.uint8)
        slots, stamp = self.region.arrays["slots"], self.region.arrays["stamp"]
        while True:
            number = port.get()
            stamp[0] = time.perf_counter()  # CLOCK_MONOTONIC: the same for all processes of a machine
            np.copyto(slots[number], source)
            port.put(number)


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Median and 99th percentile in microseconds."""
    return {"p50_us": float(np.median(seconds)) * 1e6, "p99_us": float(np.quantile(seconds, 0.99)) * 1e6}


def hand_over(kind: type[Any], repeats: int) -> dict[str, float]:
    """One slot at a time, filled and handed over."""
    region = Region({"slots": ((2, SLOT), "uint8"), "stamp": ((1,), "float64")}, shared=kind is ProcessCrew)
    crew: Crew = kind([Filler(region)])
    slots, spent = region.arrays["slots"], []
    try:
        for repeat in range(repeats + 20):
            crew.tell(0, repeat % 2)
            while not (arrived := crew.wait(5.0)):
                pass
            assert slots[arrived[0][1], -1] == 1
            if repeat >= 20:
                spent.append(time.perf_counter() - float(region.arrays["stamp"][0]))
    finally:
        crew.close()
        region.close()
    return percentiles(spent)


def copying(size: int, repeats: int) -> dict[str, float]:
    """The copy alone."""
    source, target, spent = np.ones(size, np.uint8), np.zeros(size, np.uint8), []
    for _ in range(repeats):
        begin = time.perf_counter()
        np.copyto(target, source)
        spent.append(time.perf_counter() - begin)
    return percentiles(spent)


def weights(repeats: int) -> dict[str, dict[str, float]]:
    """Publish and read in turn, in shared memory."""
    source = np.ones(WEIGHTS * 4, np.uint8)
    target = np.zeros_like(source)
    store = WeightStore([source.nbytes], shared=True)
    published, read = [], []
    for version in range(repeats):
        begin = time.perf_counter()
        store.publish([source], version)
        middle = time.perf_counter()
        store.read([target])
        published.append(middle - begin)
        read.append(time.perf_counter() - middle)
    store.close()
    return {"publish": percentiles(published[3:]), "read": percentiles(read[3:])}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=2000)
    options = parser.parse_args()
    result: dict[str, Any] = {
        "benchmark": "links",
        "slot_bytes": SLOT,
        "weights": WEIGHTS,
        "hand_over_processes": hand_over(ProcessCrew, options.repeats),
        "hand_over_threads": hand_over(ThreadCrew, options.repeats),
        "copy_of_a_slot": copying(SLOT, options.repeats),
        **weights(min(options.repeats, 300)),
        "provenance": provenance(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
