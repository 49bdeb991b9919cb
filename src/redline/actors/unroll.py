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

from redline.networks.acting import chooser
from redline.runs.rng import go_on_from
from redline.types import (
    ActInput,
    Environment,
    Episode,
    Interruption,
    RunError,
    Spec,
    Step,
    Tree,
    Unroll,
    tree_map,
)

Clock = dict[str, float]  # seconds spent in "stepping" and "acting"


Form = tuple[tuple[int, ...], str]  # shape and dtype of an array
SENTINEL = -(2**31)  # what integers hold that nobody has written yet, in debug runs


def unroll_forms(algorithm: Any, network: Any, spec: Spec, length: int, num_envs: int) -> dict[str, Tree]:
    """Shapes and dtypes of an unroll [length, num_envs], field by field: a tree of (shape, dtype)."""
    steps, rows = (length, num_envs), (length + 1, num_envs)
    shape, dtype = _action_form(spec)
    forms: dict[str, Tree] = {
        "observation": _space_forms(spec.observation, rows),
        "action": ((*steps, *shape), dtype),
        "reward": (steps, "float32"),
        "terminated": (steps, "bool"),
        "truncated": (steps, "bool"),
        "reset": (rows, "bool"),
        "final_value": (steps, "float32"),
        "record": {
            name: ((*steps, *each), str(kind).removeprefix("torch."))
            for name, (each, kind) in algorithm.record().items()
        },
        "state": tree_map(
            lambda x: (tuple(x.shape), str(x.dtype).removeprefix("torch.")), network.initial_state(num_envs)
        ),
        "bootstrap_value": ((num_envs,), "float32"),
        "policy_version": ((2, num_envs), "int64"),
    }
    if spec.action_mask:
        forms["action_mask"] = ((*rows, sum(spec.choices)), "bool")
    if algorithm.experience == "replay":  # bootstraps later, with weights of its own choosing
        forms["final_observation"] = _space_forms(spec.observation, steps)
    return forms


def unroll_over(arrays: dict[str, Tree], *, debug: bool = False) -> Unroll:
    """An unroll over arrays of ``unroll_forms``. ``debug`` fills it so that what was never written is noticed."""
    unroll = Unroll(**{name: tree_map(torch.from_numpy, tree) for name, tree in arrays.items()})
    if unroll.action_mask is not None:
        unroll.action_mask.fill_(True)
    if debug:
        unroll.map(_shout)
        unroll.final_value.zero_()
    return unroll


def _shout(x: Tensor) -> Tensor:
    if x.is_floating_point():
        return x.fill_(torch.nan)
    return x.fill_(SENTINEL) if x.dtype in (torch.int32, torch.int64) else x


def allocate(
    algorithm: Any, network: Any, spec: Spec, length: int, num_envs: int, *, debug: bool = False
) -> Unroll:
    """An empty unroll [length, num_envs] in plain memory. ``debug``: see ``unroll_over``."""
    forms = unroll_forms(algorithm, network, spec, length, num_envs)
    return unroll_over(
        {
            name: tree_map(lambda form: np.zeros(form[0], np.dtype(form[1])), tree)
            for name, tree in forms.items()
        },
        debug=debug,
    )


def _space_forms(space: Any, leading: tuple[int, ...]) -> Tree:
    if hasattr(space, "spaces") and isinstance(space.spaces, dict):
        return {key: _space_forms(part, leading) for key, part in space.spaces.items()}
    dtype = np.dtype(space.dtype)
    return ((*leading, *space.shape), "float32" if dtype == np.float64 else dtype.name)


def _action_form(spec: Spec) -> tuple[tuple[int, ...], str]:
    continuous = np.issubdtype(spec.action.dtype, np.floating)
    return tuple(spec.action.shape or ()), "float32" if continuous else "int64"


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


def _write_finals(unroll: Unroll, t: int, columns: slice, step: Step) -> None:
    """Final observations of truncated episodes, which replay keeps beside its rows."""
    rows = np.flatnonzero(step.truncated)

    def write(target: Tensor, source: np.ndarray) -> None:
        target[t, columns].numpy()[rows] = source[rows]

    tree_map(write, unroll.final_observation, step.final_observation)


class _Group:
    """One batch of environments of an actor: where its columns lie and what it will act on next."""

    def __init__(self, environment: Environment, columns: slice, seed: int, network: Any) -> None:
        self.environment, self.columns = environment, columns
        self.now = environment.reset(seed)
        self.reset = torch.ones(environment.num_envs, dtype=torch.bool)
        self.state: Tree = network.initial_state(environment.num_envs)
        self.fresh = False  # whether ``reset`` is known to be all False
        self.rows: list[_Row] = []
        self._known: dict[int, tuple[Unroll, list[_Row]]] = {}  # slots that take turns

    def bind(self, unroll: Unroll) -> None:
        """Write to ``unroll`` from now on."""
        known = self._known.get(id(unroll))
        if known is None or known[0] is not unroll:
            known = self._known[id(unroll)] = unroll, _rows(unroll, self.columns)
        self.rows = known[1]


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
        own_columns: bool = False,
        num_envs: int = 0,
    ) -> None:
        """first_column: its first environment among the run's ``num_envs``, which seeds and exploration follow; with
        ``own_columns`` the unrolls it writes hold its environments alone, and begin with column 0."""
        self.algorithm, self.network, self.device = algorithm, network, torch.device(device)
        self.offset = first_column if own_columns else 0
        self.num_envs = num_envs
        self.generator = torch.Generator(self.device).manual_seed(seed + first_column)
        self._choose = chooser(algorithm, network, self.generator, self.device)
        self.groups: list[_Group] = []
        self.to_environment = algorithm.to_environment
        start = 0 if own_columns else first_column
        for environment in environments:
            columns = slice(start, start + environment.num_envs)
            self.groups.append(_Group(environment, columns, seed + first_column, network))
            start, first_column = columns.stop, first_column + environment.num_envs
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
        """On the host."""
        row = group.rows[t]
        return ActInput(
            row.observation,
            group.state,
            group.reset,
            row.action_mask,
            self.generator,
            steps,
            first_environment=group.columns.start + self.offset,
            num_environments=self.num_envs,
            record=bool(row.record),
        )

    def _act(self, group: _Group, t: int, steps: int) -> None:
        begin = time.perf_counter()
        record, group.state = self._choose(self._input(group, t, steps))
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
            if unroll.final_observation is not None:
                _write_finals(unroll, t, group.columns, step)
            elif step.truncated.any():
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
        value = self.algorithm.value(self.network, x.to(self.device)).cpu()
        unroll.final_value[t, rows + group.columns.start] = value

    def _finish(self, group: _Group, unroll: Unroll, steps: int) -> None:
        if not self.algorithm.bootstraps:
            return
        begin = time.perf_counter()
        assert unroll.bootstrap_value is not None
        x = self._input(group, len(unroll.action), steps).to(self.device)
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
        if not go_on_from(self.generator, state["generator"]):
            return False
        if (count := len(state["groups"])) != len(self.groups):
            raise RunError(
                f"the checkpoint is of actors with {count} groups of environments each, "
                f"config.yaml asks for {len(self.groups)}: set sampler.groups={count}"
            )
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
