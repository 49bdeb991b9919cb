"""Holds a run and checkpoints it in a loop until it is killed: run as a program by the tests.

Importing torch takes seconds, so one process imports it and forks a victim for every line it reads.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import torch

from redline.runs.checkpoint import load_newest, save_checkpoint
from redline.runs.folder import RunFolder
from redline.runs.metrics import MetricsWriter


def save_forever(path: Path) -> None:
    """Report each step on standard output once its checkpoint is written."""
    run = RunFolder.open(path).lock()
    writer = MetricsWriter(run.path, tensorboard=False)
    newest = load_newest(run.checkpoints)
    step = newest.step if newest else 0
    writer.truncate_after(step)
    while True:
        step += 1
        writer.write(step, {"value": step})
        state = {
            "step": step,
            "weights": torch.full((3000,), step, dtype=torch.int64),
            "replay": np.full((20, 1000), step % 256, np.uint8),
        }
        save_checkpoint(run.checkpoints, step, state, best=step % 5 == 0)
        os.write(1, f"{step}\n".encode())


def main() -> None:
    """One victim for each line of standard input; its process id goes first."""
    torch.set_num_threads(1)
    os.write(1, b"ready\n")
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            os.write(1, f"pid {os.getpid()}\n".encode())
            save_forever(Path(sys.argv[1]))
        os.waitpid(child, 0)
        os.write(1, b"dead\n")


if __name__ == "__main__":
    main()
