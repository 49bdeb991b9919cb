"""Why a plan is what it is: where a step's time goes, CPU or GPU for what, how many copies, what holds it up.

The field's three questions of parallel training, answered with this environment's, this network's and this machine's
numbers. An ``Explanation`` is plain data; ``telling`` puts it into words, ``reports/plan.py`` draws it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from redline.architectures.catalogue import find
from redline.planner.costs import Curve, Machine, Prediction
from redline.planner.explaining.variants import Help, Predict, Scaling, helps, scaling
from redline.planner.machines import cost_per_million
from redline.planner.measured import Costs
from redline.planner.options import Option, Plan
from redline.planner.workload import acting, learners_of_a_batch, learning, round_of
from redline.reports.scales import short

LARGEST_BATCH = 65_536  # up to which a crossover is looked for
BUSY = 0.9  # of the time: a role that others wait for
GENERATE = ("stepping", "acting", "bookkeeping")  # generate samples; then "estimating", then "improving"


@dataclass(frozen=True)
class Where:
    """Where the work of one agent step is: core-microseconds (of a GPU: its own), and shares of their sum."""

    micros: dict[str, float]  # stepping, acting, bookkeeping, estimating, improving
    shares: dict[str, float]
    questions: dict[str, float]  # shares: generate samples, estimate return, improve the policy
    waiting: float = 0.0  # microseconds of a step without any core
    on_gpu: tuple[str, ...] = ()  # the parts whose time is a GPU's


@dataclass(frozen=True)
class Crossover:
    """CPU against GPU, for passes through this network."""

    batch: int  # the plan's own
    cpu: float  # seconds of it by one thread, at the best precision
    cpu_place: str
    gpu: float | None = None  # seconds of it; None: there is no GPU
    gpu_place: str = ""
    margin: float | None = None  # cpu / gpu at the plan's own batch: above 1 the GPU is faster
    from_batch: int | None = None  # from which on the GPU is faster than one core; None: never, or no GPU
    from_batch_all: int | None = None  # and than all cores together
    estimated: bool = False


@dataclass(frozen=True)
class Explanation:
    """Everything that is said about a plan's best option."""

    where: Where
    amdahl: dict[
        str, float | None
    ]  # stepping, acting, learning made free -> x-fold; None: nothing would be left
    acting: Crossover
    learning: Crossover
    scaling: Scaling
    utilisation: dict[str, float]
    cores_busy: float
    cores: int
    gpu_busy: float
    bottleneck_role: str
    bottleneck: str  # one sentence
    helps: list[Help] = field(default_factory=list)
    price_per_million: float | None = None  # agent steps

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def explain(plan: Plan, predict: Predict) -> Explanation:
    """Explain a plan's best option.

    Args:
        plan: its ``costs`` hold for its ``machine``.
        predict: what an option does under costs on a machine; called about fifty times.
    """
    option, prediction = plan.best.option, plan.best.prediction
    where = where_time_goes(option, plan.costs, prediction)
    rate = plan.best.measured.steps_per_second if plan.best.measured else prediction.steps_per_second
    role, sentence = bottleneck(option, prediction, plan.machine, where)
    return Explanation(
        where=where,
        amdahl=amdahl(where),
        acting=crossover(plan.costs, plan.machine, "act", acting_batch(option)),
        learning=crossover(plan.costs, plan.machine, "train", learning_batch(option, plan.costs)),
        scaling=scaling(option, plan.costs, plan.machine, predict),
        utilisation=dict(prediction.utilisation),
        cores_busy=prediction.cores_busy,
        cores=plan.machine.cores,
        gpu_busy=prediction.gpu_busy,
        bottleneck_role=role,
        bottleneck=sentence,
        helps=helps(option, plan.costs, plan.machine, predict),
        price_per_million=cost_per_million(plan.machine, rate),
    )


