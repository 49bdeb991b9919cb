"""Ways of combining gradients, held to the checks that ``reference`` systems are known by; named after them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from redline.learners.config import LearnerConfig
from redline.learners.exchange import clip
from redline.learners.exchanges.allreduce import AllReduce
from redline.learners.exchanges.central import Central
from redline.learners.exchanges.chunks import ChunkLocked, cut
from redline.learners.exchanges.parameter_server import OutlierRule, Shard, ToServers
from redline.learners.exchanges.race import Race
from redline.learners.learner import Learner
from redline.learners.optimizers import statistics_of
from redline.types import Loss

SGD = LearnerConfig(device="cpu", precision="fp32", optimizer="sgd", learning_rate=0.1, max_grad_norm=None)
RMSPROP = replace(SGD, optimizer="rmsprop", learning_rate=1e-2, decay=0.99, epsilon=1e-5)
ADAM = replace(SGD, optimizer="adam", learning_rate=1e-2)
ADAGRAD = replace(SGD, optimizer="adagrad", learning_rate=0.1, epsilon=1e-6)
Data = tuple[Tensor, Tensor]


def learner(config: LearnerConfig) -> Learner:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))
    return Learner(network, config, seed=0, num_envs=1, gamma=0.99)


def loss(model: Any, batch: Data) -> tuple[Tensor, dict[str, Tensor]]:
    x, y = batch
    error = (model(x)[:, 0] - y).square().mean()
    return error, {"error": error.detach()}


def summed_loss(model: Any, batch: Data) -> tuple[Tensor, dict[str, Tensor]]:
    error, metrics = loss(model, batch)
    return error * len(batch[0]), metrics


def batches(count: int, size: int = 8, seed: int = 1) -> list[Data]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 6, generator=generator), torch.randn(size, generator=generator))
        for _ in range(count)
    ]


def step(made: Learner, batch: Data, minimise: Loss = loss) -> Any:
    made.exchange.pull(made)
    made.split(torch.arange(len(batch[0])))
    return made.step(minimise, [lambda: batch])


def gradient_at(weights: Tensor, batch: Data) -> Tensor:
    """f32[P] of the loss at ``weights``."""
    fresh = learner(SGD)
    fresh.adopt(weights)
    step(fresh, batch)
    return fresh.gradient.clone()


class Meeting:
    """Threads' all-reduce for tests: a barrier over rows summed in order."""

    def __init__(self, count: int) -> None:
        self.rows: list[Tensor] = [torch.zeros(0)] * count
        self.barrier = threading.Barrier(count, timeout=20)

    def reducer(self, rank: int) -> Callable[[Tensor], None]:
        def reduce(x: Tensor) -> None:
            self.rows[rank] = x.clone()
            self.barrier.wait()
            x.copy_(sum(self.rows[1:], self.rows[0].clone()))
            self.barrier.wait()

        return reduce


def side_by_side(tasks: list[Callable[[], Any]]) -> None:
    errors: list[BaseException] = []

    def run(task: Callable[[], Any]) -> None:
        try:
            task()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    if errors:
        raise errors[0]


def in_company(config: LearnerConfig, sizes: list[int], steps: int) -> tuple[list[Learner], Learner]:
    """Learners of all-reduce on shards of the given sizes, and one learner on their union, ``steps`` steps each."""
    meeting = Meeting(len(sizes))
    learners = [learner(config) for _ in sizes]
    for rank, made in enumerate(learners):
        made.share(AllReduce(meeting.reducer(rank)))
    whole = learner(config)
    data = batches(steps, sum(sizes))
    shards = [list(zip(x.split(sizes), y.split(sizes), strict=True)) for x, y in data]

    def train(rank: int) -> None:
        for each in shards:
            step(learners[rank], each[rank])

    side_by_side([lambda rank=rank: train(rank) for rank in range(len(sizes))])  # type: ignore[misc]
    for batch in data:
        step(whole, batch)
    return learners, whole


