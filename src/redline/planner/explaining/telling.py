"""A plan in words for the terminal, and in plain data for pages and other programs."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from redline.planner.explaining.explain import Crossover, Explanation, Where
from redline.planner.explaining.variants import Help
from redline.planner.machines import cost_per_million
from redline.planner.options import Option, Plan, Ranked
from redline.reports.scales import NONE, duration, short

BEST = 6  # options that the table shows
HEAD = ("plan", "predicted/s", "measured/s", "lag", "memory", "complexity")
_DOING = {"stepping": "stepping environments", "acting": "choosing actions", "bookkeeping": "bookkeeping"}


def lines(plan: Plan, explanation: Explanation, steps: int = 0) -> list[str]:
    """The whole answer as lines: plain sentences, an empty line, a table of the best options, what was refused.

    ``steps``: agent steps of the experiment, for the time that they take; 0 leaves it out.
    """
    rows = [HEAD, *table(plan)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    aligned = [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return [*answer(plan, explanation, steps), "", *aligned, *footnotes(plan)]


def answer(plan: Plan, explanation: Explanation, steps: int = 0) -> list[str]:
    """The answer in plain sentences, the most important first."""
    sentences = [
        _chosen(plan, explanation),
        _cpu_or_gpu(plan, explanation),
        _rate(plan),
        _time(plan, explanation, steps),
        _where(explanation.where),
        explanation.bottleneck,
        _helps(explanation.helps),
    ]
    if plan.what_if:
        sentences.insert(
            0, f"If {plan.what_if}: estimated from what was measured here and what is published."
        )
    return [sentence for sentence in sentences if sentence]


def table(plan: Plan) -> list[tuple[str, ...]]:
    """The chosen option and the next best, a row each, as ``HEAD`` names the columns."""
    rows = list(zip(plan.ranked, names(plan), strict=True))
    rest = [each for index, each in enumerate(rows) if index != plan.chosen]
    return [_row(*each) for each in [rows[plan.chosen], *rest][:BEST]]


def names(plan: Plan) -> list[str]:
    """What each ranked option is called: where two would be called the same, with what sets them apart."""
    options = [each.option for each in plan.ranked]
    called = [
        each.name + (", learning on a GPU" if _device(each.learn_on) == "GPU" else "") for each in options
    ]
    for more in ("{0.unroll} steps an unroll", "learning in {0.learn_on}", "acting in {0.act_on}"):
        often = Counter(called)
        apart = [more.format(each) for each in options]
        called = [
            f"{name}, {words}"
            if often[name] > 1 and len({w for n, w in zip(called, apart, strict=True) if n == name}) > 1
            else name
            for name, words in zip(called, apart, strict=True)
        ]
    return called


def footnotes(plan: Plan) -> list[str]:
    """What was refused, on one line, the plan's notes, and what the costs are not sure of."""
    refused = f"refused: {'; '.join(plan.refused)}" if plan.refused else ""
    return [each for each in dict.fromkeys((refused, *plan.notes, *plan.costs.notes)) if each]


def as_data(plan: Plan, explanation: Explanation, steps: int = 0) -> dict[str, Any]:
    """Plain values, for JSON and for ``reports/plan.py``: ``answer`` (sentences), ``plan``, ``explanation``."""
    return {
        "answer": answer(plan, explanation, steps),
        "steps": steps,
        "plan": {
            "environment": plan.costs.environment,
            "recipe": plan.costs.recipe,
            "machine": asdict(plan.machine),
            "what_if": plan.what_if,
            "chosen": plan.chosen,
            "ranked": [
                _ranked(plan, each, name) for each, name in zip(plan.ranked, names(plan), strict=True)
            ],
            "notes": list(plan.notes),
            "refused": list(plan.refused),
            "costs": plan.costs.as_dict(),
        },
        "explanation": explanation.as_dict(),
    }


