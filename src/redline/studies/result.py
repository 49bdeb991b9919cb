"""What a study is given and what it gives: rows for a table, curves for a plot, and where they came from."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from redline import api
from redline.runs.provenance import provenance


@dataclass(frozen=True)
class Options:
    """How much of a study to run, and where to."""

    seeds: int = 3
    steps: int | None = None  # agent steps of each run; None: the study's own
    folder: str = "runs/studies"  # where the runs go
    tell: Callable[[str], None] = print  # one line about what is going on


@dataclass(frozen=True)
class Curve:
    """One seed's learning curve."""

    steps: list[int]  # agent steps
    returns: list[float]  # mean of the newest 100 episodes
    seconds: list[float]  # of training, wall clock
    final: dict[str, float]  # the last line of metrics

    def seconds_to(self, score: float) -> float | None:
        """Seconds until the mean return was ``score``; None where it never was."""
        return next((s for s, value in zip(self.seconds, self.returns, strict=True) if value >= score), None)


@dataclass
class Result:
    """What came out."""

    study: str
    question: str
    answer: str  # one or two plain sentences, made from the numbers
    rows: list[dict[str, Any]]
    curves: dict[str, list[Curve]] = field(default_factory=dict)  # label -> a curve for each seed
    notes: list[str] = field(default_factory=list)
    points: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)  # label -> x, y
    axes: tuple[str, str] = ("", "")  # names of the points' x and y
    provenance: dict[str, Any] = field(default_factory=provenance)

    def save(self, folder: Path) -> Path:
        """Write ``study-NAME.json`` (and ``.svg`` where matplotlib is installed and there are curves or points)."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"study-{self.study}.json"
        data = {**vars(self), "curves": {k: [vars(curve) for curve in v] for k, v in self.curves.items()}}
        path.write_text(json.dumps(data) + "\n", encoding="utf-8")
        if self.curves or self.points:
            plot(self, folder / f"study-{self.study}.svg")
        return path


def train(
    options: Options, label: str, environment: str, recipe: str, overrides: Sequence[str]
) -> list[Curve]:
    """A run for each seed, as a user would start it; a run that is there already is not repeated."""
    curves = []
    for seed in range(options.seeds):
        name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{label} {seed}")
        path = Path(options.folder) / name
        if not path.exists():
            options.tell(f"{label}: seed {seed}")
            api.train(
                environment,
                recipe,
                seed=seed,
                steps=options.steps,
                name=name,
                folder=options.folder,
                overrides=["run.tensorboard=false", *overrides],
            )
        curves.append(read(path))
    return curves


def read(path: Path) -> Curve:
    """The curve of a run on disk."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    points = [line for line in lines if line.get("return/mean") is not None]
    return Curve(
        [line["step"] for line in points],
        [line["return/mean"] for line in points],
        [line["time/elapsed"] for line in points],
        lines[-1],
    )


def spread(values: Sequence[float]) -> str:
    """Median and range, as tables show them."""
    return f"{statistics.median(values):.3g} [{min(values):.3g}, {max(values):.3g}]"


def plot(result: Result, path: Path) -> bool:
    """Median and range of the returns against agent steps, or the points; False where matplotlib is not installed.

    Of points what is called theory is dashed; x is drawn on a scale that doubles.
    """
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    for label, curves in result.curves.items():
        grid = np.linspace(0, min(curve.steps[-1] for curve in curves), 200)
        each = np.stack([np.interp(grid, curve.steps, curve.returns) for curve in curves])
        (line,) = axes.plot(grid, np.median(each, 0), label=label)
        axes.fill_between(grid, each.min(0), each.max(0), alpha=0.15, color=line.get_color(), linewidth=0)
    axes.set(xlabel="agent steps", ylabel="return (mean of 100 episodes)")
    pairs = 2 if any("theory" in label for label in result.points) else 1  # measured and theory in one colour
    for place, (label, (x, y)) in enumerate(result.points.items()):
        style: dict[str, Any] = {"linestyle": "--"} if "theory" in label else {"marker": "o"}
        axes.plot(x, y, label=label, color=f"C{place // pairs}", **style)
    if result.points:
        values = [value for _, y in result.points.values() for value in y if value > 0]
        wide = max(values) > 30 * min(values)  # then a linear scale would show the largest alone
        axes.set(
            xlabel=result.axes[0], ylabel=result.axes[1], xscale="log", yscale="log" if wide else "linear"
        )
        ticks = sorted({value for x, _ in result.points.values() for value in x})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
        axes.minorticks_off()
    axes.set_title(result.question, fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return True
