"""Running statistics against numpy's on everything seen."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from redline.networks.normalizer import ObservationNormalizer


def test_identity_until_the_first_update() -> None:
    x = torch.randn(5, 3) * 1000
    assert torch.equal(ObservationNormalizer((3,))(x), x)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_merging_batches_is_seeing_all_at_once(sizes: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    batches = [random.normal(5, 3, (size, 4)).astype(np.float32) for size in sizes]
    normalizer = ObservationNormalizer((4,))
    for batch in batches:
        normalizer.update(torch.from_numpy(batch))
    everything = np.concatenate(batches).astype(np.float64)
    np.testing.assert_allclose(normalizer.mean.numpy(), everything.mean(0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(normalizer.variance.numpy(), everything.var(0), rtol=1e-3, atol=1e-4)
    assert int(normalizer.count) == len(everything)
    wanted = (everything - everything.mean(0)) / np.sqrt(everything.var(0) + 1e-8)
    found = normalizer(torch.from_numpy(everything.astype(np.float32)))
    np.testing.assert_allclose(found.numpy(), np.clip(wanted, -10, 10), rtol=1e-2, atol=1e-2)


def test_clips_and_survives_constants() -> None:
    normalizer = ObservationNormalizer((2,))
    normalizer.update(torch.stack([torch.ones(100), torch.randn(100)], 1))
    found = normalizer(torch.tensor([[1.0, 1e6], [1.5, -1e6]]))
    assert found.tolist() == [[0.0, 10.0], [10.0, -10.0]]


def test_a_copy_restores_it_whole() -> None:
    normalizer = ObservationNormalizer((3,))
    normalizer.update(torch.randn(50, 3) * 7)
    other = ObservationNormalizer((3,))
    other.load_state_dict(copy.deepcopy(normalizer.state_dict()))
    x = torch.randn(5, 3)
    assert torch.equal(normalizer(x), other(x))
    for each in (normalizer, other):
        each.update(x)
    assert torch.equal(normalizer.variance, other.variance)


def test_long_runs_keep_their_precision() -> None:
    normalizer = ObservationNormalizer((1,))
    generator = torch.Generator().manual_seed(0)
    for _ in range(3000):
        normalizer.update(torch.randn(64, 1, generator=generator) * 2 + 100)
    assert float(normalizer.mean) == pytest.approx(100, abs=0.03)
    assert float(normalizer.variance) == pytest.approx(4, rel=0.02)
