"""Networks as algorithms see them: shapes, gradients, dict observations, normalisation, refusals."""

from __future__ import annotations

import copy
from typing import Any, Literal

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from redline.networks import NetworkConfig, build
from redline.types import Spec, Tree, UserError, tree_leaves, tree_map

VECTOR = spaces.Box(-1, 1, (4,), np.float32)
IMAGE = spaces.Box(0, 255, (4, 84, 84), np.uint8)
OBSERVATIONS: dict[str, gymnasium.Space[Any]] = {
    "vector": VECTOR,
    "matrix": spaces.Box(-1, 1, (2, 3), np.float32),
    "scalar": spaces.Box(-1, 1, (), np.float32),
    "doubles": spaces.Box(-1, 1, (3,), np.float64),
    "bytes": spaces.Box(0, 255, (16,), np.uint8),
    "discrete": spaces.Discrete(6, start=2),
    "binary": spaces.MultiBinary([2, 3]),
    "image": IMAGE,
    "small image": spaces.Box(0, 255, (10, 10, 3), np.uint8),
    "gray image": spaces.Box(0, 255, (40, 40), np.uint8),
    "stacked colour": spaces.Box(0, 255, (4, 40, 44, 3), np.uint8),
    "dict": spaces.Dict(image=IMAGE, vector=VECTOR, inner=spaces.Dict(goal=spaces.Discrete(3))),
}
ACTIONS: dict[str, tuple[gymnasium.Space[Any], int]] = {
    "discrete": (spaces.Discrete(3), 3),
    "multi": (spaces.MultiDiscrete([2, 4]), 6),
    "box": (spaces.Box(-1, 1, (2,), np.float32), 4),
}


def spec(observation: gymnasium.Space[Any], action: gymnasium.Space[Any] = ACTIONS["discrete"][0]) -> Spec:
    return Spec("test", observation, action)


def sample(space: gymnasium.Space[Any], *rows: int) -> Tree:
    """A tree of tensors [*rows, ...] drawn from ``space``."""
    if isinstance(space, spaces.Dict):
        return {key: sample(inner, *rows) for key, inner in space.items()}
    space.seed(0)
    drawn = np.stack([np.asarray(space.sample()) for _ in range(int(np.prod(rows)))])
    return torch.from_numpy(drawn.reshape(*rows, *drawn.shape[1:]))


def resets(time: int, batch: int) -> Tensor:
    return torch.zeros(time, batch, dtype=torch.bool)


def all_gradients(network: nn.Module, loss: Tensor) -> bool:
    """Every parameter takes part (autograd.grad raises where one does not), with a finite gradient."""
    return all(bool(grad.isfinite().all()) for grad in torch.autograd.grad(loss, list(network.parameters())))


@pytest.mark.parametrize("name", OBSERVATIONS)
@pytest.mark.parametrize("kind", ["actor_critic", "q"])
def test_every_observation(name: str, kind: Literal["actor_critic", "q"]) -> None:
    network = build(spec(OBSERVATIONS[name]), NetworkConfig(), kind)
    output, state = network(sample(OBSERVATIONS[name], 2, 3), None, resets(2, 3))
    assert output.policy.shape == (2, 3, 3)
    assert output.value.shape == (2, 3)
    assert output.policy.dtype == output.value.dtype == torch.float32
    assert state is None
    assert all_gradients(
        network, output.policy.square().sum() + (output.value.sum() if kind == "actor_critic" else 0)
    )
    if kind == "q":
        assert bool((output.value == 0).all())


@pytest.mark.parametrize("name", ACTIONS)
@pytest.mark.parametrize("core", ["none", "lstm", "gru"])
def test_every_action_and_core(name: str, core: Literal["none", "lstm", "gru"]) -> None:
    action, parameters = ACTIONS[name]
    network = build(spec(VECTOR, action), NetworkConfig(core=core, core_size=7), "actor_critic")
    state = network.initial_state(3)
    output, after = network(sample(VECTOR, 2, 3), state, resets(2, 3))
    assert output.policy.shape == (2, 3, parameters)
    assert all_gradients(network, output.policy.sum() + output.value.sum())
    if core == "none":
        assert state is None
        assert after is None
    else:
        assert [leaf.shape for leaf in tree_leaves(after)] == [leaf.shape for leaf in tree_leaves(state)]
        assert all(leaf.shape == (3, 7) for leaf in tree_leaves(after))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("name", ["vector", "image", "dict"])
