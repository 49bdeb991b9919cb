"""Gradients of shards equal those of their union; clipping comes after averaging; states come back bit for bit."""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from redline.learners.config import LearnerConfig
from redline.learners.flat import cut_tiles
from redline.learners.learner import Learner
from redline.runtime.pool import Pool

CONFIG = LearnerConfig(device="cpu", precision="fp32", learning_rate=1e-2, max_grad_norm=None)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 1))


def learner(config: LearnerConfig = CONFIG, **options: Any) -> Learner:
    return Learner(network(), config, seed=0, num_envs=1, gamma=0.99, **options)


def loss(model: Any, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    x, y = batch
    error = (model(x)[:, 0] - y).square().mean()
    return error, {"error": error.detach()}


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(12, 2, 6, 6), torch.randn(12)


@pytest.mark.parametrize("sizes", [(6, 6), (9, 3), (4, 4, 4)])
def test_shards_equal_one_step_on_the_union_batch(
    data: tuple[Tensor, Tensor], sizes: tuple[int, ...]
) -> None:
    # systems.md section 3 check 1 and section 10 check 1, uneven shards weighted by count.
    x, y = data
    whole = learner()
    pool = Pool(len(sizes))
    parts = learner(replace(CONFIG, threads=len(sizes)), parallel=pool)
    pieces = [partial(tuple, piece) for piece in zip(x.split(sizes), y.split(sizes), strict=True)]
    for _ in range(5):
        whole.step(loss, [lambda: (x, y)])
        metrics = parts.step(loss, pieces, [n / 12 for n in sizes])
    torch.testing.assert_close(parts.flat, whole.flat, atol=1e-6, rtol=0)
    assert parts.version == whole.version == 5
    assert float(metrics["error"]) < 10
    pool.close()


def test_clipping_comes_after_averaging() -> None:
    # systems.md section 3 check 4: gradients [10, 0] and [0, 0], clip norm 1 -> [1, 0], not [0.5, 0].
    config = replace(CONFIG, optimizer="sgd", threads=2, max_grad_norm=1.0)
    model = nn.Linear(2, 1, bias=False)
    made = Learner(model, config, seed=0, num_envs=1, gamma=0.99)
    rows = [torch.tensor([[10.0, 0.0]]), torch.tensor([[0.0, 0.0]])]
    metrics = made.step(lambda net, x: (net(x).sum(), {}), [partial(torch.clone, row) for row in rows])
    assert float(metrics["gradient_norm"]) == pytest.approx(5.0)
    torch.testing.assert_close(made.gradient, torch.tensor([1.0, 0.0]), atol=1e-5, rtol=0)


def test_matches_the_ordinary_optimiser(data: tuple[Tensor, Tensor]) -> None:
    config = replace(CONFIG, max_grad_norm=0.1)
    made, plain = learner(config), network()
    optimizer = torch.optim.Adam(plain.parameters(), lr=config.learning_rate, eps=config.epsilon)
    for _ in range(10):
        made.step(loss, [lambda: data])
        optimizer.zero_grad()
        loss(plain, data)[0].backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.1)
        optimizer.step()
    for mine, theirs in zip(made.network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "adagrad", "inside"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_restored_learner_goes_on_bit_for_bit(
    data: tuple[Tensor, Tensor], optimizer: Any, threads: int
) -> None:
    more: dict[str, Any] = {"optimizer": optimizer}
    if optimizer == "inside":
        more = {"optimizer": "rmsprop", "epsilon_inside": True, "centered": True, "momentum": 0.5}
    config = replace(CONFIG, threads=threads, **more)
    x, y = data
    pieces = zip(x.tensor_split(threads), y.tensor_split(threads), strict=True)
    parts = [partial(tuple, piece) for piece in pieces]
    first = learner(config)
    for _ in range(3):
        first.step(loss, parts)
    second = learner(config)
    second.load_state(copy.deepcopy(first.state()))
    for _ in range(3):
        first.step(loss, parts)
        second.step(loss, parts)
    assert torch.equal(first.flat, second.flat)
    assert torch.equal(
        torch.randperm(9, generator=first.generator), torch.randperm(9, generator=second.generator)
    )


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "adagrad"])
def test_a_state_is_restored_into_the_memory_that_there_is(
    data: tuple[Tensor, Tensor], optimizer: Any
) -> None:
    """A CUDA graph goes on reading and writing the statistics that it was recorded with."""
    model = learner(replace(CONFIG, optimizer=optimizer))
    model.step(loss, [lambda: data])
    saved = copy.deepcopy(model.state())
    kept = [value for each in model._optimizers for value in each.state_dict()["state"][0].values()]
    places = [value.data_ptr() for value in kept]
    model.step(loss, [lambda: data])
    model.load_state(saved)
    now = [value for each in model._optimizers for value in each.state_dict()["state"][0].values()]
    assert [value.data_ptr() for value in now] == places
    before = [value for each in saved["optimizers"] for value in each.values()]
    assert all(torch.equal(value, old) for value, old in zip(now, before, strict=True))


