"""What a death costs copies that share gradients: a rate, a moment, never a lock. (tests/runtime/test_chaos.py kills
every role at random.)"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from redline import api
from redline.runtime.launch import make_loop
from redline.runtime.parts import assemble
from redline.runtime.pool import one_thread_each
from redline.runtime.replicas.locks import Locks
from tests.leaks import eventually
from tests.runtime.chaos import alive, descendants

COMMON = ["learner.precision=fp32", "parallel.runtime=processes", "parallel.copies=2", "run.steps=1000000000"]


def kill(loop: Any, role: int) -> None:
    pid = loop.crew.pids()[role]
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


# Gorila, check 4
@pytest.mark.slow
def test_killing_one_bundle_of_two_halves_the_servers_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redline.runtime.crew.processes.PAUSE", 3600.0)  # it stays dead
    with one_thread_each():
        overrides = [*COMMON, "parallel.architecture=gorila", "sampler.num_envs=2"]
        parts = assemble(api.make_experiment("tests.runtime.replicas.paced:make", "a2c", overrides=overrides))
        loop: Any = make_loop(parts)

        def rate(seconds: float) -> float:
            start, begin = loop.updates, time.perf_counter()
            while time.perf_counter() - begin < seconds:
                loop.iterate(0, 0.0, bool)
            return (loop.updates - start) / (time.perf_counter() - begin)

        def both() -> bool:
            loop.iterate(0, 0.0, bool)
            return bool((loop.memory.board.taken[:2] > 0).all())

        try:
            assert eventually(both, 120)
            whole = rate(4.0)
            kill(loop, 1)
            rate(0.5)
            assert rate(4.0) == pytest.approx(whole / 2, rel=0.35)
        finally:
            loop.close()
            parts.close()


@pytest.mark.slow
def test_a_copy_killed_in_lockstep_fills_its_replay_before_all_learn_again() -> None:
    numbers = ["parallel.architecture=accel_sync", "sampler.num_envs=2", "environment.backend=inline"]
    starts = ["algorithm.learning_starts=256", "replay.capacity=4000"]
    with one_thread_each():
        parts = assemble(api.make_experiment("CartPole-v1", "dqn", overrides=[*COMMON, *numbers, *starts]))
        loop: Any = make_loop(parts)
        try:
            steps, end = 0, time.monotonic() + 60

            def go_on() -> int:
                nonlocal steps
                steps += loop.iterate(steps, 0.0, lambda: time.monotonic() > end)[0]
                return int(parts.learner.version)

            while go_on() < 100:
                pass
            kill(loop, 0)
            while not loop.events().get("restarts"):
                go_on()
            before, at = parts.learner.version, steps
            while go_on() == before:
                pass
            assert steps - at >= 256
            first, other = loop.weights()
            assert torch.equal(first, other)
        finally:
            loop.close()
            parts.close()


@pytest.mark.slow
@pytest.mark.parametrize("collective", ["shared", "torch"])
def test_a_copy_killed_in_lockstep_does_not_hang_the_others(collective: str) -> None:
    overrides = [*COMMON, "parallel.architecture=accel_sync", f"parallel.collective={collective}"]
    with one_thread_each():
        parts = assemble(api.make_experiment("CartPole-v1", "ppo", overrides=overrides))
        loop: Any = make_loop(parts)
        try:
            for _ in range(3):
                assert loop.iterate(0, 0.0, bool)[0] == 256
            kill(loop, 0)  # of the crew: copy 1
            begin = time.monotonic()
            assert eventually(lambda: loop.iterate(0, 0.0, bool)[0] == 256, 120)
            assert time.monotonic() - begin < 60
            first, other = loop.weights()
            assert torch.equal(first, other)
            assert loop.events()["restarts"] == 1
        finally:
            loop.close()
            parts.close()


@pytest.mark.slow
def test_a_copy_killed_while_another_has_no_successor_yet_is_waited_for_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("redline.runtime.crew.processes.PAUSE", 1.0)
    overrides = [
        *COMMON,
        "parallel.copies=3",
        "sampler.num_envs=3",
        "algorithm.unroll=32",
        "parallel.architecture=accel_sync",
    ]
    with one_thread_each():
        parts = assemble(api.make_experiment("CartPole-v1", "a2c", overrides=overrides))
        loop: Any = make_loop(parts)
        assert loop.iterate(0, 0.0, bool)[0] == 96

        def kill_two() -> None:
            kill(loop, 0)
            eventually(lambda: loop.crew.restarts == 1, 20)
            time.sleep(0.3)  # the other has given up its iteration by now
            kill(loop, 1)

        killer, end = threading.Thread(target=kill_two), time.monotonic() + 30
        try:
            killer.start()
            while not loop.iterate(0, 0.0, lambda: time.monotonic() > end)[0] or loop.crew.restarts < 2:
                pass
            first, *others = loop.weights()
            assert all(torch.equal(first, other) for other in others)
        finally:
            killer.join()
            loop.close()
            parts.close()


def _hold(locks: Locks, number: int) -> None:
    list(locks)[number].acquire()
    print("held", flush=True)
    time.sleep(60)


def test_a_lock_is_free_again_when_its_holder_is_killed() -> None:
    import multiprocessing

    locks = Locks(2, shared=True)
    context = multiprocessing.get_context("spawn")
    holder = context.Process(target=_hold, args=(locks, 1), daemon=True)
    holder.start()
    try:
        first, second = list(locks)

        def taken() -> bool:
            if second.acquire(blocking=False):
                second.release()
                return False
            return True

        assert eventually(taken, 60)
        assert first.acquire(blocking=False), "each lock is for itself"
        first.release()
        holder.kill()
        second.acquire()
        second.release()
    finally:
        holder.kill()
        holder.join()
        holder.close()
        locks.close()


MEETS = """
import sys
import redline
if __name__ == "__main__":
    numbers = ["run.tensorboard=false", "run.log_every=64", "learner.precision=fp32", "parallel.copies=2"]
    numbers += ["parallel.architecture=accel_sync", "parallel.runtime=processes", "parallel.collective=torch"]
    redline.train("CartPole-v1", "a2c", steps=10**9, folder=sys.argv[1], name="killed", overrides=numbers)
"""


def listening(pid: int) -> set[str]:
    """Addresses, as Linux writes them, at which a process waits for connections."""
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            found.add(os.readlink(descriptor))
    tables = [Path(f"/proc/net/{kind}").read_text() for kind in ("tcp", "tcp6")]
    rows = [row.split() for table in tables for row in table.splitlines()]
    return {row[1].split(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in found}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="looks into /proc")
def test_copies_that_meet_in_torch_leave_nothing_behind_and_are_not_seen_from_outside(tmp_path: Path) -> None:
    script, temporary = tmp_path / "script.py", tmp_path / "temporary"
    script.write_text(MEETS)
    temporary.mkdir()
    words = [sys.executable, str(script), str(tmp_path)]
    with subprocess.Popen(words, env=os.environ | {"TMPDIR": str(temporary)}) as main:
        try:
            metrics = tmp_path / "killed" / "metrics.jsonl"
            assert eventually(lambda: metrics.exists() and metrics.stat().st_size > 0, 60)
            roles = descendants(main.pid)
            assert set.union(*map(listening, [main.pid, *roles])) == {"0100007F"}
        finally:
            main.kill()
    assert roles
    assert eventually(lambda: not any(alive(pid) for pid in roles), 20), "orphans"
    left = [path.name for path in temporary.iterdir()]
    assert [name for name in left if not name.startswith("torchinductor")] == []  # torch's cache of kernels