# DistBelief, check 1, and Accel RL, check 1
@pytest.mark.parametrize("sizes", [[4, 4], [6, 2], [3, 4, 1]])
@pytest.mark.parametrize("config", [SGD, replace(ADAM, max_grad_norm=0.1)])
def test_synchronous_learners_equal_one_on_the_union_batch_and_each_other(
    config: LearnerConfig, sizes: list[int]
) -> None:
    learners, whole = in_company(config, sizes, 100 if sizes == [4, 4] else 20)
    for made in learners[1:]:
        assert torch.equal(made.flat, learners[0].flat)
    torch.testing.assert_close(
        learners[0].flat, whole.flat, atol=1e-6 if config.optimizer == "sgd" else 1e-5, rtol=0
    )


# What IMPALA and n-step Q minimise is the sum over the batch: a share's gradient is part of the union's as it is.
@pytest.mark.parametrize("sizes", [[4, 4], [6, 2], [3, 4, 1]])
def test_gradients_of_sums_add_up_to_those_of_the_union_batch(sizes: list[int]) -> None:
    meeting, (batch,) = Meeting(len(sizes)), batches(1, sum(sizes))
    shares = list(zip(*(part.split(sizes) for part in batch), strict=True))
    learners, found = [learner(SGD) for _ in sizes], {}

    def train(rank: int) -> None:
        learners[rank].share(AllReduce(meeting.reducer(rank), summed=True))
        found[rank] = step(learners[rank], shares[rank], summed_loss)

    side_by_side([lambda rank=rank: train(rank) for rank in range(len(sizes))])  # type: ignore[misc]
    whole = learner(SGD)
    wanted = step(whole, batch, summed_loss)
    for rank, made in enumerate(learners):
        torch.testing.assert_close(made.flat, whole.flat, atol=1e-6, rtol=1e-5)
        for name in ("error", "gradient_norm"):  # a mean, and the norm of a sum
            assert float(found[rank][name]) == pytest.approx(float(wanted[name]), rel=1e-5)


def test_uneven_shards_averaged_without_their_counts_would_differ() -> None:
    """The twin of the test above: unweighted, the parameters part, so the comparison can fail."""
    meeting = Meeting(2)
    learners = [learner(SGD) for _ in range(2)]
    for rank, made in enumerate(learners):
        made.share(AllReduce(meeting.reducer(rank)))
    x, y = batches(1, 8)[0]

    def train(rank: int) -> None:
        part = slice(0, 6) if rank == 0 else slice(6, 8)
        learners[rank].exchange.pull(learners[rank])
        learners[rank].samples = 1
        learners[rank].step(loss, [lambda: (x[part], y[part])])

    side_by_side([lambda rank=rank: train(rank) for rank in range(2)])  # type: ignore[misc]
    whole = learner(SGD)
    step(whole, (x, y))
    assert (learners[0].flat - whole.flat).abs().max() > 1e-4


# DistBelief, check 3
def test_asynchronous_learners_differ_until_their_next_pull() -> None:
    central = Central.of_one_process(learner(RMSPROP).flat.numel(), 2, RMSPROP)
    first, second = learner(RMSPROP), learner(RMSPROP)
    central.initialise(first.flat)
    for rank, made in enumerate((first, second)):
        made.share(Race(central, rank, RMSPROP))
        made.exchange.pull(made)
    step(first, batches(1)[0])
    assert not torch.equal(first.flat, second.flat)
    second.exchange.pull(second)
    assert torch.equal(first.flat, second.flat)


