"""On a GPU: architectures train there, runs resume, and recorded work equals work that is not."""

from __future__ import annotations

import gc
import itertools
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import redline
from redline import recipes
from redline.actors import allocate
from redline.learners.graphs import WARM_UP, Graphed
from redline.learners.transfer import Transfer
from redline.runs.checkpoint import load_newest
from redline.runtime.experiment import Experiment
from redline.runtime.parts import Parts, assemble
from redline.types import ActInput, Unroll
from tests.recipes.brief import environment_of, train

pytestmark = pytest.mark.gpu


def weights(run: redline.Run) -> torch.Tensor:
    loaded = load_newest(run.path / "checkpoints")
    assert loaded is not None
    return loaded.state["learner"]["weights"]


@pytest.mark.parametrize(
    "recipe", ["impala", "seed", "inference_engine", "a3c", "gorila", "apex", "accel_sync_ppo"]
)
@pytest.mark.parametrize("runtime", ["threads", "processes"])
def test_architectures_train_in_both_runtimes(tmp_path: Path, recipe: str, runtime: str) -> None:
    run = train(tmp_path, recipe, runtime=runtime, device="cuda")
    assert torch.isfinite(weights(run)).all()


@pytest.mark.parametrize("recipe", ["ppo", "a2c", "ppo_lstm"])
def test_one_seed_gives_one_result(tmp_path: Path, recipe: str) -> None:
    first, again, other = (train(tmp_path, recipe, seed=seed, device="cuda") for seed in (5, 5, 6))
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))


@pytest.mark.parametrize("recipe", ["ppo", "dqn"])
def test_a_run_goes_on_where_its_checkpoint_stands(tmp_path: Path, recipe: str) -> None:
    fixed = ["algorithm.anneal_clip=false"] if recipe == "ppo" else ["replay.capacity=1000"]
    still = ("learner.anneal=false", *fixed)  # whatever else follows from how long the run shall be
    whole = train(tmp_path, recipe, *still, device="cuda", steps=4096, seed=3)
    half = train(tmp_path, recipe, *still, device="cuda", steps=2048, seed=3)
    assert not torch.equal(weights(whole), weights(half))
    assert torch.equal(weights(whole), weights(redline.resume(half, steps=4096)))


@pytest.mark.parametrize("runtime", ["threads", "processes"])
def test_an_inference_server_on_the_gpu_equals_one_loop(tmp_path: Path, runtime: str) -> None:
    """Batches of other sizes round otherwise, so actions may in the end differ: weights are compared after little."""
    alone = train(
        tmp_path,
        "ppo",
        "parallel.architecture=synchronous",
        "learner.precision=fp32",
        device="cuda",
        steps=1024,
    )
    served = train(
        tmp_path,
        "ppo",
        "parallel.architecture=seed",
        f"parallel.runtime={runtime}",
        "parallel.copies=2",
        "parallel.queue=0",
        "learner.precision=fp32",
        device="cuda",
        steps=1024,
    )
    torch.testing.assert_close(weights(alone), weights(served), atol=1e-3, rtol=1e-3)


def parts_of(recipe: str, device: str, precision: Any, *, graphs: bool, **changes: Any) -> Parts:
    made: Experiment = recipes.find(recipe, environment_of(recipe))
    learner = replace(
        made.learner, device=device, precision=precision, cuda_graphs=graphs, threads=1, **changes
    )
    environment = replace(made.environment, id=environment_of(recipe))
    algorithm = replace(made.algorithm, epochs=1) if hasattr(made.algorithm, "epochs") else made.algorithm  # type: ignore[call-arg]
    return assemble(replace(made, learner=learner, environment=environment, algorithm=algorithm))


