"""Kill -9 of any role at any moment: the run goes on, or the next start resumes; nothing is left behind."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from redline.runs.checkpoint import load_newest
from tests.leaks import eventually
from tests.runtime import chaos

COMMON = ["run.tensorboard=false", "run.log_every=500", "run.checkpoint_every=2000"]
# name -> environment, recipe, overrides
SYSTEMS: dict[str, tuple[str, str, list[str]]] = {
    "impala": (
        "CartPole-v1",
        "a2c",
        ["parallel.architecture=impala", "parallel.copies=2", "parallel.batch=1"],
    ),
    "apex": (
        "CartPole-v1",
        "apex",
        ["parallel.copies=2", "algorithm.learning_starts=200", "algorithm.batch=32"],
    ),
    "seed": (
        "CartPole-v1",
        "seed",
        ["parallel.copies=3", "sampler.num_envs=6", "parallel.hosts=2"],
    ),
    "inference_engine": (
        "CartPole-v1",
        "inference_engine",
        ["parallel.copies=2", "algorithm.epochs=1", "algorithm.unroll=16"],
    ),
}
PROCESSES = "parallel.runtime=processes"
pytestmark = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for children in /proc")


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_killed_roles_are_replaced_and_the_run_goes_on(system: str, tmp_path: Path) -> None:
    environment, recipe, overrides = SYSTEMS[system]
    process = chaos.start(tmp_path, environment, recipe, 10**9, [*overrides, *COMMON, PROCESSES])
    chance = random.Random(system)
    kills = 0
    try:
        chaos.wait_for_steps(tmp_path, process, 500)
        for _ in range(4):
            before = chaos.lines(tmp_path)[-1]["step"]
            assert eventually(lambda: bool(chaos.children(process.pid)), 30)
            kills += chaos.kill(chance.choice(chaos.children(process.pid)))
            time.sleep(chance.uniform(0.0, 0.3))
            chaos.wait_for_steps(tmp_path, process, before + 1500)
            assert process.poll() is None, "the run ended"
        last = chaos.lines(tmp_path)[-1]
        assert 1 <= last["events/restarts"] <= kills
        process.send_signal(signal.SIGINT)
        begin = time.monotonic()
        assert process.wait(20) == 130
        assert time.monotonic() - begin < 5
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["threads", "processes"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_killed_main_process_leaves_nothing_and_resumes(system: str, runtime: str, tmp_path: Path) -> None:
    environment, recipe, overrides = SYSTEMS[system]
    settings = [*overrides, *COMMON, f"parallel.runtime={runtime}"]
    process = chaos.start(tmp_path, environment, recipe, 12_000, settings)
    chaos.wait_for_steps(tmp_path, process, 5000)
    below = chaos.descendants(process.pid)
    assert (len(below) >= 2) == (runtime == "processes")
    chaos.kill(process.pid)
    process.wait()
    assert eventually(lambda: not any(chaos.alive(pid) for pid in below), 10), "orphans"
    reached = load_newest(tmp_path / "victim" / "checkpoints")
    assert reached is not None
    assert reached.step >= 2000
    again = chaos.start(tmp_path, "resume", "", 0, [])
    assert again.wait(180) == 0
    newest = load_newest(tmp_path / "victim" / "checkpoints")
    assert newest is not None
    assert newest.step >= 12_000
    assert [line["step"] for line in chaos.lines(tmp_path)] == sorted(
        {line["step"] for line in chaos.lines(tmp_path)}
    )


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["threads", "processes"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_an_interrupt_checkpoints_and_ends_in_seconds(system: str, runtime: str, tmp_path: Path) -> None:
    environment, recipe, overrides = SYSTEMS[system]
    settings = [*overrides, *COMMON, f"parallel.runtime={runtime}"]
    process = chaos.start(tmp_path, environment, recipe, 10**9, settings)
    try:
        chaos.wait_for_steps(tmp_path, process, 1000)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: every process gets it
        begin = time.monotonic()
        assert process.wait(20) == 130
        assert time.monotonic() - begin < 5
        assert load_newest(tmp_path / "victim" / "checkpoints") is not None
    finally:
        process.kill()
        process.wait()
