"""The inference server's work on one batch of workers: one forward pass, whose results go where each is expected.

A batch whose workers are neighbours at the same step of the same slot is read and written in place, with no copy, and
computes bit for bit what an actor in one process does; any other is gathered by row numbers, one call a field.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from redline.inference.tables import SLOT, STEP, TICKET, Tables
from redline.networks.acting import chooser
from redline.types import ActInput, Tree, tree_map

Index = Any  # slice(first, last) where columns are neighbours, else i64[n]


class Policy:
    """A network to act with, and how it gets its newest weights."""

    def __init__(
        self,
        network: Any,
        refresh: Callable[[], int],
        announce: Callable[[np.ndarray], None] = lambda stamp: None,
    ) -> None:
        """refresh: loads the newest weights into ``network`` where there are newer ones, returns their version.
        announce: writes how new weights that are loaded from now on are at least."""
        self.network, self.refresh, self.announce = network, refresh, announce


class Server:
    """Acts for W workers; keeps where each is in its unroll, and the recurrent state of each environment.

    Policies are of one shape; each worker is acted for by one of them: a member of a population's, an opponent's.
    """

    def __init__(
        self,
        tables: Tables,
        algorithm: Any,
        policies: Sequence[Policy],
        seed: int,
        steps: Callable[[], int],
        device: str = "cpu",
        assigned: Sequence[int] | None = None,
    ) -> None:
        """Args:
        seed: of the actions drawn.
        steps: agent steps of the whole run, for exploration schedules.
        device: where the networks compute; tables are on the host.
        assigned: of each worker, the number of its policy; None: the first acts for all.
        """
        self.tables, self.shape = tables, tables.shape
        self.algorithm, self.policies, self.steps = algorithm, list(policies), steps
        self.device = torch.device(device)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self._choose = {
            policy: chooser(algorithm, policy.network, self.generator, self.device)
            for policy in self.policies
        }
        self.state: Tree = self.policies[0].network.initial_state(self.shape.columns)
        self.assigned = np.zeros(self.shape.workers, np.int64) if assigned is None else np.asarray(assigned)
        workers = self.shape.workers
        self.slot = np.full(workers, -1)  # that each fills; -1: none
        self.time = np.zeros(workers, np.int64)  # rows of it that are complete
        self.acting = 0.0  # seconds
        self.served = 0  # agent steps
        self._columns = [np.arange(*span) for span in self.shape.spans]
        self._single = self.shape.workers == self.shape.columns
        self._views: dict[tuple[int, int, int, int], _InPlace] = {}
        # Every worker alone and every group whole, at every row. Of neighbours that ask together there is no end.
        self._most_views = self.shape.slots * (self.shape.length + 1) * (workers + len(self.shape.groups))

    def begin(self, worker: int, slot: int) -> None:
        """A worker's next unroll goes into ``slot``; its first row is what the worker sees now."""
        first, last = self.shape.spans[worker]
        unroll, now = self.tables.slot(slot, first, last), self.tables.now
        tree_map(lambda x, y: np.copyto(x[0], y[first:last]), unroll["observation"], now["observation"])
        unroll["reset"][0] = now["reset"][first:last]
        if "action_mask" in unroll:
            unroll["action_mask"][0] = now["action_mask"][first:last]
        unroll["final_value"][...] = 0.0
        self.policies[self.assigned[worker]].announce(unroll["policy_version"][0])
        if self.state is not None:
            tree_map(lambda x, y: np.copyto(x, y[first:last].cpu().numpy()), unroll["state"], self.state)
        self.tables.ended[slot, worker] = 0
        self.slot[worker], self.time[worker] = slot, 0

    def forget(self, worker: int) -> bool:
        """A worker started anew: its recurrent state is void; whether part of an unroll is lost with it."""
        first, last = self.shape.spans[worker]
        tree_map(lambda x: x[first:last].zero_(), self.state)
        lost = bool(self.slot[worker] >= 0 and self.time[worker] > 0)
        self.time[worker] = 0
        return lost

    @torch.no_grad()
    def serve(self, workers: Sequence[int], cut: Sequence[int] = ()) -> tuple[list[int], list[int]]:
        """Act for ``workers`` (ascending), each with ``time`` whole rows; orders are written, nobody is rung.

        Args:
          cut: those of them whose newest step truncated an episode.

        Returns:
          Workers to ring, and workers whose unrolls are complete.
        """
        begin = time.perf_counter()
        who, truncated = np.asarray(workers), np.asarray(cut, np.int64)
        if len(self.policies) == 1:
            rung, ended = self._serve(self.policies[0], who, truncated)
        else:
            rung, ended = [], []
            for number in np.unique(self.assigned[who]).tolist():
                mine, mine_cut = (each[self.assigned[each] == number] for each in (who, truncated))
                found = self._serve(self.policies[number], mine, mine_cut)
                rung, ended = rung + found[0], ended + found[1]
        self.acting += time.perf_counter() - begin
        return rung, ended

    def _serve(self, policy: Policy, who: np.ndarray, cut: np.ndarray) -> tuple[list[int], list[int]]:
        """The workers ``who`` of one policy."""
        version = policy.refresh()
        if len(cut):
            self._value_final(policy, cut)
        ending = self.time[who] == self.shape.length
        ended = who[ending] if ending.any() else who[:0]
        if len(ended):
            self._finish(policy, ended, version)
            who = who[~ending]
        if len(who):
            neighbours = who[-1] - who[0] == len(who) - 1
            # Q-learners explore differently in each environment, and know them by the first one's number alone.
            for part in [who] if neighbours or self.algorithm.network_kind != "q" else who[:, None]:
                self._act(policy, part, version)
        return who.tolist(), ended.tolist()

    def _act(self, policy: Policy, who: np.ndarray, version: int) -> None:
        place = self._place(who)
        record, state = self._choose[policy](self._input(place))
        if self.state is not None:
            tree_map(lambda mine, new: mine.__setitem__(place.columns, new), self.state, state)
        action = record["action"]
        self.tables.sent[place.columns] = self.algorithm.to_environment(action)
        place.put(record, version)
        first = self.time[who] == 0
        if first.any():
            self._stamp(who[first], 0, version)
        order = self.tables.order
        order[who, SLOT], order[who, STEP] = self.slot[who], self.time[who]
        order[who, TICKET] += 1
        self.served += len(action)

    def _stamp(self, who: np.ndarray, which: int, version: int) -> None:
        """policy_version: row 0 is the oldest version that acted, row 1 the newest."""
        columns, slots, _ = self._rows(who)
        self.tables.unroll["policy_version"][slots, which, columns] = version

    def _finish(self, policy: Policy, who: np.ndarray, version: int) -> None:
        if self.algorithm.bootstraps:
            place = self._place(who)
            x = self._input(place).to(self.device)
            place.put_bootstrap(self.algorithm.value(policy.network, x).cpu())
        self._stamp(who, 1, version)
        self.tables.done[who] += 1  # before anyone is told: a successor of this server must not count too few

    def _value_final(self, policy: Policy, who: np.ndarray) -> None:
        """Values of the final observations of truncated episodes, in the states that acted last."""
        columns, slots, times = self._rows(who)
        truncated = np.flatnonzero(self.tables.unroll["truncated"][slots, times - 1, columns])
        columns, slots, times = columns[truncated], slots[truncated], times[truncated]
        final = tree_map(lambda leaf: torch.from_numpy(np.take(leaf, columns, 0)), self.tables.final)
        index = torch.from_numpy(columns)
        state = tree_map(lambda leaf: leaf.index_select(0, index.to(leaf.device)), self.state)
        never = torch.zeros(len(columns), dtype=torch.bool)
        x = ActInput(final, state, never, None, self.generator, 0).to(self.device)
        value = self.algorithm.value(policy.network, x)
        self.tables.unroll["final_value"][slots, times - 1, columns] = value.cpu().numpy()

    def _input(self, place: _InPlace | _Gathered) -> ActInput:
        """On the host, but for the state."""
        observation, reset, mask = place.read()
        columns = place.columns
        return ActInput(
            observation,
            tree_map(lambda leaf: leaf[columns], self.state),
            reset,
            mask,
            self.generator,
            self.steps(),
            first_environment=columns.start if isinstance(columns, slice) else int(columns[0]),
            num_environments=self.shape.columns,
            record=bool(self.tables.unroll["record"]),
        )

    def _rows(self, who: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Columns of workers, and slot and time of each: i64[n]."""
        if self._single:
            return who, self.slot[who], self.time[who]
        columns = [self._columns[worker] for worker in who.tolist()]
        sizes = [len(each) for each in columns]
        return np.concatenate(columns), np.repeat(self.slot[who], sizes), np.repeat(self.time[who], sizes)

    def _place(self, who: np.ndarray) -> _InPlace | _Gathered:
        slot, when = self.slot[who], self.time[who]
        together = who[-1] - who[0] == len(who) - 1 and (slot == slot[0]).all() and (when == when[0]).all()
        if not together:
            return _Gathered(self.tables, *self._rows(who))
        first, last = self.shape.spans[who[0]][0], self.shape.spans[who[-1]][1]
        key = (int(slot[0]), int(when[0]), first, last)
        if key not in self._views:
            if len(self._views) >= self._most_views:
                self._views.clear()
            self._views[key] = _InPlace(self.tables, *key)
        return self._views[key]


class _InPlace:
    """Neighbouring columns at one step of one slot, as views."""

    def __init__(self, tables: Tables, slot: int, t: int, first: int, last: int) -> None:
        self.columns: Index = slice(first, last)
        unroll = tree_map(torch.from_numpy, tables.slot(slot, first, last))
        self._input = (
            tree_map(lambda leaf: leaf[t], unroll["observation"]),
            unroll["reset"][t],
            unroll["action_mask"][t] if "action_mask" in unroll else None,
        )
        self._bootstrap = unroll["bootstrap_value"]
        self._version = unroll["policy_version"][1]
        inside = t < tables.shape.length
        self._action = unroll["action"][t] if inside else None
        self._record = [(name, leaf[t]) for name, leaf in unroll["record"].items()] if inside else []

    def read(self) -> tuple[Tree, Tensor, Tensor | None]:
        """Observation [n, ...], reset [n] and mask [n, A] to act on."""
        return self._input

    def put(self, record: dict[str, Tensor], version: int) -> None:
        """Action and what is remembered of it."""
        assert self._action is not None
        self._action.copy_(record["action"])
        for name, leaf in self._record:
            leaf.copy_(record[name])
        self._version.fill_(version)

    def put_bootstrap(self, value: Tensor) -> None:
        """Value f32[n] of the observation after the last step."""
        self._bootstrap.copy_(value)


class _Gathered:
    """Any columns, each at its own step of its own slot, by row numbers."""

    def __init__(self, tables: Tables, columns: np.ndarray, slots: np.ndarray, times: np.ndarray) -> None:
        self.columns: Index = columns
        self._unroll, self._slots = tables.unroll, slots
        shape = tables.shape
        self._step = (slots * shape.length + times) * shape.columns + columns
        self._row = (slots * (shape.length + 1) + times) * shape.columns + columns

    def read(self) -> tuple[Tree, Tensor, Tensor | None]:
        """Observation [n, ...], reset [n] and mask [n, A] to act on."""

        def take(leaf: np.ndarray) -> Tensor:
            return torch.from_numpy(np.take(_flat(leaf), self._row, 0))

        mask = take(self._unroll["action_mask"]) if "action_mask" in self._unroll else None
        return tree_map(take, self._unroll["observation"]), take(self._unroll["reset"]), mask

    def put(self, record: dict[str, Tensor], version: int) -> None:
        """Action and what is remembered of it."""
        _flat(self._unroll["action"])[self._step] = record["action"].numpy()
        for name, leaf in self._unroll["record"].items():
            _flat(leaf)[self._step] = record[name].numpy()
        self._unroll["policy_version"][self._slots, 1, self.columns] = version

    def put_bootstrap(self, value: Tensor) -> None:
        """Value f32[n] of the observation after the last step."""
        self._unroll["bootstrap_value"][self._slots, self.columns] = value.numpy()


def _flat(leaf: np.ndarray) -> np.ndarray:
    """[S, T, B, ...] -> [S * T * B, ...], a view."""
    return leaf.reshape(-1, *leaf.shape[3:])
