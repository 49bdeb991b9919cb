"""Workers that step, a server that acts for them in batches, a learner (SEED): ``inference/loop.py`` and its batchers.

To the learner the server is as many actors as it has workers. A worker that ends an unroll is served once more for the
value that the unroll bootstraps from, and then begins the next.
"""

from __future__ import annotations

from collections import deque

from redline.planner.arrangements.actor_learner import Line, Slot, spawn_learner
from redline.planner.arrangements.world import World
from redline.planner.engine import Compute, Get, Queue, Steps


class Worker:
    """What a server knows of a worker."""

    __slots__ = ("bell", "done", "free", "group", "slot", "time")

    def __init__(self, group: int) -> None:
        self.group = group
        self.bell = Queue()
        self.free: deque[Slot] = deque()
        self.slot: Slot | None = None
        self.time = 0  # rounds stepped in the slot
        self.done = 0  # unrolls handed in


class Server:
    """One inference server, for the workers of whom it is told."""

    def __init__(self, line: Line, workers: dict[int, Worker]) -> None:
        self.line, self.workers = line, workers
        self.calls = Queue()  # a worker's number, or a slot that the learner hands out
        self.asking: deque[int] = deque()
        load, world = line.world.load, line.world
        edge = world.architecture.edge("unroll")
        assert edge is not None
        self.lock_step = edge.capacity == 0
        self.largest = load.largest or len(workers)
        self.turn = 0
        groups = max(worker.group for worker in workers.values()) + 1
        self.groups: list[set[int]] = [set() for _ in range(groups)]  # who asks, in lock-step
        self.members = [[w for w in workers.values() if w.group == group] for group in range(groups)]

    def ask(self, number: int) -> None:
        """A worker wants to be served."""
        if self.lock_step:
            self.groups[self.workers[number].group].add(number)
        else:
            self.asking.append(number)

    def begin(self, number: int) -> None:
        """The next unroll of a worker that has none, where there is a slot for it."""
        worker = self.workers[number]
        worker.slot = None
        if worker.free:
            worker.slot, worker.time = worker.free.popleft(), 0
            worker.slot.since = self.line.pacer.begin(self.line.published)
            self.ask(number)

    def due(self) -> list[int]:
        """Whom to serve now."""
        if not self.lock_step:
            return [self.asking.popleft() for _ in range(min(self.largest, len(self.asking)))]
        for _ in self.groups:
            asking, members = self.groups[self.turn], self.members[self.turn]
            if len(asking) < len(members):
                if asking:
                    return []
                fewest = min(worker.done for worker in self.workers.values())
                if any(worker.slot is not None or worker.done <= fewest for worker in members):
                    return []
            self.turn = (self.turn + 1) % len(self.groups)
            if asking:
                batch = sorted(asking)
                asking.clear()
                return batch
        return []


def start(world: World) -> None:
    """Spawn workers, servers and learner."""
    roles = {role.runs: role for role in world.architecture.roles}
    copies, servers = roles["step"].copies, min(roles["infer"].copies, roles["step"].copies)
    groups = min(world.load.groups, copies)
    made: list[Server] = []
    line = Line(world, lambda slot: made[slot.copy % servers].calls.put_now(world.engine, slot))
    workers = [Worker(number * groups // copies) for number in range(copies)]
    for first in range(servers):
        server = Server(line, {w: workers[w] for w in range(first, copies, servers)})
        made.append(server)
        world.engine.spawn(_serve(server), world.meters[roles["infer"].name])
    for number, worker in enumerate(workers):
        steps = _step(world, number, worker, made[number % servers].calls)
        world.engine.spawn(steps, world.meters[roles["step"].name])
    spawn_learner(line)


def _step(world: World, number: int, worker: Worker, calls: Queue) -> Steps:
    """A worker: wait for orders, step once, call."""
    rounds = world.uneven(world.pieces(world.load.step), world.load.unroll)
    rung = Get(worker.bell)
    yield rung
    yield world.late()
    worker.bell.put_now(world.engine, 0)
    while True:
        yield rung
        yield next(rounds)
        calls.put_now(world.engine, number)


def _serve(server: Server) -> Steps:
    """Hear once, serve all that is due."""
    come = Get(server.calls)
    while True:
        for call in (yield come):
            if isinstance(call, Slot):
                worker = server.workers[call.copy]
                worker.free.append(call)
                if worker.slot is None:
                    server.begin(call.copy)
            else:
                server.workers[call].time += 1
                server.ask(call)
        while batch := server.due():
            yield from _answer(server, batch)


def _answer(server: Server, batch: list[int]) -> Steps:
    """One forward pass, then everyone's orders."""
    line = server.line
    load, engine, version = line.world.load, line.world.engine, line.published
    observations = len(batch) * load.environments
    core = load.serve.at(observations) if load.serve is not None else 0.0
    gpu = load.serve_gpu.at(observations) if load.serve_gpu is not None else 0.0
    hand, count = load.hand, len(batch)
    yield Compute(core + hand.core * count, 1.0, hand.wait * count, gpu + hand.gpu * count)
    for number in batch:
        worker = server.workers[number]
        assert worker.slot is not None
        if worker.time == 0:
            worker.slot.version = version
        if worker.time < load.unroll:
            worker.bell.put_now(engine, 0)
            continue
        worker.done += 1
        line.full.put_now(engine, worker.slot)
        server.begin(number)
