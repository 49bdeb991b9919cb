"""What an architecture will do with a workload: its roles and edges as processes on a simulated machine.

The same value that the launcher starts from, the diagram draws and the bound on lag is counted from says here who waits
for whom. Costs and their stragglers come with the workload. ``bound.bound`` is the closed-form check.
"""

from __future__ import annotations

from collections.abc import Callable

from redline.architectures.model import PLANNED, Architecture
from redline.planner.arrangements import actor_learner, loops, replay, replicas, serving
from redline.planner.arrangements.world import World
from redline.planner.costs import Prediction, Workload
from redline.types import lag_gauges

ENOUGH = 100  # turns (batches, and unrolls of each copy) to be seen before a rate is believed
SETTLED = 3  # turns before which nothing is measured
PATIENCE = 100  # times as long as asked for, while there were fewer,
FEW = 100_000  # or for so many events: where a round takes minutes, few come in any time
EVENTS = 500_000  # after which a simulation ends early: two or three seconds


def simulate(
    architecture: Architecture,
    workload: Workload,
    *,
    seconds: float = 30.0,
    warm: float = 5.0,
    seed: int = 0,
    most: int | None = EVENTS,
) -> Prediction:
    """Simulate for a while and say what happened.

    Args:
        architecture: with numbers of copies and capacities; see ``Architecture.sized``.
        workload: what its pieces of work cost.
        seconds: simulated, at least; more where batches take long.
        warm: simulated seconds at first that do not count.
        seed: of the stragglers. The same seed gives the same prediction.
        most: events after which to stop short, having measured over three quarters of them; None: never.

    Returns: the prediction. Steps/s are agent steps. Utilisation is the share of time in which a role computes or waits
    for its own work, not for another role. Lag is in batches (in updates where gradients are shared, and of slots that
    come into a replay).

    Raises: ValueError where copies are not chosen yet, nothing is known about such an arrangement, or its roles come to
    a standstill because each waits for another.
    """
    if any(role.copies == PLANNED for role in architecture.roles):
        raise ValueError(f"architecture {architecture.name}: give its copies a number (Architecture.sized)")
    world = World(architecture, workload, seed)
    arrangement(architecture)(world)
    early = None if most is None else most // 4
    _run(world, min(warm, seconds), seconds, SETTLED, early)
    began, before = world.engine.now, _account(world)
    world.start()
    _run(world, max(seconds, 2.0 * began), seconds, world.turns + ENOUGH, most)
    if world.engine.stuck:
        raise ValueError(f"architecture {architecture.name}: every role waits for another, for ever")
    return _predict(world, began, before)


def arrangement(architecture: Architecture) -> Callable[[World], None]:
    """What spawns the processes of an architecture, by what its roles run and its edges carry."""
    runs = {role.runs for role in architecture.roles}
    if runs == {"train"} and not architecture.shares_gradients:
        return loops.start
    if architecture.shares_gradients and "train" in runs:
        return replicas.start
    if runs == {"step", "infer", "learn"}:
        return serving.start
    if runs == {"collect", "learn"}:
        return actor_learner.start
    if runs == {"collect", "replay", "learn"}:
        return replay.start
    raise ValueError(f"architecture {architecture.name}: no arrangement of {sorted(runs)} is known")


def _run(world: World, until: float, seconds: float, turns: float, most: int | None) -> None:
    """Run until that time and so many turns, but not for ever."""
    engine = world.engine
    if not engine.run(until, most):
        return
    while world.turns < turns and not engine.stuck:
        if engine.now > PATIENCE * seconds and engine.events > FEW:
            return
        if not engine.run(engine.now + max(seconds / 4, engine.now / 8), most):
            return


def _account(world: World) -> dict[str, float]:
    engine = world.engine
    engine.cores.advance(engine.now)
    busy = {name: meter.at(engine.now) for name, meter in world.meters.items()}
    return busy | {"#cores": engine.cores.core_seconds, "#gpus": engine.gpus.meter.at(engine.now)}


def _predict(world: World, began: float, before: dict[str, float]) -> Prediction:
    now = world.engine.now
    passed, steps = max(now - began, 1e-12), world.steps.rate(now)
    spent = {name: (value - before[name]) / passed for name, value in _account(world).items()}
    cores, gpus = spent.pop("#cores"), spent.pop("#gpus")
    copies = {role.name: role.copies for role in world.architecture.roles}
    return Prediction(
        steps_per_second=steps,
        updates_per_second=world.updates.rate(now),
        utilisation={name: min(value / copies[name], 1.0) for name, value in spent.items()},
        cores_busy=cores,
        gpu_busy=gpus,
        lag=lag_gauges(world.lags),
        replay_ratio=world.samples.rate(now) / steps if world.samples.total and steps else None,
    )
