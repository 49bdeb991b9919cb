"""``report.html``: everything about one run on one page that can be sent to anyone."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from redline.reports.curves import Line, areas, bar, chart
from redline.reports.load import Record, load_run, newest_video
from redline.reports.page import page
from redline.reports.parts import bullet_card, fact_card, film, header, settings, tiles
from redline.reports.scales import NONE, duration, short
from redline.reports.summary import bottleneck, role_bottleneck
from redline.types import RunError

SHARES = {"stepping": "c2", "acting": "c3", "learning": "c1", "waiting": "c4", "other": "c0"}
COLORS = (
    "c1",
    "c2",
    "c3",
    "c4",
    "c5",
    "c6",
)  # of curves side by side, and of parts of the time not named above
REPORT = "report.html"


def write_report(run_folder: Path | str) -> Path:
    """Write ``report.html`` into a run's folder from what is there, however little, and return its path.

    Raises:
      UserError: there is no such folder.
      RunError: the page cannot be written.
    """
    record = load_run(run_folder)
    return save_page(record.path / REPORT, render(record))


def render(record: Record) -> str:
    """The page of one run."""
    clip = film(newest_video(record.path), record.path)
    body = [
        header(record.name, _meta(record)),
        tiles(_figures(record)),
        _bottleneck(record),
        f'<div class="hero{" filmed" if clip else ""}">{learning_curve(record)}{clip}</div>',
        f'<div class="two">{_throughput(record)}{_time_shares(record)}</div>',
        _roles(record),
        _losses(record),
        f'<div class="facts">{_rules(record)}{_events(record)}{_provenance(record)}</div>',
    ]
    if record.config:
        body += ["<h2>Configuration</h2>", settings(record.config)]
    return page(f"{record.name} · Redline", "\n".join(part for part in body if part))


def save_page(path: Path, content: str) -> Path:
    """Write a page in one go: a browser never sees half of it. Raises RunError where it cannot be written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            temporary.write_text(content, encoding="utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from error
    return path


def learning_curve(record: Record) -> str:
    """Mean return with the range of single episodes, and evaluations where there were any."""
    lines = []
    steps, mean = record.series("return/mean")
    low, high = record.series("return/min")[1], record.series("return/max")[1]
    whole = len(low) == len(high) == len(mean)
    if len(steps):
        lines.append(
            Line("mean of 100 episodes", steps, mean, "c1", low if whole else None, high if whole else None)
        )
    steps, values = record.series("evaluation/return")
    if len(steps):
        lines.append(Line("evaluation", steps, values, "c2", dots=len(steps) <= 60))
    note = "return; shaded: single episodes, lowest to highest" if whole and len(low) else "return"
    return chart("Learning curve", lines, note=note)


def time_shares(record: Record) -> dict[str, float]:
    """Share of the run's wall clock in each part, 0..1, over all lines that say so; empty where none does."""
    steps, columns, _ = _share_columns(record)
    if not len(steps):
        return {}
    elapsed = np.array([line["time/elapsed"] for line in _share_lines(record)])
    # A line speaks for the time since the one before. Where the clock began anew, its own reading is that time.
    spent = np.diff(elapsed, prepend=0.0)
    spent = np.where(spent > 0, spent, np.maximum(elapsed, 1e-9))
    return {name: float(np.average(column, weights=spent)) for name, column in columns.items()}


def steps_per_second(record: Record) -> float | None:
    """Agent steps a second over the whole run, or None."""
    elapsed, line = record.last("time/elapsed"), record.lines[-1] if record.lines else None
    return line["step"] / elapsed if line and elapsed else None


def _meta(record: Record) -> list[str]:
    commit = _mapping(record.about.get("provenance")).get("commit")
    seed = record.setting("run", "seed")
    return [
        record.environment,
        record.recipe,
        f"seed {seed}" if seed is not None else "",
        f"commit {commit}" if commit else "",
    ]


def _figures(record: Record) -> list[tuple[str, str, str]]:
    steps = record.lines[-1]["step"] if record.lines else None
    elapsed = record.last("time/elapsed")
    rate = steps_per_second(record)
    low, high = record.last("return/min"), record.last("return/max")
    repeat = record.last("frames")
    frames_rate = rate * repeat / steps if rate and repeat and steps else None
    total = record.setting("run", "steps")
    figures = [
        ("Final return", short(record.last("return/mean")), _range(low, high)),
        ("Best return", short(record.best("return/mean")), "highest mean"),
        ("Agent steps", short(steps), f"of {short(float(total))}" if isinstance(total, (int, float)) else ""),
        ("Frames", short(record.last("frames")), f"{short(record.last('episodes'))} episodes"),
        ("Wall clock", duration(elapsed), f"{short(record.last('updates'))} updates"),
        ("Agent steps/s", short(rate), f"{short(frames_rate)} frames/s" if frames_rate else ""),
    ]
    evaluated = record.last("evaluation/return")
    if evaluated is not None:
        span = _range(record.last("evaluation/min"), record.last("evaluation/max"))
        figures.insert(1, ("Last evaluation", short(evaluated), span))
    return [(name, value, remark if value != NONE else "") for name, value, remark in figures]


def _range(low: float | None, high: float | None) -> str:
    return f"from {short(low)} to {short(high)}" if low is not None and high is not None else ""


def _bottleneck(record: Record) -> str:
    shares = time_shares(record)
    if not shares:
        return ""
    plan = _mapping(record.about.get("plan"))
    device = str(plan.get("device") or record.setting("learner", "device", default="cpu"))
    roles = {name: record.last(f"roles/{name}") or 0.0 for name in _under(record, "roles/")}
    bound = record.last("lag/bound")
    if roles:
        sentence = role_bottleneck(roles, lag_bound=None if bound is None else int(bound), device=device)
    else:
        sentence = bottleneck(
            shares,
            device=device,
            epochs=record.setting("algorithm", "epochs"),
            num_envs=plan.get("num_envs") or record.setting("sampler", "num_envs"),
        )
    return f'<section class="card say"><p>{escape(sentence)}</p>{bar(shares, _colors(shares))}</section>'


def _roles(record: Record) -> str:
    """Lag, utilisation, queues and replay ratio, where roles ran side by side; nothing where none was written."""
    charts = []
    names = {"lag/mean": "mean", "lag/p95": "95% within", "lag/max": "most", "lag/bound": "bound"}
    lag = [
        Line(title, *record.series(name), color)
        for (name, title), color in zip(names.items(), ("c1", "c3", "c2", "c0"), strict=True)
        if name in record.names()
    ]
    if lag:
        charts.append(chart("Lag", lag, note="batches behind the learner", from_zero=True))
    busy = [
        Line(name, *record.series(f"roles/{name}"), color)
        for name, color in zip(_under(record, "roles/"), itertools.cycle(COLORS), strict=False)
    ]
    if busy:
        note = "share of the wall clock that each role was busy"
        charts.append(chart("Utilisation", busy, note=note, from_zero=True))
    for name in _under(record, "queue/"):  # one each: a replay holds a million times what waits to enter it
        line = Line(name, *record.series(f"queue/{name}"), "c2")
        charts.append(chart(f"Queue: {name}", [line], note="how many it holds", from_zero=True))
    if "replay_ratio" in record.names():
        ratio = Line("replay ratio", *record.series("replay_ratio"), "c5")
        charts.append(chart("Replay ratio", [ratio], note="samples learned from / collected", from_zero=True))
    return f'<h2>Roles, lag and replay</h2><div class="two">{"".join(charts)}</div>' if charts else ""


def _under(record: Record, prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in record.names() if name.startswith(prefix)]


def _colors(names: Iterable[str]) -> dict[str, str]:
    """A colour for each part of the time: its own, or one that is left."""
    names = list(names)
    rest = itertools.cycle(color for color in COLORS if color not in {SHARES.get(name) for name in names})
    return {name: SHARES[name] if name in SHARES else next(rest) for name in names}


def _throughput(record: Record) -> str:
    steps, rate = record.series("time/steps_per_second")
    steps_done, frames = record.series("frames")
    repeat = round(frames[-1] / steps_done[-1]) if len(frames) and steps_done[-1] else 1
    note = "agent steps a second" + (f", of {repeat} frames each" if repeat > 1 else "")
    return chart("Throughput", [Line("agent steps/s", steps, rate, "c2")], note=note, from_zero=True)


def _time_shares(record: Record) -> str:
    steps, columns, colors = _share_columns(record)
    return areas("Where the time goes", steps, columns, colors, note="share of the wall clock")


def _share_names(record: Record) -> list[str]:
    """The parts that a run's loop divides its time into, by the loop's own names, ``other`` last."""
    names = [
        name for name in _under(record, "time/") if name != "elapsed" and not name.endswith("_per_second")
    ]
    known = [name for name in SHARES if name in names and name != "other"]
    return [*known, *(name for name in names if name not in SHARES), "other"] if "other" in names else []


def _share_lines(record: Record) -> list[dict[str, float]]:
    """The lines that tell all parts of the time."""
    names = [f"time/{name}" for name in _share_names(record)]
    return [line for line in record.lines if names and all(name in line for name in ("time/elapsed", *names))]


def _share_columns(record: Record) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, str]]:
    lines, names = _share_lines(record), _share_names(record)
    columns = {name: np.array([line[f"time/{name}"] for line in lines]) for name in names}
    return np.array([line["step"] for line in lines]), columns, _colors(names)


