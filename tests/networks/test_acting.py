"""Who computes an act, and where its inputs and its record are: told with a device that holds no numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from redline.networks.acting import chooser
from redline.types import ActInput

META, CPU = torch.device("meta"), torch.device("cpu")


def inputs(device: torch.device = CPU) -> ActInput:
    observation = {"picture": torch.zeros(3, 2), "number": torch.ones(3, 1)}
    mask = torch.ones(3, 4, dtype=torch.bool)
    x = ActInput(
        observation,
        {"hidden": torch.zeros(3, 5, device=device)},
        torch.zeros(3, dtype=torch.bool),
        mask,
        None,
        7,
    )  # type: ignore[arg-type]
    return x


class Algorithm:
    """Remembers what it was given; its record is on the host, whatever computes."""

    def __init__(self, *, recordable: bool) -> None:
        self.recordable, self.seen = recordable, list[ActInput]()

    def act(self, network: Any, x: ActInput) -> tuple[dict[str, torch.Tensor], Any]:
        self.seen.append(x)
        return {"action": torch.arange(3)}, x.state


class Whole:
    """A network that can do the whole of an act."""

    def __init__(self) -> None:
        self.seen: list[ActInput] = []

    def whole_act(self, algorithm: Any, generator: Any) -> Any:
        return lambda x: self.seen.append(x) or {"action": torch.full((3,), 9)}


def places(x: ActInput) -> set[str]:
    leaves = [*x.observation.values(), x.reset, x.action_mask, *x.state.values()]
    return {leaf.device.type for leaf in leaves}


@pytest.mark.parametrize("recordable", [False, True])
def test_on_the_host_the_algorithm_acts_on_what_it_was_given(recordable: bool) -> None:
    algorithm, x = Algorithm(recordable=recordable), inputs()
    record, _ = chooser(algorithm, Whole(), torch.Generator(), CPU)(x)
    assert algorithm.seen == [x]
    assert algorithm.seen[0].observation["picture"] is x.observation["picture"]
    assert record["action"].tolist() == [0, 1, 2]


def test_elsewhere_inputs_are_brought_there_and_the_state_stays() -> None:
    algorithm, x = Algorithm(recordable=False), inputs(META)
    record, state = chooser(algorithm, Whole(), torch.Generator(), META)(x)
    assert places(algorithm.seen[0]) == {"meta"}
    assert places(x) == {"cpu", "meta"}
    assert algorithm.seen[0].steps == 7
    assert state["hidden"] is x.state["hidden"]
    assert record["action"].device.type == "cpu"


def test_a_state_that_comes_from_a_checkpoint_is_brought_there() -> None:
    algorithm, x = Algorithm(recordable=False), inputs(CPU)
    _, state = chooser(algorithm, Whole(), torch.Generator(), META)(x)
    assert places(x) == {"cpu"}
    assert state["hidden"].device.type == "meta"


def test_a_whole_act_is_given_what_is_on_the_host_and_replaces_the_algorithms() -> None:
    algorithm, network, x = Algorithm(recordable=True), Whole(), inputs()
    record, state = chooser(algorithm, network, torch.Generator(), META)(x)
    assert (algorithm.seen, network.seen) == ([], [x])
    assert places(network.seen[0]) == {"cpu"}
    assert record["action"].tolist() == [9, 9, 9]
    assert state is None


def test_a_network_without_one_leaves_it_to_the_algorithm() -> None:
    algorithm = Algorithm(recordable=True)
    chooser(algorithm, SimpleNamespace(), torch.Generator(), META)(inputs(META))
    assert len(algorithm.seen) == 1


def test_an_act_put_in_its_place_later_is_the_one_that_is_called() -> None:
    """As studies do, to make acting slow."""
    algorithm = Algorithm(recordable=False)
    choose = chooser(algorithm, None, torch.Generator(), CPU)
    algorithm.act = lambda network, x: ({"action": torch.full((3,), 5)}, None)  # type: ignore[method-assign]
    assert choose(inputs())[0]["action"].tolist() == [5, 5, 5]
