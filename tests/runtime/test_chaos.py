"""Kill -9 of every role of every system at random moments: the run goes on, or the next start resumes; nothing is lost
that was accepted, and nothing is left behind. ``chaos.MATRIX`` says what is killed how often."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from redline import api
from redline.runs.checkpoint import load_newest
from tests.runtime import chaos
from tests.runtime.chaos import MAIN, MATRIX, Victim

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for children in /proc")
IN_THREADS = [
    "impala",
    "appo",
    "apex",
    "seed",
    "inference_engine",
    "a3c",
    "accel_sync",
    "accel_async",
    "gorila",
    "gorila_global",
]
SYSTEMS = [*IN_THREADS[:3], "apex_apart", *IN_THREADS[3:]]  # a replay apart has a process of its own


def seed() -> int:
    """Of the moments of a test; shown when it fails. ``REDLINE_CHAOS_SEED`` has them drawn again."""
    number = int(os.environ.get("REDLINE_CHAOS_SEED") or random.SystemRandom().getrandbits(32))
    print(f"REDLINE_CHAOS_SEED={number}")
    return number


def reached(folder: Path) -> int:
    """Agent steps of the newest checkpoint."""
    newest = load_newest(folder / "victim" / "checkpoints")
    assert newest is not None
    return newest.step


def test_the_matrix_kills_every_system_fifty_times_in_all() -> None:
    assert list(MATRIX) == SYSTEMS
    assert all(system.kills[MAIN] >= 1 and len(system.kills) >= 2 for system in MATRIX.values())
    total = sum(sum(system.kills.values()) for system in MATRIX.values())
    assert total >= 50
    assert f"make {total} kills" in (chaos.ROOT / "docs" / "runtimes.md").read_text(encoding="utf-8")


def kill_roles(victim: Victim, system: str, chance: random.Random) -> int:
    """Kill as often as the matrix says, the second of each role while it starts; returns how often."""
    plan = [role for role, times in MATRIX[system].kills.items() for _ in range(times) if role != MAIN]
    chance.shuffle(plan)
    everyone, killed = set(victim.roles().values()), 0
    while plan:
        role = plan.pop()
        time.sleep(chance.uniform(0.0, 0.4))
        born = set(chaos.descendants(victim.process.pid))
        above = victim.kill(role, chance)
        killed += 1
        if role in plan and chance.random() < 0.5:
            plan.remove(role)
            victim.kill_newborn(above, born, chance.uniform(0.0, 2.0))
            killed += 1
        # An evaluator's successor, which is not counted, is not to be taken for an actor's.
        if plan and role != "evaluator" and chance.random() < 0.25:
            continue  # the next dies before this one's successor is at work
        victim.goes_on(everyone)
    return killed


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_role_may_be_killed_and_the_main_process_too(system: str, tmp_path: Path) -> None:
    chance = random.Random(seed())
    kills = MATRIX[system].kills
    victim = Victim(tmp_path, system, "processes")
    try:
        victim.until(
            lambda: {chaos.kind(each) for each in victim.roles().values()} == set(kills) - {MAIN}, "roles"
        )
        victim.goes_on()
        killed = kill_roles(victim, system, chance)
        assert killed == sum(kills.values()) - kills[MAIN]
        books = victim.books()
        assert books["lost"] == books["changed"] == 0, books
        mended = books["events"].get("restarts", 0) + books["events"].get("crashes", 0)
        # An evaluator is not counted. A host is by its server, which may be killed before it has told.
        counted = killed - kills.get("evaluator", 0)
        assert counted - kills.get("host", 0) <= mended <= counted, books
        for _ in range(kills[MAIN]):
            time.sleep(chance.uniform(0.0, 0.5))
            victim.kill_main()
            before = reached(tmp_path)
            victim = Victim(tmp_path, system, "processes", resume=True)
            victim.goes_on()
            assert victim.books()["total"] > before
        before = reached(tmp_path)
        assert victim.interrupt() < 5
        assert reached(tmp_path) >= before
    finally:
        victim.end()


@pytest.mark.slow
@pytest.mark.parametrize("system", ["impala", "apex", "seed", "gorila"])
def test_a_run_of_threads_resumes_after_a_kill(system: str, tmp_path: Path) -> None:
    time_left = random.Random(seed()).uniform(0.0, 0.5)
    victim = Victim(tmp_path, system, "threads")
    try:
        victim.goes_on()
        assert not victim.roles()
        time.sleep(time_left)
        victim.kill_main()
    finally:
        victim.end()
    before = reached(tmp_path)
    assert api.resume("victim", folder=str(tmp_path), steps=before + 300).steps >= before + 300


@pytest.mark.slow
def test_a_sigterm_to_every_process_saves_what_the_roles_know(tmp_path: Path) -> None:
    """As systemd, Slurm and timeout(1) send it: actors outlive it until they have told of their environments."""
    victim = Victim(tmp_path, "impala", "processes")
    try:
        victim.goes_on()
        os.killpg(victim.process.pid, signal.SIGTERM)
        assert victim.process.wait(30) == 130
    finally:
        victim.end()
    newest = load_newest(tmp_path / "victim" / "checkpoints")
    assert newest is not None
    assert all(actor is not None for actor in newest.state["loop"]["actors"])


RUNS = [(system, "threads") for system in IN_THREADS] + [("ppo", "in_process"), ("dqn", "in_process")]


@pytest.mark.slow
@pytest.mark.parametrize(("system", "runtime"), RUNS)
def test_an_interrupt_checkpoints_and_ends_in_seconds(system: str, runtime: str, tmp_path: Path) -> None:
    assert threading.current_thread() is threading.main_thread(), "signals go there"
    sent: list[tuple[float, int]] = []

    class Impatient(api.Quiet):
        def update(self, progress: Any) -> None:
            if progress.steps >= 300 and not sent:
                sent.append((time.monotonic(), progress.steps))
                os.kill(os.getpid(), signal.SIGINT)

    recipe = MATRIX[system].recipe if system in MATRIX else system
    overrides = chaos.settings(system, runtime)
    with pytest.raises(api.Interrupted):
        api.train(
            chaos.ENVIRONMENT,
            recipe,
            steps=chaos.STEPS,
            name="victim",
            folder=str(tmp_path),
            observer=Impatient(),
            overrides=overrides,
        )
    when, steps = sent[0]
    assert time.monotonic() - when < 5
    assert reached(tmp_path) >= steps