# DistBelief, check 4
def test_clipping_comes_after_averaging_in_lockstep_and_before_it_apart() -> None:
    gradients = [torch.tensor([10.0, 0.0]), torch.tensor([0.0, 0.0])]
    after = torch.stack(gradients).mean(0)
    clip(after, after.norm(), 1.0)
    torch.testing.assert_close(after, torch.tensor([1.0, 0.0]), atol=1e-5, rtol=0)
    for gradient in gradients:
        clip(gradient, gradient.norm(), 1.0)
    torch.testing.assert_close(torch.stack(gradients).mean(0), torch.tensor([0.5, 0.0]), atol=1e-5, rtol=0)

    # The same numbers through the exchange itself.
    meeting = Meeting(2)
    config = replace(SGD, learning_rate=1.0, max_grad_norm=1.0)
    learners = [Learner(nn.Linear(2, 1, bias=False), config, seed=0, num_envs=1, gamma=1.0) for _ in range(2)]
    for rank, made in enumerate(learners):
        made.adopt(torch.zeros(2))
        made.share(AllReduce(meeting.reducer(rank)))

    def train(rank: int) -> None:
        slope = torch.tensor([[10.0, 0.0]]) if rank == 0 else torch.zeros(1, 2)
        learners[rank].split(torch.arange(1))
        learners[rank].step(lambda net, x: (net(x).sum(), {}), [lambda: slope])

    side_by_side([lambda rank=rank: train(rank) for rank in range(2)])  # type: ignore[misc]
    for made in learners:
        torch.testing.assert_close(made.flat, torch.tensor([-1.0, 0.0]), atol=1e-5, rtol=0)


# A3C, check 1
def test_a_stale_gradient_is_really_applied() -> None:
    first, other = learner(RMSPROP), learner(RMSPROP)
    central = Central.of_one_process(first.flat.numel(), 2, RMSPROP)
    central.initialise(first.flat)
    for rank, made in enumerate((first, other)):
        made.share(Race(central, rank, RMSPROP))
    data = batches(4)
    first.exchange.pull(first)
    start = first.flat.clone()
    for batch in data[:3]:
        step(other, batch)
    weights, square = central.weights.clone(), central.statistics["square_avg"].clone()
    first.step(loss, [lambda: data[3]])  # goes on from what it pulled
    gradient = gradient_at(start, data[3])
    square = 0.99 * square + 0.01 * gradient.square()
    expected = weights - RMSPROP.learning_rate * gradient / (square.sqrt() + RMSPROP.epsilon)
    torch.testing.assert_close(central.weights, expected, atol=1e-7, rtol=1e-6)
    fresh = gradient_at(weights, data[3])
    assert (fresh - gradient).abs().max() > 1e-3, "were the gradient taken anew, this test would not see it"
    assert central.lags[0, 3] == 1


class Meets:
    """Stands in for an optimiser's step: both workers must be inside at once."""

    def __init__(self, step: Callable[[], Any], barrier: threading.Barrier) -> None:
        self.step, self.barrier = step, barrier

    def __call__(self, *_: Any) -> None:
        self.barrier.wait()
        self.step()


class LockedRace(Race):
    """What Race must not be."""

    lock = threading.Lock()

    def step(self, *arguments: Any) -> Any:
        with self.lock:
            return super().step(*arguments)


# A3C, check 2
@pytest.mark.parametrize("kind", [Race, LockedRace])
def test_two_workers_are_inside_the_update_at_once(kind: type[Race]) -> None:
    learners = [learner(RMSPROP) for _ in range(2)]
    central = Central.of_one_process(learners[0].flat.numel(), 2, RMSPROP)
    central.initialise(learners[0].flat)
    barrier = threading.Barrier(2, timeout=1.0)
    for rank, made in enumerate(learners):
        exchange = kind(central, rank, RMSPROP)
        exchange.optimizer.step = Meets(exchange.optimizer.step, barrier)  # type: ignore[method-assign]
        made.share(exchange)
    tasks = [lambda made=made: step(made, batches(1)[0]) for made in learners]
    if kind is Race:
        side_by_side(tasks)  # type: ignore[arg-type]
        assert central.updates.tolist() == [1, 1]
    else:
        with pytest.raises(threading.BrokenBarrierError):
            side_by_side(tasks)  # type: ignore[arg-type]


