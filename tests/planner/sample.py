"""A plan made by hand, and a closed form to predict by: what the tests of answers, pages and commands start from."""

from __future__ import annotations

from dataclasses import replace

from redline.planner.costs import Curve, Machine, Prediction, Work
from redline.planner.measured import Costs
from redline.planner.options import Measured, Option, Plan, Ranked

MACHINE = Machine("laptop", cores=4, clock=3.0, memory=16 * 10**9)
COSTS = Costs(
    environment="ALE/Pong-v5",
    recipe="impala",
    algorithm="impala",
    machine=MACHINE,
    parameters=1_690_000,
    observation_bytes=4 * 84 * 84,
    batch=640,
    updates=1.0,
    minibatch=640,
    envs=32,
    action_repeat=4,
    step={1: Work(core=400e-6), 16: Work(core=4.8e-3, tail=(0.9, 1.0, 1.1))},
    act={
        "cpu fp32": Curve.of([(1, 0.5e-3), (16, 2.6e-3), (64, 9e-3)]),
        "cpu bf16": Curve.of([(1, 0.6e-3), (16, 1.8e-3), (64, 6e-3)]),
    },
    record=Curve.of([(1, 20e-6), (16, 60e-6)]),
    train={"cpu fp32": Curve.of([(32, 18e-3), (640, 340e-3)])},
    learn={"cpu fp32": {1: 0.36, 2: 0.21}},
    estimate=0.05,
    hand={"threads": 60e-6, "processes": 90e-6, "in_process": 0.0},
    publish=300e-6,
    flops=18.7e6,
)
OPTION = Option(
    "impala",
    "threads",
    copies=2,
    environments=16,
    unroll=20,
    lag_bound=2,
    memory=2 * 10**9,
    settings={"parallel.copies": 3, "sampler.num_envs": 48},
)


def predict(option: Option, costs: Costs, machine: Machine) -> Prediction:
    """Actors and a learner side by side: the slower of the two, and all the work shared by the cores."""
    step = costs.step[16].scaled(option.environments / 16)
    collect = step.core + step.wait
    act = costs.act[option.act_on].at(option.environments)
    acting_core = act if option.act_on.startswith("cpu") else 0.0
    learn = costs.learn[option.learn_on]
    seconds = learn.get(option.threads, learn[max(n for n in learn if n <= option.threads)])
    learn_core = seconds * option.threads if option.learn_on.startswith("cpu") else 0.0
    actors = option.copies * option.environments / (collect + act)
    learner = costs.batch / seconds
    core = (collect + acting_core) / option.environments + learn_core / costs.batch
    rate = min(actors, learner, machine.cores / core)
    return Prediction(
        steps_per_second=rate,
        updates_per_second=rate / costs.batch,
        utilisation={"actor": min(rate / actors, 1.0), "learner": min(rate / learner, 1.0)},
        cores_busy=rate * core,
        lag={"mean": 0.5 * option.copies, "p95": 1.0 * option.copies, "max": 1.0 * option.copies},
        error=0.1,
    )


def sample_plan(costs: Costs = COSTS, machine: Machine | None = None, what_if: str = "") -> Plan:
    """Three options, the first of them measured."""
    machine = machine or costs.machine
    options = [
        OPTION,
        replace(OPTION, copies=4, environments=8),
        replace(
            OPTION,
            architecture="synchronous",
            runtime="in_process",
            copies=1,
            lag_bound=0,
            unroll=40,
            shards=2,
        ),
    ]
    ranked = [Ranked(option, predict(option, costs, machine)) for option in options]
    first = ranked[0].prediction.steps_per_second
    measured = Measured(first * 0.96, first * 0.96 / costs.batch, seconds=10.0, utilisation={"actor": 0.97})
    if not what_if:
        ranked[0] = replace(ranked[0], measured=measured)
    return Plan(
        costs=costs,
        machine=machine,
        ranked=ranked,
        what_if=what_if,
        notes=["the environment's tail is short"],
        refused=["apex: on-policy, needs lag <= 1"],
    )
