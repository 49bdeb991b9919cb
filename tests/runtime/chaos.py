"""Runs in a process of their own, to be killed, and a look at their children."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SCRIPT = """
import sys
from redline import api
folder, environment, recipe, steps, *overrides = sys.argv[1:]
if __name__ == "__main__":
    try:
        if environment == "resume":
            api.resume("victim", folder=folder)
        else:
            api.train(environment, recipe, steps=int(steps), name="victim", folder=folder, overrides=overrides)
    except api.Interrupted:
        sys.exit(130)
"""


def start(
    folder: Path, environment: str, recipe: str, steps: int, overrides: list[str]
) -> subprocess.Popen[bytes]:
    """Train (or, with environment ``resume``, go on with) the run ``victim``."""
    words = [sys.executable, "-c", SCRIPT, str(folder), environment, recipe, str(steps), *overrides]
    return subprocess.Popen(words, start_new_session=True)


def children(pid: int) -> list[int]:
    """Living child processes of a process, Python's own resource tracker left out."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [int(each) for each in found if "resource_tracker" not in command(int(each))]


def command(pid: int) -> str:
    """A process's command line; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def kill(pid: int) -> bool:
    """Kill -9; False where there was nothing left to kill."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def lines(folder: Path) -> list[dict[str, Any]]:
    """The run's metrics so far."""
    path = folder / "victim" / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def wait_for_steps(
    folder: Path, process: subprocess.Popen[bytes], steps: int, patience: float = 120.0
) -> None:
    """Until the run has logged ``steps`` agent steps, or ended."""
    deadline = time.monotonic() + patience
    while process.poll() is None and time.monotonic() < deadline:
        done = lines(folder)
        if done and done[-1]["step"] >= steps:
            return
        time.sleep(0.05)
    assert process.poll() is not None, f"no {steps} steps within {patience} s"