def _ranked(plan: Plan, ranked: Ranked, name: str) -> dict[str, Any]:
    low, high = _interval(ranked)
    return {
        "name": name,
        "option": asdict(ranked.option),
        "complexity": ranked.option.complexity,
        "prediction": ranked.prediction.as_dict(),
        "interval": [low, high],
        "measured": None if ranked.measured is None else asdict(ranked.measured),
        "samples": ranked.samples,
        "speed": ranked.speed,
        "price_per_million": cost_per_million(plan.machine, ranked.prediction.steps_per_second),
    }


def _row(ranked: Ranked, name: str) -> tuple[str, ...]:
    option, prediction, measured = ranked.option, ranked.prediction, ranked.measured
    lag = prediction.lag.get("mean")
    most = prediction.lag.get("max")
    return (
        name,
        f"{short(prediction.steps_per_second)} ± {prediction.error:.0%}",
        short(measured.steps_per_second) if measured else NONE,
        NONE if lag is None else short(lag, 2) + ("" if most is None else f" (max {short(most, 2)})"),
        f"{short(option.memory / 1e9, 2)} GB" if option.memory else NONE,
        str(option.complexity),
    )


def _interval(ranked: Ranked) -> tuple[float, float]:
    rate, error = ranked.prediction.steps_per_second, ranked.prediction.error
    return rate * max(1 - error, 0.0), rate * (1 + error)


def _chosen(plan: Plan, explanation: Explanation) -> str:
    option, scaling = plan.best.option, explanation.scaling
    runtime = {"in_process": "in one process", "threads": "in threads", "processes": "in processes"}
    where = f"architecture {option.architecture} {runtime.get(option.runtime, option.runtime)}"
    if scaling.what == "copies":
        many = f"{option.copies} {_plural(option.architecture, option.copies)} of {option.environments} environments"
        many += ", the replay in a process of its own" if option.apart else ""
    else:
        threads = f"{option.shards} actor threads" if option.shards > 1 else "one actor thread"
        threads = f"stepped by {option.workers} worker processes" if option.workers > 1 else threads
        many = f"one loop of {option.environments} environments, {threads}"
    return f"Train with {where}: {many}. {_why_so_many(explanation)}"


def _why_so_many(explanation: Explanation) -> str:
    scaling = explanation.scaling
    each = {"copies": "copy", "worker processes": "worker process"}.get(scaling.what, "actor thread")
    most = scaling.points[-1].copies if scaling.points else 0
    if scaling.knee is None:
        return f"Up to {most}, each further {each} still pays." if most > scaling.own else ""
    if scaling.knee < scaling.own:
        return f"Throughput bends at {scaling.knee} already: beyond it one more {each} brings little."
    if scaling.knee == scaling.own:
        return f"One more {each} would bring little."
    return f"Throughput bends at {scaling.knee}: up to there each further {each} pays."


def _plural(architecture: str, count: int) -> str:
    names = {"impala": "actor", "apex": "actor", "gorila": "bundle", "gorila_global": "bundle"}
    names |= {"accel_sync": "replica", "accel_async": "replica"}
    return names.get(architecture, "worker") + ("s" if count != 1 else "")


def _cpu_or_gpu(plan: Plan, explanation: Explanation) -> str:
    option = plan.best.option
    if explanation.acting.gpu is None:
        own = f"acting {_batch(explanation.acting)}, learning {_batch(explanation.learning)}"
        return (
            f"Everything runs on the CPU: this machine has no GPU ({own}). "
            "Ask about one by --what-if gpu=h100: the answer is an estimate."
        )
    parts = [
        "stepping on the CPU",
        f"acting on the {_device(option.act_on)} ({_compared(explanation.acting)})",
        f"learning on the {_device(option.learn_on)} ({_compared(explanation.learning)})",
    ]
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}."


def _batch(crossover: Crossover) -> str:
    return f"{crossover.batch} at a time in {_seconds(crossover.cpu)}"


