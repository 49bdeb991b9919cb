"""``plan.html``: what a machine could do for an experiment, what it is expected to do, and what holds it up.

Drawn from plain data (``planner.explaining.telling.as_data``, or ``redline plan --json``), so that a plan made
elsewhere can be looked at here.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from redline.reports.curves import Line, Mark, bar, chart, log_chart
from redline.reports.html import save_page
from redline.reports.page import page
from redline.reports.parts import Bar, bars_card, bullet_card, fact_card, header, table, tiles
from redline.reports.scales import NONE, duration, short
from redline.types import RunError

PLAN = "plan.html"
PARTS = {
    "stepping": ("stepping environments", "c2"),
    "acting": ("choosing actions", "c3"),
    "bookkeeping": ("bookkeeping", "c4"),
    "estimating": ("estimating returns", "c5"),
    "improving": ("improving the policy", "c1"),
}
HALF = 440  # pixels of a bar in one of two columns
QUESTIONS = {"generate samples": "c2", "estimate return": "c5", "improve the policy": "c1"}
PLACES = ("c2", "c3", "c1", "c5", "c4", "c6")
OPTIONS = 12  # rows of the table


def write_plan(data: Mapping[str, Any], path: Path | str) -> Path:
    """Write a plan's page and return its path.

    Args:
      data: ``answer``, ``plan`` and ``explanation`` as ``as_data`` gives them, also after a round through JSON.
      path: of the page; its folder is made.

    Raises:
      RunError: the page cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from error
    return save_page(path, render(data))


def render(data: Mapping[str, Any]) -> str:
    """The page."""
    plan, told = data["plan"], data["explanation"]
    machine = plan["machine"]
    meta = [plan["recipe"], _machine_words(machine), f"if {plan['what_if']}" if plan["what_if"] else ""]
    body = [
        header(f"A plan for {plan['environment']}", meta),
        tiles(_figures(data)),
        _answer(data["answer"]),
        "<h2>Where the work of a step is</h2>",
        f'<div class="two">{_where(told["where"])}{_amdahl(told["amdahl"])}</div>',
        "<h2>CPU or GPU</h2>",
        f'<div class="two">{_crossing(plan, told, "act")}{_crossing(plan, told, "train")}</div>',
        "<h2>How many</h2>",
        f'<div class="two">{_throughput(plan, told["scaling"])}{_lag(told["scaling"])}</div>',
        "<h2>What holds it up, and what would help</h2>",
        f'<div class="two">{_utilisation(told)}{_helps(told["helps"])}</div>',
        "<h2>Plans compared</h2>",
        _options(plan),
        f'<div class="facts">{bullet_card("Notes", list(dict.fromkeys([*plan["notes"], *plan["costs"]["notes"]])))}'
        f"{bullet_card('Refused', plan['refused'])}{_facts(plan)}</div>",
    ]
    return page(f"Plan for {plan['environment']} · Redline", "\n".join(part for part in body if part))


def _machine_words(machine: Mapping[str, Any]) -> str:
    gpus = machine["gpus"]
    name = f"{machine['name'].partition(', if ')[0]}: {machine['cores']} cores"
    return f"{name}, {gpus['count']} x {gpus['name']}" if gpus else f"{name}, no GPU"