# A3C, check 4
def test_one_workers_step_changes_what_anothers_next_step_divides_by() -> None:
    data = batches(2)

    def second_step(shares: bool) -> Tensor:
        """How far the second worker moves the weights, after a step of the first that it shares statistics with."""
        workers = [learner(RMSPROP) for _ in range(2)]
        central = Central.of_one_process(workers[0].flat.numel(), 2, RMSPROP)
        central.initialise(workers[0].flat)
        for rank, made in enumerate(workers):
            made.share(Race(central, rank, RMSPROP))
        step(workers[0], data[0])
        if not shares:
            central.statistics["square_avg"].zero_()
        before = central.weights.clone()
        step(workers[1], data[1])
        return central.weights - before

    shared, alone = second_step(True), second_step(False)
    assert (shared.abs() < alone.abs()).float().mean() > 0.9  # a fuller g makes shorter steps


@pytest.mark.parametrize("kind", ["race", "chunks"])
def test_whoever_comes_late_learns_from_the_shared_target_network(kind: str) -> None:
    def join(central: Central, writer: int) -> Learner:
        made = learner(ADAM)
        made.make_target()
        locks = [threading.Lock()]
        made.share(
            Race(central, writer, ADAM) if kind == "race" else ChunkLocked(central, writer, ADAM, locks)
        )
        made.exchange.pull(made)
        return made

    first = learner(ADAM)
    central = Central.of_one_process(first.flat.numel(), 2, ADAM)
    central.initialise(first.flat)
    first = join(central, 0)
    for batch in batches(2):
        step(first, batch)
        first.set_progress(0.0, first.steps + 500)
    first.copy_target()
    step(first, batches(1)[0])
    resumed = Central.of_one_process(first.flat.numel(), 2, ADAM)
    resumed.initialise(central.weights)
    resumed.load_state(central.state())
    for each in (central, resumed):  # the successor of one that was killed, and a learner of a resumed run
        late = join(each, 1)
        assert torch.equal(late._target, first._target)
        assert not torch.equal(late._target, late.flat)
        assert late.target_steps == 1000, "when it is due again"


# Accel RL, check 2
def test_after_a_push_the_learner_has_the_central_weights_chunk_by_chunk() -> None:
    made = learner(ADAM)
    central = Central.of_one_process(made.flat.numel(), 2, ADAM)
    central.initialise(made.flat)
    exchange = ChunkLocked(central, 0, ADAM, [threading.Lock() for _ in range(3)])
    made.share(exchange)
    step(made, batches(1)[0])
    assert len(exchange.chunks) == 3
    for chunk in exchange.chunks:
        assert torch.equal(made.flat[chunk], central.weights[chunk])
    assert sorted(exchange.order) == [0, 1, 2]


def test_two_pushes_lose_no_update_and_the_moments_reflect_both_gradients() -> None:
    workers = [learner(ADAM) for _ in range(2)]
    central = Central.of_one_process(workers[0].flat.numel(), 2, ADAM)
    central.initialise(workers[0].flat)
    locks = [threading.Lock() for _ in range(3)]
    exchanges = [ChunkLocked(central, rank, ADAM, locks) for rank in range(2)]
    for made, exchange in zip(workers, exchanges, strict=True):
        made.share(exchange)
        exchange.pull(made)
    data = batches(2)
    one, two = (gradient_at(central.weights, batch) for batch in data)
    side_by_side([lambda k=k: workers[k].step(loss, [lambda: data[k]]) for k in range(2)])  # type: ignore[misc]
    # Whichever came first in a chunk: m = .1 (.9 a + b), v = .001 (.999 a^2 + b^2).
    m, v = central.statistics["exp_avg"], central.statistics["exp_avg_sq"]
    for chunk in exchanges[0].chunks:
        orders = [(one[chunk], two[chunk]), (two[chunk], one[chunk])]
        assert any(torch.allclose(m[chunk], 0.1 * (0.9 * a + b), atol=1e-7) for a, b in orders)
        assert any(
            torch.allclose(v[chunk], 0.001 * (0.999 * a**2 + b**2), atol=1e-9, rtol=1e-4) for a, b in orders
        )
    assert central.updates.tolist() == [1, 1]  # each counts its own steps