def _losses(record: Record) -> str:
    names = [name for name in record.names() if name.startswith("loss/")]
    names += [name for name in ("length/mean", "learning_rate") if name in record.names()]
    if not names:
        return ""
    titles = {"length/mean": "episode length", "learning_rate": "learning rate"}
    charts = []
    for name in names:
        title = titles.get(name, name.removeprefix("loss/").replace("_", " "))
        line = Line(title, *record.series(name), "c5" if name in titles else "c2")
        charts.append(chart(title, [line], robust=True, small=True))
    return f'<h2>Losses and diagnostics</h2><div class="grid">{"".join(charts)}</div>'


def _rules(record: Record) -> str:
    rules = record.about.get("rules")
    return bullet_card("Rules of this run", [str(rule) for rule in rules] if isinstance(rules, list) else [])


def _events(record: Record) -> str:
    counts = {name: record.last(name) for name in record.names() if name.startswith("events/")}
    happened = {name.removeprefix("events/"): short(count) for name, count in counts.items() if count}
    if not happened:
        return bullet_card("Events", ["nothing went wrong that had to be mended"] if counts else [])
    return fact_card("Events", happened)


def _provenance(record: Record) -> str:
    about = _mapping(record.about.get("provenance"))
    origin = {name: value for name, value in about.items() if not isinstance(value, dict)}
    origin |= {name.replace("_", " "): value for name, value in _mapping(record.about.get("plan")).items()}
    machine = {
        name.replace("_gib", " (GiB)"): value for name, value in _mapping(about.get("machine")).items()
    }
    machine |= _mapping(about.get("versions"))
    return fact_card("Where this comes from", origin) + fact_card("Machine and versions", machine)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
