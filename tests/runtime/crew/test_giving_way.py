"""Actors, servers and workers really give way: the system is asked how polite each of them is."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from redline import api
from redline.runtime import system
from redline.runtime.launch import make_loop
from redline.runtime.parts import assemble
from redline.runtime.pool import one_thread_each

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="threads have a priority of their own on Linux"
)


def politeness(
    architecture: str,
    runtime: str,
    monkeypatch: pytest.MonkeyPatch,
    *more: str,
    cores: int = 2,
    environment: str = "CartPole-v1",
) -> list[int]:
    """Levels above this thread's, of all who make unrolls. ``more``: settings."""
    monkeypatch.setattr(system, "usable_cores", lambda: cores)
    settings = [
        f"parallel.architecture={architecture}",
        f"parallel.runtime={runtime}",
        "parallel.copies=2",
        *more,
    ]
    mine = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    before = set(threading.enumerate())
    with one_thread_each():
        parts = assemble(api.make_experiment(environment, "impala", overrides=settings))
        loop = make_loop(parts)
        try:
            loop.iterate(0, 0.0, bool)
            if runtime == "processes":
                who = [pid for pid in loop.muster.crew.pids() if pid]  # type: ignore[attr-defined]
            else:
                who = [thread.native_id for thread in set(threading.enumerate()) - before]
            return [os.getpriority(os.PRIO_PROCESS, each) - mine for each in who]
        finally:
            loop.close()
            parts.close()


@pytest.mark.parametrize("architecture", ["impala", "seed"])
def test_processes_give_way(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    all_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(
        0, sorted(all_cores)[:2]
    )  # no patch of this process reaches the others, and this does
    try:
        found = politeness(architecture, "processes", monkeypatch)
    finally:
        os.sched_setaffinity(0, all_cores)
    assert set(found) == {system.NICE}


def test_threads_give_way_and_the_learner_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert system.NICE in politeness("impala", "threads", monkeypatch)
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


def test_one_actor_whose_environments_keep_every_core_busy_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    one = ("parallel.copies=1", "sampler.num_envs=2", "learner.precision=fp32")
    assert system.NICE in politeness("impala", "threads", monkeypatch, *one, environment="ALE/Pong-v5")
    assert set(politeness("impala", "threads", monkeypatch, "parallel.copies=1")) == {0}


def test_where_there_are_cores_enough_nobody_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(politeness("impala", "threads", monkeypatch, cores=64)) == {0}


def test_it_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(politeness("impala", "threads", monkeypatch, "parallel.give_way=false")) == {0}
