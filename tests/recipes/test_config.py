"""Experiments as data: what goes out comes back equal, and what is wrong is refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redline import plain_yaml
from redline.recipes.config import from_dict, load_yaml, override, save_yaml, to_dict
from redline.types import UserError


@dataclass(frozen=True)
class PPOConfig:
    learning_rate: float = 3e-4
    epochs: int = 4
    target_kl: float | None = None
    anneal: bool = True
    clip: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.clip < 1:
            raise ValueError(f"clip must lie between 0 and 1, got {self.clip}")
        if self.epochs < 1:
            raise UserError(f"needs at least one epoch, got {self.epochs}")


@dataclass(frozen=True)
class DQNConfig:
    learning_rate: float = 1e-4
    double: bool = False


@dataclass(frozen=True)
class ForeignConfig:
    strength: int = 1


@dataclass(frozen=True)
class Environment:
    id: str | Callable[[], Any]
    kwargs: dict[str, Any] = field(default_factory=dict)
    time_limit: int | None = None
    backend: Literal["auto", "ale", "processes"] = "auto"


@dataclass(frozen=True)
class Network:
    hidden: tuple[int, ...] = (64, 64)
    patch: tuple[int, int] = (8, 8)
    activation: str = "tanh"
    scale: int | float = 1
    workers: int | Literal["auto"] = "auto"


@dataclass(frozen=True)
class Replay:
    capacity: int = 1000


@dataclass(frozen=True)
class Experiment:
    recipe: str
    environment: Environment
    algorithm: PPOConfig | DQNConfig
    network: Network = field(default_factory=Network)
    replay: Replay | None = None


BASE = Experiment("ppo", Environment("CartPole-v1", {"gravity": 9.8}), PPOConfig())


def refusal(*overrides: str, base: Experiment = BASE) -> str:
    with pytest.raises(UserError) as caught:
        override(base, overrides)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("setting", "read", "value"),
    [
        ("algorithm.learning_rate=3e-4", lambda e: e.algorithm.learning_rate, 3e-4),
        ("algorithm.learning_rate=1", lambda e: e.algorithm.learning_rate, 1.0),
        ("algorithm.learning_rate=.inf", lambda e: e.algorithm.learning_rate, math.inf),
        ("algorithm.epochs=1_000", lambda e: e.algorithm.epochs, 1000),
        ("algorithm.epochs=1e6", lambda e: e.algorithm.epochs, 1_000_000),
        ("algorithm.epochs=010", lambda e: e.algorithm.epochs, 10),
        ("algorithm.anneal=false", lambda e: e.algorithm.anneal, False),
        ("algorithm.target_kl=0.02", lambda e: e.algorithm.target_kl, 0.02),
        ("algorithm.target_kl=null", lambda e: e.algorithm.target_kl, None),
        ("algorithm.target_kl=None", lambda e: e.algorithm.target_kl, None),
        ("algorithm.target_kl=none", lambda e: e.algorithm.target_kl, None),
        ("environment.kwargs.gravity=5", lambda e: e.environment.kwargs, {"gravity": 5}),
        ("environment.kwargs.wind=1e-3", lambda e: e.environment.kwargs, {"gravity": 9.8, "wind": 1e-3}),
        ("environment.kwargs.a.b=[x, 1]", lambda e: e.environment.kwargs["a"], {"b": ["x", 1]}),
        ("environment.kwargs={}", lambda e: e.environment.kwargs, {}),
        ("environment.kwargs={kind: b}", lambda e: e.environment.kwargs, {"kind": "b"}),
        ("environment.backend=ale", lambda e: e.environment.backend, "ale"),
        ("environment.time_limit=500", lambda e: e.environment.time_limit, 500),
        ("environment.id=a.b:make=1", lambda e: e.environment.id, "a.b:make=1"),
        ("network.hidden=[128, 32]", lambda e: e.network.hidden, (128, 32)),
        ("network.hidden=128,32,8", lambda e: e.network.hidden, (128, 32, 8)),
        ("network.hidden=1_000,2_000", lambda e: e.network.hidden, (1000, 2000)),
        ("network.hidden=128", lambda e: e.network.hidden, (128,)),
        ("network.hidden=", lambda e: e.network.hidden, ()),
        ("network.patch=[4, 2]", lambda e: e.network.patch, (4, 2)),
        ("network.activation=123", lambda e: e.network.activation, "123"),
        ("network.activation=[relu", lambda e: e.network.activation, "[relu"),
        ("network.activation=no", lambda e: e.network.activation, "no"),
        ("network.scale=2", lambda e: e.network.scale, 2),
        ("network.scale=2.5", lambda e: e.network.scale, 2.5),
        ("network.workers=4", lambda e: e.network.workers, 4),
        ("network.workers=auto", lambda e: e.network.workers, "auto"),
        ("network={activation: relu}", lambda e: e.network, Network(activation="relu")),
        ("replay={capacity: 5}", lambda e: e.replay, Replay(5)),
        ("replay={}", lambda e: e.replay, Replay()),
        ("algorithm.kind=ppo", lambda e: e.algorithm, PPOConfig()),
    ],
)
def test_override_reads_values_as_the_field_wants_them(setting: str, read: Any, value: Any) -> None:
    found = read(override(BASE, [setting]))
    assert found == value
    assert type(found) is type(value)


def test_overrides_apply_at_once_and_the_last_one_wins() -> None:
    assert override(BASE, ["algorithm.clip=0.5", "algorithm.clip=0.1"]).algorithm.clip == 0.1
    changed = override(BASE, ["network={hidden: [1]}", "network.activation=relu"])
    assert changed.network == Network(hidden=(1,), activation="relu")
    assert override(BASE, []) == BASE


def test_override_leaves_the_original_alone() -> None:
    nested = replace(BASE, environment=Environment("CartPole-v1", {"a": {"b": 1}}))
    override(nested, ["environment.kwargs.a.b=2", "environment.kwargs.a.c=3"])
    assert nested.environment.kwargs == {"a": {"b": 1}}


def test_override_keeps_functions_given_from_python() -> None:
    made = replace(BASE, environment=Environment(lambda: None))
    assert override(made, ["algorithm.epochs=2"]).environment.id is made.environment.id


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("algorithm.learning_rate=fast", "algorithm.learning_rate: expected a number, got 'fast'"),
        ("algorithm.learning_rate=.nan", "algorithm.learning_rate: expected a number, got nan"),
        ("algorithm.learning_rate='1'", "algorithm.learning_rate: expected a number, got '1'"),
        ("algorithm.learning_rate=true", "algorithm.learning_rate: expected a number, got True"),
        ("algorithm.epochs=1.5", "algorithm.epochs: expected a whole number, got 1.5"),
        ("algorithm.anneal=1", "algorithm.anneal: expected true or false, got 1"),
        ("algorithm.target_kl=low", "algorithm.target_kl: expected a number or none, got 'low'"),
        ("algorithm.epochs=null", "algorithm.epochs: expected a whole number, got None"),
        (
            "environment.backend=al",
            "environment.backend: expected one of auto, ale, processes, got 'al'; did you mean 'ale'?",
        ),
        ("network.workers=many", "network.workers: expected a whole number or one of auto, got 'many'"),
        ("network.hidden=[64, wide]", "network.hidden[1]: expected a whole number, got 'wide'"),
        ("network.hidden=64,wide", "network.hidden[1]: expected a whole number, got 'wide'"),
        ("network.hidden=wide", "network.hidden: expected a list of whole numbers, got 'wide'"),
        ("network.patch=1,2,3", "network.patch: expected 2 values, got 3: [1, 2, 3]"),
        ("algorithm.epochs={a: 1}", "algorithm.epochs: expected a whole number, got {'a': 1}"),
        ("network=wide", "network: expected keys and values, got 'wide'"),
        ("environment.kwargs=1", "environment.kwargs: expected keys and values, got 1"),
        ("algorithm.clip=2", "algorithm.clip must lie between 0 and 1, got 2.0"),
        ("algorithm.epochs=0", "algorithm: needs at least one epoch, got 0"),
        ("algorithm.xyz=1", "unknown key 'algorithm.xyz': valid: algorithm.anneal, algorithm.clip, "),
        ("algorithm.epoch=1", "unknown key 'algorithm.epoch': did you mean 'algorithm.epochs'?"),
        ("algoritm.epochs=1", "unknown key 'algoritm.epochs': did you mean 'algorithm.epochs'?"),
        ("network.epochs=1", "unknown key 'network.epochs': did you mean 'algorithm.epochs'?"),
        ("network.double=1", "unknown key 'network.double': valid: network.activation, network.hidden, "),
        ("epochs=1", "unknown key 'epochs': did you mean 'algorithm.epochs'?"),
        ("learnin_rate=1", "unknown key 'learnin_rate': did you mean 'algorithm.learning_rate'?"),
        ("xyz=1", "unknown key 'xyz': valid: algorithm, environment, network, recipe, replay"),
        ("replay.capacity=5", "cannot set 'replay.capacity': 'replay' has no keys, this experiment has none"),
        ("algorithm.epochs.x=5", "cannot set 'algorithm.epochs.x': 'algorithm.epochs' has no keys, it is 4"),
        ("algorithm.kind=dqn", "cannot set 'algorithm.kind': it is ppo; choose another with --recipe"),
        ("algorithm.epochs", "cannot read setting 'algorithm.epochs': write key=value, such as"),
        ("algorithm..epochs=1", "cannot read setting 'algorithm..epochs=1': write key=value"),
        ("=1", "cannot read setting '=1': write key=value"),
        ("algorithm.epochs=[1", "algorithm.epochs: cannot read '[1' as a value; close its brackets"),
    ],
)
def test_override_refuses_in_one_line(setting: str, line: str) -> None:
    assert refusal(setting).startswith(line)


def test_data_is_complete_plain_and_tells_classes_apart() -> None:
    data = to_dict(BASE)
    assert data["algorithm"] == {
        "kind": "ppo",
        "learning_rate": 3e-4,
        "epochs": 4,
        "target_kl": None,
        "anneal": True,
        "clip": 0.2,
    }
    assert data["network"]["hidden"] == [64, 64]
    assert data["replay"] is None
    assert from_dict(Experiment, data) == BASE
    other = replace(BASE, algorithm=DQNConfig(double=True), replay=Replay(7))
    assert from_dict(Experiment, to_dict(other)) == other


def test_a_class_from_outside_the_union_is_stored_by_its_import_path() -> None:
    foreign = replace(BASE, algorithm=ForeignConfig(3))  # type: ignore[arg-type]
    data = to_dict(foreign)
    assert data["algorithm"] == {"kind": f"{__name__}:ForeignConfig", "strength": 3}
    assert from_dict(Experiment, data) == foreign
    assert override(foreign, ["algorithm.strength=4"]).algorithm == ForeignConfig(4)
    for kind, line in [
        ("nowhere:X", "cannot import 'nowhere:X'"),
        ("math:pi", "'math:pi' is not a dataclass"),
    ]:
        with pytest.raises(UserError, match=line):
            from_dict(Experiment, {**data, "algorithm": {"kind": kind}})


def test_data_is_checked_strictly() -> None:
    data = to_dict(BASE)
    cases: list[tuple[Any, str]] = [
        ({**data, "algorithm": {"epochs": 1}}, "missing key 'algorithm.kind': expected one of dqn, ppo"),
        ({**data, "algorithm": {"kind": "pro"}}, "unknown kind 'pro'; did you mean 'ppo'?"),
        ({**data, "environment": {}}, "missing key 'environment.id': expected text or"),
        ({**data, "recipes": "x"}, "unknown key 'recipes': did you mean 'recipe'?"),
        ({**data, "recipe": 5}, "recipe: expected text, got 5"),
        ({**data, "network": {"hidden": "64,64"}}, "network.hidden: expected a list of whole numbers"),
        ({**data, "algorithm": None}, "algorithm: expected keys and values, got None"),
        (None, "the configuration: expected keys and values, got None"),
    ]
    for bad, line in cases:
        with pytest.raises(UserError) as caught:
            from_dict(Experiment, bad)
        assert line in str(caught.value)


def test_yaml_round_trip_and_hand_written_numbers(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    tricky = {
        "a": "1e6",
        "b": "no",
        "c": "null",
        "d": "1:30",
        "e": 1e-5,
        "f": "true",
        "g": {"h": [1, "2"]},
        "i": "",
    }
    experiment = replace(BASE, environment=Environment("ALE/Pong-v5", tricky), replay=Replay())
    save_yaml(experiment, path)
    assert load_yaml(Experiment, path) == experiment
    assert [file.name for file in tmp_path.iterdir()] == ["config.yaml"]
    path.write_text("recipe: ppo\nenvironment: {id: X}\nalgorithm: {kind: ppo, learning_rate: 3e-4}\n")
    assert load_yaml(Experiment, path).algorithm.learning_rate == 3e-4


def test_yaml_errors_name_file_and_place(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    cases = [
        ("a: [1", r"is not YAML: line \d, column \d: "),
        ("- 1", r"the configuration: expected keys and values, got \[1\] \(in '.*config.yaml'\)"),
        ("recipe: !!python/object:os.system {}", "is not YAML: line 1, column 9: could not determine"),
    ]
    for text, line in cases:
        path.write_text(text)
        with pytest.raises(UserError, match=line) as caught:
            load_yaml(Experiment, path)
        assert "\n" not in str(caught.value)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not text"):
        load_yaml(Experiment, path)
    with pytest.raises(
        UserError, match=r"no configuration file '.*confg.yaml': did you mean '.*config.yaml'\?"
    ):
        load_yaml(Experiment, tmp_path / "confg.yaml")
    with pytest.raises(UserError, match="cannot read configuration file"):
        load_yaml(Experiment, tmp_path)


def test_values_without_a_plain_form_are_refused_by_name() -> None:
    def experiment(value: Any) -> Experiment:
        return replace(BASE, environment=Environment("X", {"value": value}))

    with pytest.raises(UserError, match=r"^environment.kwargs.value: a object cannot be written"):
        to_dict(experiment(object()))
    assert to_dict(experiment(np.arange(2)))["environment"]["kwargs"]["value"] == [0, 1]
    assert (
        to_dict(replace(BASE, environment=Environment(refusal)))["environment"]["id"] == f"{__name__}:refusal"
    )


_plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(_plain)
def test_yaml_gives_back_what_it_was_given(data: Any) -> None:
    assert plain_yaml.load(plain_yaml.dump(data)) == data


@settings(max_examples=100, deadline=None)
@given(
    st.floats(allow_nan=False),
    st.none() | st.floats(allow_nan=False),
    st.lists(st.integers(), max_size=4),
    st.text(max_size=12),
)
def test_overriding_with_the_yaml_of_a_value_gives_the_value(
    rate: float, kl: float | None, hidden: list[int], name: str
) -> None:
    def spell(value: Any) -> str:
        return plain_yaml.dump([value]).strip()[1:-1]

    changed = override(
        BASE,
        [
            f"algorithm.learning_rate={spell(rate)}",
            f"algorithm.target_kl={spell(kl)}",
            f"network.hidden={hidden}",
            f"environment.kwargs.name={spell(name)}",
        ],
    )
    assert changed.algorithm.learning_rate == rate
    assert changed.algorithm.target_kl == kl  # type: ignore[union-attr]
    assert changed.network.hidden == tuple(hidden)
    assert changed.environment.kwargs["name"] == name
