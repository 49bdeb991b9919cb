"""Runs in a process of their own, to be killed: which systems and roles, how often, and a look at who is there."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.leaks import eventually

ROOT = Path(__file__).parents[2]
MAIN = "main"
PATIENCE = 120.0  # seconds: spawned roles start in two, or, on a busy machine, in many more
GOES_ON = 200  # agent steps

SCRIPT = """
import pathlib, sys
from redline import api
from tests.runtime import audit
folder, environment, recipe, steps, *overrides = sys.argv[1:]
if __name__ == "__main__":
    audit.install(pathlib.Path(folder) / "audit.json")
    try:
        if environment == "resume":
            api.resume("victim", folder=folder)
        else:
            api.train(environment, recipe, steps=int(steps), name="victim", folder=folder, overrides=overrides)
    except api.Interrupted:
        sys.exit(130)
"""


@dataclass(frozen=True)
class System:
    """A system of the literature as small as it gets, and how often each of its roles is killed."""

    recipe: str
    overrides: tuple[str, ...]
    kills: dict[str, int]  # role -> times; all its roles that are processes, and ``MAIN``


TWO = ("parallel.copies=2", "sampler.num_envs=2")
SERVED = ("parallel.copies=4", "sampler.num_envs=4", "parallel.hosts=2")
REPLAY = ("algorithm.learning_starts=100", "algorithm.batch=16", "replay.capacity=4000")
EVALUATED = ("run.evaluate_every=200", "run.evaluate_episodes=1")
MATRIX: dict[str, System] = {
    "impala": System("impala", (*TWO, *EVALUATED), {"actor": 4, "evaluator": 1, MAIN: 1}),
    "appo": System("appo", (*TWO, "parallel.queue=2"), {"actor": 5, MAIN: 1}),
    "apex": System("apex", (*TWO, *REPLAY, "parallel.replay_ratio=1"), {"actor": 5, MAIN: 1}),
    "apex_apart": System(
        "apex",
        (*TWO, *REPLAY, "parallel.replay_ratio=1", "parallel.replay=process"),
        {"actor": 1, "replay": 3, MAIN: 1},
    ),
    "seed": System("seed", SERVED, {"inference": 2, "host": 4, MAIN: 1}),
    "inference_engine": System(
        "inference_engine",
        (*SERVED, "algorithm.epochs=1", "algorithm.unroll=16"),
        {"inference": 2, "host": 3, MAIN: 1},
    ),
    "a3c": System("a3c", TWO, {"worker": 5, MAIN: 1}),
    "accel_sync": System(
        "accel_sync_ppo", (*TWO, "algorithm.epochs=1", "algorithm.unroll=32"), {"replica": 4, MAIN: 1}
    ),
    "accel_async": System("accel_async_a2c", TWO, {"replica": 5, MAIN: 1}),
    "gorila": System("gorila", (*TWO, *REPLAY, "parallel.servers=2"), {"bundle": 3, "server": 3, MAIN: 1}),
    "gorila_global": System(
        "gorila",
        (*TWO, *REPLAY, "parallel.architecture=gorila_global"),
        {"bundle": 2, "server": 1, "replay": 3, MAIN: 1},
    ),
}


def settings(system: str, runtime: str) -> list[str]:
    """Overrides of a system (or none) on a runtime. Steps take their time, so that whoever waits costs nothing."""
    common = ["run.tensorboard=false", "run.log_every=100", "run.checkpoint_every=200"]
    late = ["environment.kwargs.milliseconds=2", "learner.precision=fp32", f"parallel.runtime={runtime}"]
    own = MATRIX[system].overrides if system in MATRIX else ("sampler.num_envs=2",)
    return [*own, *common, *late]


ENVIRONMENT = "redline.studies.environments:make_late"
STEPS = 10**9


class Victim:
    """The run ``victim`` of a folder, in a process of its own."""

    def __init__(self, folder: Path, system: str, runtime: str, *, resume: bool = False) -> None:
        """Train the system, or go on with the run that is there."""
        self.folder = folder
        (folder / "audit.json").unlink(missing_ok=True)
        words = ["resume", "", "0"] if resume else [ENVIRONMENT, MATRIX[system].recipe, str(STEPS)]
        if not resume:
            words += settings(system, runtime)
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(folder), *words], start_new_session=True, cwd=ROOT
        )

    def books(self) -> dict[str, Any]:
        """The run's newest entry (see ``audit``); steps are zero before the first."""
        try:
            return json.loads((self.folder / "audit.json").read_text())
        except FileNotFoundError:
            return {"total": 0, "updates": 0, "taken": [], "events": {}}

    def roles(self) -> dict[int, str]:
        """Names of the living roles by process id; those that have only just been spawned have none yet."""
        named = {pid: name(pid) for pid in descendants(self.process.pid)}
        return {pid: text for pid, text in named.items() if kind(text) in KINDS}

    def until(self, condition: Any, what: str) -> None:
        """Wait until ``condition()``; the run may not end meanwhile."""

        def came() -> bool:
            assert self.process.poll() is None, f"the run ended while it was waited for {what}"
            return bool(condition())

        assert eventually(came, PATIENCE), f"no {what} within {PATIENCE:g} s: {self.books()}, {self.roles()}"

    def goes_on(self, names: set[str] | None = None) -> None:
        """Until roles of these names are there, and there were updates, and steps of all who took any before."""
        if names is not None:
            self.until(lambda: names <= set(self.roles().values()), f"roles {sorted(names)}")
        self.until(lambda: self.books()["taken"], "a beginning")
        before = self.books()

        def moved() -> bool:
            now = self.books()
            pairs = zip(before["taken"], now["taken"], strict=False)
            return (
                now["total"] >= before["total"] + GOES_ON
                and now["updates"] > before["updates"]
                and all(old != new for old, new in pairs if old)
            )

        self.until(moved, "steps of everyone")

    def kill(self, role: str, chance: random.Random) -> int:
        """Kill -9 one process of a role, which there must be; returns its parent's process id."""
        found: list[int] = []

        def there() -> list[int]:
            found[:] = sorted(pid for pid, text in self.roles().items() if kind(text) == role)
            return found

        self.until(there, f"a {role} to kill")
        pid = chance.choice(found)
        above = parent(pid)
        self._kill(pid)
        return above

    def kill_newborn(self, above: int, born_before: set[int], wait: float) -> None:
        """Kill -9 the next child of the process ``above``, ``wait`` seconds after its birth, while it starts."""
        self.until(lambda: set(children(above)) - born_before, "a successor")
        time.sleep(wait)
        self._kill(max(set(children(above)) - born_before))

    def _kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        self.until(lambda: not alive(pid), "death")

    def kill_main(self) -> None:
        """Kill -9 the main process, once there is something to resume from; nobody outlives it."""
        self.until(lambda: any((self.folder / "victim" / "checkpoints").glob("[0-9]*")), "a checkpoint")
        below = descendants(self.process.pid)
        self.process.kill()
        self.process.wait()
        assert eventually(lambda: not any(alive(pid) for pid in below), 20), "orphans"

    def interrupt(self) -> float:
        """Ctrl-C, as a terminal sends it to every process; seconds until the run had ended as it should."""
        os.killpg(self.process.pid, signal.SIGINT)
        begin = time.monotonic()
        assert self.process.wait(30) == 130
        return time.monotonic() - begin

    def end(self) -> None:
        """Whatever happened; roles that have only just been spawned take a moment to notice."""
        below = descendants(self.process.pid)
        self.process.kill()
        self.process.wait()
        eventually(lambda: not any(alive(pid) for pid in below), 20)


KINDS = {role for system in MATRIX.values() for role in system.kills} - {MAIN}


def kind(text: str) -> str:
    """A role's name without its number."""
    return text.rstrip("0123456789").rstrip("-")


def name(pid: int) -> str:
    """What a role's process calls itself; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def children(pid: int) -> list[int]:
    """Living child processes of a process, Python's own resource tracker left out."""
    found: list[str] = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):  # a replay's thread starts successors, too
        with contextlib.suppress(OSError):
            found += thread.read_text().split()
    return [int(each) for each in found if "resource_tracker" not in command(int(each)) and alive(int(each))]


def descendants(pid: int) -> list[int]:
    """Children, theirs, and so on."""
    return [each for child in children(pid) for each in (child, *descendants(child))]


def parent(pid: int) -> int:
    """The process id of a process's parent."""
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


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
