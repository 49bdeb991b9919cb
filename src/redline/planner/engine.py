"""A small discrete-event engine: processes that compute, sleep, queue and meet on a machine of a few cores and GPUs.

A *process* is a generator that yields requests and is resumed with their answers. Cores are shared as an operating
system shares them: with demand D (cores that running computations could keep busy) every one runs at ``min(1, C / D)``
of its full speed. All therefore share one virtual clock, and the next to finish is the one whose virtual end comes
first: O(log n) an event, however many there are (generalised processor sharing; Parekh & Gallager 1993). Those to whom
others give way have a larger share, and a clock of their own.

Nothing depends on anything but the order of events: the same processes give the same run.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Generator
from typing import Any, Protocol

from redline.planner.cores import AnyOf, Cores, GPUs, Meter

Answer = Any
ENDLESS = 1_000_000  # resumptions at one moment, after which time will never go on
WAITS = object()  # a request's answer that is yet to come


class Request(Protocol):
    """What a process may ask for."""

    def begin(self, engine: Engine, process: Process) -> Answer:
        """The answer, or ``WAITS`` where the engine will resume the process later."""


Steps = Generator[Request, Answer, Any]


class Process:
    """A generator under way, the meter that counts its computing, and whether it has a core before others."""

    __slots__ = ("first", "meter", "steps")

    def __init__(self, steps: Steps, meter: Meter | AnyOf | None, first: bool) -> None:
        self.steps, self.meter, self.first = steps, meter, first


class Engine:
    """The clock, the machine and the processes. ``events`` counts what has happened so far."""

    def __init__(self, cores: int, *, gpus: int = 0, drag: float = 1.0) -> None:
        self.now, self.events = 0.0, 0
        self.cores = Cores(cores, drag)
        self.gpus = GPUs(gpus)
        self._ready: deque[tuple[Process, Answer]] = deque()
        self._timers: list[
            tuple[float, int, Process, float]
        ] = []  # (when, order, who, GPU seconds or a code)
        self._order = 0

    def spawn(self, steps: Steps, meter: Meter | AnyOf | None = None, *, first: bool = False) -> Process:
        """Start a process now; ``meter`` counts its computing; ``first``: it has a core before others."""
        process = Process(steps, meter, first)
        self._ready.append((process, None))
        return process

    def resume(self, process: Process, answer: Answer = None) -> None:
        """Go on with a process that waits, after those that are ready already."""
        self._ready.append((process, answer))

    def later(self, seconds: float, process: Process, then: float) -> None:
        """Go on with ``process`` in ``seconds``; ``then``: first so many seconds of a GPU, or a code below 0."""
        self._order += 1
        heapq.heappush(self._timers, (self.now + seconds, self._order, process, then))

    def run(self, until: float, most: int | None = None) -> bool:
        """Let things happen until that time, or until ``events`` is ``most``: then False."""
        cores, timers, ready = self.cores, self._timers, self._ready
        while True:
            going = 0
            while ready:
                self._step(*ready.popleft())
                going += 1
                if going > ENDLESS:
                    raise ValueError(
                        "pieces of work that take no time, or an unknown one, would go on for ever"
                    )
            computed = cores.next()
            timed = timers[0][0] if timers else computed
            when = min(timed, computed)
            if when > until:
                break
            if most is not None and self.events >= most:
                return False
            self.events += 1
            self.now = when
            if timed <= computed and timers:
                _, _, process, then = heapq.heappop(timers)
                self._timer(process, then)
            else:
                process, wait, gpu = cores.finish(when)
                self.after_core(process, wait, gpu)
        self.now = until
        cores.advance(until)
        return True

    @property
    def stuck(self) -> bool:
        """Whether nothing will ever happen again: every process waits for another."""
        return not (self._ready or self._timers) and self.cores.next() == float("inf")

    def _step(self, process: Process, answer: Answer) -> None:
        send = process.steps.send
        try:
            while True:
                answer = send(answer).begin(self, process)
                if answer is WAITS:
                    return
        except StopIteration:
            return

    def _timer(self, process: Process, then: float) -> None:
        if then == AWAKE:
            self._ready.append((process, None))
        elif then == SERVED:
            self._served()
            self._done(process)
        else:
            self.after_core(process, 0.0, then)

    def after_core(self, process: Process, wait: float, gpu: float) -> None:
        """What is left of a piece of work once its cores are done with it."""
        if wait > 0.0:
            self.later(wait, process, gpu)
        elif gpu > 0.0:
            if self.gpus.count < 1:
                raise ValueError("work for a GPU, and the machine has none")
            if self.gpus.meter.busy < self.gpus.count:
                self.gpus.meter.add(self.now, 1)
                self.later(gpu, process, SERVED)
            else:
                self.gpus.waiting.append((process, gpu))
        else:
            self._done(process)

    def _served(self) -> None:
        """A GPU is free: the next in the queue has it."""
        if self.gpus.waiting:
            process, seconds = self.gpus.waiting.popleft()
            self.later(seconds, process, SERVED)
        else:
            self.gpus.meter.add(self.now, -1)

    def _done(self, process: Process) -> None:
        if process.meter is not None:
            process.meter.add(self.now, -1)
        self._ready.append((process, None))


AWAKE, SERVED = -1.0, -2.0  # what a timer may be for, beside a piece of work whose wait is over


class Compute:
    """A piece of work: core-seconds over ``width`` cores, then seconds of waiting, then seconds of a GPU."""

    __slots__ = ("core", "drag", "gpu", "wait", "width")

    def __init__(
        self, core: float, width: float = 1.0, wait: float = 0.0, gpu: float = 0.0, drag: float = 1.0
    ) -> None:
        """drag: how much longer it takes while all cores are busy, beside what slows everybody."""
        self.core, self.width, self.wait, self.gpu, self.drag = core, width, wait, gpu, drag

    def begin(self, engine: Engine, process: Process) -> Answer:
        """See ``Request``."""
        if self.core <= 0.0 and self.wait <= 0.0 and self.gpu <= 0.0:
            return None
        if process.meter is not None:
            process.meter.add(engine.now, 1)
        if self.core > 0.0:
            engine.cores.begin(engine.now, self, process, first=process.first)
        else:
            engine.after_core(process, self.wait, self.gpu)
        return WAITS


class Sleep:
    """Seconds in which a process does nothing, and is not busy."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def begin(self, engine: Engine, process: Process) -> Answer:
        """See ``Request``."""
        engine.later(self.seconds, process, AWAKE)
        return WAITS