def noise(parts: Parts, seed: int) -> Unroll:
    """An unroll of random numbers."""
    chance = torch.Generator().manual_seed(seed)
    algorithm: Any = parts.experiment.algorithm
    unroll = allocate(
        parts.algorithm, parts.learner.acting, parts.spec, algorithm.unroll, parts.experiment.sampler.num_envs
    )
    if unroll.observation.is_floating_point():
        unroll.observation.normal_(generator=chance)
    else:
        unroll.observation.random_(0, 256, generator=chance)
    unroll.action.random_(0, int(parts.spec.action.n), generator=chance)  # type: ignore[attr-defined]
    unroll.reward.normal_(generator=chance)
    for name, leaf in unroll.record.items():
        leaf.fill_(-1.0) if name == "log_prob" else leaf.normal_(generator=chance)
    return unroll


def moves(parts: Parts, seed: int) -> torch.Tensor:
    """How the weights move in an update on noise, f32[P]."""
    learner = parts.learner
    before = learner.flat.clone()
    unroll = noise(parts, seed).map(lambda x: x.to(learner.device))
    learner.set_progress(0.1 * seed, 1000 * (1 + seed))
    parts.algorithm.update(learner, unroll, 0.1 * seed)
    return (learner.flat - before).cpu()


def apart(one: Parts, other: Parts) -> float:
    """How much the moves of two differ that start each update alike, relative to the moves; the worst update counts.

    Over several updates noise in the inputs makes anything of a last digit.
    """
    worst = 0.0
    for seed in range(WARM_UP + 4):
        other.learner.load_state(one.learner.state())
        here, there = moves(one, seed), moves(other, seed)
        worst = max(worst, float((here - there).norm() / here.norm()))
    one.close()
    other.close()
    return worst


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        *((name, {}) for name in ("ppo", "ppo_atari", "a2c_atari", "impala_atari", "appo", "n_step_q")),
        ("ppo", {"optimizer": "sgd", "learning_rate": 0.1}),
    ],
)
def test_recorded_updates_equal_eager_ones(recipe: str, changes: dict[str, Any], precision: str) -> None:
    eager, recorded = (
        parts_of(recipe, "cuda", precision, graphs=graphs, **changes) for graphs in (False, True)
    )
    assert recorded.learner.graphs
    assert not eager.learner.graphs
    assert apart(eager, recorded) < (0.02 if precision == "fp32" else 0.1)


@pytest.mark.parametrize("recipe", ["ppo", "a2c", "impala"])
def test_the_gpu_computes_what_the_cpu_computes(recipe: str) -> None:
    here, there = (parts_of(recipe, device, "fp32", graphs=device == "cuda") for device in ("cpu", "cuda"))
    assert apart(here, there) < 0.02


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recorded_acting_follows_the_weights(precision: Any) -> None:
    parts = parts_of("ppo_atari", "cuda", precision, graphs=True)
    acting: Any = parts.learner.acting
    observation = torch.randint(
        0, 256, (1, 8, *parts.spec.observation.shape), dtype=torch.uint8, device="cuda"
    )  # type: ignore[misc]
    reset = torch.zeros((1, 8), dtype=torch.bool, device="cuda")
    with torch.no_grad():
        for turn in range(3 * WARM_UP + 12):
            if turn % 4 == 0:
                parts.learner.adopt(torch.randn_like(parts.learner.flat).mul_(0.02))
            output, _ = acting(observation, None, reset)
            expected, _ = acting.network(observation, None, reset)
            torch.testing.assert_close(output.policy, expected.policy, atol=2e-2, rtol=2e-2)
            torch.testing.assert_close(output.value, expected.value, atol=2e-2, rtol=2e-2)
    parts.close()


