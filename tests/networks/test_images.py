"""Convolutional torsos against nn.Sequential on x / 255, in every precision and memory format."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from redline.networks import blocks, images
from redline.networks.images import ImpalaCNN, NatureCNN


def pictures(count: int, *shape: int) -> Tensor:
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8)


def nature_by_hand(torso: NatureCNN, x: Tensor) -> Tensor:
    """The paper's network, pixels divided by 255 first."""
    h = x.float() / 255
    for layer in (torso.first, torso.second, torso.third):
        h = torch.relu(nn.functional.conv2d(h, layer.weight, layer.bias, layer.stride))
    h = h.movedim(1, -1).reshape(len(h), -1)
    return h if torso.dense is None else torch.relu(torso.dense(h))


@pytest.mark.parametrize("shape", [(4, 84, 84), (3, 64, 64), (4, 40, 52), (1, 37, 50)])
@pytest.mark.parametrize("dense", [True, False])
def test_nature(shape: tuple[int, ...], dense: bool) -> None:
    torso = NatureCNN(shape, dense=dense)
    x = pictures(3, *shape)
    found = torso(x)
    assert found.shape == (3, torso.features)
    wanted = nature_by_hand(torso, x)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    weight = torch.randn_like(found)
    leaves = list(torso.parameters())
    torch.testing.assert_close(
        torch.autograd.grad((found * weight).sum(), leaves),
        torch.autograd.grad((wanted * weight).sum(), leaves),
        atol=1e-4,
        rtol=1e-3,
    )


def test_nature_is_the_papers() -> None:
    torso = NatureCNN((4, 84, 84))
    shapes = [tuple(layer.weight.shape) for layer in (torso.first, torso.second, torso.third)]
    assert shapes == [(32, 4, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3)]
    assert torso.dense is not None
    assert tuple(torso.dense.weight.shape) == (512, 3136)
    assert sum(p.numel() for p in torso.parameters()) == 1_684_128


def test_blocks_of_pixels_are_where_the_weights_expect_them() -> None:
    """The re-ordered convolution against the plain one, whatever the path a size takes."""
    convolution = nn.Conv2d(3, 5, 8, 4)
    x = pictures(2, 3, 24, 32)
    assert blocks.fit(convolution, x)
    wanted = nn.functional.conv2d(x.float() / 255, convolution.weight, convolution.bias, 4)
    torch.testing.assert_close(images._first_convolution(x, convolution), wanted, atol=1e-5, rtol=1e-4)
    assert not blocks.fit(convolution, pictures(2, 3, 25, 32))
    assert not blocks.fit(convolution, x.float())


def test_slices_and_permuted_images_are_taken() -> None:
    torso = NatureCNN((4, 44, 44))
    x = pictures(6, 44, 44, 4).permute(0, 3, 1, 2)[::2]
    torch.testing.assert_close(torso(x), torso(x.contiguous()))


def impala_by_hand(torso: ImpalaCNN, x: Tensor) -> Tensor:
    h = x.float() / 255
    for stage in (torso.first, *torso.others):
        h = nn.functional.max_pool2d(stage.entry(h), 3, 2, 1)
        for inner, outer in zip(stage.inner, stage.outer, strict=True):
            h = h + outer(torch.relu(inner(torch.relu(h))))
    h = torch.relu(h).movedim(1, -1).reshape(len(h), -1)
    return h if torso.dense is None else torch.relu(torso.dense(h))


@pytest.mark.parametrize("shape", [(4, 84, 84), (1, 7, 10)])
def test_impala(shape: tuple[int, ...]) -> None:
    torso = ImpalaCNN(shape, (16, 32, 32))
    x = pictures(2, *shape)
    torch.testing.assert_close(torso(x), impala_by_hand(torso, x), atol=1e-5, rtol=1e-4)
    torch.autograd.grad(torso(x).sum(), list(torso.parameters()))  # nothing in place that backward needs


@pytest.mark.parametrize("torso", [NatureCNN((4, 84, 84)), ImpalaCNN((4, 84, 84), (16, 32))])
def test_precisions_and_formats_agree(torso: nn.Module) -> None:
    x = pictures(4, 4, 84, 84)
    wanted = torso(x)
    scale = float(wanted.detach().abs().max())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = torso(x)
    half = copy.deepcopy(torso).bfloat16()(x)
    plain = copy.deepcopy(torso)
    for parameter in plain.parameters():
        parameter.data = parameter.data.contiguous()
    for other in (mixed.detach(), half.detach()):
        assert other.dtype == torch.bfloat16
        assert float((other.float() - wanted.detach()).abs().max()) < 0.03 * scale
    torch.testing.assert_close(plain(x), wanted, atol=1e-5, rtol=1e-4)


def test_initialisations() -> None:
    orthogonal = NatureCNN((4, 84, 84), orthogonal=True)
    rows = orthogonal.second.weight.detach().reshape(64, -1)
    torch.testing.assert_close(rows @ rows.t(), 2 * torch.eye(64), atol=1e-3, rtol=1e-3)
    assert float(orthogonal.first.bias.detach().abs().max()) == 0  # type: ignore[union-attr]
    default = NatureCNN((4, 84, 84))
    assert float(default.second.weight.detach().abs().max()) <= (32 * 16) ** -0.5
    assert default.second.weight.is_contiguous(memory_format=torch.channels_last)