def _compared(crossover: Crossover) -> str:
    """``batch 16: the CPU is 3.2 times as fast; the GPU is ahead from 64 on, of all cores from 300``."""
    margin = crossover.margin or 0.0
    first = "the GPU" if margin >= 1 else "the CPU"
    times = short(margin if margin >= 1 else 1 / max(margin, 1e-9), 2)
    about = "about " if crossover.estimated else ""
    than = "one core" if margin >= 1 else "the GPU"
    text = f"batch {crossover.batch}: {first} is {about}{times} times as fast as {than}"
    if crossover.from_batch is None:
        return f"{text}; the GPU is never ahead"
    text += (
        f"; it is ahead of one core from {short(crossover.from_batch, 2)} on"
        if margin >= 1
        else (f"; the GPU is ahead from {short(crossover.from_batch, 2)} on")
    )
    if crossover.from_batch_all is None:
        return f"{text}, of all cores never"
    return f"{text}, of all cores from {short(crossover.from_batch_all, 2)}"


def _device(place: str) -> str:
    return "GPU" if place.startswith("cuda") else "CPU"


def _rate(plan: Plan) -> str:
    best = plan.best
    low, high = _interval(best)
    rate = best.prediction.steps_per_second
    text = f"Expect {short(rate)} agent steps/s ({short(low)} to {short(high)})"
    repeat = plan.costs.action_repeat
    if repeat > 1:
        text += f", which is {short(rate * repeat)} frames/s"
    if best.measured is not None:
        text += f"; measured {short(best.measured.steps_per_second)} over {duration(best.measured.seconds)}"
    return text + "."


def _time(plan: Plan, explanation: Explanation, steps: int) -> str:
    if not steps:
        return ""
    best = plan.best
    low, high = _interval(best)
    rate = best.measured.steps_per_second if best.measured else best.prediction.steps_per_second
    start = best.start * steps
    text = f"{short(steps)} agent steps take about {duration(start + steps / max(rate, 1e-9))}"
    if best.measured is None and low > 0:
        text += f" ({duration(start + steps / high)} to {duration(start + steps / low)})"
    if start >= 0.5:
        text += f", {duration(start)} of it to start"
    price = explanation.price_per_million
    if price is not None:
        text += f" and cost about {short(price * steps / 1e6)} ({short(price)} for a million)"
    return text + "."


def _where(where: Where) -> str:
    total = sum(where.micros.values())
    parts = [f"{share:.0%} {_DOING.get(name, name)}" for name, share in _largest(where) if share >= 0.01]
    text = f"One agent step is {short(total, 2)} µs of work: {', '.join(parts)}"
    if where.waiting:
        text += f"; and {short(where.waiting, 2)} µs of waiting for the simulator"
    if where.on_gpu:
        text += f" (on the GPU: {', '.join(where.on_gpu)})"
    return text.replace("improving", "improving the policy").replace("estimating", "estimating returns") + "."


def _largest(where: Where) -> list[tuple[str, float]]:
    return sorted(where.shares.items(), key=lambda each: -each[1])


def _helps(helps: Sequence[Help]) -> str:
    if not helps:
        return ""
    some = [each for each in helps if max(each.gain, each.high) >= 0.005]
    none = [each.name for each in helps if each not in some]
    text = f"What would help: {'; '.join(_help(each) for each in some) or 'none of what was tried'}."
    return f"{text} What would not: {', '.join(none)}." if none else text


def _help(each: Help) -> str:
    """``4 times the cores: +210%``, with the interval where it is wide."""
    text = f"{each.name}: {each.gain:+.0%}"
    return f"{text} (estimated, {each.low:+.0%} to {each.high:+.0%})" if each.estimated else text


def _seconds(value: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{short(value / size)} {unit}"
    return f"{short(value * 1e6)} µs"


def describe(option: Option) -> str:
    """How to train by this plan: the options of ``redline train`` that make it."""
    own = {"parallel.architecture": option.architecture, "parallel.runtime": option.runtime}
    return " ".join(
        f"--set {shlex.quote(f'{key}={setting(value)}')}" for key, value in (own | option.settings).items()
    )


def setting(value: Any) -> str:
    """A value as ``--set`` reads it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
