"""Single pieces of an experiment, each timed alone: a round of an actor, a batch of the learner, a pass of the network.

Core-seconds are of the processor's own clock, which does not run while others have the core.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from redline import environments
from redline.actors import Actor, allocate
from redline.learners.graphs import WARM_UP, can_be_recorded, recording_of
from redline.learners.transfer import Transfer
from redline.networks.acting import chooser
from redline.planner.costs import Curve, Work
from redline.replay.shards import ShardedReplay
from redline.runtime.parts import Parts
from redline.runtime.precision import network_passes, random_observations
from redline.runtime.replay_learner.feeder import block_of
from redline.types import ActInput, Environment, Step, Unroll, tree_map

LENGTH = 32  # rounds of one timed collection, at most
TAIL = 64  # values that stand for how long single rounds take
QUIET = 0.1  # share of the wall clock below which time without a core is the machine's noise, not a wait
RARE = 20.0  # times the median that a slow round takes
SURE = 0.03  # relative standard error of stepping up to which a count is believed by itself
LEAST = 0.01  # share of stepping that is not waiting, at least
SLOT = 50  # transitions of a slot on its way to a replay, about
SLOTS = 4  # of them that are timed
DRAWS = 20  # batches that are timed
LONG = 0.05  # seconds of a pass that is long enough for its fixed costs to be nothing
SPIN = 0.01  # seconds of a look at how much of a core is to be had


class Stopwatch:
    """An environment whose rounds are timed: between an action sent and its step received."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._sent = 0.0
        self.durations: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._environment, name)

    def send(self, action: np.ndarray) -> None:
        """As the environment's."""
        self._sent = time.perf_counter()
        self._environment.send(action)
        self._sent = time.perf_counter() - self._sent  # stepping may happen in here

    def recv(self) -> Step:
        """As the environment's."""
        begin = time.perf_counter()
        step = self._environment.recv()
        self.durations.append(self._sent + time.perf_counter() - begin)
        return step


def availability() -> float:
    """Share of a core that this process gets while it wants a whole one: 1 on a quiet machine."""
    wall, core = time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < SPIN:
        pass
    return min((time.process_time() - core) / (time.perf_counter() - wall), 1.0)


@dataclass(frozen=True)
class Round:
    """One time step of an actor's environments."""

    step: Work
    act: float  # core-seconds
    record: float  # core-seconds of everything else
    quiet: float = 1.0  # share of a core that was to be had meanwhile
    error: float = (
        0.0  # standard error of stepping, relative: large where a few slow rounds (resets) make it up
    )
    rounds: int = 0  # that it is the mean of

    @property
    def alone(self) -> float:
        """Seconds with nothing else running."""
        return self.step.alone + self.act + self.record


class Collecting:
    """A real actor with ``count`` environments on one thread."""

    def __init__(self, parts: Parts, count: int, *, threads: int = 1) -> None:
        experiment = parts.experiment
        self.count, self.length = count, LENGTH
        environment = environments.make(experiment.environment, count, threads=threads)
        self.watch = Stopwatch(environment)
        self.parts = parts
        algorithm, acting = parts.algorithm, parts.learner.acting
        self.actor = Actor([self.watch], algorithm, acting, seed=count, num_envs=count)
        self.unroll = self._room(self.length)

    def _room(self, length: int) -> Unroll:
        parts = self.parts
        return allocate(parts.algorithm, parts.learner.acting, parts.spec, length, self.count)

    def measure(self, seconds: float) -> Round:
        """Collect for about ``seconds`` after warming up; slow environments get shorter unrolls."""
        begin = time.perf_counter()
        if self.length > 4:
            self.length = 4
            self.unroll = self._room(self.length)
        self.actor.collect(self.unroll, 0, 0)
        slow = (time.perf_counter() - begin) / 4
        self.length = int(np.clip(seconds / 3 / max(slow, 1e-9), 4, LENGTH))
        self.unroll = self._room(self.length)
        self.actor.collect(self.unroll, 0, 0)
        self.watch.durations.clear()
        self.actor.clock.update(stepping=0.0, acting=0.0)
        rounds, wall, core, quiet, longest = 0, 0.0, 0.0, [availability()], 4 * seconds
        while wall < seconds or rounds < 2 * self.length:
            then, spent = time.perf_counter(), time.process_time()
            while time.perf_counter() - then < 8 * SPIN:
                self.actor.collect(self.unroll, 0, 0)
                rounds += self.length
            wall += time.perf_counter() - then
            core += time.process_time() - spent
            quiet.append(availability())
            if wall > 4 * longest:
                break
            if self._rare():  # a few slow rounds make the mean: it takes more of them to know it
                seconds = max(seconds, longest)
        return self._round(rounds, wall, core, max(float(np.mean(quiet)), 0.1))

    def _rare(self) -> bool:
        """Whether the slowest rounds are far from the others."""
        durations = self.watch.durations[-4096:]
        return max(durations) > RARE * float(np.median(durations))

    def _round(self, rounds: int, wall: float, core: float, quiet: float) -> Round:
        # Without a core it waited, or somebody else had the core: as often as while this process only wanted one.
        idle = max(wall - core / quiet, 0.0)
        idle = idle if idle > QUIET * wall else 0.0
        busy = min(
            core / max(wall - idle, 1e-9), 1.0
        )  # of the seconds that were not waited, those that were ours
        clock = self.actor.clock
        # On a crowded machine others may have had the core for longer than stepping took: it is never for nothing.
        stepping = max(clock["stepping"] - idle, LEAST * clock["stepping"]) * busy
        acting = clock["acting"] * busy
        rest = max(core - stepping - acting, 0.0)
        if self.parts.algorithm.experience == "unroll":  # the value after an unroll's end was a pass more
            acting /= 1.0 + 1.0 / self.length
        step = Work(stepping / rounds, wait=idle / rounds, tail=tail_of(self.watch.durations))
        return Round(step, acting / rounds, rest / rounds, quiet, error_of(self.watch.durations), rounds)

    def collect(self, length: int) -> Unroll:
        """A whole unroll [length, count], to learn from."""
        if length != self.length:
            self.length, self.unroll = length, self._room(length)
        self.actor.collect(self.unroll, 0, self.parts.learner.version)
        return self.unroll

    def close(self) -> None:
        """Close the environments."""
        self.actor.close()


