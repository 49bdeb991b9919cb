"""The same plan with more copies, more cores, a GPU, a faster environment: what each would bring."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from redline.architectures.catalogue import find
from redline.planner.costs import Curve, Machine, Prediction
from redline.planner.machines import WhatIf
from redline.planner.measured import Costs
from redline.planner.options import Option
from redline.planner.profiles import published

Predict = Callable[[Option, Costs, Machine], Prediction]
LITTLE = 0.05  # of the rate: what one more copy must bring to be worth it
FAIR = (
    0.5  # of what a copy brings on average: the same with many copies, of which each is a small part anyway
)
MOST_COPIES = 1024  # that throughput is drawn for
SHORTEST = 5  # time steps of an unroll: shorter ones bootstrap from a value at almost every step
OFF = 0.03  # relative: how far a batch that is cut otherwise may be from its size
MOST_TRIED = 4  # numbers of copies, for so many more cores
LEAST_ERROR = 0.1  # relative, of a gain


@dataclass(frozen=True)
class Point:
    """Throughput and lag with so many copies."""

    copies: int
    steps_per_second: float
    lag_mean: float = 0.0  # batches
    lag_max: float = 0.0


@dataclass(frozen=True)
class Scaling:
    """Throughput and lag against the number of copies."""

    what: str  # copies of the role that steps environments, or actor threads of a loop
    own: int  # as many as the plan has
    points: list[Point]
    knee: int | None  # beyond which one more brings little; None: not within what was looked at


@dataclass(frozen=True)
class Help:
    """What one change would bring: relative to the plan's rate, 0.4 is 40% more."""

    name: str
    gain: float
    low: float
    high: float
    estimated: bool = False  # from published rates


def grown(option: Option, number: int, *, shorter: bool = False) -> Option | None:
    """The option with so many copies, or actor threads or worker processes of a loop; None where that cannot be.

    A batch stays as large as it is: more copies have fewer environments each, then shorter unrolls; with ``shorter``
    they keep their environments and have shorter unrolls at once. Actors that fill a replay change nothing.
    """
    axis = _axis(option)
    if axis == "shards":
        if option.ratio is not None and number > 1:
            return None  # a loop that learns from replay has one actor
        return replace(option, shards=number) if number <= option.environments // option.groups else None
    if axis == "workers":
        return replace(option, workers=number) if number <= option.environments else None
    if number == option.copies or option.ratio is not None or option.architecture == "apex":
        return replace(option, copies=number)
    environments = option.copies * option.environments
    samples = environments * option.unroll
    around = option.environments if shorter else max(round(environments / number), 1)
    shares = []
    for each in {max(around - 1, 1), around, around + 1}:
        unroll = round(samples / (number * each))
        if unroll >= min(SHORTEST, option.unroll):
            shares.append((abs(number * each * unroll / samples - 1), abs(each - around), each, unroll))
    if not shares or min(shares)[0] > OFF:
        return None
    _, _, each, unroll = min(shares)
    return replace(option, copies=number, environments=each, unroll=unroll, groups=min(option.groups, number))


def scaling(option: Option, costs: Costs, machine: Machine, predict: Predict) -> Scaling:
    """Throughput and lag from one copy to twice the cores, or twice the plan's own number."""
    own = getattr(option, _axis(option))
    points = []
    for number in _numbers(max(8, 2 * own, min(2 * machine.cores, MOST_COPIES)), own):
        changed = grown(option, number)
        if changed is not None:
            found = predict(changed, costs, machine)
            lag = found.lag
            points.append(Point(number, found.steps_per_second, lag.get("mean", 0.0), lag.get("max", 0.0)))
    return Scaling(_AXES[_axis(option)], own, points, knee(points))


def knee(points: Sequence[Point]) -> int | None:
    """The first number beyond which one more brings less than 5%, or, where each is less than a tenth of the whole,
    less than half of what those before brought on average. None: there is none in ``points``."""
    for here, there in itertools.pairwise(points):
        more = there.copies - here.copies
        gain = (there.steps_per_second / max(here.steps_per_second, 1e-12)) ** (1 / more) - 1
        if gain < min(LITTLE, FAIR / here.copies):
            return here.copies
    return None


def helps(option: Option, costs: Costs, machine: Machine, predict: Predict) -> list[Help]:
    """What would bring more, one change at a time, the most first. Each plan is adapted to what it is given."""
    base = predict(option, costs, machine).steps_per_second
    found = []
    for name, cores in (
        ("one more core", machine.cores + 1),
        (f"twice the cores ({machine.cores * 2})", machine.cores * 2),
        (f"4 times the cores ({machine.cores * 4})", machine.cores * 4),
    ):
        changed, bigger = WhatIf(cores=cores).apply(costs, machine)
        best, _ = _best(_for_cores(option, machine.cores, cores, changed), changed, bigger, predict)
        found.append(_help(name, best, base))
    if machine.gpus is None:
        found.append(_gpu(option, costs, machine, predict, base))
    faster, same = WhatIf(environment=0.5).apply(costs, machine)
    found.append(_help("an environment twice as fast", _best([option], faster, same, predict)[0], base))
    return sorted(found, key=lambda each: -each.gain)


