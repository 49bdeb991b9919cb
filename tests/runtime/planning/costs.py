"""Costs as a probe would find them, made up, for an experiment: what tests of candidates and choices start from."""

from __future__ import annotations

from typing import Any

from redline.planner.costs import Curve, Machine, Work
from redline.planner.measured import Costs
from redline.runtime.experiment import Experiment, uses_replay

MACHINE = Machine("bench", cores=4, memory=32 * 2**30)


def costs_for(experiment: Experiment, *, step: float = 100e-6, wait: float = 0.0) -> Costs:
    """A step of ``step`` core-seconds and ``wait`` seconds of waiting for each environment; a small network."""
    algorithm: Any = experiment.algorithm
    envs = experiment.sampler.num_envs
    batch = algorithm.batch if uses_replay(experiment) else envs * algorithm.unroll
    counts = sorted({1, envs, 4 * envs})
    passes = Curve.of([(1, 200e-6), (64, 400e-6), (512, 2e-3)])
    return Costs(
        environment="CartPole-v1",
        recipe=experiment.recipe,
        algorithm=experiment.recipe,
        machine=MACHINE,
        parameters=10_000,
        observation_bytes=16,
        batch=batch,
        updates=4.0,
        minibatch=batch,
        envs=envs,
        action_repeat=1,
        step={n: Work(n * step, wait=n * wait) for n in counts},
        act={"cpu fp32": passes, "actor": Curve.of((n, 100e-6 + n * 2e-6) for n in counts)},
        record=Curve.of([(1, 10e-6)]),
        train={"cpu fp32": passes},
        learn={"cpu fp32": {1: 20e-3, 4: 9e-3}},
        estimate=0.05,
        hand={"threads": 50e-6, "processes": 80e-6},
        publish=100e-6,
        serve={"threads": Curve.of([(1, 100e-6)])},
        exchange={"accel_sync": 200e-6, "a3c": 50e-6},
    )