def test_a_chunk_whose_lock_is_taken_is_visited_last() -> None:
    made = learner(ADAM)
    central = Central.of_one_process(made.flat.numel(), 1, ADAM)
    central.initialise(made.flat)
    locks = [threading.Lock() for _ in range(3)]
    exchange = ChunkLocked(central, 0, ADAM, locks)
    made.share(exchange)
    exchange.pull(made)
    locks[0].acquire()
    timer = threading.Timer(0.2, locks[0].release)
    timer.start()
    made.step(loss, [lambda: batches(1)[0]])
    timer.join()
    assert exchange.order == [1, 2, 0]
    assert torch.equal(made.flat, central.weights)


# Of Adam, whose moments are shared: whoever goes on with them must know how many updates they are of.
@pytest.mark.parametrize("kind", ["race", "chunks"])
def test_a_worker_goes_on_where_its_predecessor_stood(kind: str) -> None:
    data, ends = batches(6), []
    locks = [threading.Lock() for _ in range(3)]
    for change in (0, 3):  # 0: none
        made = learner(ADAM)
        central = Central.of_one_process(made.flat.numel(), 1, ADAM)
        central.initialise(made.flat)
        for k, batch in enumerate(data):
            if k in (0, change):
                race = kind == "race"
                made.share(Race(central, 0, ADAM) if race else ChunkLocked(central, 0, ADAM, locks))
            step(made, batch)
        ends.append(central.weights)
    assert torch.equal(*ends)


def test_a_server_goes_on_where_its_predecessor_stood() -> None:
    gradients, ends = torch.randn(6, 4).unbind(), []
    for change in (0, 3):
        weights, version = torch.zeros(4), 0
        statistics = {name: torch.zeros(4) for name in statistics_of(ADAM)}
        for k, gradient in enumerate(gradients):
            if k in (0, change):
                shard = Shard(weights, statistics, ADAM, version=version)
            shard.apply(gradient, version, 0.1)
            version = shard.version
        ends.append(weights)
    assert torch.equal(*ends)


class Local:
    """A line to a shard in this thread."""

    def __init__(self, shard: Shard, piece: slice, every: int = 60_000) -> None:
        self.shard, self.slice, self.every = shard, piece, every
        self.copy, self.multiple = shard.weights.clone(), 0

    def push(self, gradient: Tensor, stamp: int, rate: float) -> None:
        self.shard.apply(gradient, stamp, rate)
        if self.shard.version % self.every == 0 and self.shard.version != self.multiple:
            self.copy, self.multiple = self.shard.weights.clone(), self.shard.version

    def settle(self) -> None:
        pass

    def fetch(self, weights: Tensor) -> int:
        weights.copy_(self.shard.weights)
        return self.shard.version

    def fetch_target(self, weights: Tensor) -> int:
        weights.copy_(self.copy)
        return self.multiple

    def target(self) -> int:
        return self.multiple


def serve(made: Learner, servers: int, config: LearnerConfig, **options: Any) -> list[Local]:
    lines = []
    for piece in cut(made.flat.numel(), servers):
        size = piece.stop - piece.start
        statistics = {name: torch.zeros(size) for name in statistics_of(config)}
        shard = Shard(
            made.flat[piece].clone(), statistics, config, max_staleness=options.get("max_staleness")
        )
        lines.append(Local(shard, piece, options.get("every", 60_000)))
    return lines


# Gorila, check 1
@pytest.mark.parametrize(("stamp", "applied"), [(10, True), (7, True), (6, False), (0, False)])
def test_a_gradient_is_applied_iff_it_is_fresh_enough(stamp: int, applied: bool) -> None:
    shard = Shard(torch.zeros(4), {"square": torch.zeros(4)}, ADAGRAD, max_staleness=3, version=10)
    got = shard.apply(torch.ones(4), stamp, 0.1)
    assert got == (10 - stamp if applied else None)
    assert shard.version == (11 if applied else 10)
    assert shard.rejected == (0 if applied else 1)
    torch.testing.assert_close(shard.weights, torch.full((4,), -0.1 if applied else 0.0), atol=1e-6, rtol=0)


