"""Time to a score: the plan that Redline chooses beside the others that it tried, each trained until it has learned.

    python benchmarks/score.py [TASK ...] [--seeds 3] [--json FILE]

Seconds of training until the mean return of the last 100 episodes reaches the task's score; medians over seeds. Plans
take turns within a seed. ``chosen_over_best`` is the best median over the chosen plan's: 1 where it was the fastest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redline import api
from redline.planner.options import Plan, Ranked
from redline.recipes.config import save_yaml
from redline.runs.provenance import provenance
from redline.runtime.planning.candidates import configure


@dataclass(frozen=True)
class Task:
    """What is learned, and when it counts as learned."""

    environment: str
    recipe: str
    score: float
    steps: int  # agent steps after which it is given up
    overrides: tuple[str, ...] = ()


TASKS = {
    "cartpole": Task("CartPole-v1", "ppo", 475, 400_000),
    "catch": Task("redline/Catch-v0", "ppo", 0.95, 400_000),
    "recall": Task("redline/Recall-v0", "ppo_lstm", 0.9, 400_000),
    "acrobot": Task("Acrobot-v1", "ppo", -100, 600_000, ("algorithm.gamma=0.99",)),
}


def train(task: Task, each: Ranked, seed: int) -> float | None:
    """Seconds of training to the score, or None where the steps did not do."""
    experiment = api.make_experiment(task.environment, task.recipe, overrides=task.overrides)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.yaml"
        save_yaml(configure(experiment, each.option), path)
        run = api.train(
            config=path,
            steps=task.steps,
            seed=seed,
            folder=folder,
            overrides=[f"run.stop_at_return={task.score}", "run.tensorboard=false"],
        )
    return run.seconds if run.mean_return >= task.score else None


def measure(name: str, seeds: int) -> dict[str, Any]:
    """One task: the plans that the planner tried, trained."""
    task = TASKS[name]
    plan: Plan = api.plan(task.environment, task.recipe, overrides=task.overrides)
    tried = [each for each in plan.ranked if each.measured is not None]
    seconds: dict[str, list[float | None]] = {each.option.name: [] for each in tried}
    for seed in range(seeds):
        for each in tried:
            found = train(task, each, seed)
            seconds[each.option.name].append(found)
            shown = "not reached" if found is None else f"{found:.1f} s"
            print(f"{name:10} seed {seed} {each.option.name:60} {shown}", file=sys.stderr, flush=True)
    medians = {key: _median(values) for key, values in seconds.items()}
    reached = [value for value in medians.values() if value is not None]
    chosen = medians[plan.best.option.name]
    return {
        "task": name,
        "environment": task.environment,
        "score": task.score,
        "chosen": plan.best.option.name,
        "median_seconds": medians,
        "seconds": seconds,
        "chosen_over_best": round(min(reached) / chosen, 3) if chosen is not None else None,
    }


def _median(values: Sequence[float | None]) -> float | None:
    """None where half of the seeds or more did not get there."""
    reached = sorted(float("inf") if value is None else value for value in values)
    middle = statistics.median(reached)
    return None if middle == float("inf") else round(middle, 2)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the tasks named (all, by default) and print one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="*", help=f"of {', '.join(TASKS)}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", help="write the result to this file too")
    wanted = parser.parse_args(argv)
    for name in wanted.tasks:
        if name not in TASKS:
            parser.error(f"no task {name!r}: choose of {', '.join(TASKS)}")
    results = [measure(name, wanted.seeds) for name in wanted.tasks or TASKS]
    result = {"benchmark": "score", "results": results, "provenance": provenance()}
    if wanted.json:
        Path(wanted.json).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
