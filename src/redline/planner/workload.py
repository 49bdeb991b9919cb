"""From an option and measured costs to the simulator's numbers: what each role of the architecture does, in seconds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from redline.architectures.catalogue import find
from redline.architectures.model import Architecture
from redline.planner.costs import Curve, Machine, Work, Workload
from redline.planner.measured import Costs
from redline.planner.options import Option

Way = Callable[[int, int, int], float]  # how far copies are from the fewest to the most

ROUND_TRIP = 150e-6  # core-seconds to wake a worker process and hear from it
SHELVES = 3  # batches between a replay apart and its learner: one that is learned from, two drawn ahead
JITTER = 0.05  # relative, of unrolls of one copy: what its core does besides
WAKE = 60e-6  # core-seconds of a message between threads or processes


def architecture_of(option: Option) -> Architecture:
    """The option's architecture with its numbers."""
    return find(option.architecture).sized(option.copies, option.queue, option.take or None)


def workload(option: Option, costs: Costs, machine: Machine) -> Workload:
    """What the simulator needs to know of ``option``. Raises: KeyError for an architecture without arithmetic."""
    return replace(_OF[option.architecture](option, costs, machine), jitter=JITTER, polite=option.polite)


def round_of(costs: Costs, environments: float) -> Work:
    """One round's stepping of so many environments on one thread, between and beyond the counts measured."""
    counts = sorted(costs.step)
    core = Curve.of((n, costs.step[n].core) for n in counts)
    wait = Curve.of((n, costs.step[n].wait) for n in counts)
    nearest = costs.step[min(counts, key=lambda n: abs(n - environments))]
    few = min(
        environments / counts[0], 1.0
    )  # below the smallest count it is proportional, and the curve is level
    return Work(core.at(environments) * few, wait=wait.at(environments) * few, tail=nearest.tail)


def spread(step: Work, costs: Costs, cores: int, environments: float) -> Work:
    """Stepping so many environments on up to ``cores`` cores, where the environments do that by themselves.

    More threads wait longer for each other: what was seen on all cores of the machine, and in between linearly.
    """
    width = max(min(cores, int(environments)), 1)
    if not costs.threaded or width == 1:
        return step
    lost = waiting(width, min(costs.cores_measured, costs.envs), costs.together)
    return replace(step, width=max(width / lost, 1.0))


def waiting(width: int, most: int, together: float) -> float:
    """How much longer stepping on ``width`` threads takes for their waiting, where on ``most`` it is ``together``."""
    return 1.0 + (together - 1.0) * min((width - 1) / max(most - 1, 1), 1.0)


def acting(option: Option, costs: Costs, environments: float) -> Work:
    """One round's acting and bookkeeping for so many environments."""
    record = costs.record.at(environments)
    replays = option.ratio is not None or option.architecture == "apex"
    once = 1.0 if replays else 1.0 + 1.0 / option.unroll  # the value after an unroll's end
    if option.act_on.startswith("cpu"):
        curve = costs.act["actor"] if "actor" in costs.act else costs.act[option.act_on]
        return Work(once * curve.at(environments) * _precision(option, costs) + record)
    passing = costs.act[option.act_on].at(environments)
    moved = costs.transfer.at(environments * costs.observation_bytes) if costs.transfer is not None else 0.0
    return Work(record, gpu=once * (passing + moved))


def _precision(option: Option, costs: Costs) -> float:
    """An actor's pass was measured at the place that was chosen; another place's passes are that much longer."""
    measured = next(iter(costs.learn))
    if option.act_on == measured or option.act_on not in costs.act or measured not in costs.act:
        return 1.0
    size = 32.0
    return costs.act[option.act_on].at(size) / costs.act[measured].at(size)


def learning(option: Option, costs: Costs) -> Work:
    """One batch by the learner."""
    by_threads = costs.learn[option.learn_on]
    if not option.learn_on.startswith("cpu"):
        return Work(gpu=by_threads[min(by_threads)])
    if option.threads in by_threads:
        return Work(by_threads[option.threads] * option.threads, width=option.threads)
    one, most = by_threads[1], max(by_threads)
    if most == 1 or option.threads == 1:
        return Work(one * option.threads, width=option.threads)
    # Amdahl: what did not shrink with the threads measured stays for any number of them.
    serial = max((by_threads[most] - one / most) / (1.0 - 1.0 / most), 0.0)
    seconds = serial + (one - serial) / option.threads
    return Work(seconds * option.threads, width=option.threads)