def test_shared_and_separate_torsos(name: str, shared: bool) -> None:
    """A separate value function sends nothing into the policy's torso."""
    network = build(spec(OBSERVATIONS[name]), NetworkConfig(shared_torso=shared), "actor_critic")
    output, _ = network(sample(OBSERVATIONS[name], 1, 4), None, resets(1, 4))
    torso = list(network.torso.parameters())
    by_value = torch.autograd.grad(output.value.sum(), torso, retain_graph=True, allow_unused=True)
    by_policy = torch.autograd.grad(output.policy.square().sum(), torso, allow_unused=True)

    def touched(grads: tuple[Tensor | None, ...]) -> list[bool]:
        # stacked layers hold policy and value in rows 0 and 1 of one parameter
        split = [part for grad in grads for part in ((None, None) if grad is None else (grad[0], grad[-1]))]
        return [part is not None and bool((part != 0).any()) for part in split]

    both = [a and b for a, b in zip(touched(by_value), touched(by_policy), strict=True)]
    assert any(both) == shared


def test_time_is_batch_without_a_core_and_matters_with_one() -> None:
    x = sample(VECTOR, 5, 2)
    feedforward = build(spec(VECTOR), NetworkConfig(), "actor_critic")
    whole, _ = feedforward(x, None, resets(5, 2))
    rows = torch.cat([feedforward(x[t : t + 1], None, resets(1, 2))[0].policy for t in range(5)])
    torch.testing.assert_close(whole.policy, rows)

    recurrent = build(spec(VECTOR), NetworkConfig(core="gru", core_size=8), "actor_critic")
    reset = resets(5, 2)
    reset[3, 1] = True
    whole, last = recurrent(x, recurrent.initial_state(2), reset)
    state, outputs = recurrent.initial_state(2), []
    for t in range(5):  # as the actor does
        output, state = recurrent(x[t : t + 1], state, reset[t : t + 1])
        outputs.append(output.policy)
    torch.testing.assert_close(whole.policy, torch.cat(outputs))
    torch.testing.assert_close(last, state)
    fresh, _ = recurrent(x[3:, 1:], None, resets(2, 1))
    torch.testing.assert_close(whole.policy[3:, 1:], fresh.policy)


def test_dict_parts_all_matter_and_only_through_their_own_torso() -> None:
    space = OBSERVATIONS["dict"]
    network = build(spec(space), NetworkConfig(), "actor_critic")
    x = sample(space, 1, 2)
    before = network(x, None, resets(1, 2))[0].policy
    for changed in (
        x | {"image": 255 - x["image"]},
        x | {"vector": x["vector"] + 1},
        x | {"inner": {"goal": (x["inner"]["goal"] + 1) % 3}},
    ):
        assert not torch.allclose(before, network(changed, None, resets(1, 2))[0].policy, atol=1e-9)


def test_image_layouts_are_one_image() -> None:
    """[H, W, C] and a stack of them give what [C, H, W] gives, and a gray picture what its one channel gives."""
    stacked = spaces.Box(0, 255, (2, 40, 44, 3), np.uint8)
    x = sample(stacked, 1, 2)
    torch.manual_seed(3)
    wanted = build(spec(spaces.Box(0, 255, (6, 40, 44), np.uint8)), NetworkConfig(), "q")
    torch.manual_seed(3)
    found = build(spec(stacked), NetworkConfig(), "q")
    channels_first = x.movedim(-1, -3).flatten(2, 3)
    torch.testing.assert_close(
        found(x, None, resets(1, 2))[0].policy, wanted(channels_first, None, resets(1, 2))[0].policy
    )


