"""Slots: what is not written shouts, what is joined is copied once, and a single one not at all."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch

from redline import api, networks
from redline.actors import Actor
from redline.actors.unroll import SENTINEL, unroll_forms
from redline.environments import make, probe
from redline.runtime.crew.slots import Gatherer, Slots
from redline.runtime.experiment import make_algorithm
from redline.types import Episode, tree_leaves

LENGTH = 6


def parts(recipe: str = "impala_lstm", environment: str = "redline/Recall-v0") -> tuple[Any, Any, Any, Any]:
    experiment = api.make_experiment(environment, recipe)
    spec = probe(experiment.environment)
    algorithm = make_algorithm(experiment, spec)
    return experiment, spec, algorithm, networks.build(spec, experiment.network, algorithm.network_kind)


def test_rows_that_were_not_written_shout_and_an_actor_writes_them_all() -> None:
    experiment, spec, algorithm, network = parts(
        "ppo_lstm"
    )  # reads them all; IMPALA has no use for the last value
    slots = Slots(unroll_forms(algorithm, network, spec, LENGTH, 3), 1, shared=True, debug=True)
    unroll = slots.unrolls[0]
    assert unroll.reward.isnan().all()
    assert (unroll.action == SENTINEL).all()
    actor = Actor([make(experiment.environment, 3)], algorithm, network, seed=0)
    actor.collect(unroll, 0, 5)
    leaves: list[torch.Tensor] = []
    unroll.map(lambda x: leaves.append(x) or x)  # type: ignore[func-returns-value]
    assert not any(x.isnan().any() for x in leaves if x.is_floating_point())
    assert not any((x == SENTINEL).any() for x in leaves if x.dtype == torch.int64)
    assert (unroll.policy_version == 5).all()  # type: ignore[union-attr]
    actor.close()
    slots.close()


def test_one_slot_is_handed_through_and_several_are_joined_in_order() -> None:
    _, spec, algorithm, network = parts()
    forms = unroll_forms(algorithm, network, spec, LENGTH, 2)
    slots = Slots(forms, 3, shared=False)
    gatherer = Gatherer(algorithm, network, spec, LENGTH)
    assert gatherer.join(slots.unrolls[:1]) is slots.unrolls[0], "copied without need"
    for number, unroll in enumerate(slots.unrolls):
        unroll.map(lambda x, number=number: x.fill_(number))
    batch = gatherer.join(slots.unrolls)
    assert batch.reward[:, :].tolist() == [[0, 0, 1, 1, 2, 2]] * LENGTH
    for leaf in tree_leaves(batch.state):
        assert leaf[:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert batch.bootstrap_value is not None
    assert batch.bootstrap_value.tolist() == [0, 0, 1, 1, 2, 2]
    pointer = batch.observation.data_ptr()
    assert gatherer.join(slots.unrolls).observation.data_ptr() == pointer, "allocated anew"


def test_episodes_travel_beside_their_slot() -> None:
    _, spec, algorithm, network = parts()
    slots = Slots(unroll_forms(algorithm, network, spec, LENGTH, 2), 2, shared=False)
    ended = [Episode(1, 0.5, 7), Episode(0, -2.0, 3)]
    slots.write_episodes(1, ended)
    assert slots.episodes(1) == ended
    assert slots.episodes(0) == []


def test_plain_slots_are_not_sent() -> None:
    _, spec, algorithm, network = parts()
    slots = Slots(unroll_forms(algorithm, network, spec, LENGTH, 2), 1, shared=False)
    with pytest.raises(TypeError, match="plain memory"):
        pickle.dumps(slots)
