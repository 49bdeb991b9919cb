"""An environment that hangs inside a role's own step: a process is ended and replaced, a thread ends the run."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest

import redline
from redline import api
from redline.environments import EnvironmentConfig
from redline.environments import make as make_environment
from redline.runtime.crew import board as boards
from redline.runtime.crew.board import Board, Patience, Watched
from redline.runtime.crew.evaluating import Evaluator
from redline.runtime.crew.ports import Port
from redline.runtime.crew.processes import ProcessCrew
from redline.runtime.crew.threads import ThreadCrew
from redline.runtime.parts import assemble
from redline.types import Progress, RunError
from tests.leaks import eventually
from tests.runtime.replicas.paced import Paced

FOLDER = "REDLINE_TEST_HANG"  # where those who hang leave a note, so that only the first of them does


class Hanging(Paced):
    """Takes a moment a step, and at its seventh waits for ever, unless another has done so before."""

    def step(self, action: Any) -> Any:
        time.sleep(0.001)
        self.steps += 1
        note = Path(os.environ[FOLDER]) / "hung"
        if self.steps == 7 and not note.exists():
            note.touch()
            while not note.with_name("over").exists():
                time.sleep(0.1)
        return self.observation_space.sample(), 1.0, self.steps >= 20, False, {}


def make() -> gymnasium.Env[Any, Any]:
    """One environment."""
    return Hanging()


CASES = {
    "impala": ("impala", ()),
    "apex": ("apex", ("algorithm.learning_starts=50", "algorithm.batch=16")),
    "a3c": ("a3c", ()),
    "gorila": ("gorila", ("algorithm.learning_starts=50", "algorithm.batch=16")),
}


def train(folder: Path, case: str, runtime: str, observer: api.Quiet | None = None) -> Any:
    recipe, own = CASES[case]
    options = [
        *own,
        f"parallel.runtime={runtime}",
        "parallel.copies=2",
        "sampler.num_envs=2",
        "environment.step_timeout=0.5",
        "environment.backend=inline",
        "run.tensorboard=false",
        "learner.precision=fp32",
        "run.log_every=100",
    ]
    return redline.train(
        "tests.runtime.crew.test_hangs:make",
        recipe,
        steps=600,
        folder=str(folder / "runs"),
        overrides=options,
        observer=observer or api.Quiet(),
    )


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    yield tmp_path
    (tmp_path / "over").touch()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_process_that_hangs_in_a_step_is_replaced(folder: Path, case: str) -> None:
    seen: list[Progress] = []

    class Listener(api.Quiet):
        def update(self, progress: Progress) -> None:
            seen.append(progress)

    train(folder, case, "processes", Listener())
    assert (folder / "hung").exists()
    assert seen[-1].events["hangs"] == seen[-1].events["restarts"] == 1
    assert seen[-1].steps >= 600


@pytest.mark.slow
def test_a_thread_that_hangs_in_a_step_ends_the_run_with_one_line(folder: Path) -> None:
    with pytest.raises(
        RunError, match=r"^actor-\d hangs, and a thread cannot be killed: use parallel.runtime=proc"
    ):
        train(folder, "impala", "threads")


def make_judged() -> gymnasium.Env[Any, Any]:
    """One for an evaluator, which gives environments less time here than is usual."""
    if multiprocessing.parent_process() is not None:
        boards.START = 1.0
    return Hanging()


@pytest.mark.slow
def test_an_evaluator_process_that_hangs_is_replaced(folder: Path) -> None:
    options = ["parallel.architecture=impala", "parallel.runtime=processes", "environment.backend=inline"]
    options += ["environment.step_timeout=0.5", "run.evaluate_episodes=2", "learner.precision=fp32"]
    parts = assemble(
        api.make_experiment("tests.runtime.crew.test_hangs:make_judged", "a2c", overrides=options)
    )
    evaluator = Evaluator(parts, 1)
    try:
        assert evaluator.ask(7)
        found: list[Any] = []

        def answered() -> bool:
            found.append(evaluator.answer(0.1))
            return found[-1] is not None

        assert eventually(answered, 60)
        assert (folder / "hung").exists()
        assert found[-1] == (7, [20.0, 20.0])
    finally:
        evaluator.close()
        parts.close()


class Silent:
    """Says nothing until the run ends."""

    name = "silent"

    def run(self, port: Port) -> None:
        port.get()


def listen(crew: ThreadCrew, seconds: float, *, chatter: bool = False) -> None:
    """Hear a crew out; chatter: it has something to say at every moment."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if chatter:
            crew.post(1)
        assert bool(crew.wait(0.05)) == chatter


