"""Actors, a shared replay and a learner (Ape-X): ``runtime/replay_learner``. Nothing is a barrier, unless asked for.

A replay apart draws as well, ahead of the learner and into a few shelves; else the learner draws for itself.
"""

from __future__ import annotations

from redline.planner.arrangements.world import Collector, World
from redline.planner.cores import AnyOf
from redline.planner.engine import Get, Queue, Steps


class Store:
    """What intake and learner share: slots that wait, samples in and out, and the newest weights."""

    def __init__(self, world: World) -> None:
        load, architecture = world.load, world.architecture
        edge = architecture.edge("unroll")
        assert edge is not None
        self.world, self.copies, self.each = world, architecture.acting.copies, 1 + edge.capacity
        self.lock_step = edge.capacity == 0
        if self.lock_step and (load.ratio is None or load.samples < 1):
            raise ValueError(
                "taking turns with a learner from replay needs a ratio, and the samples of an update"
            )
        self.mail = [Queue() for _ in range(self.copies)]
        self.full = (
            Queue()
        )  # (copy, version of the weights that acted); of a replay apart None, too: fill a shelf
        self.drawn = Queue()  # shelves that are full
        self.came = Queue()  # tells the learner that it may be time
        self.free = [copy for copy in range(self.copies) for _ in range(self.each)]
        self.slot_steps = load.unroll * load.environments
        self.produced = self.consumed = 0.0
        self.version = 0  # updates that the newest weights have had
        self.round_due = self.due(self.copies * self.slot_steps)

    def due(self, steps: float) -> float:
        """Updates that so many agent steps make due."""
        load = self.world.load
        return 0.0 if load.ratio is None or not load.samples else load.ratio * steps / load.samples

    def owed(self) -> float:
        """Updates due and not done."""
        return self.due(self.produced) - self.consumed / max(self.world.load.samples, 1)

    def may_update(self) -> bool:
        """Whether the learner may draw a batch."""
        return self.produced > 0 and (self.world.load.ratio is None or self.owed() >= 1.0 - 1e-9)

    def may_act(self) -> bool:
        """Whether actors may have their slots back: not if they wait for a learner that is a round behind."""
        return not self.world.load.paced or self.owed() <= max(self.round_due, 1.0)

    def hand_out(self) -> None:
        """Free slots to their actors, unless those have to wait."""
        if not self.free or not self.may_act():
            return
        for copy in self.free:
            self.mail[copy].put_now(self.world.engine, 0)
        self.free.clear()

    def learned(self) -> None:
        """An update is done."""
        load = self.world.load
        self.consumed += load.samples
        self.world.learned(load.updates, load.samples)

    def take_in(self, copy: int, version: int) -> None:
        """The rows of a slot are in the replay; the slot is free."""
        world = self.world
        self.produced += self.slot_steps
        world.collected(1, self.slot_steps)
        world.lags[world.batches - version] += 1
        self.free.append(copy)


def start(world: World) -> None:
    """Spawn actors, intake and learner."""
    store, meters = Store(world), world.meters
    names = {role.runs: role.name for role in world.architecture.roles}
    for copy in range(store.copies):
        meter = AnyOf(meters[names["collect"]])
        world.engine.spawn(_actor(store, copy, meter), meter)
    if store.lock_step:
        world.engine.spawn(_turns(store), meters[names["learn"]])
    else:
        apart = world.load.shelves > 0
        world.engine.spawn((_apart if apart else _intake)(store), meters[names["replay"]])
        world.engine.spawn(_learner(store), meters[names["learn"]])


def _actor(store: Store, copy: int, meter: AnyOf) -> Steps:
    world = store.world
    collector = Collector(world, world.load.unroll, meter)
    waiting = Get(store.mail[copy], most=1)
    while True:
        yield waiting
        version = store.version
        yield from collector.collect()
        store.full.put_now(world.engine, (copy, version))


def _intake(store: Store) -> Steps:
    """Full slots into the replay, free ones back to their actors, whatever the learner does meanwhile."""
    world = store.world
    hand = world.pieces(world.load.hand)
    come = Get(store.full)
    while True:
        store.hand_out()
        for copy, version in (yield come):
            yield next(hand)
            store.take_in(copy, version)
        if store.came.taking:
            store.came.put_now(world.engine, 0)


def _apart(store: Store) -> Steps:
    """One thing after another, as it is told of: full slots in, batches onto shelves that are empty."""
    world, load = store.world, store.world.load
    hand, draw = world.pieces(load.hand), world.pieces(load.draw)
    come, empty = Get(store.full), load.shelves
    while True:
        store.hand_out()
        for told in (yield come):
            if told is None:
                empty += 1
            else:
                yield next(hand)
                store.take_in(*told)
                store.hand_out()
                if store.came.taking:
                    store.came.put_now(world.engine, 0)
            while empty and store.produced > 0:
                empty -= 1
                yield next(draw)
                store.drawn.put_now(world.engine, 0)


def _learner(store: Store) -> Steps:
    """An update whenever the pace allows one, and a replay apart has drawn for it; weights down after each."""
    world, load = store.world, store.world.load
    learn, publish = world.pieces(load.learn), world.pieces(load.publish)
    drawn = Get(store.drawn, most=1)
    while True:
        while not store.may_update():
            yield Get(store.came)
        if load.shelves:
            yield drawn
        yield next(learn)
        store.learned()
        if load.shelves:
            store.full.put_now(world.engine, None)
        store.hand_out()
        yield next(publish)
        store.version = world.batches


def _turns(store: Store) -> Steps:
    """Lock-step: all actors make a slot; meanwhile come the updates that are due; then the slots are stored."""
    world, load = store.world, store.world.load
    learn, publish, hand = world.pieces(load.learn), world.pieces(load.publish), world.pieces(load.hand)
    come = Get(store.full)
    while True:
        yield next(publish)
        store.version = world.batches
        store.hand_out()
        ahead = store.copies * store.slot_steps  # counted at once, as the loop does
        while store.produced > 0 and store.owed() + store.due(ahead) >= 1.0 - 1e-9:
            yield next(learn)
            store.learned()
        while len(store.free) < store.copies:
            for copy, version in (yield come):
                yield next(hand)
                store.take_in(copy, version)
