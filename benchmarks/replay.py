"""What replay costs: one JSON line of microseconds of processor time, and gibibytes.

Adds and draws Atari-sized observations (84 x 84, stacks of 4) from a replay of a million transitions of which only as
many are written as fit the time and the memory, next to a naive replay (two whole stacks a transition) holding as many
as it can. Draws are spread over all that is written, far more than the processor caches.

    python benchmarks/replay.py [--written 120000] [--envs 8]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import ale_py.vector_env
import gymnasium
import numpy as np

from redline.replay import Replay, ReplayConfig
from redline.replay.shards import ShardedReplay
from redline.replay.storage import Block
from redline.types import Spec

SCREEN = gymnasium.spaces.Box(0, 255, (4, 84, 84), np.uint8)
SPEC = Spec("atari", SCREEN, gymnasium.spaces.Discrete(6), action_repeat=4, frame_stack=4)
BATCHES = (32, 512)
SCENE = 64  # steps; episodes are whole scenes, so that observations go on without a jump
EPISODE = 16 * SCENE


class Naive:
    """Whole stacks, twice: the replay that everybody writes first."""

    def __init__(self, capacity: int) -> None:
        self.observation = np.empty((capacity, *SCREEN.shape), np.uint8)
        self.following = np.empty((capacity, *SCREEN.shape), np.uint8)
        self.rest = np.zeros((capacity, 3), np.float32)
        self.head, self.capacity = 0, capacity
        self.rng = np.random.default_rng(0)

    def add(self, observation: np.ndarray, following: np.ndarray, rest: np.ndarray) -> None:
        at = np.arange(self.head, self.head + len(observation)) % self.capacity
        self.observation[at], self.following[at], self.rest[at] = observation, following, rest
        self.head += len(observation)

    def sample(self, batch: int) -> tuple[np.ndarray, ...]:
        at = self.rng.integers(0, min(self.head, self.capacity), batch)
        return self.observation[at], self.following[at], self.rest[at]


def microseconds(function: Callable[[], Any], seconds: float = 1.0) -> float:
    """Median processor time of a call over about ``seconds``: the clock of the wall would count other programs."""
    function()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.thread_time_ns()
        function()
        times.append((time.thread_time_ns() - start) / 1e9)
    return round(float(np.median(times)) * 1e6, 1)


def screens(envs: int) -> list[np.ndarray]:
    """A scene of SCENE observations [envs, 4, 84, 84] that repeats: Pong's screens, moving on one frame a step."""
    ale = ale_py.vector_env.AtariVectorEnv("pong", envs, stack_num=4)
    ale.reset(seed=0)
    rng, frames = np.random.default_rng(0), list[np.ndarray]()
    frames += [ale.step(rng.integers(0, 6, envs))[0][:, -1] for _ in range(SCENE)]
    ale.close()
    return [np.stack([frames[(i + j - 3) % SCENE] for j in range(4)], axis=1) for i in range(SCENE)]


def fill(replay: Replay, scene: list[np.ndarray], steps: range) -> float:
    """Write some steps of every environment; microseconds per agent step."""
    envs = replay.num_envs
    action, reward, none = np.zeros(envs, np.int64), np.zeros(envs, np.float32), np.zeros(envs, bool)
    terminal = np.ones(envs, bool)
    start = time.thread_time()
    for step in steps:
        replay.add(scene[step % SCENE], action, reward, terminal if (step + 1) % EPISODE == 0 else none, none)
    return round((time.thread_time() - start) / (len(steps) * envs) * 1e6, 2)


