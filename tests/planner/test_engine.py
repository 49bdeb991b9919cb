"""The engine against times that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from redline.planner.cores import AnyOf, Meter, speeds
from redline.planner.engine import Barrier, Compute, Engine, Get, Lock, Put, Queue, Sleep, Steps


def ends(engine: Engine, *works: Compute, until: float = 1e3) -> list[float]:
    """When each of several computations that begin together ends."""
    found = [0.0] * len(works)

    def process(number: int, work: Compute) -> Steps:
        yield work
        found[number] = engine.now

    for number, work in enumerate(works):
        engine.spawn(process(number, work))
    assert engine.run(until)
    return found


def test_cores_that_suffice_run_everything_at_full_speed() -> None:
    assert ends(Engine(3), Compute(1.0), Compute(2.0), Compute(3.0)) == pytest.approx([1.0, 2.0, 3.0])


def test_cores_are_shared_equally() -> None:
    # One core, 1 s and 2 s of work: both at half speed until the first ends at 2, the rest alone until 3.
    assert ends(Engine(1), Compute(1.0), Compute(2.0)) == pytest.approx([2.0, 3.0])
    # Two cores, three of 1 s: each has 2/3 of a core.
    assert ends(Engine(2), *[Compute(1.0)] * 3) == pytest.approx([1.5] * 3)


def test_a_wide_computation_has_cores_in_proportion() -> None:
    assert ends(Engine(4), Compute(4.0, width=4.0)) == pytest.approx([1.0])
    # Four cores, demand 5: everyone at 4/5, so 1 s of one core and 1 s of four take 1.25 s.
    assert ends(Engine(4), Compute(1.0), Compute(4.0, width=4.0)) == pytest.approx([1.25, 1.25])
    assert ends(Engine(2), Compute(4.0, width=4.0)) == pytest.approx([2.0]), (
        "it cannot use more than there are"
    )


def test_one_to_whom_others_give_way_hardly_notices_them() -> None:
    """Two cores and three of 1 s: the first has a core, the others share one."""
    engine = Engine(2)
    times: dict[str, float] = {}

    def process(name: str) -> Steps:
        yield Compute(1.0)
        times[name] = engine.now

    engine.spawn(process("actor"))
    engine.spawn(process("learner"), first=True)
    engine.spawn(process("actor too"))
    engine.run(10.0)
    assert times == pytest.approx({"learner": 1.0, "actor": 1.5, "actor too": 1.5})
    assert engine.cores.core_seconds == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("rest", "first"), [(1.0, 1.0), (2.0, 1.0), (5.0, 1.0), (1.0, 4.0), (3.0, 0.0), (0.0, 3.0)]
)
def test_all_cores_are_at_work_and_none_twice(rest: float, first: float) -> None:
    slow, fast = speeds(2, rest, first)
    assert 0.0 < slow <= fast <= 1.0
    assert rest * slow + first * fast == pytest.approx(min(rest + first, 2.0))


def test_a_late_comer_slows_those_that_run() -> None:
    engine = Engine(1)
    times = {}

    def process(name: str, begin: float, core: float) -> Steps:
        yield Sleep(begin)
        yield Compute(core)
        times[name] = engine.now

    engine.spawn(process("first", 0.0, 2.0))
    engine.spawn(process("second", 1.0, 3.0))
    engine.run(100.0)
    assert times == pytest.approx({"first": 3.0, "second": 5.0})
    assert engine.cores.core_seconds == pytest.approx(5.0)


@pytest.mark.parametrize(("running", "slower"), [(1, 1.0), (2, 1.1), (3, 1.2), (6, 2 * 1.2)])
def test_drag_grows_with_the_cores_that_are_busy(running: int, slower: float) -> None:
    assert ends(Engine(3, drag=1.2), *[Compute(1.0)] * running) == pytest.approx([slower] * running)


def test_drag_needs_company() -> None:
    assert ends(Engine(1, drag=2.0), Compute(1.0)) == pytest.approx([1.0])


def test_a_gpu_serves_in_order_one_at_a_time() -> None:
    works = [Compute(0.0, gpu=1.0), Compute(0.0, gpu=0.1), Compute(0.0, gpu=0.2)]
    assert ends(Engine(1, gpus=1), *works) == pytest.approx([1.0, 1.1, 1.3])
    engine = Engine(1, gpus=2)
    assert ends(engine, *works, until=10.0) == pytest.approx([1.0, 0.1, 0.3])
    assert engine.gpus.meter.at(engine.now) == pytest.approx(1.3)


def test_cores_then_waiting_then_the_gpu() -> None:
    engine = Engine(1, gpus=1)
    # The second's cores are shared for 2 s, both wait 1 s; then the GPU has them one after the other.
    assert ends(engine, Compute(1.0, 1.0, 1.0, 0.5), Compute(1.0, 1.0, 1.0, 0.5)) == pytest.approx([3.5, 4.0])


def test_a_gpu_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ValueError, match="none"):
        ends(Engine(1), Compute(0.0, gpu=1.0))


def test_a_bounded_queue_makes_the_sender_wait() -> None:
    engine, queue = Engine(1), Queue(room=2)
    sent, taken = [], []

    def source() -> Steps:
        for item in range(5):
            yield Put(queue, item)
            sent.append(engine.now)

    def sink() -> Steps:
        while True:
            yield Sleep(1.0)
            taken.extend((yield Get(queue, most=1)))

    engine.spawn(source())
    engine.spawn(sink())
    engine.run(10.0)
    assert sent == [0.0, 0.0, 1.0, 2.0, 3.0]
    assert taken == [0, 1, 2, 3, 4]


def test_a_receiver_waits_for_as_many_as_it_wants() -> None:
    engine, queue = Engine(1), Queue()
    got = []

    def source() -> Steps:
        for item in range(5):
            yield Sleep(1.0)
            yield Put(queue, item)

    def sink() -> Steps:
        while True:
            got.append(((yield Get(queue, least=2, most=2)), engine.now))

    engine.spawn(sink())
    engine.spawn(source())
    engine.run(10.0)
    assert got == [([0, 1], 2.0), ([2, 3], 4.0)]


def test_a_barrier_waits_for_the_slowest_every_time() -> None:
    engine, barrier = Engine(10), Barrier(3)
    passed: list[float] = []

    def process(seconds: float) -> Steps:
        for _ in range(2):
            yield Compute(seconds)
            yield barrier
            passed.append(engine.now)

    for seconds in (1.0, 2.0, 4.0):
        engine.spawn(process(seconds))
    engine.run(100.0)
    assert passed == pytest.approx([4.0] * 3 + [8.0] * 3)


def test_a_lock_lets_one_in_after_the_other() -> None:
    engine, lock = Engine(10), Lock()
    out = []

    def process(name: int) -> Steps:
        yield lock
        yield Sleep(1.0)
        lock.release(engine)
        out.append((name, engine.now))

    for name in range(3):
        engine.spawn(process(name))
    engine.run(10.0)
    assert out == [(0, 1.0), (1, 2.0), (2, 3.0)]
    assert not lock.held


def test_meters_count_busy_time_up_to_now() -> None:
    engine, meter = Engine(1), Meter()

    def process() -> Steps:
        yield Sleep(1.0)
        yield Compute(10.0)

    engine.spawn(process(), meter)
    engine.run(3.0)
    assert meter.at(engine.now) == pytest.approx(2.0)
    both = AnyOf(meter := Meter())
    for change, now in ((1, 0.0), (1, 1.0), (-1, 2.0), (-1, 3.0)):
        both.add(now, change)
    assert meter.at(9.0) == pytest.approx(3.0), "of two threads of one copy, time is counted once"


def test_a_run_can_be_cut_short_and_gone_on_with() -> None:
    def process(engine: Engine, times: list[float]) -> Steps:
        for seconds in (1.0, 2.0, 3.0):
            yield Compute(seconds)
            times.append(engine.now)

    whole: list[float] = []
    engine = Engine(1)
    engine.spawn(process(engine, whole))
    assert engine.run(10.0)
    parts: list[float] = []
    engine = Engine(1)
    engine.spawn(process(engine, parts))
    assert not engine.run(10.0, most=1)
    assert parts == [1.0]
    for until in (1.5, 2.2, 5.9, 10.0):
        engine.run(until)
    assert parts == pytest.approx(whole)


def test_a_queue_of_random_customers_waits_as_long_as_theory_says() -> None:
    """M/D/1 at load rho: a customer waits rho / (2 (1 - rho)) services on average (Pollaczek-Khinchine)."""
    engine, chance, rho = Engine(1, gpus=1), np.random.default_rng(0), 0.7
    waits: list[float] = []

    def customer() -> Steps:
        came = engine.now
        yield Compute(0.0, gpu=1.0)
        waits.append(engine.now - came - 1.0)

    def arrivals() -> Steps:
        while True:
            yield Sleep(chance.exponential(1.0 / rho))
            engine.spawn(customer())

    engine.spawn(arrivals())
    engine.run(60_000.0)
    assert np.mean(waits) == pytest.approx(rho / (2 * (1 - rho)), rel=0.05)


def test_shared_cores_make_random_work_take_as_long_as_theory_says() -> None:
    """M/M/1 with processor sharing at load rho: a job stays 1 / (1 - rho) of its own length on average."""
    engine, chance, rho = Engine(1), np.random.default_rng(0), 0.6
    stays: list[float] = []

    def job() -> Steps:
        came = engine.now
        yield Compute(chance.exponential())
        stays.append(engine.now - came)

    def arrivals() -> Steps:
        while True:
            yield Sleep(chance.exponential(1.0 / rho))
            engine.spawn(job())

    engine.spawn(arrivals())
    engine.run(60_000.0)
    assert np.mean(stays) == pytest.approx(1.0 / (1.0 - rho), rel=0.05)


def test_a_simulation_whose_clock_stands_still_ends() -> None:
    """Two processes that hand each other something for ever, in no time."""
    engine, bells = Engine(1), [Queue(), Queue()]

    def ring(mine: Queue, other: Queue) -> Steps:
        while True:
            yield Get(mine)
            yield Put(other, 0)

    for mine, other in (bells, bells[::-1]):
        engine.spawn(ring(mine, other))
    bells[0].put_now(engine, 0)
    with pytest.raises(ValueError, match="would go on for ever"):
        engine.run(1.0)