def where_time_goes(option: Option, costs: Costs, prediction: Prediction) -> Where:
    """Work of one agent step, part by part, as if one core did it all (a GPU does its own)."""
    together = max(option.environments // (option.shards * option.groups), 1)
    step = round_of(costs, together)
    batch = acting_batch(option)
    pass_ = acting(option, costs, batch)
    bookkeeping = costs.record.at(batch) / batch
    bookkeeping += costs.hand.get(option.runtime, 0.0) / (option.environments * option.unroll)
    if option.apart:  # else storing is among what a batch costs
        bookkeeping += costs.store
    if option.architecture == "seed":
        bookkeeping += costs.request / option.environments
        if option.runtime in costs.serve:
            bookkeeping += costs.serve[option.runtime].at(batch) / batch
    whole = learning(replace(option, threads=1), costs)
    samples = 1.0 if prediction.replay_ratio is None else prediction.replay_ratio
    learn = samples * (whole.core + whole.gpu) / costs.batch
    # Every copy that learns from a batch shares a gradient at each of its updates.
    exchanges = learners_of_a_batch(option) * max(costs.updates, 1.0)
    exchanged = costs.exchange.get(option.architecture, 0.0) * exchanges
    shared = samples * (costs.publish + exchanged) / costs.batch
    seconds = {
        "stepping": step.core / together,
        "acting": (pass_.core + pass_.gpu) / batch - costs.record.at(batch) / batch,
        "bookkeeping": bookkeeping,
        "estimating": learn * costs.estimate,
        "improving": learn * (1 - costs.estimate) + shared,
    }
    total = sum(seconds.values()) or 1e-12
    shares = {name: each / total for name, each in seconds.items()}
    on_gpu = (["acting"] if option.act_on.startswith("cuda") else []) + (
        ["estimating", "improving"] if option.learn_on.startswith("cuda") else []
    )
    return Where(
        micros={name: each * 1e6 for name, each in seconds.items()},
        shares=shares,
        questions={
            "generate samples": sum(shares[name] for name in GENERATE),
            "estimate return": shares["estimating"],
            "improve the policy": shares["improving"],
        },
        waiting=step.wait / together * 1e6,
        on_gpu=tuple(on_gpu),
    )


def amdahl(where: Where) -> dict[str, float | None]:
    """How many times as fast one core would be with a part of its work made free (Amdahl 1967): an upper bound of each
    way to parallelise. None where nothing would be left to do."""
    parts = {
        "stepping": ("stepping",),
        "acting": ("acting",),
        "learning": ("estimating", "improving"),
    }
    found: dict[str, float | None] = {}
    for name, inside in parts.items():
        left = 1.0 - sum(where.shares[each] for each in inside)
        found[name] = 1.0 / left if left > 1e-9 else None
    return found


def acting_batch(option: Option) -> int:
    """Observations of one acting pass."""
    if option.architecture == "seed":
        return max(option.copies * option.environments // (option.servers * option.groups), 1)
    return max(option.environments // (option.shards * option.groups), 1)


def learning_batch(option: Option, costs: Costs) -> int:
    """Samples of one training pass of one thread."""
    return max(round(costs.minibatch / option.threads), 1)


def crossover(costs: Costs, machine: Machine, name: str, batch: int) -> Crossover:
    """From which batch on a GPU is faster. ``name``: ``act`` or ``train``, a field of ``costs``."""
    places: dict[str, Curve] = getattr(costs, name)
    on_cpu = {place: curve for place, curve in places.items() if place.startswith("cpu ")}
    on_gpu = {place: brought(curve, costs) for place, curve in places.items() if place.startswith("cuda ")}
    cpu_place = min(on_cpu, key=lambda place: on_cpu[place].at(batch))
    cpu = on_cpu[cpu_place].at(batch)
    if not on_gpu:
        return Crossover(batch, cpu, cpu_place)
    gpu_place = min(on_gpu, key=lambda place: on_gpu[place].at(batch))
    gpu = on_gpu[gpu_place].at(batch)
    curves = list(on_cpu.values()), list(on_gpu.values())
    return Crossover(
        batch,
        cpu,
        cpu_place,
        gpu,
        gpu_place,
        margin=cpu / max(gpu, 1e-12),
        from_batch=first_ahead(*curves),
        from_batch_all=first_ahead(*curves, cores=machine.cores),
        estimated=gpu_place in costs.estimated,
    )


def brought(curve: Curve, costs: Costs) -> Curve:
    """A GPU's curve with bringing the observations there."""
    if costs.transfer is None:
        return curve
    size = costs.observation_bytes
    return Curve(tuple((n, seconds + costs.transfer.at(n * size)) for n, seconds in curve.points))


def first_ahead(cpu: Sequence[Curve], gpu: Sequence[Curve], cores: int = 1) -> int | None:
    """The smallest batch from which on the GPU is faster, and stays so up to ``LARGEST_BATCH``; None where it is slower
    even there. ``cores`` of the CPU take equal parts of a batch."""

    def ahead(batch: int) -> bool:
        return min(each.at(batch) for each in gpu) < min(each.at(batch / cores) for each in cpu)

    if not ahead(LARGEST_BATCH):
        return None
    faster, slower = LARGEST_BATCH, LARGEST_BATCH // 2
    while slower >= 1 and ahead(slower):
        faster, slower = slower, slower // 2
    while faster - slower > 1:
        middle = (faster + slower) // 2
        faster, slower = (middle, slower) if ahead(middle) else (faster, middle)
    return faster


_PLURAL = {"actor": "actors", "worker": "workers", "bundle": "bundles", "replica": "replicas"}
_WORDS = {
    "stepping": "stepping environments",
    "acting": "choosing actions",
    "estimating": "estimating returns",
    "improving": "improving the policy",
}
_PART = {
    "stepping": "more cores or a faster environment would relieve it, a GPU would not",
    "acting": "a GPU, a smaller network or more environments to a pass would relieve it",
    "bookkeeping": "more environments to an actor would relieve it",
    "estimating": "more cores, or a GPU, would relieve it",
    "improving": "a GPU, more learner threads or fewer epochs would relieve it",
}
_PART_ON_GPU = {
    "acting": "more environments to a pass would relieve it, more cores would not",
    "estimating": "larger batches or a faster GPU would relieve it, more cores would not",
    "improving": "larger minibatches, fewer epochs or a faster GPU would relieve it, more cores would not",
}
_ROLE_ON_GPU = {
    "learner": "larger batches, fewer updates for each step or a faster GPU would relieve it; more actors would not",
    "inference": "more environments to a pass or a faster GPU would relieve it; more workers would not",
}
_ROLE = {
    "learner": "a GPU, more learner threads or fewer updates for each step would relieve it; more actors would not",
    "inference": "a GPU for acting or a smaller network would relieve it; more workers would not",
    "replay": "larger slots (parallel.slot) would relieve it; more actors would not",
    "server": "more shards of the parameter server would relieve it; more bundles would not",
}


def bottleneck(option: Option, prediction: Prediction, machine: Machine, where: Where) -> tuple[str, str]:
    """The role that the others wait for, and a sentence with what would relieve it."""
    busy = prediction.utilisation
    shown = ", ".join(f"{name} {share:.0%} busy" for name, share in busy.items())
    largest = max(where.shares, key=lambda name: where.shares[name])
    words = _WORDS.get(largest, largest)
    parts = _PART | {name: _PART_ON_GPU[name] for name in where.on_gpu}
    roles = dict(_ROLE)
    if option.learn_on.startswith("cuda"):
        roles["learner"] = _ROLE_ON_GPU["learner"]
    if option.act_on.startswith("cuda"):
        roles["inference"] = _ROLE_ON_GPU["inference"]
    if prediction.cores_busy >= BUSY * machine.cores:
        one = machine.cores == 1
        many = "The one core is" if one else f"All {machine.cores} cores are"
        return (
            "cores",
            f"{many} used up, {where.shares[largest]:.0%} of the work is {words}: {parts[largest]}.",
        )
    several = find(option.architecture).shares_gradients  # only these spread over the GPUs there are
    if machine.gpus is not None and prediction.gpu_busy >= BUSY * (machine.gpus.count if several else 1):
        more = "a faster one, or one more," if several else "a faster one"
        return "gpu", f"The GPU is used up: {more} would relieve it, more actors would not."
    work = sum(where.micros.values())
    if where.waiting > work:
        return "", (
            f"The environments keep everybody waiting ({short(where.waiting, 2)} µs of a step beside {short(work, 2)} "
            "of work): more of them side by side, or faster ones, would relieve it; cores and a GPU would not."
        )
    if not busy:
        return "", "How busy the roles are is not known."
    top = max(busy, key=lambda name: busy[name])
    if len(busy) == 1 and option.copies == 1 and option.architecture == "synchronous":
        idle = machine.cores - prediction.cores_busy
        return (
            top,
            f"One loop takes turns at everything and leaves {idle:.1f} of {machine.cores} cores idle,"
            f" {where.shares[largest]:.0%} of its work is {words}: {parts[largest]}.",
        )
    if busy[top] < BUSY:
        return (
            "",
            f"The roles wait for each other ({shown}): longer unrolls or more room in queues would help.",
        )
    if top in _PLURAL:
        trains = find(option.architecture).role(top).runs == "train"  # they learn as well as collect
        relief = parts[largest if trains else max(GENERATE, key=lambda name: where.shares[name])]
        return top, f"The {_PLURAL[top]} are the bottleneck ({shown}): {relief}."
    return top, f"The {top} is the bottleneck ({shown}): {roles.get(top, 'a faster one would relieve it')}."