def test_mlp_torso_reads_pixels_as_shares_of_255() -> None:
    torch.manual_seed(1)
    small = spaces.Box(0, 255, (2, 5, 5), np.uint8)
    by_pixels = build(spec(small), NetworkConfig(torso="mlp"), "actor_critic")
    torch.manual_seed(1)
    by_floats = build(spec(spaces.Box(0, 1, (50,), np.float32)), NetworkConfig(), "actor_critic")
    x = sample(small, 1, 3)
    torch.testing.assert_close(
        by_pixels(x, None, resets(1, 3))[0].policy,
        by_floats(x.flatten(2).float() / 255, None, resets(1, 3))[0].policy,
    )


def test_discrete_observations_are_one_hot_from_their_start() -> None:
    torch.manual_seed(1)
    network = build(spec(OBSERVATIONS["discrete"]), NetworkConfig(), "actor_critic")
    torch.manual_seed(1)
    vector = build(spec(spaces.Box(0, 1, (6,), np.float32)), NetworkConfig(), "actor_critic")
    x = torch.arange(2, 8)[None]
    torch.testing.assert_close(
        network(x, None, resets(1, 6))[0].policy, vector(torch.eye(6)[None], None, resets(1, 6))[0].policy
    )


def test_initial_policy_is_nearly_uniform_and_the_value_is_not_nil() -> None:
    network = build(spec(VECTOR), NetworkConfig(), "actor_critic")
    output, _ = network(torch.randn(1, 500, 4), None, resets(1, 500))
    assert float(output.policy.detach().softmax(-1).sub(1 / 3).abs().max()) < 0.02
    assert float(output.value.detach().std()) > 0.1
    assert float(network.policy.weight.detach().norm(dim=1).mean()) == pytest.approx(0.01, rel=1e-3)
    assert float(network.value.weight.detach().norm()) == pytest.approx(1.0, rel=1e-3)


def test_gaussian_scale_is_a_free_parameter_from_one() -> None:
    network = build(spec(VECTOR, ACTIONS["box"][0]), NetworkConfig(), "actor_critic")
    output, _ = network(torch.randn(2, 3, 4), None, resets(2, 3))
    assert bool((output.policy[..., 2:] == 0).all())  # log 1
    with torch.no_grad():
        network.log_std.copy_(torch.tensor([-1.0, 2.0]))
    output, _ = network(torch.randn(2, 3, 4), None, resets(2, 3))
    torch.testing.assert_close(output.policy[..., 2:], torch.tensor([-1.0, 2.0]).expand(2, 3, 2))


@pytest.mark.parametrize("name", ["vector", "image"])
def test_dueling_identity(name: str) -> None:
    """Q = V + A - mean A: the mean over actions is V; the torso gets 1 / sqrt 2 of the gradient."""
    network = build(spec(OBSERVATIONS[name]), NetworkConfig(dueling=True), "q")
    x = sample(OBSERVATIONS[name], 1, 5)
    values = network(x, None, resets(1, 5))[0].policy[0]
    features = network.torso(network.observer.prepare(x))
    value, advantage = network.head.streams(features).unbind(0)
    v, a = network.head.value(value), network.head.advantage(advantage)
    torch.testing.assert_close(values, v + a - a.mean(-1, keepdim=True))
    torch.testing.assert_close(values.mean(-1, keepdim=True), v, atol=1e-6, rtol=1e-5)
    inside = list(network.torso.parameters())
    if inside:
        scaled = torch.autograd.grad(values.square().sum(), inside)
        full = torch.autograd.grad((v + a - a.mean(-1, keepdim=True)).square().sum(), inside)
        torch.testing.assert_close(scaled, tuple(grad / 2**0.5 for grad in full), atol=1e-5, rtol=1e-3)


def test_dueling_nature_has_the_papers_streams() -> None:
    network = build(spec(IMAGE), NetworkConfig(dueling=True), "q")
    assert tuple(network.head.streams.weight0.shape) == (2, 3136, 512)