def _drag(costs: Costs, name: str) -> float:
    return max(costs.drag.get(name, 1.0), 1.0)


def _synchronous(option: Option, costs: Costs, machine: Machine) -> Workload:
    share = option.environments / option.shards
    step = spread(round_of(costs, share), costs, machine.cores // option.shards, share)
    if option.workers > 1:
        step = _by_workers(option, costs, machine)
    ratio = option.ratio
    learn = learning(option, costs)
    act = acting(option, costs, share / option.groups).scaled(
        option.groups
    )  # each group has a pass of its own
    measured = costs.between if option.learn_on.startswith("cpu") else costs.between_gpu
    between = costs.between if measured is None else measured
    if ratio is None:
        learn = replace(learn, core=learn.core + between * option.threads)
    else:
        act = replace(act, core=act.core + between)
    slow = _drag(costs, "shards") if option.shards > 1 else 1.0  # what learns was measured with its threads
    return Workload(
        cores=machine.cores,
        unroll=option.unroll,
        environments=option.environments,
        step=replace(step, drag=slow),
        act=replace(act, drag=slow),
        learn=learn,
        updates=costs.updates,
        shards=option.shards,
        groups=option.groups,
        overlap=ratio is not None,
        samples=costs.batch if ratio is not None else 0,
        ratio=ratio,
        gpus=min(_gpus(machine), 1),
    )


def _by_workers(option: Option, costs: Costs, machine: Machine) -> Work:
    """A round of environments in worker processes: they step, and wait, side by side; groups take turns."""
    each = option.environments / option.groups
    workers = min(option.workers, int(each))
    own = round_of(costs, each / workers)
    last = own.slowest(workers)  # it is waited for
    group = Work(
        round_of(costs, each).core + ROUND_TRIP * workers,
        width=min(workers, machine.cores),
        wait=max(last.alone - own.core, 0.0),
        tail=last.tail,
    )
    return group.scaled(option.groups)


def _beside(option: Option, costs: Costs, machine: Machine) -> Workload:
    """Actors beside a learner, as they were seen to go: on their way, or all at rest while it learns."""
    load = _company(option, costs, machine)
    waits = option.queue == 0 and option.copies > 1
    pace = costs.drag.get(f"{option.runtime} {'step' if waits else 'beside'}", 1.0)
    return replace(
        load,
        step=load.step.scaled(pace),
        act=load.act.scaled(pace),
        learn=load.learn.scaled(pace),
        stepping=max(machine.cores // option.copies, 1) if costs.threaded else 1,
    )


def _company(option: Option, costs: Costs, machine: Machine) -> Workload:
    """Actors beside a learner, with a replay between them or without: each slows the other as it was seen to."""
    crew = _crew(option, costs)
    slow, late = _drag(costs, f"{crew} actor"), _drag(costs, f"{crew} learner")
    if costs.threaded and option.copies >= costs.machine.cores:
        # In threads, too, what all cores do to each other: such simulators leave the interpreter to others.
        slow = max(slow, _drag(costs, "processes full actor"))
        late = max(late, _drag(costs, "processes full learner"))
    slow = max(slow, _crowd(option, costs, slow))
    envs = option.environments
    step = spread(round_of(costs, envs), costs, machine.cores // option.copies, envs)
    act = acting(option, costs, option.environments)
    learn = learning(option, costs)
    if option.take and not learn.gpu:
        learn = learn.scaled(_share(option, costs, option.take / option.copies))
    ratio = option.ratio
    replays = option.architecture == "apex"
    if replays and ratio is not None:
        # What a loop spends beside its pieces, this learner spends on each update: of several rounds to an update once,
        # since what comes with every round is the actor's.
        rounds = min(costs.batch / (ratio * costs.envs), 1.0)
        learn = replace(learn, core=learn.core + costs.between * rounds)
    elif not learn.gpu:
        learn = replace(learn, core=learn.core + costs.besides * learn.width)
    learn = replace(learn, drag=late, tail=costs.uneven.get(f"{crew} learner", ()))
    load = Workload(
        cores=machine.cores,
        unroll=option.unroll,
        environments=option.environments,
        step=replace(step, drag=slow),
        act=replace(act, drag=slow),
        learn=_among_threads(learn, option, costs),
        updates=1.0 if replays else costs.updates,
        hand=Work(costs.hand.get(option.runtime, WAKE)),
        publish=Work(costs.publish),
        samples=costs.batch if replays else 0,
        ratio=ratio if replays else None,
        paced=replays and ratio is not None and option.paced,
        gpus=min(_gpus(machine), 1),  # server and learner share one
    )
    return _apart(load, option, costs) if option.apart else load


def _apart(load: Workload, option: Option, costs: Costs) -> Workload:
    """The same with the replay in a process of its own: there slots are stored and batches drawn, for messages.

    The learner takes what lies ready, and a thread beside it hears of it. What a loop spends beside its pieces it still
    spends: that is no work of the replay's. On a GPU its updates stay as they are: shared memory is not pinned.
    """
    hand, width = load.hand.core, load.learn.width
    # Of each of its threads: while one draws, the others wait.
    spared = 0.0 if load.learn.gpu else costs.draw
    stored = costs.store * option.unroll * option.environments
    return replace(
        load,
        learn=replace(load.learn, core=max(load.learn.core - spared * width, 0.0)),
        hand=Work(2 * hand + stored),  # by way of the learner's process
        draw=Work(2 * hand + costs.draw),  # a shelf to fill, and one that was learned from
        shelves=SHELVES,
    )


def _crew(option: Option, costs: Costs) -> str:
    """Under which name the drags of such actors and their learner were measured: few of them, or one for every core."""
    full = f"{option.runtime} full"
    many = option.copies >= costs.machine.cores and f"{full} actor" in costs.drag
    return full if many else option.runtime


def _crowd(option: Option, costs: Costs, few: float, way: Way | None = None) -> float:
    """How much longer an actor's core work takes among many: between ``few`` actors and as many as environments, both
    measured, as the logarithm of their number (or another ``way``)."""
    many = costs.drag.get(f"{option.runtime} crowd")
    fewest = max(costs.machine.cores - 1, 1)
    if many is None or option.copies <= fewest or costs.envs <= fewest:
        return few
    return few + (many - few) * (way or _logarithm)(option.copies, fewest, costs.envs)


def _among_threads(learn: Work, option: Option, costs: Costs) -> Work:
    """A batch by a learner that has to queue for an interpreter which it shares with many actors: no longer
    than alone among as many as there are cores, and from there to one for each environment, which was measured, as the
    logarithm of their number. Its unrolls wait meanwhile."""
    cores = max(costs.machine.cores, 2)
    if option.runtime != "threads" or not costs.queueing or option.copies <= cores or costs.envs <= cores:
        return learn
    waits = costs.queueing * _logarithm(option.copies, cores, costs.envs)
    return replace(learn, wait=learn.wait + waits, drag=1.0, tail=())  # these were of a learner beside few


def _beyond_cores(option: Option, costs: Costs) -> float:
    """How much longer copies take than as many as there are cores, which were seen: as actors do among many, but by the
    square root of their number, since all of them learn at the same moment."""
    cores, few = max(costs.machine.cores, 2), _drag(costs, option.runtime)
    if option.copies <= cores:
        return 1.0
    return _crowd(option, costs, few, _root) / _crowd(replace(option, copies=cores), costs, few, _root)


def _logarithm(copies: int, fewest: int, most: int) -> float:
    """How far from ``fewest`` to ``most``, 0 to 1; of more it goes on, to twice as far."""
    return min(max(math.log(copies / fewest) / math.log(most / fewest), 0.0), 2.0)


def _root(copies: int, fewest: int, most: int) -> float:
    """The same by square roots."""
    return min(max((copies**0.5 - fewest**0.5) / (most**0.5 - fewest**0.5), 0.0), 2.0)


def _crowding(copies: int, costs: Costs) -> float:
    """How far a server's workers are from two, or as many as cores, to the crowd that was measured: 0 to 1."""
    fewest = max(costs.machine.cores, 2)
    if costs.envs > fewest:
        return _logarithm(copies, fewest, costs.envs)
    return 1.0 if copies >= costs.envs and fewest <= max(costs.cores_measured, 2) else 0.0


def side_by_side(costs: Costs, runtime: str) -> float:
    """How much longer stepping takes beside stepping, by what actors in processes of their own were seen to: caches and
    memory. Of environments that need one interpreter a server tells by itself."""
    return _drag(costs, "processes") if runtime == "processes" or costs.threaded else 1.0


def _seed(option: Option, costs: Costs, machine: Machine) -> Workload:
    """Workers step; a batch costs the server the pass and what was seen to come on top."""
    beyond = costs.serve.get(option.runtime) or Curve.of([(1, WAKE)])
    sizes = sorted({*(float(n) for n in costs.step), 1.0, 2.0 * max(costs.step)})
    on_cpu = option.act_on.startswith("cpu")
    # The value after an unroll's end is a batch of its own there, which the simulator serves.
    once = replace(option, unroll=10**9)
    passes = {n: acting(once, costs, n) for n in sizes}
    serve = Curve.of((n, beyond.at(n) + passes[n].core) for n in sizes)
    on_gpu = None if on_cpu else Curve.of((n, passes[n].gpu) for n in sizes)
    # Few of its threads compute: a learner among them does not queue as among as many actors.
    base = _company(option, replace(costs, queueing=0.0), machine)
    step = round_of(costs, option.environments)
    wait = step.wait + costs.latency.get(option.runtime, 0.0)
    drag = side_by_side(costs, option.runtime)
    pace = costs.drag.get(f"{option.runtime} served", 1.0)  # as few of them were seen to
    if option.queue == 0:
        # Where all rest while the learner learns it goes otherwise than without a rest: as one size was seen to.
        # Workers of another wait for an interpreter as these do.
        pace, drag = costs.drag.get(f"{option.runtime} served step", 1.0), _drag(costs, option.runtime)
    step = replace(step, core=step.core + costs.request, wait=wait, drag=drag)
    many = costs.drag.get(f"{option.runtime} served crowd")  # and among many that wait
    if many is not None:
        pace += (many - pace) * _crowding(option.copies, costs)
    return replace(
        base,
        step=step.scaled(pace),
        act=Work(),
        serve=serve.scaled(pace),
        serve_gpu=None if on_gpu is None else on_gpu.scaled(pace),
        learn=base.learn.scaled(pace),
        groups=option.groups,
        largest=option.largest,
        hand=Work(WAKE),
    )


def _sharing(option: Option, costs: Costs, machine: Machine) -> Workload:
    """Copies that collect and learn by themselves, each from its share, and share gradients."""
    learn = learning(replace(option, threads=1), costs)
    split = learners_of_a_batch(option)
    share = _share(option, costs, 1.0 / split)
    shared = Work(costs.exchange.get(option.architecture, 0.0))
    # Seen at work, or else what actors do to each other, and to a learner.
    pace = costs.drag.get(f"{option.runtime} copies")
    slow, late = _drag(costs, option.runtime), _drag(costs, f"{option.runtime} learner")
    slow, late, pace = (slow, late, 1.0) if pace is None else (1.0, 1.0, pace)
    pace *= _beyond_cores(option, costs)
    envs = option.environments
    step = spread(round_of(costs, envs), costs, machine.cores // option.copies, envs)
    act = acting(option, costs, option.environments)
    ratio = option.ratio
    return Workload(
        cores=machine.cores,
        unroll=option.unroll,
        environments=option.environments,
        step=replace(step, drag=slow).scaled(pace),
        act=replace(act, core=act.core + (costs.between if ratio is not None else 0.0), drag=slow).scaled(
            pace
        ),
        learn=replace(learn, core=learn.core * share, gpu=learn.gpu * share, drag=late).scaled(pace),
        publish=shared.scaled(pace),
        hand=shared.scaled(pace) if find(option.architecture).served else Work(),
        updates=costs.updates,
        overlap=ratio is not None,
        samples=max(costs.batch // split, 1) if ratio is not None else 0,
        ratio=ratio,
        chunks=option.servers,
        gpus=_gpus(machine),
    )


def learners_of_a_batch(option: Option) -> int:
    """How many copies learn from one batch: of unrolls each has its own, and those that step together share what is
    drawn from replay; others draw a batch each."""
    return option.copies if option.ratio is None or option.architecture == "accel_sync" else 1


def _share(option: Option, costs: Costs, part: float) -> float:
    """What a ``part`` of a batch costs of the whole: more than its part where small passes cost like large ones."""
    passes = costs.train[option.learn_on]
    return max(passes.at(max(costs.minibatch * part, 1.0)) / passes.at(costs.minibatch), part)


def _gpus(machine: Machine) -> int:
    return machine.gpus.count if machine.gpus is not None else 0


_OF: dict[str, Callable[[Option, Costs, Machine], Workload]] = {
    "synchronous": _synchronous,
    "impala": _beside,
    "apex": _beside,
    "seed": _seed,
    "a3c": _sharing,
    "accel_sync": _sharing,
    "accel_async": _sharing,
    "gorila": _sharing,
    "gorila_global": _sharing,
}
