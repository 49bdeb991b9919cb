"""Workers that die, raise, hang or are orphaned: the run goes on, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from redline.environments import EnvironmentConfig, make
from redline.environments.workers import Workers
from redline.types import RunError, Step, UserError
from tests.environments import samples

ZEROS = np.zeros(4, np.int64)


def workers(id: Any, kwargs: dict[str, Any] | None = None, count: int = 2, **settings: Any) -> Workers:
    environment = make(EnvironmentConfig(id, kwargs or {}, "workers", workers=count, **settings), 4)
    assert isinstance(environment, Workers)
    return environment


def step(environment: Workers) -> Step:
    environment.send(ZEROS)
    return environment.recv()


def play(environment: Workers, steps: int) -> None:
    for _ in range(steps):
        step(environment)


def spoil(fault: str) -> None:
    environment = workers(samples.Broken, {"fault": fault}, count=1)
    try:
        environment.reset(0)
        play(environment, 4)
    finally:
        environment.close()


def test_send_returns_before_the_step_is_done() -> None:
    environment = workers(samples.SlowReset, {"seconds": 0.2})
    try:
        environment.reset(0)
        start = time.perf_counter()
        environment.send(ZEROS)
        sent = time.perf_counter() - start
        environment.recv()
        whole = time.perf_counter() - start
        assert sent < 0.2 < whole  # two environments a worker, one after the other: 0.4 s
        assert whole >= 0.4
    finally:
        environment.close()


def test_arrays_of_a_step_outlive_the_next_send() -> None:
    environment = workers(samples.Counter)
    try:
        environment.reset(0)
        first = step(environment)
        environment.send(ZEROS)
        time.sleep(0.1)
        assert (first.observation[:, 1] == 1).all()
        assert (environment.recv().observation[:, 1] == 2).all()
    finally:
        environment.close()


def test_protocol_out_of_order_is_refused() -> None:
    environment = workers(samples.Counter)
    try:
        environment.reset(0)
        with pytest.raises(RuntimeError, match="send comes first"):
            environment.recv()
        with pytest.raises(ValueError, match="shape"):
            environment.send(np.zeros((4, 1), np.int64))
        environment.send(ZEROS)
        with pytest.raises(RuntimeError, match="recv comes first"):
            environment.send(ZEROS)
        environment.recv()
    finally:
        environment.close()


def test_killed_worker_is_replaced_and_its_episodes_truncated() -> None:
    environment = workers(samples.Counter, {"length": 100})
    try:
        environment.reset(0)
        for _ in range(2):
            before = step(environment)
        last = before.observation.copy()
        process = environment._links[0].process
        assert process is not None
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        after = step(environment)
        assert after.truncated.tolist() == [True, True, False, False]
        assert not after.terminated.any()
        assert after.reward.tolist() == [0.0, 0.0, 3.0, 3.0]
        np.testing.assert_array_equal(after.final_observation[:2], last[:2])
        assert (after.observation[:2, 1] == 0).all()
        assert (after.observation[2:, 1] == 3).all()
        assert not set(after.observation[:2, 0]) & set(last[:2, 0])  # fresh seeds, not the same episode again
        assert after.episodes == []
        assert environment.events() == {"crashes": 1, "hangs": 0}
        assert step(environment).observation[:, 1].tolist() == [1, 1, 4, 4]
    finally:
        environment.close()


def test_a_crash_costs_no_slower_worker_its_episode() -> None:
    environment = workers(
        samples.SlowStep, {"seconds": 0.2}, count=4
    )  # the first of them raises once, at once
    try:
        environment.reset(0)
        play(environment, 2)
        after = step(environment)
        assert after.truncated.tolist() == [True, False, False, False]
        assert environment.events() == {"crashes": 1, "hangs": 0}
    finally:
        environment.close()


def test_a_worker_lost_while_it_tells_its_state_shifts_nobodys_answers() -> None:
    environment = workers(samples.Forgetful, {"fatal": True})  # the first dies once of telling its state
    try:
        environment.reset(0)
        play(environment, 3)
        assert environment.state() is None
        play(environment, 5)
        saved = environment.state()
        assert saved is not None
        times = [item["own"]["time"] for item in saved["environments"].values()]
        assert times == environment.observe().observation[:, 1].tolist()
        assert times[3] == 8
    finally:
        environment.close()


@pytest.mark.timeout(60)
def test_a_state_larger_than_a_pipe_goes_back() -> None:
    environment = workers(samples.Heavy, {"length": 100}, count=1)
    try:
        environment.reset(0)
        play(environment, 3)
        saved = environment.state()
        play(environment, 2)
        environment.load_state(saved)  # type: ignore[arg-type]
        assert step(environment).reward.tolist() == [4.0] * 4
    finally:
        environment.close()


@pytest.mark.parametrize("fault", ["raise", pytest.param("exit", marks=pytest.mark.slow)])
def test_crash_in_the_environments_own_code_is_survived(fault: str, tmp_path: Path) -> None:
    environment = workers(samples.Broken, {"fault": fault, "once": str(tmp_path / "once"), "length": 5})
    try:
        environment.reset(0)
        episodes = []
        for _ in range(20):
            episodes += step(environment).episodes
        assert environment.events() == {"crashes": 1, "hangs": 0}
        assert {episode.length for episode in episodes} == {5}  # broken ones are not counted
        assert {episode.index for episode in episodes} == {0, 1, 2, 3}
    finally:
        environment.close()


@pytest.mark.parametrize("fault", ["hang", pytest.param("busy", marks=pytest.mark.slow)])
def test_hanging_worker_is_killed_and_replaced(fault: str, tmp_path: Path) -> None:
    kwargs = {"fault": fault, "once": str(tmp_path / "once")}
    environment = workers(samples.Broken, kwargs, step_timeout=1.0)
    try:
        environment.reset(0)
        start = time.monotonic()
        truncated = sum(int(step(environment).truncated.sum()) for _ in range(6))
        assert truncated == 2
        assert environment.events() == {"crashes": 0, "hangs": 1}
        assert time.monotonic() - start < 30
    finally:
        environment.close()


def test_environment_that_always_crashes_ends_the_run_with_its_own_words() -> None:
    environment = workers(samples.Broken, {"fault": "raise", "step": 1}, count=1)
    try:
        environment.reset(0)
        with pytest.raises(
            RunError, match=r"Broken.*ZeroDivisionError: the simulator exploded.*in a row"
        ) as caught:
            play(environment, 10)
        assert "\n" not in str(caught.value)
    finally:
        environment.close()


@pytest.mark.parametrize(
    ("fault", "error", "match"),
    [
        ("nan observation", RunError, r"number \d gave observation nan at its step 3"),
        pytest.param(
            "nan reward",
            RunError,
            r"number \d gave reward nan at its step 3",
            marks=pytest.mark.slow,
        ),
        ("shape", RunError, r"observation has shape \(3,\), its space says \(2,\)"),
        ("constructor", UserError, "cannot be made: OSError: no such simulator"),
        ("reset", RunError, "raised in reset.*RuntimeError: the simulator is not there"),
    ],
)
def test_broken_promises_end_the_run(fault: str, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match) as caught:
        spoil(fault)
    assert "\n" not in str(caught.value)


def test_unpicklable_factory_is_refused_for_workers_and_stepped_here_by_auto() -> None:
    with pytest.raises(UserError, match=r"cannot be sent to a worker process.*backend=inline"):
        make(EnvironmentConfig(lambda: samples.Counter(), backend="workers"), 2)
    environment = make(EnvironmentConfig(lambda: samples.SlowReset(0.002)), 4, threads=2)
    assert type(environment).__name__ == "Inline"
    environment.close()


def test_auto_takes_workers_only_where_they_pay() -> None:
    slow = make(EnvironmentConfig(samples.SlowReset, {"seconds": 0.01}), 4, threads=2)
    try:
        assert type(slow).__name__ == "Workers"
        assert slow.spec.rules[-1] == "stepped in 2 worker processes"
    finally:
        slow.close()
    for settings, threads in (
        (EnvironmentConfig(samples.Counter), 2),
        (EnvironmentConfig("redline/Masked-v0"), 1),
    ):
        environment = make(settings, 4, threads=threads)
        assert type(environment).__name__ == "Inline"
        environment.close()


def test_no_file_or_process_outlives_a_kill_of_the_parent(tmp_path: Path) -> None:
    """One worker idle, one stuck in a step that never ends: both leave with their parent."""
    shared_memory = Path("/dev/shm")
    before = set(shared_memory.iterdir()) if shared_memory.exists() else set()
    script = tmp_path / "parent.py"
    script.write_text(
        "import time, numpy as np\n"
        "from redline.environments import EnvironmentConfig, make\n"
        "if __name__ == '__main__':\n"
        "    config = EnvironmentConfig('tests.environments.samples:Broken', {'fault': 'busy', 'step': 1,\n"
        f"        'once': {str(tmp_path / 'once')!r}}}, 'workers', workers=2)\n"
        "    e = make(config, 2)\n"
        "    e.reset(0)\n"
        "    e.send(np.zeros(2, np.int64))\n"
        "    print(*[link.process.pid for link in e._links], flush=True)\n"
        "    time.sleep(600)\n"
    )
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    time.sleep(0.2)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(_alive(pid) for pid in pids):
        time.sleep(0.02)
    assert not any(_alive(pid) for pid in pids)
    assert (set(shared_memory.iterdir()) if shared_memory.exists() else set()) <= before


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("moment", [pytest.param("making", marks=pytest.mark.slow), "stepping"])
def test_interrupt_of_the_whole_group_leaves_workers_to_their_parent(moment: str, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import numpy as np\n"
        "from redline.environments import EnvironmentConfig, make\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        "        print('making', flush=True)\n"
        "        e = make(EnvironmentConfig('redline/Catch-v0', {}, 'workers', workers=2), 2)\n"
        "        e.reset(0)\n"
        "        print('stepping', flush=True)\n"
        "        while True:\n"
        "            e.send(np.zeros(2, np.int64)); e.recv()\n"
        "    except KeyboardInterrupt:\n"
        "        print('interrupted', flush=True)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    try:
        while parent.stdout.readline() != f"{moment}\n":
            pass
        time.sleep(0.4)  # while the workers still import, or well into stepping
        os.killpg(parent.pid, signal.SIGINT)
        out, err = parent.communicate(timeout=20)
    finally:
        parent.kill()
    assert (out.splitlines()[-1], err) == ("interrupted", "")  # no worker's traceback, at exit either


def test_dropped_environment_ends_its_workers() -> None:
    environment = workers(samples.Counter)
    pids = [link.process.pid for link in environment._links if link.process is not None]
    del environment
    assert len(pids) == 2
    assert not any(_alive(pid) for pid in pids if pid is not None)


def test_state_moves_between_this_process_and_workers() -> None:
    ours = workers("CartPole-v1")
    other = make(EnvironmentConfig("CartPole-v1", backend="inline"), 4)
    three = make(EnvironmentConfig("CartPole-v1", backend="workers", workers=3), 4)
    try:
        ours.reset(3)
        for _ in range(30):
            step(ours)
        state = ours.state()
        assert state is not None
        for environment in (other, three):
            environment.load_state(state)
            np.testing.assert_array_equal(environment.observe().observation, ours.observe().observation)
        for _ in range(40):
            expected = step(ours)
            for environment in (other, three):
                environment.send(ZEROS)
                got = environment.recv()
                np.testing.assert_array_equal(got.observation, expected.observation)
                assert list(got.episodes) == list(expected.episodes)
    finally:
        ours.close()
        other.close()
        three.close()