def tail_of(durations: Sequence[float]) -> tuple[float, ...]:
    """Durations over their mean, as ``TAIL`` values of the same mean: the slowest ones keep their weight."""
    if len(durations) < 8:
        return ()
    ordered = np.sort(np.asarray(durations))
    parts = np.array_split(ordered, min(TAIL, len(ordered)))
    values = np.asarray([part.mean() for part in parts])
    return tuple((values / values.mean()).round(6).tolist())


def error_of(durations: Sequence[float]) -> float:
    """Standard error of the mean of ``durations``, over that mean."""
    return float(np.std(durations) / np.mean(durations) / len(durations) ** 0.5) if durations else 0.0


def of_one_wait(rounds: dict[int, Round]) -> dict[int, Round]:
    """Rounds by environments, as measured: but where waits are so rare that each count met its own, an environment's
    wait is the mean over all of them."""
    known = max(each.error for each in rounds.values()) < SURE
    environments = sum(count * each.rounds for count, each in rounds.items())
    if known or not environments:
        return rounds
    wait = sum(each.rounds * each.step.wait for each in rounds.values()) / environments
    return {
        count: replace(each, step=replace(each.step, wait=wait * count)) for count, each in rounds.items()
    }


def resets(parts: Parts, count: int = 3, seconds: float = 3.0) -> tuple[float, float]:
    """Seconds of a reset of one environment: median and slowest of ``count`` (fewer where they are slow)."""
    environment = environments.make(parts.experiment.environment, 1, threads=1)
    spent: list[float] = []
    end = time.perf_counter() + seconds
    try:
        for seed in range(count):
            begin = time.perf_counter()
            environment.reset(seed)
            spent.append(time.perf_counter() - begin)
            if time.perf_counter() > end:
                break
    finally:
        environment.close()
    return float(np.median(spent)), max(spent)


