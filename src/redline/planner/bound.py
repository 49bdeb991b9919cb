"""The most agent steps/s that any schedule of a workload could reach, in closed form: the simulator's check.

Each resource alone bounds the rate: the cores together, the GPUs, every role whose work is serial, and the copies, of
whom each needs some time for an unroll. The smallest of these is the bound, and its name is the bottleneck. Queueing,
stragglers and turns that do not fit only take away from it.
"""

from __future__ import annotations

from collections.abc import Callable

from redline.architectures.model import Architecture
from redline.planner.costs import Work, Workload

NONE = float("inf")


def bound(architecture: Architecture, workload: Workload) -> float:
    """Agent steps/s that the architecture cannot exceed with this workload. See ``limits`` for what it comes from."""
    return min(limits(architecture, workload).values())


def limits(architecture: Architecture, workload: Workload) -> dict[str, float]:
    """Agent steps/s that each resource allows: ``cores``, ``gpus``, and roles by name. Infinite where it sets no limit.

    Raises: ValueError where nothing is known about such an arrangement.
    """
    runs = {role.runs for role in architecture.roles}
    count: Callable[[Architecture, Workload], dict[str, float]]
    if "train" in runs:
        count = _training
    elif runs == {"collect", "learn"}:
        count = _actor_learner
    elif runs == {"collect", "replay", "learn"}:
        count = _replay
    elif runs == {"step", "infer", "learn"}:
        count = _serving
    else:
        raise ValueError(f"architecture {architecture.name}: no arrangement of {sorted(runs)} is known")
    return count(architecture, workload)


def capacity(workload: Workload) -> float:
    """Core-seconds a second, at most: with drag, fewer cores may do more than all of them."""
    return max(1.0, workload.cores / workload.drag)


def _over(amount: float, seconds: float) -> float:
    return amount / seconds if seconds > 0.0 else NONE


def _shared(load: Workload, per_step: dict[str, float]) -> dict[str, float]:
    """The limits of cores and GPUs, from seconds of each that an agent step takes."""
    if per_step["gpu"] > 0.0 and not load.gpus:
        raise ValueError("work for a GPU, and the machine has none")
    return {
        "cores": _over(capacity(load), per_step["core"]),
        "gpus": _over(load.gpus, per_step["gpu"]),
    }


def _per_step(*parts: tuple[Work, float]) -> dict[str, float]:
    """Core-seconds and GPU seconds of so many pieces of work for each agent step."""
    return {
        "core": sum(work.core * times for work, times in parts),
        "gpu": sum(work.gpu * times for work, times in parts),
    }


def _round(load: Workload) -> float:
    """Seconds of one round of a copy that acts for itself, on a machine of its own."""
    step, act = _least(load, load.step), _least(load, load.act)
    # Groups take turns: one thread acts for all of them, and each has its own chain of steps and acts.
    return max(act, (step + act) / load.groups)


def _least(load: Workload, work: Work) -> float:
    """Seconds of a piece of work alone on this machine: it cannot use more cores than there are."""
    return work.core / min(work.width, load.cores) + work.wait + work.gpu


def _updates_per_step(load: Workload) -> float:
    if load.ratio is None or load.samples < 1:
        return 0.0
    return load.ratio / load.samples


def _training(architecture: Architecture, load: Workload) -> dict[str, float]:
    copies = architecture.acting.copies
    combine = next((role for role in architecture.roles if role.runs == "combine"), None)
    shares = architecture.shares_gradients
    rounds = load.shards / load.environments  # rounds of all shards for each agent step
    batch = load.unroll * load.environments
    times = float(max(round(load.updates), 1)) if shares else 0.0  # gradients shared for each batch
    if load.overlap:
        learns = _updates_per_step(load)
        times = learns if shares else 0.0
        update = _least(load, load.learn) + float(shares) * _least(load, load.publish)
        beside = max(_least(load, load.step), update * learns * load.environments)
        own = _over(load.environments, _least(load, load.act) + beside)
    else:
        learns = 1.0 / batch
        alone = load.unroll * _round(load) + _least(load, load.learn) + times * _least(load, load.publish)
        own = _over(batch, alone)
        times /= batch
    serve = (load.hand, times) if combine is not None else (load.hand, 0.0)
    cost = _per_step(
        (load.step, rounds), (load.act, rounds), (load.learn, learns), (load.publish, times), serve
    )
    found = _shared(load, cost) | {architecture.acting.name: copies * own}
    edge = architecture.edge("gradient")
    if combine is not None:
        found[combine.name] = _over(1.0, times * _least(load, load.hand) / load.chunks)
    elif edge is not None and edge.when_full == "lock":
        found["locks"] = _over(1.0, times * _least(load, load.publish) / load.chunks)
    return found


