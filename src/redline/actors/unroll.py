"""The actor: steps its environments with the acting weights and writes rows of an unroll allocated beforehand.

    acts on --> sends --> (other groups act meanwhile) --> receives --> writes row t

One actor owns one or more *groups* of environments. With two groups, one steps while the other acts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from redline.types import ActInput, Environment, Episode, Interruption, Spec, Step, Tree, Unroll, tree_map

Clock = dict[str, float]  # seconds spent in "stepping" and "acting"


def allocate(
    algorithm: Any, network: Any, spec: Spec, length: int, num_envs: int, *, debug: bool = False
) -> Unroll:
    """An empty unroll [length, num_envs]. ``debug`` fills floats with NaN, so that an unwritten row is noticed."""
    space_zeros = _zeros_like_space(spec.observation, (length + 1, num_envs))
    action_shape, action_dtype = _action_form(spec)
    mask = None
    if spec.action_mask:
        mask = torch.ones((length + 1, num_envs, int(spec.action.n)), dtype=torch.bool)  # type: ignore[attr-defined]
    unroll = Unroll(
        observation=space_zeros,
        action=torch.zeros((length, num_envs, *action_shape), dtype=action_dtype),
        reward=torch.zeros((length, num_envs)),
        terminated=torch.zeros((length, num_envs), dtype=torch.bool),
        truncated=torch.zeros((length, num_envs), dtype=torch.bool),
        reset=torch.zeros((length + 1, num_envs), dtype=torch.bool),
        final_value=torch.zeros((length, num_envs)),
        record={
            name: torch.zeros((length, num_envs, *shape), dtype=dtype)
            for name, (shape, dtype) in algorithm.record().items()
        },
        state=network.initial_state(num_envs),
        bootstrap_value=torch.zeros(num_envs),
        action_mask=mask,
        policy_version=torch.zeros((2, num_envs), dtype=torch.int64),
    )
    if debug:
        unroll.map(lambda x: x.fill_(torch.nan) if x.is_floating_point() else x)
        unroll.final_value.zero_()
    return unroll


def _zeros_like_space(space: Any, leading: tuple[int, ...]) -> Tree:
    if hasattr(space, "spaces") and isinstance(space.spaces, dict):
        return {key: _zeros_like_space(part, leading) for key, part in space.spaces.items()}
    dtype = torch.from_numpy(np.zeros(1, dtype=space.dtype)).dtype
    dtype = torch.float32 if dtype == torch.float64 else dtype
    return torch.zeros((*leading, *space.shape), dtype=dtype)


def _action_form(spec: Spec) -> tuple[tuple[int, ...], torch.dtype]:
    continuous = np.issubdtype(spec.action.dtype, np.floating)
    return tuple(spec.action.shape or ()), torch.float32 if continuous else torch.int64


@dataclass
class _Row:
    """One time step of one group in an unroll: tensors to compute with, and arrays over the same memory to write to."""

    observation: Tree  # tensors [B, ...]
    seen: Tree  # the same as arrays
    reset: np.ndarray  # bool[B]
    action_mask: Tensor | None
    legal: np.ndarray | None  # the mask as an array
    action: Any = None  # Tensor; None in the last row, as all that follows
    record: tuple[tuple[str, Tensor], ...] = ()
    reward: Any = None  # arrays [B]
    terminated: Any = None
    truncated: Any = None


def _rows(unroll: Unroll, columns: slice) -> list[_Row]:
    """The rows of ``columns``; indexing them once spares a dozen small views at every step."""
    rows = []
    length = len(unroll.action)
    for t in range(length + 1):
        observation = tree_map(lambda slot, t=t: slot[t, columns], unroll.observation)
        mask = None if unroll.action_mask is None else unroll.action_mask[t, columns]
        row = _Row(
            observation=observation,
            seen=tree_map(Tensor.numpy, observation),
            reset=unroll.reset[t, columns].numpy(),
            action_mask=mask,
            legal=None if mask is None else mask.numpy(),
        )
        if t < length:
            row.action = unroll.action[t, columns]
            row.record = tuple((name, slot[t, columns]) for name, slot in unroll.record.items())
            row.reward = unroll.reward[t, columns].numpy()
            row.terminated = unroll.terminated[t, columns].numpy()
            row.truncated = unroll.truncated[t, columns].numpy()
        rows.append(row)
    return rows


class _Group:
    """One batch of environments of an actor: where its columns lie and what it will act on next."""

    def __init__(self, environment: Environment, columns: slice, seed: int, network: Any) -> None:
        self.environment, self.columns = environment, columns
        self.now = environment.reset(seed)
        self.reset = torch.ones(environment.num_envs, dtype=torch.bool)
        self.state: Tree = network.initial_state(environment.num_envs)
        self.fresh = False  # whether ``reset`` is known to be all False
        self.rows: list[_Row] = []
        self._unroll: Unroll | None = None

    def bind(self, unroll: Unroll) -> None:
        """Write to ``unroll`` from now on."""
        if self._unroll is not unroll:
            self._unroll, self.rows = unroll, _rows(unroll, self.columns)


class Actor:
    """Fills its columns of an unroll, time step by time step. Deterministic for a seed, whatever else runs."""

    def __init__(
        self,
        environments: Sequence[Environment],
        algorithm: Any,
        network: Any,
        *,
        seed: int,
        first_column: int = 0,
        device: str = "cpu",
        first_environment: int | None = None,
        num_envs: int = 0,
    ) -> None:
        """``first_environment``: number of this actor's first environment among the run's ``num_envs`` (default: its
        column). Seeds follow columns, exploration that differs between environments follows numbers.
        """
        self.algorithm, self.network, self.device = algorithm, network, torch.device(device)
        self.offset = 0 if first_environment is None else first_environment - first_column
        self.num_envs = num_envs
        self.generator = torch.Generator(self.device).manual_seed(seed + first_column)
        self.groups: list[_Group] = []
        self.to_environment = algorithm.to_environment
        for environment in environments:
            columns = slice(first_column, first_column + environment.num_envs)
            self.groups.append(_Group(environment, columns, seed + first_column, network))
            first_column = columns.stop
        self.clock: Clock = {"stepping": 0.0, "acting": 0.0}
        self.episodes: list[Episode] = []

    @torch.no_grad()
    def collect(self, unroll: Unroll, steps: int, version: int, stop: Callable[[], bool] = bool) -> None:
        """Write T steps of every environment into ``unroll``.

        Args:
          unroll: [T, B]; this actor's columns are written.   steps: agent steps of the run before this unroll.
          version: of the acting weights, stamped on the unroll.   stop: asked at each time step; True raises
            ``Interruption`` with every environment received.
        """
        length = len(unroll.action)
        for group in self.groups:
            self._begin(group, unroll, version)
        for t in range(length):
            if stop():
                self._receive_all(unroll, t - 1)
                raise Interruption
            for group in self.groups:
                if t > 0:
                    self._receive(group, unroll, t - 1)
                self._act(group, t, steps)
        self._receive_all(unroll, length - 1)
        for group in self.groups:
            self._finish(group, unroll, steps)

    def _receive_all(self, unroll: Unroll, t: int) -> None:
        for group in self.groups if t >= 0 else ():
            self._receive(group, unroll, t)

    def _begin(self, group: _Group, unroll: Unroll, version: int) -> None:
        columns = group.columns
        group.bind(unroll)
        if group.state is not None:
            tree_map(lambda slot, now: slot[columns].copy_(now), unroll.state, group.state)
        if unroll.policy_version is not None:
            unroll.policy_version[:, columns] = version
        unroll.final_value[:, columns] = 0.0
        self._write_observation(group, 0)

    def _write_observation(self, group: _Group, t: int) -> None:
        row = group.rows[t]
        tree_map(np.copyto, row.seen, group.now.observation)
        row.reset[...] = group.reset
        if row.legal is not None:
            row.legal[...] = group.now.action_mask

    def _input(self, group: _Group, t: int, steps: int) -> ActInput:
        row = group.rows[t]
        x = ActInput(
            row.observation,
            group.state,
            group.reset,
            row.action_mask,
            self.generator,
            steps,
            first_environment=group.columns.start + self.offset,
            num_environments=self.num_envs,
        )
        return self._to_device(x) if self.device.type != "cpu" else x

    def _to_device(self, x: ActInput) -> ActInput:
        def move(leaf: Tensor) -> Tensor:
            return leaf.to(self.device, non_blocking=True)

        return x._replace(
            observation=tree_map(move, x.observation),
            reset=move(x.reset),
            action_mask=tree_map(move, x.action_mask),
        )

    def _act(self, group: _Group, t: int, steps: int) -> None:
        begin = time.perf_counter()
        record, group.state = self.algorithm.act(self.network, self._input(group, t, steps))
        action, row = record["action"], group.rows[t]
        chosen = time.perf_counter()
        group.environment.send(self.to_environment(action))  # environments of this process step in here
        sent = time.perf_counter()
        row.action.copy_(action)
        for name, slot in row.record:
            slot.copy_(record[name])
        self.clock["stepping"] += sent - chosen
        self.clock["acting"] += time.perf_counter() - begin - (sent - chosen)

    def _receive(self, group: _Group, unroll: Unroll, t: int) -> None:
        begin = time.perf_counter()
        step = group.environment.recv()
        self.clock["stepping"] += time.perf_counter() - begin
        row = group.rows[t]
        row.reward[...] = step.reward
        row.terminated[...] = step.terminated
        row.truncated[...] = step.truncated
        if step.final_observation is not None:
            if step.truncated.any():
                self._value_of_truncated(group, unroll, t, step)
            group.reset = torch.from_numpy(step.terminated | step.truncated)
            self.episodes.extend(step.episodes)
            group.fresh = False
        elif not group.fresh:
            group.reset, group.fresh = torch.zeros_like(group.reset), True
        group.now = step
        self._write_observation(group, t + 1)

    def _value_of_truncated(self, group: _Group, unroll: Unroll, t: int, step: Step) -> None:
        rows = torch.from_numpy(np.flatnonzero(step.truncated))  # on the host
        final = tree_map(
            lambda x: torch.from_numpy(np.ascontiguousarray(x)).index_select(0, rows), step.final_observation
        )
        state = tree_map(lambda x: x.index_select(0, rows.to(x.device)), group.state)
        never = torch.zeros(len(rows), dtype=torch.bool)
        x = ActInput(final, state, never, None, self.generator, 0)
        value = self.algorithm.value(self.network, self._to_device(x)).cpu()
        unroll.final_value[t, rows + group.columns.start] = value

    def _finish(self, group: _Group, unroll: Unroll, steps: int) -> None:
        begin = time.perf_counter()
        assert unroll.bootstrap_value is not None
        x = self._input(group, len(unroll.action), steps)
        unroll.bootstrap_value[group.columns] = self.algorithm.value(self.network, x)
        self.clock["acting"] += time.perf_counter() - begin

    def state(self) -> dict[str, Any]:
        """Generator, recurrent states, and the environments where they can save themselves (else None)."""
        return {
            "generator": self.generator.get_state(),
            "groups": [
                {"environment": g.environment.state(), "reset": g.reset, "state": g.state}
                for g in self.groups
            ],
        }

    def load_state(self, state: dict[str, Any]) -> bool:
        """Go back to a saved state. False where the environments had to start new episodes instead."""
        self.generator.set_state(state["generator"])
        exact = True
        for group, saved in zip(self.groups, state["groups"], strict=True):
            if saved["environment"] is None:
                exact = False
                continue
            group.environment.load_state(saved["environment"])
            group.now = group.environment.observe()
            group.reset, group.fresh = saved["reset"].clone(), False
            group.state = tree_map(lambda x: x.clone(), saved["state"])
        return exact

    def close(self) -> None:
        """Close the environments."""
        for group in self.groups:
            group.environment.close()
