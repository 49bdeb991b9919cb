"""One loop that collects and learns: ``runtime/in_process.py``, alone."""

from __future__ import annotations

from redline.planner.arrangements.world import Collector, World
from redline.planner.engine import Get, Queue, Steps


def start(world: World) -> None:
    """Spawn the loop."""
    loop = replay_loop if world.load.overlap else unroll_loop
    world.engine.spawn(loop(world))


def collectors(world: World) -> list[Collector]:
    """One of each shard of a loop."""
    return [Collector(world, world.load.unroll, None) for _ in range(world.load.shards)]


def side_by_side(world: World, shards: list[Collector]) -> Steps:
    """All shards collect; the slowest is waited for."""
    if len(shards) == 1:
        yield from shards[0].collect()
        return
    done = Queue()

    def shard(collector: Collector) -> Steps:
        yield from collector.collect()
        done.put_now(world.engine, 0)

    for collector in shards:
        world.engine.spawn(shard(collector))
    yield Get(done, least=len(shards))


def unroll_loop(world: World) -> Steps:
    """All shards collect an unroll side by side, then the loop learns from it."""
    load, engine = world.load, world.engine
    shards = collectors(world)
    learn = world.pieces(load.learn)
    taken = load.unroll * load.environments
    meter = world.meters[world.architecture.acting.name]
    meter.add(engine.now, 1)  # it never waits for another role
    while True:
        yield from side_by_side(world, shards)
        yield next(learn)
        world.batches += 1
        world.lags[0] += 1
        world.steps.add(0, engine.now, taken)
        world.updates.add(0, engine.now, load.updates)


def replay_loop(world: World) -> Steps:
    """Round by round: act, then learn what is due while the environments step, then take in what they did."""
    load, engine = world.load, world.engine
    step, act, learn = world.pieces(load.step), world.pieces(load.act), world.pieces(load.learn)
    stepped = Queue()

    def stepping() -> Steps:
        yield next(step)
        stepped.put_now(engine, 0)

    meter = world.meters[world.architecture.acting.name]
    meter.add(engine.now, 1)
    share = updates_per_step(world)
    owed = 0.0
    while True:
        yield next(act)
        engine.spawn(stepping())
        owed += share * load.environments
        while owed >= 1.0 - 1e-9:
            yield next(learn)
            owed -= 1.0
            world.batches += 1
            world.consumed += load.samples
            world.updates.add(0, engine.now, load.updates)
        yield Get(stepped)
        world.produced += load.environments
        world.steps.add(0, engine.now, load.environments)


def updates_per_step(world: World) -> float:
    """Updates due for each agent step collected. Raises: ValueError where the workload does not say."""
    load = world.load
    if load.ratio is None or load.samples < 1:
        raise ValueError("a loop that learns from replay needs a ratio, and samples of an update")
    return load.ratio / load.samples