def _figures(data: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    plan = data["plan"]
    best = plan["ranked"][plan["chosen"]]
    predicted, measured = best["prediction"], best["measured"]
    low, high = best["interval"]
    rate = measured["steps_per_second"] if measured else predicted["steps_per_second"]
    repeat = plan["costs"]["action_repeat"]
    figures = [
        ("Predicted", short(predicted["steps_per_second"]), f"agent steps/s, {short(low)} to {short(high)}"),
        (
            "Measured",
            short(measured["steps_per_second"]) if measured else NONE,
            f"over {duration(measured['seconds'])}" if measured else "not run",
        ),
    ]
    if repeat > 1:
        figures.append(("Frames/s", short(rate * repeat), f"{repeat} to an agent step"))
    if data.get("steps"):
        figures.append(("Time", duration(data["steps"] / rate), f"for {short(data['steps'])} agent steps"))
    price = data["explanation"]["price_per_million"]
    if price is not None:
        figures.append(("Price", short(price), "for a million agent steps"))
    option = best["option"]
    figures.append(("Acting", _device(option["act_on"]), option["act_on"]))
    figures.append(("Learning", _device(option["learn_on"]), option["learn_on"]))
    return figures


def _device(place: str) -> str:
    return "GPU" if place.startswith("cuda") else "CPU"


def _answer(sentences: Sequence[str]) -> str:
    first, *rest = sentences or ["Nothing was planned."]
    others = "".join(f"<li>{escape(each)}</li>" for each in rest)
    return f'<section class="card say"><p>{escape(first)}</p><ul>{others}</ul></section>'


def _where(where: Mapping[str, Any]) -> str:
    shares = {PARTS[name][0]: share for name, share in where["shares"].items() if share > 0}
    colors = {words: color for words, color in PARTS.values()}
    micros = where["micros"]
    keys = "".join(
        f'<span><i class="{PARTS[name][1]}"></i>{escape(PARTS[name][0])} {short(micros[name])} µs</span>'
        for name in micros
    )
    notes = []
    if where["on_gpu"]:
        notes.append(f"on the GPU: {', '.join(PARTS[name][0] for name in where['on_gpu'])}")
    if where["waiting"]:
        notes.append(f"and {short(where['waiting'])} µs of waiting for the simulator, which needs no core")
    note = f"<small>{escape('; '.join(notes))}</small>" if notes else ""
    return (
        f'<figure class="card"><figcaption><b>{short(sum(micros.values()))} µs of work for one agent step</b>{note}'
        f'</figcaption>{bar(shares, colors, HALF)}<div class="legend" style="margin:12px 0">{keys}</div>'
        f"{bar(where['questions'], QUESTIONS, HALF)}</figure>"
    )


def _amdahl(bounds: Mapping[str, float | None]) -> str:
    most = max([each for each in bounds.values() if each is not None], default=1.0)
    rows = [
        Bar(
            f"{name} parallel and free",
            most if bound is None else bound,
            "no limit" if bound is None else f"{short(bound)}x",
            PARTS.get(name, ("", "c1"))[1],
        )
        for name, bound in bounds.items()
    ]
    return bars_card(
        "At most how many times as fast", rows, "Amdahl's bound, against one core that does all in turn"
    )


def _crossing(plan: Mapping[str, Any], told: Mapping[str, Any], name: str) -> str:
    """Time of a pass against its size, place by place, with the plan's own size and the crossovers."""
    found = told["acting" if name == "act" else "learning"]
    curves = plan["costs"][name]
    lines = []
    for (place, curve), color in zip(curves.items(), itertools.cycle(PLACES), strict=False):
        if not place.startswith(("cpu ", "cuda ")):
            continue  # not a pass alone
        size, seconds = np.array(curve["points"]).T
        if place.startswith("cuda ") and plan["costs"]["transfer"]:
            seconds = seconds + _brought(plan["costs"], size)
        estimated = " (estimated)" if place in plan["costs"]["estimated"] else ""
        lines.append(Line(place + estimated, size, seconds * 1e3, color, dots=len(size) <= 20))
    marks = [Mark(found["batch"], f"this plan: {found['batch']}")]
    if found["from_batch"] is not None:
        marks.append(Mark(found["from_batch"], f"GPU ahead of one core from {found['from_batch']}", "c1"))
    if found["from_batch_all"] is not None:
        marks.append(Mark(found["from_batch_all"], f"of all cores from {found['from_batch_all']}", "c5"))
    noun = "acting" if name == "act" else "training"
    note = f"milliseconds of one {noun} pass; CPU: one thread"
    if found["gpu"] is None:
        note += "; no GPU here, ask by --what-if gpu=h100"
    title = "Acting" if name == "act" else "Learning"
    x_name = "observations in a pass" if name == "act" else "samples in a pass"
    return log_chart(title, lines, x_name=x_name, note=note, marks=marks)


def _brought(costs: Mapping[str, Any], size: np.ndarray) -> np.ndarray:
    """Seconds to bring so many observations to the GPU; beyond what was measured the last slope goes on."""
    number, seconds = np.array(costs["transfer"]["points"]).T
    wanted = size * costs["observation_bytes"]
    found = np.interp(wanted, number, seconds)
    if len(number) > 1:
        slope = (seconds[-1] - seconds[-2]) / (number[-1] - number[-2])
        found = found + np.maximum(wanted - number[-1], 0.0) * slope
    return np.asarray(found)


def _marks(scaling: Mapping[str, Any]) -> list[Mark]:
    marks = [Mark(scaling["own"], f"this plan: {scaling['own']}")]
    if scaling["knee"] is not None:
        marks.append(Mark(scaling["knee"], f"knee: {scaling['knee']}", "c1"))
    return marks


def _points(scaling: Mapping[str, Any], name: str) -> np.ndarray:
    return np.array([point[name] for point in scaling["points"]], dtype=float)


def _throughput(plan: Mapping[str, Any], scaling: Mapping[str, Any]) -> str:
    x = _points(scaling, "copies")
    rate = _points(scaling, "steps_per_second")
    error = plan["ranked"][plan["chosen"]]["prediction"]["error"]
    line = Line("agent steps/s", x, rate, "c2", rate * (1 - error), rate * (1 + error), dots=len(x) <= 30)
    note = (
        "agent steps/s, as predicted; the batch stays as it is, so more copies have fewer environments each"
    )
    return chart(
        "Throughput", [line], x_name=scaling["what"], note=note, from_zero=True, marks=_marks(scaling)
    )


def _lag(scaling: Mapping[str, Any]) -> str:
    x = _points(scaling, "copies")
    lines = [
        Line("mean", x, _points(scaling, "lag_mean"), "c1"),
        Line("most", x, _points(scaling, "lag_max"), "c2"),
    ]
    note = "batches between the weights that acted and those that learn"
    return chart("Lag", lines, x_name=scaling["what"], note=note, from_zero=True, marks=_marks(scaling))


def _utilisation(told: Mapping[str, Any]) -> str:
    rows = [
        Bar(name, share, f"{share:.0%}", "c1" if name == told["bottleneck_role"] else "c2")
        for name, share in told["utilisation"].items()
    ]
    cores, busy = told["cores"], told["cores_busy"]
    color = "c1" if told["bottleneck_role"] == "cores" else "c4"
    rows.append(Bar("cores", busy / cores, f"{busy:.1f} of {cores}", color))
    if told["gpu_busy"]:
        color = "c1" if told["bottleneck_role"] == "gpu" else "c4"
        rows.append(Bar("GPU", told["gpu_busy"], f"{told['gpu_busy']:.0%}", color))
    return bars_card("How busy", rows, "share of the time that each role works", most=1.0)


def _helps(helps: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        Bar(
            each["name"],
            each["gain"],
            f"{round(each['gain'], 2) + 0.0:+.0%}",
            "c3" if each["estimated"] else "c2",
            each["low"],
            each["high"],
            "estimated" if each["estimated"] else "",
        )
        for each in helps
    ]
    return bars_card("What would help", rows, "more agent steps/s; lines: from low to high")


def _options(plan: Mapping[str, Any]) -> str:
    order = [plan["chosen"], *(index for index in range(len(plan["ranked"])) if index != plan["chosen"])]
    rows = []
    for index in order[:OPTIONS]:
        each = plan["ranked"][index]
        predicted, measured, lag = each["prediction"], each["measured"], each["prediction"]["lag"]
        found = measured["steps_per_second"] if measured else None
        off = NONE if found is None else f"{predicted['steps_per_second'] / found - 1:+.0%}"
        memory = each["option"]["memory"]
        rows.append(
            (
                ("→ " if index == plan["chosen"] else "") + each["name"],
                f"{short(predicted['steps_per_second'])} ± {predicted['error']:.0%}",
                short(found),
                off,
                f"{short(lag['mean'])} (max {short(lag['max'])})" if lag else NONE,
                short(each["samples"]),
                f"{short(memory / 1e9)} GB" if memory else NONE,
                str(each["complexity"]),
            )
        )
    head = ("plan", "predicted/s", "measured/s", "off by", "lag", "samples", "memory", "complexity")
    return table(head, rows)


def _facts(plan: Mapping[str, Any]) -> str:
    machine, costs = plan["machine"], plan["costs"]
    gpus = machine["gpus"]
    facts = {
        "name": machine["name"],
        "cores": machine["cores"],
        "clock": f"{short(machine['clock'])} GHz" if machine["clock"] else None,
        "memory": f"{short(machine['memory'] / 1e9)} GB" if machine["memory"] else None,
        "GPU": f"{gpus['count']} x {gpus['name']}{'' if gpus['measured'] else ', as published'}"
        if gpus
        else None,
        "network": f"{short(machine['network'] * 8 / 1e9)} Gb/s" if machine["network"] else None,
        "price of an hour": short(machine["price"]) if machine["price"] else None,
    }
    about = {
        "algorithm": costs["algorithm"],
        "parameters": short(costs["parameters"]),
        "one observation": f"{short(costs['observation_bytes'])} bytes",
        "batch": short(costs["batch"]),
        "forward pass": f"{short(costs['flops'])} FLOPs" if costs["flops"] else None,
        "measurements lay apart": f"{costs['spread']:.0%}",
    }
    return fact_card("Machine", facts) + fact_card("Experiment", about)
