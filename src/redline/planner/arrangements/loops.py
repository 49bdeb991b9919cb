"""One loop that collects and learns: ``runtime/in_process.py``, alone or as one copy of several (``replicas``)."""

from __future__ import annotations

from redline.planner.arrangements.world import Collector, World
from redline.planner.cores import AnyOf
from redline.planner.engine import Get, Queue, Steps


class Alone:
    """A copy that shares nothing: every update is its own business."""

    shares = False  # whether each update of a batch has to be told apart

    def pull(self) -> None:
        """Before an iteration."""

    def share(self) -> Steps:
        """What follows the gradient of every update."""
        yield from ()


def start(world: World) -> None:
    """Spawn the loop."""
    spawn_copy(world, Alone())


def spawn_copy(world: World, sharing: Alone) -> None:
    """Spawn the loop that the workload wants: from replay beside stepping, or one unroll after another."""
    loop = replay_loop if world.load.overlap else unroll_loop
    meter = AnyOf(world.meters[world.architecture.acting.name])
    world.engine.spawn(loop(world, sharing, meter), meter)


def _side_by_side(world: World, shards: list[Collector], meter: AnyOf) -> Steps:
    """All shards collect; the slowest is waited for."""
    if len(shards) == 1:
        yield from shards[0].collect()
        return
    done = Queue()

    def shard(collector: Collector) -> Steps:
        yield from collector.collect()
        done.put_now(world.engine, 0)

    for collector in shards:
        world.engine.spawn(shard(collector), meter)
    yield Get(done, least=len(shards))


def unroll_loop(world: World, sharing: Alone, meter: AnyOf) -> Steps:
    """All shards of a copy collect an unroll side by side, then it learns from that, update by update if it shares."""
    load = world.load
    shards = [Collector(world, load.unroll, meter) for _ in range(load.shards)]
    times = max(round(load.updates), 1) if sharing.shares else 1
    learn = world.pieces(load.learn.scaled(1.0 / times))
    taken = load.unroll * load.environments
    while True:
        sharing.pull()
        yield from _side_by_side(world, shards, meter)
        for _ in range(times):
            yield next(learn)
            yield from sharing.share()
        if not sharing.shares:
            world.lags[0] += 1
        world.learned(0.0 if sharing.shares else load.updates)
        world.collected(1, taken)


def replay_loop(world: World, sharing: Alone, meter: AnyOf) -> Steps:
    """Round by round: act, then learn what is due while the environments step, then take in what they did.

    Raises: ValueError where the workload does not say how many updates are due.
    """
    load, engine = world.load, world.engine
    if load.ratio is None or load.samples < 1:
        raise ValueError("a loop that learns from replay needs a ratio, and the samples of an update")
    step, act, learn = world.pieces(load.step), world.pieces(load.act), world.pieces(load.learn)
    stepped = Queue()

    def stepping() -> Steps:
        yield next(step)
        stepped.put_now(engine, 0)

    owed = 0.0
    while True:
        sharing.pull()
        yield next(act)
        engine.spawn(stepping(), meter)
        owed += load.ratio * load.environments / load.samples
        while owed >= 1.0 - 1e-9:
            yield next(learn)
            owed -= 1.0
            yield from sharing.share()
            world.learned(0.0 if sharing.shares else load.updates, load.samples)
        yield Get(stepped)
        world.collected(1, load.environments)
