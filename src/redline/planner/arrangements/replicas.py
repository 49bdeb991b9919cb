"""Copies that train and share gradients (A3C, Accel RL, Gorila): ``runtime/replicas`` around the loops of ``loops``.

Here ``Workload.publish`` is what it costs a copy to share one gradient and to have new weights, and ``Workload.hand``
what it costs the servers together to apply one; both are divided among ``chunks``.
"""

from __future__ import annotations

from redline.planner.arrangements.loops import Alone, spawn_copy
from redline.planner.arrangements.world import World
from redline.planner.engine import Barrier, Get, Lock, Put, Queue, Steps


class Central:
    """Shared parameters: how often they have been stepped."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.updates = 0  # by all copies

    def record(self, lag: int) -> None:
        """A gradient that lacks ``lag`` updates has been applied."""
        world = self.world
        self.updates += 1
        world.lags[lag] += 1
        world.updates.add(world.engine.now, 1)


class Together(Alone):
    """A barrier: everyone waits for everyone, then all average and step alike."""

    shares = True

    def __init__(self, world: World, copy: int, barrier: Barrier) -> None:
        self.world, self.copy, self.barrier = world, copy, barrier
        self.publish = world.pieces(world.load.publish)

    def share(self) -> Steps:
        """Meet, then average."""
        yield self.barrier
        yield next(self.publish)
        if self.copy == 0:  # one update of all
            self.world.lags[0] += 1
            self.world.updates.add(self.world.engine.now, 1)


class Racing(Alone):
    """No lock: gradients of the weights pulled go into whatever the shared weights have become."""

    shares = True

    def __init__(self, world: World, central: Central) -> None:
        self.world, self.central = world, central
        self.publish = world.pieces(world.load.publish)
        self.own = self.pulled = 0

    def _others(self) -> int:
        return self.central.updates - self.own

    def pull(self) -> None:
        """Take the newest weights."""
        self.pulled = self._others()

    def share(self) -> Steps:
        """Step the shared weights, take what they have become."""
        lag = self._others() - self.pulled
        yield next(self.publish)
        self._record(lag)

    def _record(self, lag: int) -> None:
        self.central.record(lag)
        self.own += 1
        self.pulled = self._others()


class Locking(Racing):
    """Pieces of the central weights, each behind its own lock; those first whose lock is free. A push is a pull."""

    def __init__(self, world: World, copy: int, central: Central, locks: list[Lock]) -> None:
        super().__init__(world, central)
        self.copy = copy
        self.locks = locks
        self.publish = world.pieces(world.load.publish.scaled(1.0 / len(locks)))
        self._pulled_once = False

    def pull(self) -> None:
        """Nothing but for the first time."""
        if not self._pulled_once:
            self._pulled_once, self.pulled = True, self._others()

    def share(self) -> Steps:
        """Visit every piece."""
        lag, pulled = self._others() - self.pulled, self._others()
        count = len(self.locks)
        waiting = [(self.copy + k) % count for k in range(count)]  # copies start at different pieces
        while waiting:
            number = next((k for k in waiting if not self.locks[k].held), waiting[0])
            yield self.locks[number]
            yield next(self.publish)
            self.locks[number].release(self.world.engine)
            waiting.remove(number)
        self._record(lag)
        self.pulled = pulled


class Server:
    """One server's slice of the parameters."""

    def __init__(self, copies: int) -> None:
        self.version = 0
        self.letters = Queue()  # (copy, version at which the gradient was computed)
        self.empty = [Queue(room=1) for _ in range(copies)]  # a copy's letter, once it has been read
        for queue in self.empty:
            queue.items.append(0)


class Sending(Alone):
    """Gradients go to servers by letter; a letter that has not been read makes its sender wait."""

    shares = True

    def __init__(self, world: World, copy: int, servers: list[Server], *, waits: bool) -> None:
        """waits: for every gradient to be applied."""
        self.world, self.copy, self.servers, self.waits = world, copy, servers, waits
        self.publish = world.pieces(world.load.publish)
        self.stamps = [0] * len(servers)

    def share(self) -> Steps:
        """Send, and fetch the newest weights."""
        copy = self.copy
        for server, stamp in zip(self.servers, self.stamps, strict=True):
            yield Get(server.empty[copy], most=1)
            server.letters.put_now(self.world.engine, (copy, stamp))
        if self.waits:
            for server in self.servers:
                yield Get(server.empty[copy], most=1)
                yield Put(server.empty[copy], 0)
        yield next(self.publish)
        self.stamps = [server.version for server in self.servers]


def _serve(world: World, server: Server, first: bool, max_lag: int | None) -> Steps:
    """Apply gradients as they come, those apart that are too old."""
    apply = world.pieces(world.load.hand.scaled(1.0 / world.load.chunks))
    come = Get(server.letters)
    while True:
        for copy, stamp in (yield come):
            lag = server.version - stamp
            if max_lag is None or lag <= max_lag:
                yield next(apply)
                server.version += 1
                world.lags[lag] += 1
                if first:
                    world.updates.add(world.engine.now, 1)
            server.empty[copy].put_now(world.engine, 0)


def start(world: World) -> None:
    """Spawn copies, and servers where there are any."""
    architecture, load, engine = world.architecture, world.load, world.engine
    edge, role = architecture.edge("gradient"), architecture.acting
    assert edge is not None
    sharing: list[Alone]
    copies = range(role.copies)
    combine = next((role for role in architecture.roles if role.runs == "combine"), None)
    if combine is not None:
        servers = [Server(role.copies) for _ in range(load.chunks)]
        for number, server in enumerate(servers):
            engine.spawn(_serve(world, server, number == 0, edge.max_lag), world.meters[combine.name])
        sharing = [Sending(world, copy, servers, waits=edge.capacity == 0) for copy in copies]
    elif edge.when_full == "barrier":
        barrier = Barrier(role.copies)
        sharing = [Together(world, copy, barrier) for copy in copies]
    elif edge.when_full == "lock":
        central, locks = Central(world), [Lock() for _ in range(load.chunks)]
        sharing = [Locking(world, copy, central, locks) for copy in copies]
    else:
        central = Central(world)
        sharing = [Racing(world, central) for _ in copies]
    for each in sharing:
        spawn_copy(world, each)
