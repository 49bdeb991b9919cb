"""Actors beside one learner (IMPALA, APPO): ``runtime/actor_learner.py``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from redline.architectures.model import gives_way, held, lag_bound
from redline.planner.arrangements.pacer import Pacer
from redline.planner.arrangements.world import Collector, World
from redline.planner.cores import AnyOf
from redline.planner.engine import Compute, Get, Queue, Steps


@dataclass
class Slot:
    """A slot on its way: whose, since when, and the weights that act in it."""

    copy: int
    since: int = 0  # batches that had been published when it was begun
    version: int = 0  # batches that its weights have learned from


class Line:
    """What a learner and those who fill slots share."""

    def __init__(self, world: World, give: Callable[[Slot], None]) -> None:
        """give: hands a free slot to its copy."""
        architecture = world.architecture
        edge, bound = architecture.edge("unroll"), lag_bound(architecture)
        assert edge is not None
        assert bound is not None
        self.world, self.give = world, give
        self.copies, self.each = architecture.senders(edge), 1 + edge.capacity
        self.take = edge.take or self.copies
        self.held = held(architecture)
        self.pacer = Pacer(bound, self.take)
        self.full = Queue()  # slots that are whole
        self.published = 0  # batches that the newest weights have learned from
        self.free = [copy for copy in range(self.copies) for _ in range(self.each)]

    def hand_out(self) -> None:
        """Free slots go back to their copies."""
        for copy in self.free:
            self.pacer.hand_out()
            self.give(Slot(copy))
        self.free.clear()


def start(world: World) -> None:
    """Spawn actors and learner."""
    name = world.architecture.acting.name
    copies = world.architecture.acting.copies
    mail = [Queue() for _ in range(copies)]
    line = Line(world, lambda slot: mail[slot.copy].put_now(world.engine, slot))
    for copy in range(copies):
        meter = AnyOf(world.meters[name])
        world.engine.spawn(actor(line, mail[copy], meter), meter)
    spawn_learner(line)


def actor(line: Line, mail: Queue, meter: AnyOf) -> Steps:
    """Newest weights, an unroll into a slot, its number to the learner."""
    collector = Collector(line.world, line.world.load.unroll, meter)
    engine, waiting = line.world.engine, Get(mail, most=1)
    yield line.world.late()
    while True:
        (slot,) = yield waiting
        slot.version = slot.since = line.pacer.begin(line.published)
        yield from collector.collect()
        line.full.put_now(engine, slot)


def spawn_learner(line: Line) -> None:
    """Spawn the learner of a line."""
    role = next(role for role in line.world.architecture.roles if role.runs == "learn")
    load = line.world.load
    first = load.polite and gives_way(line.world.architecture, load.cores, load.stepping)
    line.world.engine.spawn(learner(line), line.world.meters[role.name], first=first)


def learner(line: Line) -> Steps:
    """A batch, an update, new weights; slots go back as soon as nothing needs them any more."""
    world, pacer = line.world, line.pacer
    load = world.load
    learn, publish = world.pieces(load.learn), world.pieces(load.publish)
    come, hand = Get(line.full), load.hand
    taken = line.take * load.unroll * load.environments
    while True:
        line.hand_out()
        while (batch := pacer.ready()) is None:
            arrived: list[Slot] = yield come
            count = len(arrived)
            yield Compute(hand.core * count, hand.width, hand.wait * count, hand.gpu * count)
            for slot in arrived:
                pacer.arrive(slot.since, slot)
        slots: list[Slot] = [slot for _, slot in batch]
        lags = [pacer.batches - slot.version for slot in slots]
        if not line.held:  # copied: they may go while the learner computes
            pacer.gone(batch)
            line.free += [slot.copy for slot in slots]
            line.hand_out()
        yield next(learn)
        pacer.learned()
        yield next(publish)
        line.published = pacer.batches
        if line.held:
            pacer.gone(batch)
            line.free += [slot.copy for slot in slots]
            line.hand_out()
        world.lags.update(lags)
        world.collected(line.take, taken)
        world.learned(load.updates)