def _actor_learner(architecture: Architecture, load: Workload) -> dict[str, float]:
    edge = architecture.edge("unroll")
    assert edge is not None
    copies = architecture.acting.copies
    take = edge.take or copies
    unroll = load.unroll * load.environments
    per = 1.0 / load.environments
    cost = _per_step(
        (load.step, per),
        (load.act, per),
        (load.hand, 1.0 / unroll),
        (load.learn, 1.0 / (take * unroll)),
        (load.publish, 1.0 / (take * unroll)),
    )
    learner = _learner(architecture, load, take)
    own = _over(load.environments, _round(load))
    found = _shared(load, cost) | {architecture.acting.name: copies * own} | learner
    if edge.capacity == 0 and take == copies:  # they take turns
        turn = load.unroll * _round(load) + take * unroll / min(learner.values())
        found["turns"] = _over(take * unroll, turn)
    return found


def _learner(architecture: Architecture, load: Workload, take: int) -> dict[str, float]:
    name = next(role.name for role in architecture.roles if role.runs == "learn")
    batch = take * _least(load, load.hand) + _least(load, load.learn) + _least(load, load.publish)
    return {name: _over(take * load.unroll * load.environments, batch)}


def _replay(architecture: Architecture, load: Workload) -> dict[str, float]:
    """The learner bounds only what actors have to wait for; where nobody waits, it may use less of the cores. So may a
    replay apart that draws for it."""
    copies = architecture.acting.copies
    edge = architecture.edge("unroll")
    assert edge is not None
    names = {role.runs: role.name for role in architecture.roles}
    unroll = load.unroll * load.environments
    waits = load.ratio is not None and (load.paced or edge.capacity == 0)
    updates = _updates_per_step(load) if waits else 0.0
    per = 1.0 / load.environments
    draw = load.draw if load.shelves else Work()
    learn = (load.learn, updates), (load.publish, updates), (draw, updates)
    cost = _per_step((load.step, per), (load.act, per), (load.hand, 1.0 / unroll), *learn)
    update = _least(load, load.learn) + (_least(load, load.publish) if edge.capacity else 0.0)
    return _shared(load, cost) | {
        names["collect"]: copies * _over(load.environments, _round(load)),
        names["replay"]: _over(1.0, _least(load, load.hand) / unroll + updates * _least(load, draw)),
        names["learn"]: _over(1.0, updates * update),
    }


def _serving(architecture: Architecture, load: Workload) -> dict[str, float]:
    edge = architecture.edge("unroll")
    assert edge is not None
    names = {role.runs: role for role in architecture.roles}
    copies, servers = names["step"].copies, min(names["infer"].copies, names["step"].copies)
    take = edge.take or copies
    unroll, each = load.unroll * load.environments, load.environments
    most = -(-copies // servers)  # workers of one server
    if load.largest and edge.capacity:
        most = min(most, load.largest)
    sizes = range(1, most + 1)

    def least(seconds: Callable[[int], float]) -> float:
        """Seconds for each agent step served in batches of the best size, with one round more for every unroll."""
        return min(seconds(n) / (n * each) for n in sizes) * (load.unroll + 1) / load.unroll

    def core(n: int) -> float:
        return (load.serve.at(n * each) if load.serve is not None else 0.0) + n * load.hand.core

    def gpu(n: int) -> float:
        return (load.serve_gpu.at(n * each) if load.serve_gpu is not None else 0.0) + n * load.hand.gpu

    def whole(n: int) -> float:
        return core(n) + gpu(n) + n * load.hand.wait

    # Of an unroll a worker steps T rounds and is served T + 1 times, in the quickest batch at best.
    own = load.unroll * _least(load, load.step) + (load.unroll + 1) * min(map(whole, sizes))
    shared = _per_step(
        (load.step, 1.0 / each),
        (load.hand, 1.0 / unroll),
        (load.learn, 1.0 / (take * unroll)),
        (load.publish, 1.0 / (take * unroll)),
    )
    shared = {"core": shared["core"] + least(core), "gpu": shared["gpu"] + least(gpu)}
    learner = _learner(architecture, load, take)
    found = _shared(load, shared) | learner
    found |= {
        names["step"].name: copies * _over(unroll, own),
        names["infer"].name: servers * _over(1.0, least(whole)),
    }
    if edge.capacity == 0 and take == copies:
        turn = own + take * unroll / min(learner.values())
        found["turns"] = _over(take * unroll, turn)
    return found