# Gorila, check 2
def test_a_loss_twenty_deviations_up_is_not_sent_and_the_statistics_move() -> None:
    rule = OutlierRule(5.0)
    generator = torch.Generator().manual_seed(0)
    for value in (1.0 + 0.1 * torch.randn(200, generator=generator)).tolist():
        assert rule.passes(value)
    mean, deviation = rule.mean, rule.variance**0.5
    assert mean == pytest.approx(1.0, abs=0.03)
    assert deviation == pytest.approx(0.1, abs=0.02)
    assert not rule.passes(mean + 20 * deviation)
    assert rule.mean > mean
    assert rule.variance**0.5 > deviation
    assert not rule.passes(float("nan"))


def test_a_learner_sends_no_gradient_of_an_outlier() -> None:
    made = learner(ADAGRAD)
    lines = serve(made, 1, ADAGRAD)
    exchange = ToServers(lines, ADAGRAD, OutlierRule(5.0, warm_up=5))
    made.share(exchange)
    for batch in batches(30):
        step(made, batch)
    before = lines[0].shard.version
    x, y = batches(1, seed=9)[0]
    step(made, (x, y + 100.0))
    assert lines[0].shard.version == before
    assert exchange.outliers >= 1
    step(made, (x, y))
    assert lines[0].shard.version == before + 1


# Gorila, check 3
@pytest.mark.parametrize("servers", [2, 3, 7])
@pytest.mark.parametrize("config", [ADAGRAD, RMSPROP])
def test_a_sharded_server_equals_an_unsharded_one(servers: int, config: LearnerConfig) -> None:
    results = []
    for count in (1, servers):
        made = learner(config)
        made.share(ToServers(serve(made, count, config), config, OutlierRule(None)))
        for batch in batches(10):
            step(made, batch)
        results.append(made.flat)
    torch.testing.assert_close(results[0], results[1], atol=1e-7, rtol=0)


# Gorila, check 5
def test_the_target_is_the_servers_weights_at_a_multiple_of_n_updates() -> None:
    first, second = learner(ADAGRAD), learner(ADAGRAD)
    for made in (first, second):
        made.make_target()
    lines = serve(first, 2, ADAGRAD, every=4)
    for made in (first, second):
        made.share(ToServers(lines, ADAGRAD, OutlierRule(None), fetch_every=3))  # their own copies lag behind
    at_multiple: dict[int, Tensor] = {}
    for k, batch in enumerate(batches(9)):
        step(first if k % 2 else second, batch)
        at_multiple[lines[0].shard.version] = torch.cat([line.shard.weights for line in lines]).clone()
    for made in (first, second):
        made.copy_target()  # due by the learner's own count: the servers decide all the same
        assert torch.equal(made._target, at_multiple[8])
        assert not torch.equal(made._target, made.flat)


# Golden numbers: AdaGrad and shared RMSProp, two steps by hand.
def test_golden_steps_of_adagrad_and_rmsprop() -> None:
    shard = Shard(torch.tensor([1.0]), {"square": torch.zeros(1)}, replace(ADAGRAD, epsilon=1e-12))
    for gradient in (3.0, 4.0):
        shard.apply(torch.tensor([gradient]), shard.version, 0.5)
    # 1 - .5 * 3/3 - .5 * 4/5 = .1
    torch.testing.assert_close(shard.weights, torch.tensor([0.1]), atol=1e-6, rtol=0)
    config = replace(RMSPROP, decay=0.5, epsilon=1e-12)
    rms = Shard(torch.tensor([1.0]), {"square_avg": torch.zeros(1)}, config)
    for gradient in (1.0, 1.0):
        rms.apply(torch.tensor([gradient]), rms.version, 0.1)
    # g = .5, then .75:   1 - .1/sqrt(.5) - .1/sqrt(.75) = .743108
    torch.testing.assert_close(rms.weights, torch.tensor([0.743108]), atol=1e-6, rtol=0)
