"""Run folders with numbers that look like those of a real run, for looking at reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

RULES = [
    "one agent step is 4 frames",
    "truncated episodes bootstrap from their final observation; terminated ones do not",
    "rewards are clipped to [-1, 1] for learning; returns shown are raw",
    "observations are not normalised",
    "bf16 on cpu, 2 gradient shard(s), 8 environments in 1 actor thread(s)",
    "seed 1: environment i is seeded with seed + i",
]


def config(seed: int = 1, recipe: str = "ppo") -> dict[str, Any]:
    """A configuration as ``config.yaml`` holds it."""
    return {
        "recipe": recipe,
        "environment": {
            "id": "ALE/Pong-v5",
            "kwargs": {},
            "action_repeat": 4,
            "frame_stack": 4,
            "time_limit": None,
        },
        "algorithm": {
            "kind": recipe,
            "gamma": 0.99,
            "gae_lambda": 0.95,
            "clip": 0.1,
            "epochs": 4,
            "minibatches": 4,
        },
        "network": {"torso": "nature", "hidden": [512], "core": "none", "normalize_observation": False},
        "learner": {"learning_rate": 2.5e-4, "max_grad_norm": 0.5, "precision": "bf16", "device": "cpu"},
        "sampler": {"num_envs": 8, "shards": 1, "groups": 2},
        "run": {"steps": 2_500_000, "seed": seed, "keep": 2, "tensorboard": True, "wandb": False},
    }


def lines(seed: int = 1, count: int = 200, every: int = 12_500) -> list[dict[str, Any]]:
    """What a PPO run on Pong writes: returns from -20.5 to about 20 along an S, speed that wavers."""
    rng = np.random.default_rng(seed)
    middle, rows = 0.45 + 0.06 * rng.normal(), []
    elapsed = 0.0
    for index in range(1, count + 1):
        share = index / count
        mean = -20.6 + 40.4 / (1 + np.exp(-11 * (share - middle))) + 0.35 * rng.normal()
        spread = 1 + 5 * np.exp(-(((share - middle) / 0.2) ** 2))
        speed = 610 + 25 * rng.normal() - (180 if 90 <= index <= 96 else 0)
        elapsed += every / speed
        stepping, acting = 0.21 + 0.012 * rng.normal(), 0.13 + 0.01 * rng.normal()
        other = 0.03 + 0.004 * abs(rng.normal())
        rows.append(
            {
                "step": index * every,
                "frames": index * every * 4,
                "updates": index * every // 1024 * 16,
                "episodes": int(index * every / (800 + 900 * share)),
                "learning_rate": 2.5e-4 * (1 - share),
                "return/mean": mean,
                "return/min": max(mean - 2.2 * spread, -21),
                "return/max": min(mean + 2.6 * spread, 21),
                "length/mean": 800 + 1400 * np.exp(-(((share - 0.5) / 0.3) ** 2)) + 20 * rng.normal(),
                "loss/policy": -0.012 + 0.004 * rng.normal(),
                "loss/value": 0.05 + 0.3 * np.exp(-4 * share) * abs(1 + 0.3 * rng.normal()),
                "loss/entropy": 1.79 - 1.2 * share + 0.03 * rng.normal(),
                "loss/kl": 0.006 + 0.002 * abs(rng.normal()),
                "loss/clip_fraction": 0.11 + 0.02 * rng.normal(),
                "loss/explained_variance": 1 - np.exp(-5 * share) + 0.02 * rng.normal(),
                "events/crashes": 1 if index > 120 else 0,
                "time/elapsed": elapsed,
                "time/steps_per_second": speed,
                "time/frames_per_second": speed * 4,
                "time/updates_per_second": speed / 64,
                "time/stepping": stepping,
                "time/acting": acting,
                "time/learning": 1 - stepping - acting - other,
                "time/other": other,
            }
        )
        if index % 20 == 0:
            evaluated = min(mean + 1.0, 21)
            rows.append(
                {
                    "step": index * every,
                    "evaluation/return": evaluated,
                    "evaluation/min": evaluated - 3,
                    "evaluation/max": min(evaluated + 2, 21),
                }
            )
    return rows


def make_run(folder: Path, seed: int = 1, recipe: str = "ppo", **numbers: int) -> Path:
    """Write ``config.yaml``, ``plan.json`` and ``metrics.jsonl`` into a new ``folder``."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config(seed, recipe), sort_keys=False))
    about = {
        "plan": {
            "device": "cpu",
            "precision": "bf16",
            "gradient_shards": 2,
            "actor_threads": 1,
            "num_envs": 8,
        },
        "provenance": {
            "command": f"redline train ALE/Pong-v5 --seed {seed}",
            "commit": "1b85e98d77c1",
            "machine": {
                "system": "Linux x86_64",
                "processor": "Example 9000",
                "cores": 2,
                "memory_gib": 23.5,
            },
            "versions": {"python": "3.11.7", "redline": "0.1.0", "torch": "2.13.0", "numpy": "2.4.6"},
        },
        "rules": RULES,
    }
    (folder / "plan.json").write_text(json.dumps(about))
    with open(folder / "metrics.jsonl", "w") as file:
        for line in lines(seed, **numbers):
            file.write(json.dumps(line) + "\n")
    return folder
