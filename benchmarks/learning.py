"""Learning curves over several seeds: median and range, with the command, the commit and the machine.

    python benchmarks/learning.py TASK [--seeds 3] [--jobs 1] [--folder runs/learning] [--out docs/results]

Every seed is an ordinary run, started as a user would start it (its command is in the result), resumed where it exists
already. Afterwards each is evaluated greedily over 100 episodes. ``--jobs`` runs several seeds side by side: then wall
clocks are those of a shared machine, and the result says so. Writes ``OUT/TASK.json`` and, where matplotlib is
installed, ``OUT/TASK.svg``; prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import redline
from redline.runs.provenance import provenance


@dataclass(frozen=True)
class Task:
    """What to train, and what the issue of learning is measured against."""

    environment: str
    recipe: str
    steps: int  # agent steps
    overrides: tuple[str, ...] = ()
    frames_per_step: int = 1


PONG_PPO = ("run.stop_at_return=18",)  # else the numbers of the recipe, which are the paper's
PONG_IMPALA = ("parallel.runtime=threads", "learner.anneal=false", "run.stop_at_return=18")
# Ape-X's own numbers are made for 360 actors: fewer actors learn more from each sample, by Adam, in smaller batches.
PONG_APEX = (
    "environment.atari.sticky=0",
    "sampler.num_envs=24",
    "algorithm.batch=128",
    "algorithm.learning_starts=20000",
    "algorithm.target_every_updates=500",
    "parallel.replay_ratio=8",
    "learner.optimizer=adam",
    "learner.learning_rate=1e-4",
    "learner.epsilon=1e-5",
    "learner.epsilon_inside=false",
    "learner.centered=false",
    "replay.capacity=500000",
)
TASKS = {
    "cartpole-ppo": Task("CartPole-v1", "ppo", 50_000, ("run.stop_at_return=475",)),
    "cartpole-a2c": Task("CartPole-v1", "a2c", 500_000),  # these by their recipes alone
    "cartpole-a3c": Task("CartPole-v1", "a3c", 300_000),
    "cartpole-appo": Task("CartPole-v1", "appo", 100_000),
    "cartpole-impala": Task("CartPole-v1", "impala", 200_000),
    "cartpole-seed": Task("CartPole-v1", "seed", 200_000),
    "recall-impala": Task("redline/Recall-v0", "impala_lstm", 300_000),
    "halfcheetah-ppo": Task("HalfCheetah-v5", "ppo", 1_000_000),
    "hopper-ppo": Task("Hopper-v5", "ppo", 1_000_000),
    "recall-lstm": Task("redline/Recall-v0", "ppo_lstm", 100_000),
    "recall-feed-forward": Task("redline/Recall-v0", "ppo", 100_000),
    "pong-ppo": Task("ALE/Pong-v5", "ppo", 10_000_000, PONG_PPO, 4),
    # As most published curves have it: Pong-v5 repeats the last action instead of the chosen one every fourth time.
    "pong-ppo-exact": Task("ALE/Pong-v5", "ppo", 10_000_000, (*PONG_PPO, "environment.atari.sticky=0"), 4),
    # The same in the precision that is slower where the processor has bf16: does that learn as well?
    "pong-ppo-exact-fp32": Task(
        "ALE/Pong-v5",
        "ppo",
        10_000_000,
        (*PONG_PPO, "environment.atari.sticky=0", "learner.precision=fp32"),
        4,
    ),
    "pong-impala": Task("ALE/Pong-v5", "impala", 6_000_000, PONG_IMPALA, 4),
    "pong-impala-exact": Task(
        "ALE/Pong-v5", "impala", 6_000_000, (*PONG_IMPALA, "environment.atari.sticky=0"), 4
    ),
    "pong-apex-exact": Task("ALE/Pong-v5", "apex", 2_000_000, PONG_APEX, 4),
    "pong-dqn": Task("ALE/Pong-v5", "dqn", 1_000_000, (), 4),
}


def command_of(name: str, seed: int, folder: Path, extra: list[str]) -> list[str]:
    """The command line of one seed."""
    task = TASKS[name]
    settings = [word for override in (*task.overrides, *extra) for word in ("--set", override)]
    command = ["redline", "train", task.environment, "--recipe", task.recipe, "--steps", str(task.steps)]
    return [
        *command,
        "--seed",
        str(seed),
        "--name",
        f"{name}-{seed}",
        "--folder",
        str(folder),
        "--plain",
        *settings,
    ]


def run(name: str, seed: int, folder: Path, extra: list[str]) -> dict[str, Any]:
    """Train (or go on with) one seed, then evaluate it."""
    path = folder / f"{name}-{seed}"
    command = command_of(name, seed, folder, extra)
    words = ["resume", path.name, "--folder", str(folder), "--plain"] if path.exists() else command[1:]
    subprocess.run([sys.executable, "-m", "redline", *words], check=True, stdout=subprocess.DEVNULL)
    return collect(name, seed, folder, command)


def collect(name: str, seed: int, folder: Path, command: list[str]) -> dict[str, Any]:
    """A finished seed's curve and its evaluation."""
    path = folder / f"{name}-{seed}"
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    points = [line for line in lines if line.get("return/mean") is not None]
    evaluation = redline.evaluate(redline.load(path), episodes=100)
    return {
        "seed": seed,
        "command": " ".join(command),
        "steps": [line["step"] for line in points],
        "returns": [line["return/mean"] for line in points],
        "seconds": points[-1]["time/elapsed"],
        "final": points[-1]["return/mean"],
        "evaluation": {
            "mean": evaluation.mean_return,
            "min": min(evaluation.returns),
            "max": max(evaluation.returns),
        },
    }