def measure(config: ReplayConfig, scene: list[np.ndarray], written: int) -> dict[str, Any]:
    """Figures of one configuration."""
    envs = len(scene[0])
    replay = Replay(SPEC, config, envs)
    fill(replay, scene, range(SCENE))  # compiles
    result: dict[str, Any] = {"add_us_per_step": fill(replay, scene, range(SCENE, written // envs))}
    for batch in BATCHES:
        result[f"sample_{batch}_us"] = microseconds(lambda batch=batch: replay.sample(batch))
        if config.prioritized:
            drawn = replay.sample(batch)
            error = np.random.default_rng(0).random(batch).astype(np.float32)
            result[f"update_{batch}_us"] = microseconds(
                lambda drawn=drawn, error=error: replay.update_priorities(drawn.index, error), 0.5
            )
    result["gib_per_million"] = round(replay.nbytes() / config.capacity * 1e6 / 2**30, 3)
    return result


def measure_shards(config: ReplayConfig, scene: list[np.ndarray], written: int) -> dict[str, Any]:
    """Figures of two shards that share the environments, filled as two actors fill them: 13 steps at a time."""
    half, length = len(scene[0]) // 2, 13
    replay = ShardedReplay(SPEC, config, [half, half])
    none, actions = np.zeros((length, half), bool), np.zeros((length, half), np.int64)
    known = np.random.default_rng(0).random((length, half)).astype(np.float32)

    def fill_one(shard: int, first: int) -> None:
        steps = np.stack([scene[step % SCENE][:half] for step in range(first, first + length)])
        ends = np.array([[(step + 1) % EPISODE == 0] * half for step in range(first, first + length)])
        reward = known
        start = time.thread_time()
        replay.extend(shard, Block(steps, actions, reward, ends, none, priority=known))
        seconds.append(time.thread_time() - start)

    seconds: list[float] = []
    for first in range(0, written // len(scene[0]), length):
        for shard in (0, 1):
            fill_one(shard, first)
    result: dict[str, Any] = {
        "add_us_per_step": round(sum(seconds[10:]) / len(seconds[10:]) / known.size * 1e6, 2)
    }
    for batch in BATCHES:
        result[f"sample_{batch}_us"] = microseconds(lambda batch=batch: replay.sample(batch))
        drawn = replay.sample(batch)
        error = np.random.default_rng(0).random(batch).astype(np.float32)
        result[f"update_{batch}_us"] = microseconds(
            lambda drawn=drawn, error=error: replay.update_priorities(drawn.index, error), 0.5
        )
    return result


def measure_naive(scene: list[np.ndarray], written: int) -> dict[str, Any]:
    """The same figures for whole stacks."""
    naive, envs, rest = Naive(written), len(scene[0]), np.zeros((len(scene[0]), 3), np.float32)
    start = time.thread_time()
    for step in range(written // envs):
        naive.add(scene[step % SCENE], scene[(step + 1) % SCENE], rest)
    added = (time.thread_time() - start) / written * 1e6
    size = naive.observation.nbytes + naive.following.nbytes + naive.rest.nbytes
    result: dict[str, Any] = {"written": written, "add_us_per_step": round(added, 2)}
    for batch in BATCHES:
        result[f"sample_{batch}_us"] = microseconds(lambda batch=batch: naive.sample(batch))
    return {**result, "gib_per_million": round(size / written * 1e6 / 2**30, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--written", type=int, default=120_000, help="transitions written of the million")
    parser.add_argument("--envs", type=int, default=8)
    options = parser.parse_args()
    scene = screens(options.envs)
    cases = {
        "uniform": ReplayConfig(),
        "uniform_n3": ReplayConfig(n_step=3),
        "prioritized": ReplayConfig(prioritized=True),
    }
    result: dict[str, Any] = {"benchmark": "replay", "written": options.written, "envs": options.envs}
    for name, config in cases.items():
        result[name] = measure(config, scene, options.written)
    result["lz4"] = measure(
        ReplayConfig(options.written // 4, compression="lz4"), scene, options.written // 4
    )
    result["two_shards"] = measure_shards(ReplayConfig(prioritized=True), scene, options.written)
    result["naive"] = measure_naive(scene, options.written // 4)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
