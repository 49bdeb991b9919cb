"""The tree and the prioritised sampler against golden numbers (reference: Ape-X, checks 2 and 4)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import redline.replay.sumtree as sumtree
from redline.replay import ReplayConfig
from redline.replay.samplers import PrioritizedSampler
from redline.replay.sumtree import SumTree
from redline.types import RunError


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 64, 65, 5000])
def test_sum_and_lowest_stay_exact_over_random_operations(size: int) -> None:
    rng = np.random.default_rng(size)
    tree, right = SumTree(size), np.zeros(size)
    for _ in range(100_000 // 50):
        leaves = rng.integers(0, size, 50)
        values = rng.choice([0.0, 1e-8, 1.0, 1e4], 50) * rng.random(50)
        tree.update(leaves, values)
        for leaf, value in zip(leaves, values, strict=True):  # the later of two updates stays
            right[leaf] = value
    assert np.array_equal(tree.leaves, right)
    assert tree.total == pytest.approx(right.sum(), rel=1e-12)
    assert tree.low == (right[right > 0].min() if right.any() else np.inf)


def test_no_drift_after_large_priorities_have_gone() -> None:
    tree = SumTree(1000)
    tree.update(np.arange(1000), np.full(1000, 1e-9))
    for _ in range(1000):
        tree.update(np.array([3]), np.array([1e9]))
        tree.update(np.array([3]), np.array([1e-9]))
    assert tree.total == pytest.approx(1e-6, rel=1e-9)  # differences of 1e9 would have drowned it


@pytest.mark.parametrize("size", [1, 5, 8, 9, 100, 4097])
def test_find_agrees_with_the_running_sum(size: int) -> None:
    rng = np.random.default_rng(size)
    tree = SumTree(size)
    values = rng.integers(0, 4, size).astype(np.float64)  # whole numbers: sums are exact in any order
    values[size // 2] = 3.0
    tree.update(np.arange(size), values)
    targets = rng.random(2000) * tree.total
    right = np.searchsorted(np.cumsum(values), targets, side="right")
    assert np.array_equal(tree.find(targets.copy()), right)


def test_a_leaf_of_zero_is_never_found() -> None:
    tree = SumTree(100)
    tree.update(np.array([17, 40]), np.array([0.1, 0.2]))
    edges = np.array([0.0, 0.1, np.nextafter(tree.total, 0), tree.total, tree.total * 2])
    assert set(tree.find(edges).tolist()) <= {17, 40}


def sampler_of(priorities: list[float], **options: float) -> PrioritizedSampler:
    sampler = PrioritizedSampler(ReplayConfig(capacity=8, prioritized=True, **options), len(priorities))
    sampler.enter(np.arange(len(priorities)), np.array(priorities))
    return sampler


def test_apex_check_2_frequencies_and_weights() -> None:
    sampler = sampler_of([1.0, 2.0, 4.0, 0.5], priority_epsilon=1e-12)
    rng = np.random.default_rng(0)
    ids, weights = sampler.draw(1_000_000, 0.4, (0, 4), rng)
    share = np.bincount(ids, minlength=4) / len(ids)
    assert share == pytest.approx([0.18272, 0.276951, 0.419779, 0.12055], abs=1e-5)
    by_id = [weights[ids == number][0] for number in range(4)]
    assert by_id == pytest.approx([0.846745, 0.716978, 0.607097, 1.0], abs=1e-6)


def test_strata_make_single_draws_follow_the_priorities_too() -> None:
    sampler, rng = sampler_of([1.0, 3.0], alpha=1.0, priority_epsilon=1e-12), np.random.default_rng(0)
    ids = np.concatenate([sampler.draw(1, 0.4, (0, 2), rng)[0] for _ in range(20_000)])
    assert np.mean(ids) == pytest.approx(0.75, abs=0.01)


def test_weight_is_relative_to_the_buffer_not_to_the_batch() -> None:
    sampler = sampler_of([1.0, 1e6], alpha=1.0, priority_epsilon=1e-12)
    ids, weights = sampler.draw(4, 1.0, (0, 2), np.random.default_rng(0))
    assert set(ids.tolist()) == {1}
    assert weights == pytest.approx(1e-6)


def test_alpha_zero_is_uniform_and_beta_zero_weighs_nothing() -> None:
    sampler = sampler_of([1.0, 2.0, 4.0, 0.5], alpha=0.0)
    ids, weights = sampler.draw(40_000, 0.0, (0, 4), np.random.default_rng(0))
    assert np.bincount(ids).tolist() == pytest.approx([10_000] * 4, abs=2)
    assert np.all(weights == 1.0)


def test_new_transitions_enter_with_the_largest_priority_seen() -> None:
    sampler = PrioritizedSampler(ReplayConfig(prioritized=True, alpha=1.0), 10)
    sampler.enter(np.array([0]), None)
    sampler.update(np.array([0]), np.array([-7.0]))
    sampler.update(np.array([0]), np.array([0.5]))
    sampler.enter(np.array([1]), None)
    assert sampler.state()["priority"][:2] == pytest.approx([0.5, 7.0], rel=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_td_error_that_is_not_finite_is_refused(bad: float) -> None:
    sampler = sampler_of([1.0, 2.0])
    with pytest.raises(RunError, match="not finite"):
        sampler.update(np.array([0, 1]), np.array([1.0, bad]))
    assert np.isfinite(sampler.state()["priority"]).all()


def test_works_where_no_cache_folder_can_be_written(tmp_path: Path) -> None:
    """Numba caches beside the source or in the home folder; where both are closed it refuses, and we must not."""
    copy = tmp_path / "tree.py"
    copy.write_text(Path(sumtree.__file__).read_text())
    tmp_path.chmod(0o500)
    code = (
        "import numba.core.caching as c\n"
        "c.CacheImpl._locator_classes = []\n"  # what being root hides: no folder accepts the cache
        "import tree, numpy as np\n"
        "t = tree.SumTree(9); t.update(np.arange(9), np.ones(9)); assert t.total == 9\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=120)
    finally:
        tmp_path.chmod(0o700)
