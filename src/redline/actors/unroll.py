"""The actor: steps its environments with the acting weights and writes rows of an unroll allocated beforehand.

    acts on --> sends --> (other groups act meanwhile) --> receives --> writes row t

One actor owns one or more *groups* of environments. With two groups, one steps while the other acts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
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


class _Group:
    """One batch of environments of an actor: where its columns lie and what it will act on next."""

    def __init__(self, environment: Environment, columns: slice, seed: int, network: Any) -> None:
        self.environment, self.columns = environment, columns
        self.now = environment.reset(seed)
        self.reset = torch.ones(environment.num_envs, dtype=torch.bool)
        self.state: Tree = network.initial_state(environment.num_envs)


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
    ) -> None:
        self.algorithm, self.network, self.device = algorithm, network, torch.device(device)
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
                self._act(group, unroll, t, steps)
        self._receive_all(unroll, length - 1)
        for group in self.groups:
            self._finish(group, unroll, steps)

    def _receive_all(self, unroll: Unroll, t: int) -> None:
        for group in self.groups if t >= 0 else ():
            self._receive(group, unroll, t)

    def _begin(self, group: _Group, unroll: Unroll, version: int) -> None:
        columns = group.columns
        if group.state is not None:
            tree_map(lambda slot, now: slot[columns].copy_(now), unroll.state, group.state)
        if unroll.policy_version is not None:
            unroll.policy_version[:, columns] = version
        self._write_observation(group, unroll, 0)

    def _write_observation(self, group: _Group, unroll: Unroll, t: int) -> None:
        columns = group.columns
        tree_map(
            lambda slot, now: slot[t, columns].copy_(torch.from_numpy(now)),
            unroll.observation,
            group.now.observation,
        )
        unroll.reset[t, columns] = group.reset
        if unroll.action_mask is not None:
            unroll.action_mask[t, columns] = torch.from_numpy(group.now.action_mask)

    def _input(self, group: _Group, unroll: Unroll, t: int, steps: int) -> ActInput:
        columns = group.columns
        mask = None if unroll.action_mask is None else unroll.action_mask[t, columns]
        observation = tree_map(lambda slot: slot[t, columns], unroll.observation)
        x = ActInput(observation, group.state, group.reset, mask, self.generator, steps)
        return self._to_device(x) if self.device.type != "cpu" else x

    def _to_device(self, x: ActInput) -> ActInput:
        def move(leaf: Tensor) -> Tensor:
            return leaf.to(self.device, non_blocking=True)

        return x._replace(
            observation=tree_map(move, x.observation),
            reset=move(x.reset),
            action_mask=tree_map(move, x.action_mask),
        )

    def _act(self, group: _Group, unroll: Unroll, t: int, steps: int) -> None:
        begin = time.perf_counter()
        record, group.state = self.algorithm.act(self.network, self._input(group, unroll, t, steps))
        action = record["action"]
        chosen = time.perf_counter()
        group.environment.send(self.to_environment(action))  # environments of this process step in here
        self.clock["stepping"] += time.perf_counter() - chosen
        begin += time.perf_counter() - chosen
        unroll.action[t, group.columns] = action
        for name, slot in unroll.record.items():
            slot[t, group.columns] = record[name]
        self.clock["acting"] += time.perf_counter() - begin

    def _receive(self, group: _Group, unroll: Unroll, t: int) -> None:
        begin = time.perf_counter()
        step = group.environment.recv()
        self.clock["stepping"] += time.perf_counter() - begin
        columns = group.columns
        unroll.reward[t, columns] = torch.from_numpy(step.reward)
        unroll.terminated[t, columns] = torch.from_numpy(step.terminated)
        unroll.truncated[t, columns] = torch.from_numpy(step.truncated)
        unroll.final_value[t, columns] = 0.0
        if step.final_observation is not None and step.truncated.any():
            self._value_of_truncated(group, unroll, t, step)
        if step.final_observation is not None:
            group.reset = torch.from_numpy(step.terminated | step.truncated)
            self.episodes.extend(step.episodes)
        elif group.reset.any():
            group.reset = torch.zeros_like(group.reset)
        group.now = step
        self._write_observation(group, unroll, t + 1)

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
        x = self._input(group, unroll, len(unroll.action), steps)
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
            group.reset = saved["reset"].clone()
            group.state = tree_map(lambda x: x.clone(), saved["state"])
        return exact

    def close(self) -> None:
        """Close the environments."""
        for group in self.groups:
            group.environment.close()
