"""Redline, from its Python side, with its peers' settings. Run by the Python that Redline is installed in."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

from common import EVALUATE_EVERY, TARGET, Finished, Meter, Options, cartpole_score, read_options

RECIPES = {
    "pong-ppo": "ppo_atari",
    "pong-ppo-32": "ppo_atari",
    "cartpole-ppo": "ppo",
    "pong-dqn": "dqn_atari",
    "pong-dqn-8": "dqn_atari",
    "pong-impala": "impala_atari",
    "pong-appo": "appo_atari",
}


class Clock:
    """An observer that tells ``meter`` how far the run is."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def start(self, name: str, folder: str, rules: Any) -> None:
        """Training begins."""
        self.meter.restart()

    def update(self, progress: Any) -> None:
        """Called twice a second, between two iterations."""
        if self.meter.boundary(progress.steps):
            raise Finished

    def message(self, text: str) -> None:
        """Nothing."""

    def stop(self, reason: str) -> None:
        """Nothing."""


def overrides(options: Options) -> list[str]:
    """The task's settings in Redline's words. Precision, threads and memory format are left to Redline."""
    task = options.task
    shared = [
        f"learner.learning_rate={task.learning_rate}",
        f"algorithm.gamma={task.gamma}",
        "run.tensorboard=false",
    ]
    if task.algorithm == "dqn":
        return [
            *shared,
            f"algorithm.batch={task.batch}",
            f"algorithm.update_every={task.update_every}",
            f"algorithm.learning_starts={task.learning_starts}",
            f"algorithm.target_every={task.target_every}",
            f"algorithm.epsilon_final={task.epsilon}",
            "algorithm.epsilon_steps=1",
            f"replay.capacity={task.replay}",
        ]
    if task.algorithm in ("impala", "appo"):
        shared += [
            f"algorithm.unroll={task.unroll}",
            f"algorithm.entropy_cost={task.entropy}",
            "parallel.architecture=impala",
            "parallel.runtime=threads",
            "parallel.copies=1",
        ]
    if task.algorithm == "impala":
        return shared
    if task.algorithm == "appo":
        return [
            *shared,
            f"algorithm.epochs={task.epochs}",
            "algorithm.minibatches=1",
            f"algorithm.clip={task.clip}",
        ]
    return [
        *shared,
        f"algorithm.unroll={task.unroll}",
        f"algorithm.epochs={task.epochs}",
        f"algorithm.minibatches={task.num_envs * task.unroll // task.minibatch}",
        f"algorithm.gae_lambda={task.gae_lambda}",
        f"algorithm.clip={task.clip}",
        f"algorithm.entropy_cost={task.entropy}",
    ]


def train(options: Options, folder: str, clock: Clock, more: list[str]) -> Any:
    """One training run in ``folder``."""
    from redline import api

    environment = "ALE/Pong-v5" if options.task.game else "CartPole-v1"
    return api.train(
        environment,
        RECIPES[options.task.name],
        steps=options.total,
        seed=options.seed,
        num_envs=options.task.num_envs,
        overrides=[*overrides(options), *options.flags, *more],
        folder=folder,
        observer=clock,
    )


def to_score(options: Options, meter: Meter, folder: str) -> dict[str, Any]:
    """Train until the last 100 episodes average 475; greedy play is then judged from the checkpoints on the way."""
    from redline.api import Policy
    from redline.runs.checkpoint import list_checkpoints, load_checkpoint

    every = [f"run.checkpoint_every={EVALUATE_EVERY}", f"run.log_every={EVALUATE_EVERY}", "run.keep=1000"]
    run = train(options, folder, Clock(meter), [*every, f"run.stop_at_return={TARGET}"])
    if run.mean_return >= TARGET:
        meter.solved = (run.seconds, run.steps)
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    elapsed = {line["step"]: line["time/elapsed"] for line in lines if "time/elapsed" in line}
    experiment = run.load().experiment
    for checkpoint in list_checkpoints(run.path / "checkpoints"):
        policy = Policy(experiment, load_checkpoint(checkpoint))
        if policy.steps in elapsed and cartpole_score(policy.act) >= TARGET:
            meter.greedy = (elapsed[policy.steps], policy.steps)
            break
    return {"seconds": round(run.seconds, 2)}


def main() -> None:
    """Measure."""
    options = read_options("redline", list(RECIPES))
    meter = Meter(options)
    more: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if options.to_score:
            more = to_score(options, meter, folder)
        else:
            with contextlib.suppress(Finished):
                train(options, folder, Clock(meter), [])
        plan = json.loads(next(Path(folder).glob("*/plan.json")).read_text())["plan"]
    chosen = [f"{key} {value}" for key, value in plan.items() if key not in ("device", "num_envs")]
    more["threads"] = max(plan["gradient_shards"], plan["actor_threads"])
    packages = ["redline", "torch", "gymnasium", "ale-py", "numpy"]
    meter.report(packages, f"planned by itself: {', '.join(chosen)}", **more)


if __name__ == "__main__":
    main()