def summarise(name: str, seeds: list[dict[str, Any]], jobs: int) -> dict[str, Any]:
    """Medians and ranges over the seeds."""

    def spread(values: list[float]) -> dict[str, float]:
        return {"median": statistics.median(values), "min": min(values), "max": max(values)}

    task = TASKS[name]
    return {
        "task": name,
        "environment": task.environment,
        "recipe": task.recipe,
        "agent_steps": seeds[0]["steps"][-1],
        "frames": seeds[0]["steps"][-1] * task.frames_per_step,
        "final_return": spread([seed["final"] for seed in seeds]),
        "evaluation_return": spread([seed["evaluation"]["mean"] for seed in seeds]),
        "seconds": spread([seed["seconds"] for seed in seeds]),
        "seeds_side_by_side": jobs,
        "seeds": seeds,
        "provenance": provenance(),
    }


def plot(result: dict[str, Any], path: Path) -> None:
    """Median and range of the return against agent steps."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    last = min(seed["steps"][-1] for seed in result["seeds"])
    grid = np.linspace(0, last, 200)
    curves = np.stack([np.interp(grid, seed["steps"], seed["returns"]) for seed in result["seeds"]])
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    axes.fill_between(grid, curves.min(0), curves.max(0), alpha=0.2, color="#c0392b", linewidth=0)
    axes.plot(grid, np.median(curves, 0), color="#c0392b")
    axes.set(xlabel="agent steps", ylabel="return (mean of 100 episodes)")
    whose = "one seed" if len(curves) == 1 else f"median and range of {len(curves)} seeds"
    axes.set_title(f"{result['environment']}, {result['recipe']}: {whose}", fontsize=10)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Run the seeds of one task and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("runs/learning"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    options = parser.parse_args()
    with ThreadPoolExecutor(options.jobs) as pool:
        waiting = [
            pool.submit(run, options.task, seed, options.folder, options.set) for seed in range(options.seeds)
        ]
        seeds = [future.result() for future in waiting]
    result = summarise(options.task, seeds, options.jobs)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{options.task}.json").write_text(json.dumps(result) + "\n")
    plot(result, options.out / f"{options.task}.svg")
    print(json.dumps({key: value for key, value in result.items() if key != "seeds"}))


if __name__ == "__main__":
    main()