def _gpu(option: Option, costs: Costs, machine: Machine, predict: Predict, base: float) -> Help:
    """A GPU by its published rates, between half and twice as fast as they say."""
    changed, bigger = WhatIf(gpu=published("h100")).apply(costs, machine)
    best, taken = _best(_for_gpu(option, changed), changed, bigger, predict)
    # Whoever finds the GPU to be slower leaves it alone.
    slow, fast = (
        _best([option, taken], _gpu_slower(changed, factor), bigger, predict)[0] for factor in (2.0, 0.5)
    )
    low, high = (max(rate / base - 1, 0.0) for rate in (min(best, slow), max(best, fast)))
    low, high = low * (1 - LEAST_ERROR), high * (1 + LEAST_ERROR)
    return Help("a GPU (H100)", best / base - 1, low, high, estimated=True)


def _gpu_slower(costs: Costs, factor: float) -> Costs:
    """Costs whose GPU takes ``factor`` times as long."""

    def scaled(places: dict[str, Curve]) -> dict[str, Curve]:
        return {
            place: curve.scaled(factor) if place.startswith("cuda") else curve
            for place, curve in places.items()
        }

    learn = {
        place: {n: seconds * (factor if place.startswith("cuda") else 1.0) for n, seconds in each.items()}
        for place, each in costs.learn.items()
    }
    return replace(costs, act=scaled(costs.act), train=scaled(costs.train), learn=learn)


def _help(name: str, rate: float, base: float) -> Help:
    """A gain of the same model with other numbers: most of what it is wrong about cancels."""
    gain = rate / base - 1
    return Help(name, gain, gain - LEAST_ERROR * abs(gain), gain + LEAST_ERROR * abs(gain))


def _best(
    options: Sequence[Option], costs: Costs, machine: Machine, predict: Predict
) -> tuple[float, Option]:
    """The highest rate, and whose it is."""
    rates = [predict(option, costs, machine).steps_per_second for option in options]
    best = max(range(len(rates)), key=lambda index: rates[index])
    return rates[best], options[best]


def _for_cores(option: Option, before: int, after: int, costs: Costs) -> list[Option]:
    """The plan with more copies, more learner threads, or both."""
    own = getattr(option, _axis(option))
    most = max(own + after - before, own * after // before)
    larger: dict[str, Option] = {}
    for shorter in (False, True):
        some = [n for n in range(own + 1, most + 1) if grown(option, n, shorter=shorter) is not None]
        if len(some) > MOST_TRIED:
            some = [some[(len(some) - 1) * step // (MOST_TRIED - 1)] for step in range(MOST_TRIED)]
        found = (grown(option, n, shorter=shorter) for n in some)
        larger |= {repr(each): each for each in found if each is not None}
    known = costs.learn.get(option.learn_on, {})
    threads = [n for n in known if option.threads < n <= max(option.threads * after // before, 1)]
    if _axis(option) == "copies" and not find(option.architecture).has_learner:
        threads = []  # copies that learn by themselves use one each
    return [
        replace(each, threads=n)
        for each in (option, *larger.values())
        for n in ([option.threads, max(threads)] if threads else [option.threads])
    ]


def _for_gpu(option: Option, costs: Costs) -> list[Option]:
    """The plan as it is, and with learning on the GPU, where its cores are free for one copy more. A loop moves there
    as a whole; other actors than those that an inference server acts for stay on the CPU."""
    place = next((name for name in ("cuda bf16", "cuda fp32") if name in costs.learn), None)
    if place is None:
        return [option]
    learning = replace(option, learn_on=place, threads=1)
    if option.architecture == "synchronous":
        return [option, replace(learning, act_on=place, shards=1)]
    moved = [learning]
    if option.architecture == "seed":
        moved.append(replace(learning, act_on=place))
    more = [grown(each, option.copies + 1) for each in moved]
    return [option, *moved, *(each for each in more if each is not None)]


def _axis(option: Option) -> str:
    """The field of an option that says how many step side by side."""
    if option.architecture != "synchronous":
        return "copies"
    return "workers" if option.workers > 1 else "shards"


_AXES = {"copies": "copies", "shards": "actor threads", "workers": "worker processes"}


def _numbers(most: int, own: int) -> list[int]:
    """1 to 8, then 12, 16, 24, 32 and so on, with ``own`` and ``most`` among them."""
    numbers = {n for n in range(1, 9) if n <= most} | {own, most}
    for power in range(3, 11):
        numbers |= {n for n in (2**power, 2**power * 3 // 2) if n <= most}
    return sorted(numbers)
