"""Workers around a server: the right action to the right environment, whole unrolls, checks of section 10 and 18."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from redline.environments.config import EnvironmentConfig
from redline.inference.server import Policy
from redline.inference.tables import shape_of
from tests.inference.rig import Rig
from tests.inference.worlds import Checked, Counting, Oracle, answer

ARRANGEMENTS: dict[str, dict[str, Any]] = {
    "one-each": {"workers": 6, "columns": 6},
    "stacked": {"workers": 3, "columns": 8},
    "small-batches": {"workers": 6, "columns": 6, "largest": 2},
    "patient": {"workers": 6, "columns": 6, "patience": 0.003},
    "lock-step": {"workers": 4, "columns": 7, "groups": 2, "slots": 1, "lock": True},
}


def checked(pause: float = 0.0, **kwargs: Any) -> EnvironmentConfig:
    return EnvironmentConfig(id=Checked, kwargs={"pause": pause, **kwargs}, backend="inline")


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_every_environment_gets_the_action_that_its_observation_asks_for(name: str) -> None:
    """The environment raises at any other; and what is recorded is what happened, row by row, across unrolls."""
    oracle = Oracle()
    with Rig(checked(0.0005), oracle, Counting(), **ARRANGEMENTS[name]) as rig:
        rig.collect(40)
    for unroll in rig.unrolls:
        shown = unroll["observation"]
        assert np.array_equal(unroll["reward"], shown[:-1, :, 0]), "the reward repeats what was shown"
        for t in range(len(unroll["action"])):
            np.testing.assert_array_equal(unroll["action"][t], answer(torch.from_numpy(shown[t])).numpy())
        np.testing.assert_array_equal(unroll["record"]["value"], shown[:-1, :, 0])
        np.testing.assert_array_equal(unroll["bootstrap_value"], shown[-1, :, 0])
        np.testing.assert_array_equal(unroll["reset"][1:], unroll["terminated"] | unroll["truncated"])
        assert (unroll["final_value"][~unroll["truncated"]] == 0).all()
        assert (unroll["final_value"][unroll["truncated"]] != 0).all()
    assert sum(unroll["truncated"].sum() for unroll in rig.unrolls) > 5
    for worker in range(rig.shape.workers):
        mine = [unroll for (who, _), unroll in zip(rig.handed, rig.unrolls, strict=True) if who == worker]
        for before, after in itertools.pairwise(mine):
            np.testing.assert_array_equal(before["observation"][-1], after["observation"][0])
            np.testing.assert_array_equal(before["reset"][-1], after["reset"][0])
    if ARRANGEMENTS[name].get("largest"):
        assert max(oracle.sizes) <= ARRANGEMENTS[name]["largest"]


@pytest.mark.parametrize("name", ["one-each", "lock-step"])
def test_recurrent_state_stays_with_its_environment_and_ends_with_its_episode(name: str) -> None:
    with Rig(checked(0.0003, length=17), Oracle(), Counting(), **ARRANGEMENTS[name]) as rig:
        rig.collect(30)
    for worker in range(rig.shape.workers):
        mine = [unroll for (who, _), unroll in zip(rig.handed, rig.unrolls, strict=True) if who == worker]
        steps = np.zeros(rig.shape.spans[worker][1] - rig.shape.spans[worker][0])
        for unroll in mine:
            np.testing.assert_array_equal(unroll["state"]["count"][:, 0], steps)
            for t in range(len(unroll["action"])):
                steps = np.where(unroll["reset"][t], 0, steps) + 1


def test_an_unroll_that_spans_versions_says_so() -> None:
    with Rig(checked(), Oracle(), Counting(), workers=2, columns=2, length=8) as rig:
        refresh = rig.server.policies[0].refresh

        def newer() -> int:
            rig.version += 1
            return refresh()

        rig.server.policies[0].refresh = newer
        rig.collect(12)
    for unroll in rig.unrolls:
        oldest, newest = unroll["policy_version"][:, 0]
        assert newest >= oldest + 8, "a version newer at each of eight steps and at the bootstrap"
    mine = [
        u["policy_version"][:, 0] for (who, _), u in zip(rig.handed, rig.unrolls, strict=True) if who == 0
    ]
    assert all(after[0] > before[0] for before, after in itertools.pairwise(mine))


class Numbered(Counting):
    """A network that tells which one it is."""

    def __init__(self, number: int) -> None:
        self.number = number


class Signing(Oracle):
    """Acts as ``Checked`` wants; its values are the network's number, and half of one more where it bootstraps."""

    def act(self, network: Any, x: Any) -> tuple[dict[str, torch.Tensor], Any]:
        record, state = super().act(network, x)
        return record | {"value": torch.full((len(x.observation),), float(network.number))}, state

    def value(self, network: Any, x: Any) -> torch.Tensor:
        return torch.full((len(x.observation),), network.number + 0.5)


