"""A replay that is obviously right: whole stacks kept in lists, windows walked one step at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np

from redline.replay import Replay
from redline.types import Spec, tree_map

STACK, SIDE = 4, 5


def picture_spec(stack: int = STACK, side: int = SIDE) -> Spec:
    space = gymnasium.spaces.Box(0, 255, (stack, side, side), np.uint8)
    return Spec("pictures", space, gymnasium.spaces.Discrete(6), frame_stack=stack)


@dataclass
class Row:
    observation: Any
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    final_observation: Any


@dataclass
class NaiveReplay:
    """Every step of every environment for ever; ``transition`` works one out from the steps."""

    num_envs: int
    n_step: int
    gamma: float
    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        self.rows.append(row)

    def transition(self, index: int) -> dict[str, Any]:
        first, env = divmod(index, self.num_envs)
        total, discount, row = 0.0, 1.0, first
        while True:
            step = self.rows[row]
            total += discount * float(step.reward[env])
            discount *= self.gamma
            if step.terminated[env]:
                discount, following = 0.0, None
                break
            if step.truncated[env]:
                following = tree_map(lambda leaf: leaf[env], step.final_observation)
                break
            row += 1
            if row == first + self.n_step:
                following = tree_map(lambda leaf: leaf[env], self.rows[row].observation)
                break
        start = self.rows[first]
        return {
            "observation": tree_map(lambda leaf: leaf[env], start.observation),
            "action": start.action[env],
            "reward": np.float32(total),
            "discount": np.float32(discount),
            "next_observation": following,
        }


class Pictures:
    """Random episodes of stacked pictures; ``first`` says what fills a first observation's stack."""

    def __init__(self, num_envs: int, seed: int, first: str, ends: float = 0.15, side: int = SIDE) -> None:
        self.rng = np.random.default_rng(seed)
        self.num_envs, self.first, self.ends, self.side = num_envs, first, ends, side
        self.observation = np.stack([self._reset() for _ in range(num_envs)])

    def _frame(self) -> np.ndarray:
        return self.rng.integers(0, 256, (self.side, self.side), np.uint8)

    def _reset(self) -> np.ndarray:
        first = self.first if self.first != "any" else self.rng.choice(["zeros", "copies", "random"])
        stack = self.rng.integers(0, 256, (STACK, self.side, self.side), np.uint8)
        if first != "random":
            stack[:-1] = 0 if first == "zeros" else stack[-1]
        return stack

    def step(self) -> Row:
        """The step taken on the current observation, which then moves on."""
        rng, envs = self.rng, self.num_envs
        ended = rng.random(envs) < self.ends
        terminated = ended & (rng.random(envs) < 0.5)
        truncated = ended & (~terminated | (rng.random(envs) < 0.1))
        before = self.observation
        after = np.stack([np.concatenate([before[env, 1:], self._frame()[None]]) for env in range(envs)])
        final = None
        if ended.any():
            final = after.copy()
            final[~ended] = 77  # rows without an end are not to be looked at
            if rng.random() < 0.2:  # a final observation that does not continue the stack is still that one
                final[ended] = rng.integers(0, 256, final[ended].shape, np.uint8)
            after[ended] = np.stack([self._reset() for _ in range(int(ended.sum()))])
        self.observation = after
        reward = rng.normal(size=envs).astype(np.float32)
        return Row(before, rng.integers(0, 6, envs), reward, terminated, truncated, final)


def add(replay: Replay, row: Row, **extra: Any) -> None:
    replay.add(
        row.observation, row.action, row.reward, row.terminated, row.truncated, row.final_observation, **extra
    )


def compare(replay: Replay, naive: NaiveReplay, ids: np.ndarray) -> None:
    """Draw exactly these ids, and assert that every field is the naive replay's, bit for bit."""
    buffer = replay._buffers.next(len(ids))
    replay.storage.gather(ids, buffer.arrays)
    for index, number in enumerate(ids.tolist()):
        right = naive.transition(number)
        batch = buffer.batch
        assert_equal(row_of(batch.observation, index), right["observation"])
        assert np.array_equal(batch.action[index].numpy(), right["action"])
        assert batch.reward[index].item() == right["reward"] or np.isclose(
            batch.reward[index].item(), right["reward"], rtol=1e-6, atol=1e-6
        )
        assert np.isclose(batch.discount[index].item(), right["discount"], rtol=1e-6)
        if right["next_observation"] is not None:
            assert_equal(row_of(batch.next_observation, index), right["next_observation"])


def row_of(tree: Any, index: int) -> Any:
    return tree_map(lambda leaf: leaf[index].numpy(), tree)


def assert_equal(left: Any, right: Any) -> None:
    if isinstance(right, dict):
        assert left.keys() == right.keys()
        for key in right:
            assert_equal(left[key], right[key])
    else:
        assert np.array_equal(left, right)
