"""The GPU paths, checked and timed: PyTorch, NumPy, gymnasium and ale-py are all it needs beside Redline's sources.

    PYTHONPATH=src python benchmarks/gpu.py [--device cuda] [--seconds 10]

For each recipe and for every combination of precision and CUDA graphs: agent steps/s of real training on Pong with
learning on, the share of the time that its loop steps, acts, learns or waits, and what the environments alone would do
(``raw``); and whether the recorded update moves the weights as the eager one does (``drift``: largest difference after
the same updates, relative to the size of the move). ``--compare``: the first recipe on the CPU, too. ``--compile``:
the network that learns by ``torch.compile`` as well. One JSON line. With ``--device cpu`` the same code runs without
graphs: a check of the benchmark itself.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from redline import environments
from redline.recipes.actor_learner import apex_atari, impala_atari, seed_atari
from redline.recipes.atari import a2c_atari, dqn_atari, ppo_atari
from redline.runs.provenance import provenance, usable_cores
from redline.runtime.experiment import Experiment
from redline.runtime.launch import make_loop
from redline.runtime.parts import Parts, assemble
from redline.types import Unroll

RECIPES = {
    "ppo": ppo_atari,
    "a2c": a2c_atari,
    "dqn": dqn_atari,
    "impala": impala_atari,
    "seed": seed_atari,
    "apex": apex_atari,
}
WARM = 5  # iterations before the clock starts: recordings are made, actors are at work


@dataclass(frozen=True)
class Way:
    """How a device is driven."""

    device: str
    precision: Any
    graphs: bool = False
    compile: bool = False


def experiment_of(recipe: str, way: Way, num_envs: int) -> Experiment:
    """A recipe on a device; DQN with a small replay and a short warm-up."""
    made = RECIPES[recipe]()
    learner = replace(
        made.learner,
        device=way.device,
        precision=way.precision,
        cuda_graphs=way.graphs,
        compile=way.compile,
    )
    environment = replace(made.environment, id="ALE/Pong-v5")
    sampler = replace(made.sampler, num_envs=num_envs)
    made = replace(made, learner=learner, sampler=sampler, environment=environment)
    if made.replay is not None:
        algorithm = replace(made.algorithm, learning_starts=1024)  # type: ignore[call-arg]
        made = replace(made, algorithm=algorithm, replay=replace(made.replay, capacity=20_000))
    return made


def synchronise(device: str) -> None:
    """Wait for the device, so that a clock read next tells the truth."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def throughput(parts: Parts, device: str, seconds: float) -> dict[str, float]:
    """Agent steps/s and updates/s with learning on, and the shares of the loop's time, after a warm-up."""
    loop = make_loop(parts)
    steps = 0
    try:
        for _ in range(WARM):
            steps += loop.iterate(steps, 0.0, bool)[0]
        while parts.learner.version < WARM:
            steps += loop.iterate(steps, 0.0, bool)[0]
        synchronise(device)
        begin, first, updates = time.perf_counter(), steps, parts.learner.version
        clock = dict(loop.clock)
        while time.perf_counter() - begin < seconds:
            steps += loop.iterate(steps, 0.0, bool)[0]
        synchronise(device)
        elapsed = time.perf_counter() - begin
        shares = {name: round((spent - clock[name]) / elapsed, 3) for name, spent in loop.clock.items()}
    finally:
        loop.close()
    return shares | {
        "steps_per_second": (steps - first) / elapsed,
        "updates_per_second": (parts.learner.version - updates) / elapsed,
    }


def raw(num_envs: int, seconds: float) -> float:
    """Agent steps/s of as many Pongs stepped together, random actions, on every core."""
    config = experiment_of("ppo", Way("cpu", "fp32"), num_envs).environment
    environment = environments.make(config, num_envs, threads=min(usable_cores(), num_envs))
    chance = np.random.default_rng(0)
    try:
        environment.reset(0)
        begin, rounds = time.perf_counter(), 0
        while time.perf_counter() - begin < seconds:
            environment.send(chance.integers(0, 6, num_envs))
            environment.recv()
            rounds += 1
        return rounds * num_envs / (time.perf_counter() - begin)
    finally:
        environment.close()


def random_unroll(parts: Parts, seed: int) -> Unroll:
    """A PPO unroll of noise on the learner's device."""
    from redline.actors import allocate

    sampler = parts.experiment.sampler
    length = parts.experiment.algorithm.unroll  # type: ignore[union-attr]
    unroll = allocate(parts.algorithm, parts.learner.acting, parts.spec, length, sampler.num_envs)
    chance = torch.Generator().manual_seed(seed)
    unroll.observation.random_(0, 256, generator=chance)
    unroll.action.random_(0, int(parts.spec.action.n), generator=chance)  # type: ignore[attr-defined]
    unroll.reward.normal_(generator=chance)
    unroll.record["log_prob"].fill_(-1.79)
    return unroll.map(lambda x: x.to(parts.learner.device))


def drift(way: Way, num_envs: int) -> float:
    """Largest difference between weights after eager updates and after those, relative to how far they moved."""
    ends = []
    for each in (replace(way, graphs=False, compile=False), way):
        parts = assemble(experiment_of("ppo", each, num_envs))
        start = parts.learner.flat.clone()
        for seed in range(2):
            parts.algorithm.update(parts.learner, random_unroll(parts, seed), 0.25 * seed)
        ends.append(parts.learner.flat - start)
        parts.close()
    return float((ends[0] - ends[1]).abs().max() / ends[0].abs().max())


def main() -> None:
    """Run everything and print one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--num-envs", type=int, nargs="+", default=[8, 128])
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--compare", action="store_true", help="the first recipe on the CPU, too")
    parser.add_argument(
        "--compile", action="store_true", help="by torch.compile, too (half a minute for each)"
    )
    options = parser.parse_args()
    cuda = options.device.startswith("cuda")
    if cuda and not torch.cuda.is_available():
        parser.error("no CUDA device here; --device cpu checks the benchmark itself")
    rows: list[dict[str, Any]] = []
    # As training does: a team of threads for each small copy would cost more than it gives.
    torch.set_num_threads(1)

    def measure(recipe: str, way: Way, num_envs: int) -> None:
        parts = assemble(experiment_of(recipe, way, num_envs))
        row = {"recipe": recipe, "num_envs": num_envs, "copies": parts.experiment.parallel.copies}
        try:
            rows.append(row | asdict(way) | throughput(parts, way.device, options.seconds))
        finally:
            parts.close()
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)

    ceilings = {n: raw(n, min(options.seconds, 2.0)) for n in options.num_envs}
    print(json.dumps({"raw": ceilings}), file=sys.stderr, flush=True)
    driven = [
        (graphs, made)
        for graphs in (False, True)[: 1 + cuda]
        for made in (False, True)[: 1 + options.compile]
    ]
    ways = {p: [Way(options.device, p, graphs, made) for graphs, made in driven] for p in options.precisions}
    for num_envs in options.num_envs:
        for precision in options.precisions:
            if options.compare:
                measure(options.recipes[0], Way("cpu", precision), num_envs)
            for recipe in options.recipes:
                for way in ways[precision]:
                    measure(recipe, way, num_envs)
    check = [asdict(way) | {"drift": drift(way, options.num_envs[0])} for p in ways for way in ways[p][1:]]
    name = torch.cuda.get_device_name() if cuda else "cpu"
    print(
        json.dumps(
            {"benchmark": "gpu", "device": name, "provenance": provenance(options.device), "raw": ceilings}
            | {"rows": rows, "drift": check}
        )
    )


if __name__ == "__main__":
    main()