def remembering(room: Collecting) -> tuple[float, float]:
    """Core-seconds of a replay of what ``room`` collects: a batch drawn and its priorities given back; one agent step
    stored, where a slot's come together."""
    experiment, envs = room.parts.experiment, room.count
    config, algorithm = experiment.replay, experiment.algorithm
    assert config is not None
    length = max(SLOT // envs, 8)
    room_for = 2 * (SLOTS + config.n_step) * length * envs
    config = replace(config, capacity=min(config.capacity, room_for), memory_map=None)
    replay = ShardedReplay(room.parts.spec, config, [envs], gamma=algorithm.gamma)
    stored: list[float] = []
    while len(stored) <= SLOTS or not len(replay):
        block = block_of(room.collect(length), None)
        begin = time.thread_time()
        replay.extend(0, block)
        stored.append(time.thread_time() - begin)
    size = int(algorithm.batch)  # type: ignore[union-attr]
    errors, drawn = np.ones(size, np.float32), list[float]()
    for _ in range(DRAWS):
        begin = time.thread_time()
        index = replay.sample(size, config.beta).index
        replay.versions(index.numpy())
        if config.prioritized:
            replay.update_priorities(index, errors)
        drawn.append(time.thread_time() - begin)
    return float(np.median(drawn)), float(np.median(stored[1:])) / (length * envs)


def learning(parts: Parts, unroll: Unroll, seconds: float) -> float:
    """Seconds of one whole batch: bringing ``unroll`` to the learner's device, and all the algorithm makes of it there.
    Weights change, as in training."""
    spent: list[float] = []
    begun = time.perf_counter()
    # One thread's own clock stands still while others have the core.
    clock = time.process_time if parts.learner.shards == 1 else time.perf_counter
    transfer = Transfer(parts.learner.device)
    if parts.learner.device.type == "cuda":
        clock = _finished
        unroll = unroll.map(torch.Tensor.pin_memory)
    while len(spent) < 3 or time.perf_counter() - begun < seconds:
        begin = clock()
        parts.algorithm.update(parts.learner, transfer(unroll), 0.0)
        spent.append(clock() - begin)
        if time.perf_counter() - begun > 2 * seconds and len(spent) >= 2:
            break
    kept = sorted(spent[1:])  # the first prepares kernels
    return float(np.median(kept if parts.learner.shards == 1 else kept[: (len(kept) + 1) // 2]))


def _finished() -> float:
    """The time, when the GPU has done all it was given."""
    torch.cuda.synchronize()
    return time.perf_counter()


def network_curves(
    parts: Parts, sizes: Sequence[int], *, device: str, precision: str, seconds: float
) -> tuple[Curve, Curve]:
    """Acting and training pass against samples, on one thread of the CPU or on the GPU. Larger ones are left out once a
    pass takes ``LONG``: from there on they take as long as there are samples."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    act: list[tuple[float, float]] = []
    train: list[tuple[float, float]] = []
    each = seconds / (2 * len(sizes))
    for size in sizes:
        forward, backward = network_passes(parts.learner.network, dtype, parts.spec, size, size, device)
        if device.startswith("cuda") and can_be_recorded(parts.learner.network):
            there = torch.device(device)
            forward, backward = recording_of(forward, there), recording_of(backward, there)
        act.append((size, fastest_half(forward, each, device)))
        train.append((size, fastest_half(backward, each, device)))
        if train[-1][1] > LONG and len(train) > 1:
            break
    return Curve.of(act), Curve.of(train)


def acting_curve(parts: Parts, sizes: Sequence[int], seconds: float) -> Curve:
    """Choosing actions on the learner's device against observations, from the host and back to it, as an actor does."""
    algorithm, acting, device = parts.algorithm, parts.learner.acting, parts.learner.device
    drawn_on = "cpu" if algorithm.experience == "replay" else device
    generator = torch.Generator(drawn_on).manual_seed(0)
    choose = chooser(algorithm, acting, generator, device)
    found: list[tuple[float, float]] = []
    for size in sizes:
        seen = tree_map(lambda x: x[0].pin_memory(), random_observations(parts.spec, size, "cpu"))
        state = acting.initial_state(size)  # type: ignore[operator]
        explored = 10**15  # agent steps, after which Q-learners need the network
        x = ActInput(seen, state, torch.zeros(size, dtype=torch.bool), None, generator, explored)
        with torch.no_grad():
            for _ in range(WARM_UP + 1):
                choose(x)
            found.append((size, fastest_half(partial(choose, x), seconds / len(sizes), str(device))))
    return Curve.of(found)


class _Kernels(TorchDispatchMode):
    """Counts operations that a device would be given; views are none."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def arithmetic(parts: Parts) -> tuple[float, int]:
    """FLOPs of a forward pass of one observation, and the operations that a pass is made of."""
    forward, _ = network_passes(parts.learner.network, torch.float32, parts.spec, 1, 1)
    with FlopCounterMode(display=False) as flops, _Kernels() as kernels:
        forward()
    return float(flops.get_total_flops()), kernels.count


def fastest_half(call: Callable[[], Any], seconds: float, device: str = "cpu") -> float:
    """Median of the faster half of repeated calls: what else the machine did fell on the slower one."""
    return faster_half(_spent(call, seconds, device))


def faster_half(spent: Sequence[float]) -> float:
    """Median of the faster half."""
    return float(np.median(sorted(spent)[: (len(spent) + 1) // 2]))


def median_of(call: Callable[[], Any], seconds: float, device: str = "cpu") -> float:
    """Median of repeated calls."""
    return float(np.median(_spent(call, seconds, device)))


def _spent(call: Callable[[], Any], seconds: float, device: str) -> list[float]:
    clock = _finished if device.startswith("cuda") else time.perf_counter
    call()
    spent: list[float] = []
    end = time.perf_counter() + seconds
    while len(spent) < 3 or (time.perf_counter() < end and len(spent) < 500):
        begin = clock()
        call()
        spent.append(clock() - begin)
    return spent
