"""Acting passes by oneDNN's own kernels: the layers' numbers, bit for bit, and never those of old weights."""

from __future__ import annotations

import copy

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from redline.networks import NetworkConfig, build, packed
from redline.networks.images import NatureCNN
from redline.networks.packed import MANY, Packed, watch
from redline.types import Spec
from tests.networks.test_images import pictures

bf16 = pytest.mark.skipif(not packed._has_kernels(), reason="a torch without oneDNN")
SIZES = [(4, 84, 84), (3, 64, 64), (1, 36, 44)]


def half(shape: tuple[int, ...], **options: bool) -> NatureCNN:
    return NatureCNN(shape, orthogonal=True, **options).bfloat16().requires_grad_(False)


@bf16
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("watched", [True, False])
def test_equal_to_the_layers(shape: tuple[int, ...], dense: bool, watched: bool) -> None:
    torso = half(shape, dense=dense)
    if watched:
        assert watch(torso) == [torso.packed]
    for count in (4, 4, 4, 1, 7, 4, 4, 4, 4, 1):
        x = pictures(count, *shape)
        wanted = torso._forward(x)
        with torch.no_grad():
            assert torch.equal(torso(x), wanted)
    assert (torso.packed.kept is not None) == watched


@bf16
def test_weights_that_last_are_packed_and_by_the_second_pass_when_they_last_again() -> None:
    torso = half((4, 84, 84))
    watch(torso)
    x = pictures(4, 4, 84, 84)
    with torch.no_grad():
        for _ in range(MANY - 1):
            torso(x)
            assert torso.packed.kept is None
        torso(x)
        kept = torso.packed.kept
        assert kept is not None
        torso(x)
        assert torso.packed.kept is kept
        before = torso(x)
        torso.third.weight.mul_(1.5)
        assert torch.equal(torso(x), before), "nobody said so"
        torso.packed.changed()
        torso.packed.changed()  # two updates in a row
        for passes in (1, 2, 3):
            assert torch.equal(torso(x), torso._forward(x))
            assert (torso.packed.kept is not None) == (passes > 1)
        assert not torch.equal(torso(x), before)
        torso.packed.changed()
        torso(x), torso(x)
        assert torso.packed.kept is None, "the last ones did not"


@bf16
def test_kernels_that_differ_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    torso = half((4, 84, 84))
    true = packed._pass
    calls: list[int] = []

    def other(layers: object, weights: object, x: Tensor) -> Tensor:
        calls.append(len(x))
        return true(layers, weights, x) * 1.01  # type: ignore[arg-type]

    monkeypatch.setattr(packed, "_pass", other)
    with torch.no_grad():
        for count in (4, 4, 4, 8):
            x = pictures(count, 4, 84, 84)
            assert torch.equal(torso(x), torso._forward(x))
    assert calls == [4, 8]


def test_others_go_through_their_layers() -> None:
    x = pictures(4, 4, 84, 84)
    single, odd = NatureCNN((4, 84, 84)), half((4, 83, 84))
    with torch.no_grad():
        single(x), odd(pictures(4, 4, 83, 84))
        half((4, 84, 84))(x[:0])
    assert single.packed._layers is None
    assert odd.packed._layers is None
    kept = half((4, 84, 84))
    kept.requires_grad_(True)
    assert kept(x).requires_grad


def test_copies_keep_nothing_of_the_original() -> None:
    torso = half((4, 84, 84))
    watch(torso)
    with torch.no_grad():
        for _ in range(MANY):
            torso(pictures(2, 4, 84, 84))
    assert torso.packed.kept is not None
    other = copy.deepcopy(torso)
    assert isinstance(other.packed, Packed)
    assert other.packed is not torso.packed
    assert other.packed.kept is None
    assert not other.packed.watched


def test_a_whole_network_is_watched() -> None:
    spec = Spec(
        "test",
        gymnasium.spaces.Box(0, 255, (4, 84, 84), np.uint8),
        gymnasium.spaces.Discrete(6),
    )
    network: nn.Module = (
        build(spec, NetworkConfig(torso="nature"), "actor_critic").bfloat16().requires_grad_(False)
    )
    plain = copy.deepcopy(network)
    parts = watch(network)
    assert len(parts) == 3, "the torso and two heads"
    never = torch.zeros(1, 5, dtype=torch.bool)
    with torch.no_grad():
        for turn in range(2 * MANY):
            x = pictures(5, 4, 84, 84)[None]
            found, wanted = network(x, None, never)[0], plain(x, None, never)[0]
            assert torch.equal(found.policy, wanted.policy)
            assert torch.equal(found.value, wanted.value)
            if turn == MANY:
                for mine, theirs in zip(network.parameters(), plain.parameters(), strict=True):
                    mine.add_(0.01)
                    theirs.add_(0.01)
                for part in parts:
                    part.changed()