class Queue:
    """First in, first out. ``room`` items fit; None: any number. Whoever asks first is served first."""

    __slots__ = ("items", "putting", "room", "taking")

    def __init__(self, room: int | None = None) -> None:
        self.items, self.room = deque[Any](), room
        self.taking: deque[tuple[Process, int, int | None]] = deque()
        self.putting: deque[tuple[Process, Any]] = deque()

    def put_now(self, engine: Engine, item: Any) -> None:
        """Put without waiting, whatever the room."""
        self.items.append(item)
        self.settle(engine)

    def settle(self, engine: Engine) -> None:
        """Serve whoever waits and can be served."""
        while True:
            if self.taking and len(self.items) >= self.taking[0][1]:
                process, _, most = self.taking.popleft()
                engine.resume(process, self._take(most))
            elif self.putting and (self.room is None or len(self.items) < self.room):
                process, item = self.putting.popleft()
                self.items.append(item)
                engine.resume(process)
            else:
                return

    def _take(self, most: int | None) -> list[Any]:
        items = self.items
        if most is None or most >= len(items):
            taken = list(items)
            items.clear()
            return taken
        return [items.popleft() for _ in range(most)]


class Put:
    """Put an item into a queue, once there is room."""

    __slots__ = ("item", "queue")

    def __init__(self, queue: Queue, item: Any) -> None:
        self.queue, self.item = queue, item

    def begin(self, engine: Engine, process: Process) -> Answer:
        """See ``Request``."""
        queue = self.queue
        if queue.putting or (queue.room is not None and len(queue.items) >= queue.room):
            queue.putting.append((process, self.item))
            if queue.taking:
                queue.settle(engine)
            return WAITS
        queue.items.append(self.item)
        if queue.taking:
            queue.settle(engine)
        return None


class Get:
    """Take items from a queue once ``least`` are there: at most ``most`` (None: all), as a list."""

    __slots__ = ("least", "most", "queue")

    def __init__(self, queue: Queue, least: int = 1, most: int | None = None) -> None:
        self.queue, self.least, self.most = queue, least, most

    def begin(self, engine: Engine, process: Process) -> Answer:
        """See ``Request``."""
        self.queue.taking.append((process, self.least, self.most))
        self.queue.settle(engine)
        return WAITS


class Barrier:
    """A request itself: everyone waits until ``parties`` have come, again and again."""

    __slots__ = ("parties", "waiting")

    def __init__(self, parties: int) -> None:
        self.parties, self.waiting = parties, list[Process]()

    def begin(self, engine: Engine, process: Process) -> Answer:
        """See ``Request``."""
        self.waiting.append(process)
        if len(self.waiting) == self.parties:
            for each in self.waiting:
                engine.resume(each)
            self.waiting = []
        return WAITS


class Lock:
    """A request itself: whoever yields it holds it until ``release``; first come, first served."""

    __slots__ = ("held", "waiting")

    def __init__(self) -> None:
        self.held, self.waiting = False, deque[Process]()

    def begin(self, engine: Engine, process: Process) -> Answer:
        """See ``Request``."""
        if self.held:
            self.waiting.append(process)
            return WAITS
        self.held = True
        return None

    def release(self, engine: Engine) -> None:
        """Give it to whoever waits longest."""
        if self.waiting:
            engine.resume(self.waiting.popleft())
        else:
            self.held = False
