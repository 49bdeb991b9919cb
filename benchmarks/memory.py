"""Is memory flat? Trains for some minutes and follows the memory of every process of the run. One JSON line.

    python benchmarks/memory.py [--minutes 30] [--environment CartPole-v1] [--recipe impala] [--set KEY=VALUE ...]
                                [--folder FOLDER]

Resident (PSS where the kernel tells it, so that shared pages count once) and shared memory are summed over the main
process and its children every few seconds. *growth* is the last fifth's median less the second fifth's: the first fifth
fills caches.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from redline.runs.provenance import provenance

MEGA = 2**20


def processes(pid: int) -> list[int]:
    """A process and everything below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [each for child in task.read_text().split() for each in processes(int(child))]
        except OSError:
            continue
    return found


def memory(pid: int) -> tuple[float, float]:
    """PSS and shared memory of a process, in bytes; zeros when it has just gone."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0, 0.0
    pss = next((int(line.split()[1]) for line in rollup if line.startswith("Pss:")), 0)
    shared = next((int(line.split()[1]) for line in status if line.startswith("RssShmem:")), 0)
    return pss * 1024.0, shared * 1024.0


def follow(process: subprocess.Popen[bytes], minutes: float) -> list[tuple[float, float, float]]:
    """(seconds, PSS, shared) until the time is up."""
    begin, points = time.monotonic(), []
    while time.monotonic() - begin < minutes * 60 and process.poll() is None:
        each = [memory(pid) for pid in processes(process.pid)]
        points.append((time.monotonic() - begin, sum(a for a, _ in each), max(b for _, b in each)))
        time.sleep(min(5.0, minutes * 60 / 50))
    return points


def main() -> None:
    """Train, follow, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--environment", default="CartPole-v1")
    parser.add_argument("--recipe", default="impala")
    parser.add_argument("--set", action="append", default=["parallel.runtime=processes"], metavar="A.B=C")
    parser.add_argument("--folder", help="keep the run in this folder, instead of nowhere")
    options = parser.parse_args()
    settings = [word for each in options.set for word in ("--set", each)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or scratch
        command = [sys.executable, "-m", "redline", "train", options.environment, "--recipe", options.recipe]
        command += [
            "--steps",
            "1000000000",
            "--plain",
            "--folder",
            folder,
            "--set",
            "run.log_every=10000",
            *settings,
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        points = follow(process, options.minutes)
        process.send_signal(signal.SIGINT)
        code = process.wait(60)
        newest = max(Path(folder).glob("*/metrics.jsonl"), key=lambda path: path.stat().st_mtime)
        lines = [json.loads(x) for x in newest.read_text().splitlines()]
    fifth = max(len(points) // 5, 1)

    def growth(column: int) -> float:
        early = statistics.median(point[column] for point in points[fifth : 2 * fifth])
        return statistics.median(point[column] for point in points[-fifth:]) - early

    result = {
        "benchmark": "memory",
        "environment": options.environment,
        "recipe": options.recipe,
        "settings": options.set,
        "minutes": points[-1][0] / 60,
        "agent_steps": lines[-1]["step"] if lines else 0,
        "exit_code": code,
        "resident_mib": statistics.median(point[1] for point in points[fifth:]) / MEGA,
        "resident_growth_mib": growth(1) / MEGA,
        "shared_mib": statistics.median(point[2] for point in points[fifth:]) / MEGA,
        "shared_growth_mib": growth(2) / MEGA,
        "provenance": provenance(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
