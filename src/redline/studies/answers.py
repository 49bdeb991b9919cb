"""The three questions, asked of this machine: when to use a CPU, when a GPU, and what to parallelise.

The first two are the planner's measured passes of two networks against the batch, with a GPU's beside them (measured
where there is one, by published rates elsewhere). The third is its best plan for machines of more and more cores.
"""

from __future__ import annotations

from typing import Any

from redline import api
from redline.planner.costs import Curve
from redline.planner.explaining.explain import brought
from redline.planner.options import Plan
from redline.planner.profiles import published, with_gpu
from redline.studies.result import Options, Result

NETWORKS = {"MLP (CartPole)": ("CartPole-v1", "ppo"), "Nature CNN (Pong)": ("ALE/Pong-v5", "ppo")}
TASKS = {
    "PPO, CartPole": ("CartPole-v1", "ppo"),
    "IMPALA, Pong": ("ALE/Pong-v5", "impala"),
    "DQN, Pong": ("ALE/Pong-v5", "dqn"),
    "PPO, HalfCheetah": ("HalfCheetah-v5", "ppo"),
}
CORES = (1, 2, 4, 8, 16, 32, 64)
GPU = "h100"


def crossover(options: Options) -> Result:
    """When does a GPU pay, for acting and for learning, with a small and with a larger network?"""
    points: dict[str, tuple[list[float], list[float]]] = {}
    rows: list[dict[str, Any]] = []
    words = []
    for label, (environment, recipe) in NETWORKS.items():
        options.tell(label)
        plan = api.plan(environment, recipe, verify=False, report=lambda _: None)
        costs = with_gpu(plan.costs, published(GPU)) if plan.machine.gpus is None else plan.costs
        measured = plan.machine.gpus is not None
        for name, curves in (("act", costs.act), ("learn", costs.train)):
            cpu = curves[next(place for place in costs.learn if place.startswith("cpu"))]
            gpu = brought(curves[next(place for place in curves if place.startswith("cuda"))], costs)
            points |= _per_sample(f"{name}, {label}", cpu, gpu, measured=measured)
            batch = _crossing(cpu, gpu)
            rows.append(
                {
                    "network": label,
                    "for": "acting" if name == "act" else "learning",
                    "one core, batch 1, µs": round(cpu.at(1) * 1e6, 1),
                    "one core, batch 512, µs a sample": round(cpu.at(512) / 512 * 1e6, 2),
                    "GPU, batch 512, µs a sample": round(gpu.at(512) / 512 * 1e6, 2),
                    "GPU faster than one core from batch": batch or "never",
                    "GPU": "measured" if measured else f"{GPU}, by published rates",
                }
            )
            words.append(f"{rows[-1]['for']} with the {label}: from {batch}" if batch else f"{label}: never")
    answer = f"A GPU is faster than one core for {'; '.join(words)}."
    return Result(
        "crossover",
        "From which batch on is a GPU faster than a core?",
        answer,
        rows,
        points=points,
        axes=("observations in a batch", "µs an observation"),
    )


def parallelise(options: Options) -> Result:
    """What can be parallelised, and how far does it go, from one core to 64?"""
    rows: list[dict[str, Any]] = []
    points: dict[str, tuple[list[float], list[float]]] = {}
    for label, (environment, recipe) in TASKS.items():
        options.tell(label)
        overrides = ["replay.capacity=100000"] if recipe == "dqn" else []
        here = api.plan(environment, recipe, verify=False, overrides=overrides)
        rates = []
        for cores in CORES:
            there = api.plan(environment, recipe, what_if=f"cores={cores}", verify=False, overrides=overrides)
            rates.append(there.best.prediction.steps_per_second)
        points[label] = ([float(n) for n in CORES], [rate / rates[0] for rate in rates])
        rows.append(_row(label, here, there, rates))
    answer = "; ".join(
        f"{row['task']}: {row['64 cores, x one']} times as fast on 64 cores as on one, by {row['best of 64']}"
        for row in rows
    )
    notes = ["Numbers for other machines than this one are predictions of the planner's simulator."]
    return Result(
        "parallelise",
        "How much faster do more cores train, at the recipe's batch?",
        answer + ".",
        rows,
        notes=notes,
        points=points,
        axes=("cores", "agent steps/s, times that of one core"),
    )


def _row(label: str, here: Plan, there: Plan, rates: list[float]) -> dict[str, Any]:
    explained = api.explain(here)
    where, bounds = explained.where, explained.amdahl
    return {
        "task": label,
        "stepping": f"{where.shares.get('stepping', 0.0):.0%}",
        "acting": f"{where.shares.get('acting', 0.0):.0%}",
        "learning": f"{where.shares.get('estimating', 0.0) + where.shares.get('improving', 0.0):.0%}",
        "free parts would give": ", ".join(
            f"{name} {factor:.3g}x" if factor else f"{name} any" for name, factor in bounds.items()
        ),
        "best here": here.best.option.name,
        "predicted here": round(here.best.prediction.steps_per_second),
        "best of 64": there.best.option.name,
        "64 cores, x one": round(rates[-1] / rates[0], 1),
    }


def _per_sample(
    label: str, cpu: Curve, gpu: Curve, *, measured: bool
) -> dict[str, tuple[list[float], list[float]]]:
    sizes = [size for size, _ in cpu.points]
    theory = "" if measured else " (theory)"
    return {
        f"{label}, one core": (sizes, [cpu.at(n) / n * 1e6 for n in sizes]),
        f"{label}, GPU{theory}": (sizes, [gpu.at(n) / n * 1e6 for n in sizes]),
    }


def _crossing(cpu: Curve, gpu: Curve) -> int | None:
    """The smallest batch from which on the GPU is faster, up to 4,096."""
    sizes = [2**power for power in range(13)]
    ahead = [gpu.at(n) < cpu.at(n) for n in sizes]
    return next((n for index, n in enumerate(sizes) if all(ahead[index:])), None)