@pytest.mark.parametrize("kind", [ThreadCrew, ProcessCrew])
def test_a_role_whose_environments_are_never_made_is_found(
    monkeypatch: pytest.MonkeyPatch, kind: type[ThreadCrew] | type[ProcessCrew]
) -> None:
    monkeypatch.setattr("redline.runtime.crew.board.START", 1.0)
    crew = kind([Silent()], patience=Patience(Board(1, shared=False), 0.2))
    try:
        if isinstance(crew, ThreadCrew):
            with pytest.raises(RunError, match="silent hangs"):
                listen(crew, 5.0)
        else:
            assert eventually(lambda: crew.wait(0.1) == [] and bool(crew.hangs), 10)
    finally:
        crew.close()


def test_a_thread_that_hangs_is_found_however_much_the_others_say() -> None:
    board = Board(1, shared=False)
    crew = ThreadCrew([Silent()], patience=Patience(board, 1.2))
    board.region.arrays["since"][0, 0] = time.monotonic() - 1.0
    try:
        with pytest.raises(RunError, match="silent hangs"):
            listen(crew, 5.0, chatter=True)
    finally:
        crew.close()


def test_a_role_without_environments_may_start_anew() -> None:
    """A replay in a process of its own comes after the actors, and has no row among theirs."""
    board = Board(2, shared=False)
    since = board.region.arrays["since"]
    since[:] = 1.0
    wait = Patience(board, 5.0)
    wait.begin(2)
    assert (since == 1.0).all()
    Patience(board, 5.0, roles=1).begin(1)  # a server has a row, and no environments
    assert (since == 1.0).all()
    wait.begin(1)
    assert (since[0] == 1.0).all()
    assert since[1, 0] > time.monotonic()  # what it has time for
    assert not since[1, 1:].any()


def test_a_simulator_may_take_longer_to_start_than_to_step() -> None:
    board, late = Board(1, shared=False), []
    seconds = {"reset": 200.0, "recv": 100.0}  # ago that it began
    environment: Any = Watched(
        board,
        0,
        0,
        SimpleNamespace(  # type: ignore[arg-type]
            reset=lambda seed: late.append(_late(board, seconds["reset"])),
            recv=lambda: late.append(_late(board, seconds["recv"])),
        ),
    )
    environment.reset(1)
    environment.recv()
    seconds["reset"] = 220.0
    environment.reset(1)
    assert late == [[], [0], [0]]
    assert board.overdue(0.0) == []


def test_workers_may_take_as_long_to_be_replaced_as_to_start() -> None:
    config = EnvironmentConfig("redline/Catch-v0", backend="workers", workers=1)
    board, environment, late = Board(1, shared=False), make_environment(config, 1), []
    recv, times = environment.recv, iter((200.0, 220.0))  # seconds ago that it began

    def slow() -> Any:
        late.append(_late(board, next(times)))
        return recv()

    environment.recv = slow  # type: ignore[method-assign]
    watched: Any = Watched(board, 0, 0, environment)
    try:
        watched.reset(0)
        for _ in range(2):
            watched.send(np.zeros(1, np.int64))
            watched.recv()
    finally:
        environment.close()
    assert late == [[], [0]]


def _late(board: Board, ago: float) -> list[int]:
    """Who is late by 90 seconds, had what goes on now begun ``ago`` seconds before."""
    since = board.region.arrays["since"]
    since[since > 0] -= ago
    return board.overdue(90.0)


def test_whoever_steps_often_never_looks_late() -> None:
    """The note is looked at while it is being written: it is either a time that has just begun, or none."""
    board, over = Board(1, shared=False), threading.Event()
    environment: Any = Watched(board, 0, 0, SimpleNamespace(recv=lambda: None))  # type: ignore[arg-type]

    def step() -> None:
        while not over.is_set():
            environment.recv()

    thread = threading.Thread(target=step)
    thread.start()
    try:
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            assert board.overdue(60.0) == []
    finally:
        over.set()
        thread.join()
