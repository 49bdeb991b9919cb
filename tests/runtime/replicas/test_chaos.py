"""Whatever is killed, whenever: copies and servers are replaced and the run goes on; nothing outlives its main role."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
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
from tests.leaks import TAG, eventually, tagged_processes

COMMON = ["learner.precision=fp32", "parallel.runtime=processes", "parallel.copies=2", "run.steps=1000000000"]


def kill(loop: Any, role: int) -> None:
    pid = loop.crew.pids()[role]
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("architecture", ["a3c", "accel_async", "gorila"])
def test_killed_copies_and_servers_are_replaced_and_the_run_goes_on(architecture: str) -> None:
    chance = random.Random(architecture)
    with one_thread_each():
        parts = assemble(
            api.make_experiment(
                "CartPole-v1", "a2c", overrides=[*COMMON, f"parallel.architecture={architecture}"]
            )
        )
        loop: Any = make_loop(parts)
        taken = 0

        def goes_on(count: int) -> bool:
            """Whether ``count`` more updates are made, with every role taking part."""
            nonlocal taken
            start, own = loop.updates, loop.memory.board.taken[:2].copy()

            def enough() -> bool:
                nonlocal taken
                taken += loop.iterate(taken, 0.0, bool)[0]
                return loop.updates > start + count and bool((loop.memory.board.taken[:2] > own).all())

            return eventually(enough, 240)  # spawned roles start in seconds, or, on a busy machine, minutes

        try:
            assert goes_on(50)
            victims = [1] + ([2] if architecture == "gorila" else [0])
            for victim in victims:
                before = parts.learner.flat.clone()
                time.sleep(chance.uniform(0.0, 0.1))
                kill(loop, victim)
                assert goes_on(50)
                assert torch.isfinite(parts.learner.flat).all()
                assert not torch.equal(before, parts.learner.flat)
            assert loop.events()["restarts"] == len(victims)
        finally:
            loop.close()
            parts.close()


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


SCRIPT = """
import sys
from redline import api
if __name__ == "__main__":
    folder, *overrides = sys.argv[1:]
    api.train("CartPole-v1", "a2c", name="killed", folder=folder, overrides=overrides)
"""


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["gorila", "accel_sync"])
def test_no_role_outlives_the_main_process(architecture: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    tag = os.environ[TAG]
    overrides = [*COMMON, f"parallel.architecture={architecture}", "run.log_every=64"]
    process = subprocess.Popen([sys.executable, str(script), str(tmp_path), *overrides])
    metrics = tmp_path / "killed" / "metrics.jsonl"
    try:
        assert eventually(lambda: metrics.exists() and metrics.stat().st_size > 0, 150)
    finally:
        process.kill()
        process.wait()
    assert eventually(lambda: not tagged_processes(tag), 15), tagged_processes(tag)


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