@pytest.mark.parametrize("name", ["one-each", "stacked", "small-batches", "lock-step"])
def test_each_worker_is_acted_for_by_its_own_policy(name: str) -> None:
    arrangement = ARRANGEMENTS[name]
    assigned = [(2 * worker) % 3 for worker in range(arrangement["workers"])]
    policies = [Policy(Numbered(k), lambda k=k: 100 + k) for k in range(3)]
    with Rig(
        checked(0.0003), Signing(), Counting(), policies=policies, assigned=assigned, **arrangement
    ) as rig:
        rig.collect(40)
    assert {who for who, _ in rig.handed} == set(range(arrangement["workers"]))
    for (who, _), unroll in zip(rig.handed, rig.unrolls, strict=True):
        number = assigned[who]
        assert (unroll["record"]["value"] == number).all()
        assert (unroll["bootstrap_value"] == number + 0.5).all()
        assert (unroll["final_value"][unroll["truncated"]] == number + 0.5).all()
        assert (unroll["policy_version"] == 100 + number).all()
    assert sum(unroll["truncated"].sum() for unroll in rig.unrolls) > 5


def test_views_are_kept_for_as_many_batches_as_are_usual() -> None:
    """Of neighbours that may be served together there are many more with many workers."""
    rig = Rig(checked(), Oracle(), Counting(), workers=12, columns=12, length=4)
    server = rig.server
    try:
        for first in range(12):
            for last in range(first + 1, 13):
                for slot in range(2):
                    for when in range(4):
                        server.slot[:], server.time[:] = slot, when
                        server._place(np.arange(first, last))
                        assert len(server._views) <= 2 * 5 * 13
    finally:
        for bell in rig.bells:
            bell.close()


def test_section_10_check_3_a_group_is_never_served_while_it_steps() -> None:
    """And groups take turns strictly, so each steps while the other is served (benchmarks/inference.py times it)."""
    with Rig(
        checked(0.001), Oracle(), Counting(), workers=4, columns=4, groups=2, slots=1, lock=True, length=20
    ) as rig:
        rig.collect(8)
    stepping: set[int] = set()
    order = []
    for what, who in rig.log:
        if what == "call":
            stepping -= set(who)
        else:
            assert not stepping & set(who), "served while stepping"
            stepping |= set(who)
            order.append(who)
    assert order[:78] == [[0, 1], [2, 3]] * 39, "strictly in turns, each whole"


def test_section_10_check_4_serial_parallel_and_alternating_sampling_give_the_same_trajectories() -> None:
    """Deterministic policy, same seeds: columns see the same, however they are cut and whoever was ready."""
    found: dict[str, list[np.ndarray]] = {}
    arrangements: dict[str, dict[str, Any]] = {
        "serial": {"workers": 1, "lock": True, "slots": 1},
        "parallel": {"workers": 6, "lock": True, "slots": 1},
        "alternating": {"workers": 6, "groups": 2, "lock": True, "slots": 1},
        "dynamic": {"workers": 6},
        "stacked": {"workers": 2},
    }
    for name, arrangement in arrangements.items():
        with Rig(checked(), Oracle(), Counting(), columns=6, **arrangement) as rig:
            rig.collect(5 * arrangement["workers"] + 6)
        columns: list[list[np.ndarray]] = [[] for _ in range(6)]
        for (worker, _), unroll in zip(rig.handed, rig.unrolls, strict=True):
            for place, column in enumerate(range(*rig.shape.spans[worker])):
                columns[column].append(unroll["observation"][:-1, place])
        found[name] = [np.concatenate(parts)[:40] for parts in columns]
    for name in arrangements:
        for column in range(6):
            np.testing.assert_array_equal(found["serial"][column], found[name][column], err_msg=name)


def test_groups_cut_columns_as_one_process_would() -> None:
    shape = shape_of(num_envs=7, workers=4, groups=2, length=5, slots=1)
    assert shape.spans == ((0, 1), (1, 3), (3, 5), (5, 7))
    assert shape.groups == ((0, 2), (2, 4))


def test_section_18_a_worker_knows_no_network() -> None:
    """SEED's actors hold no policy; here their process does not even load torch."""
    script = (
        "import sys, redline.runtime.serving.host, redline.runtime.crew.processes, redline.inference.worker;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