def test_the_target_changes_only_when_copied(data: tuple[Tensor, Tensor]) -> None:
    made = learner()
    made.make_target()
    before = [p.clone() for p in made.target.parameters()]
    made.step(loss, [lambda: data])
    assert all(torch.equal(p, q) for p, q in zip(made.target.parameters(), before, strict=True))
    made.copy_target()
    assert all(
        torch.equal(p, q) for p, q in zip(made.target.parameters(), made.network.parameters(), strict=True)
    )


def test_bf16_computes_with_rounded_weights_and_steps_the_full_ones(data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    made = learner(replace(CONFIG, precision="bf16"))
    exact = learner()
    assert next(made.network.parameters()).dtype == torch.bfloat16
    for _ in range(3):
        made.step(loss, [lambda: (x.bfloat16(), y)])
        exact.step(loss, [lambda: (x, y)])
    assert made.flat.dtype == torch.float32
    assert torch.equal(made.compute, made.flat.bfloat16())
    torch.testing.assert_close(made.flat, exact.flat, atol=2e-2, rtol=0)
    assert not torch.equal(
        made.flat, made.flat.bfloat16().float()
    )  # the full weights keep what rounding drops


def test_acting_network_follows_every_step_without_gradients(data: tuple[Tensor, Tensor]) -> None:
    made = learner()
    made.step(loss, [lambda: data])
    assert torch.equal(made.acting(data[0]), made.network(data[0]))
    assert not any(p.requires_grad for p in made.acting.parameters())


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_tiles_cover_the_flat_buffer_once(workers: int) -> None:
    shares = [tiles for tiles in cut_tiles(network(), workers) if tiles]
    edges = [0, *(tile.stop for tiles in shares for tile in tiles)]
    starts = [tile.start for tiles in shares for tile in tiles]
    assert edges[:-1] == starts
    assert edges[-1] == sum(p.numel() for p in network().parameters())


def test_annealing_reaches_zero() -> None:
    made = learner(replace(CONFIG, anneal=True))
    made.set_progress(0.25)
    assert made.learning_rate == pytest.approx(0.75e-2)
    made.set_progress(1.0)
    assert made.learning_rate == 0.0


@pytest.mark.slow
def test_compiled_learner_takes_the_same_steps() -> None:
    # In a process of its own: the compiler leaves threads behind, and the leak guard would blame this one.
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr


COMPILED = """
from dataclasses import replace
import torch
from tests.learners.test_learner import CONFIG, learner, loss

data = (torch.randn(12, 2, 6, 6), torch.randn(12))
plain, compiled = learner(), learner(replace(CONFIG, compile=True))
for _ in range(3):
    plain.step(loss, [lambda: data])
    compiled.step(loss, [lambda: data])
torch.testing.assert_close(compiled.flat, plain.flat, atol=1e-5, rtol=1e-4)
"""