def test_normalisation_is_of_float_parts_and_travels_with_the_weights() -> None:
    space = spaces.Dict(a=spaces.Box(-1e3, 1e3, (3,), np.float32), b=spaces.Discrete(2))
    network = build(spec(space), NetworkConfig(normalize_observation=True), "actor_critic")
    x = {"a": torch.randn(6, 5, 3) * 50 + 100, "b": torch.randint(0, 2, (6, 5))}
    before = network.observer.prepare(x)
    torch.testing.assert_close(before[0], x["a"].flatten(0, 1))
    network.update_normalizer(x)
    after = network.observer.prepare(x)
    torch.testing.assert_close(after[0].mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(after[0].std(0, correction=0), torch.ones(3), atol=1e-3, rtol=0)
    assert torch.equal(before[1], after[1])
    assert len(list(network.buffers())) == 5
    twin = build(spec(space), NetworkConfig(normalize_observation=True), "actor_critic")
    twin.load_state_dict(network.state_dict())
    torch.testing.assert_close(
        twin(x, None, resets(6, 5))[0].policy, network(x, None, resets(6, 5))[0].policy
    )


def test_a_bf16_copy_acts_nearly_alike() -> None:
    for observation in (VECTOR, IMAGE, OBSERVATIONS["dict"]):
        network = build(spec(observation), NetworkConfig(core="lstm", core_size=16), "actor_critic")
        half = copy.deepcopy(network).bfloat16().requires_grad_(False)
        x = sample(observation, 2, 3)
        wanted, _ = network(x, network.initial_state(3), resets(2, 3))
        found, state = half(x, half.initial_state(3), resets(2, 3))
        assert found.policy.dtype == found.value.dtype == torch.float32
        assert {leaf.dtype for leaf in tree_leaves(state)} == {torch.float32}
        torch.testing.assert_close(found.policy, wanted.policy, atol=0.01, rtol=0.05)
        torch.testing.assert_close(found.value, wanted.value, atol=0.05, rtol=0.05)


def test_observations_are_left_alone() -> None:
    for observation in (VECTOR, IMAGE):
        network = build(spec(observation), NetworkConfig(), "actor_critic")
        x = sample(observation, 1, 2)
        kept = tree_map(torch.clone, x)
        network(x, None, resets(1, 2))
        assert torch.equal(x, kept)


@pytest.mark.parametrize(
    ("observation", "action", "settings", "kind", "said"),
    [
        (
            spaces.Tuple([VECTOR]),
            None,
            {},
            "q",
            "observation space: Tuple is not supported; nearest supported: Dict",
        ),
        (
            spaces.Dict(a=VECTOR, b=spaces.Dict(c=spaces.Text(3))),
            None,
            {},
            "q",
            "observation part 'b.c': Text is not supported; nearest supported:",
        ),
        (spaces.MultiDiscrete([2, 2]), None, {}, "q", "nearest supported: Dict of Discrete"),
        (
            spaces.Box(0, 1, (3,), bool),
            None,
            {},
            "q",
            "Box of bool is not supported; nearest supported: MultiBinary",
        ),
        (spaces.Dict(), None, {}, "q", "observation space Dict has no parts"),
        (VECTOR, None, {"torso": "nature"}, "q", "network.torso 'nature' needs an image"),
        (VECTOR, None, {"torso": "impala"}, "actor_critic", "network.torso 'impala' needs an image"),
        (
            OBSERVATIONS["small image"],
            None,
            {"torso": "nature"},
            "q",
            "at least 36 pixels; observation has 10x10",
        ),
        (VECTOR, ACTIONS["box"][0], {}, "q", "action values need a Discrete action space; test has Box"),
        (VECTOR, spaces.Tuple([VECTOR]), {}, "actor_critic", "action space Tuple is not supported"),
        (VECTOR, None, {"dueling": True}, "actor_critic", "network.dueling is for action values"),
        (IMAGE, None, {"normalize_observation": True}, "q", "needs a part of floats"),
        (VECTOR, None, {}, "qq", "network kind 'qq' is unknown; did you mean 'q'?"),
    ],
)
def test_refusals(
    observation: gymnasium.Space[Any],
    action: gymnasium.Space[Any] | None,
    settings: dict[str, Any],
    kind: Any,
    said: str,
) -> None:
    with pytest.raises(UserError) as refusal:
        build(spec(observation, action or ACTIONS["discrete"][0]), NetworkConfig(**settings), kind)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "settings",
    [{"hidden": ()}, {"hidden": (64, 0)}, {"core_size": 0}, {"core": "gru", "shared_torso": False}],
)
def test_config_refuses(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=" must be "):
        NetworkConfig(**settings)
