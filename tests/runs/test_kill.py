"""A run killed at any instant can be gone on with."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from redline.runs.checkpoint import load_checkpoint, load_newest
from redline.runs.folder import RunFolder
from redline.runs.metrics import MetricsWriter
from redline.types import UserError

ROOT = Path(__file__).parent.parent.parent
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the killed processes are forked"),
]


def test_twenty_kills_lose_nothing(tmp_path: Path) -> None:
    """Twenty times, at a random moment: every checkpoint there loads, and none that was reported is lost."""
    run = RunFolder.create("victim", base=tmp_path)
    run.config.write_text("recipe: ppo\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.runs.saver", str(run.path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    chance = random.Random(0)
    try:
        assert process.stdout.readline() == "ready\n"
        for kill in range(20):
            process.stdin.write("go\n")
            word, pid = process.stdout.readline().split()
            assert word == "pid"
            killer = threading.Timer(chance.uniform(0.02, 0.2), os.kill, (int(pid), signal.SIGKILL))
            if kill == 0:
                _refused_while_alive(run.path)
            killer.start()
            reported = 0
            while (line := process.stdout.readline()) != "dead\n":
                reported = int(line)
            killer.join()
            _check(run.path, reported)
    finally:
        process.stdin.close()
        process.wait(20)
        process.stdout.close()


def _refused_while_alive(path: Path) -> None:
    deadline = time.monotonic() + 10
    while not (path / "lock").exists() or not (path / "lock").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    with pytest.raises(UserError, match=r"another process \(number \d+\) is writing the run 'victim'"):
        RunFolder.open(path).lock()


def _check(path: Path, reported: int) -> None:
    with RunFolder.open(path) as run:  # the dead process's lock is free
        assert not list(run.checkpoints.glob(".*")), "leftovers of the killed process stay"
        newest = load_newest(run.checkpoints)
        if newest is None:
            assert reported == 0
            return
        assert not newest.messages, "a checkpoint is damaged"
        assert newest.step >= reported, "a checkpoint that was reported is lost"
        paths = [found for found in run.checkpoints.iterdir() if found.is_dir()]
        assert len([found for found in paths if not found.name.startswith("best")]) <= 3
        for found in paths:
            state = load_checkpoint(found)
            assert (state["weights"] == state["step"]).all()
            assert (state["replay"] == np.uint8(state["step"] % 256)).all()
        writer = MetricsWriter(run.path, tensorboard=False)
        writer.truncate_after(newest.step)
        writer.close()
        steps = [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()]
        assert steps == list(range(1, newest.step + 1))