def test_a_recorded_act_draws_anew_each_time_and_says_what_it_drew() -> None:
    parts = parts_of("ppo_atari", "cuda", "fp32", graphs=True)
    acting: Any = parts.learner.acting
    generator = torch.Generator("cuda").manual_seed(3)
    whole = acting.whole_act(parts.algorithm, generator)
    shape = parts.spec.observation.shape
    never = torch.zeros(64, dtype=torch.bool)
    drawn = []
    with torch.no_grad():
        for turn in range(WARM_UP + 30):
            if turn % 5 == 0:
                parts.learner.adopt(torch.randn_like(parts.learner.flat).mul_(0.02))
                observation = torch.randint(0, 256, (64, *shape), dtype=torch.uint8)  # type: ignore[misc]
            record = whole(ActInput(observation, None, never, None, generator, 0))
            output, _ = acting.network(observation.cuda()[None], None, never.cuda()[None])
            expected = parts.algorithm.distribution.log_prob(output.policy[0].cpu(), record["action"])
            torch.testing.assert_close(record["log_prob"], expected, atol=2e-3, rtol=2e-3)
            torch.testing.assert_close(record["value"], output.value[0].cpu(), atol=2e-2, rtol=2e-2)
            drawn.append(record["action"])
    parts.close()
    alike = [torch.equal(one, other) for one, other in itertools.pairwise(drawn)]
    assert not any(alike)
    share = torch.cat(drawn).bincount(minlength=6) / (64 * len(drawn))
    assert share.min() > 0.02


def test_the_planner_measures_both_sides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REDLINE_CACHE", str(tmp_path))
    found = redline.plan("CartPole-v1", verify=False)
    for place in ("cuda fp32", "cuda bf16"):
        assert found.costs.act[place].at(8) > 0
        assert found.costs.train[place].at(8) > 0
        assert found.costs.learn[place][1] > 0
    assert not found.costs.estimated


def test_a_recording_survives_the_end_of_another() -> None:
    """A recording that only a cycle keeps alive is destroyed when cycles are collected: not while one is made."""
    thresholds = gc.get_threshold()

    def function(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if torch.cuda.is_current_stream_capturing():
            gc.set_threshold(1, 1, 1)
        waste = [[index] for index in range(1000)]  # enough for a collection, were there any
        return {"y": batch["x"] + len(waste)}

    x = torch.ones(4, device="cuda")
    gc.set_threshold(10**9)
    try:
        forgotten: dict[str, Any] = {"recorded": Graphed(lambda batch: {"y": batch["x"] * 2}, x.device)}
        for _ in range(WARM_UP + 1):
            forgotten["recorded"]({"x": x})
        forgotten["itself"] = forgotten
        del forgotten
        recorded = Graphed(function, x.device)
        for _ in range(WARM_UP + 1):
            assert recorded({"x": x})["y"].tolist() == [1001.0] * 4
    finally:
        gc.set_threshold(*thresholds)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs a second GPU")
def test_a_recording_is_made_and_replayed_on_a_device_that_is_not_the_current_one() -> None:
    x = torch.ones(4, device="cuda:1")
    recorded = Graphed(lambda batch: {"y": batch["x"] * 2}, x.device)
    for number in range(WARM_UP + 2):
        assert recorded({"x": x * number})["y"].tolist() == [2.0 * number] * 4
    assert torch.cuda.current_device() == 0


def test_threads_that_share_a_recording_each_get_their_own_result() -> None:
    weight = torch.randn(64, 64, device="cuda")
    graphed = Graphed(lambda batch: {"y": batch["x"] @ weight}, weight.device)
    wrong: list[int] = []

    def work(number: int) -> None:
        x = torch.full((16, 64), float(number + 1), device="cuda")
        expected = x @ weight
        right = [torch.allclose(graphed({"x": x})["y"], expected, rtol=1e-3, atol=1e-3) for _ in range(200)]
        wrong.append(right.count(False))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [0] * 4


def test_memory_is_written_again_only_when_its_copy_is_done() -> None:
    class Batch:
        def __init__(self, x: torch.Tensor) -> None:
            self.x = x

        def map(self, function: Any) -> Batch:
            return Batch(function(self.x))

    transfer = Transfer(torch.device("cuda"))
    source = Batch(torch.zeros(64 << 20, dtype=torch.uint8).pin_memory())
    busy = torch.randn(4096, 4096, device="cuda")
    for turn in range(5):
        transfer.wait()
        source.x.fill_(turn)
        for _ in range(10):
            busy = busy @ busy.t() * 1e-4  # the copy waits behind these
        there = transfer(source)
        transfer.wait()
        source.x.fill_(255)
        assert int(there.x.max()) == turn
