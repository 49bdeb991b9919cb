"""Diagrams and tables of docs/systems, made from the code; ``python -m tests.architectures.pages`` writes them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import gymnasium

from redline.actors.config import SamplerConfig
from redline.architectures.catalogue import ARCHITECTURES
from redline.architectures.config import ParallelConfig
from redline.architectures.model import Architecture, lag_bound
from redline.architectures.svg import svg
from redline.recipes import RECIPES
from redline.replay.config import ReplayConfig
from redline.runtime.experiment import ALGORITHMS, Experiment
from redline.runtime.launch import LOOPS
from redline.runtime.plan import parallelism
from redline.types import Spec, UserError

FOLDER = Path(__file__).parents[2] / "docs" / "systems"
PAGE = FOLDER / "index.md"
COPIES, QUEUE = 4, 1  # of the diagrams and of the map
RUNTIMES = ("in_process", "threads", "processes")
SPEC = Spec("any", gymnasium.spaces.Box(-1, 1, (4,)), gymnasium.spaces.Discrete(2))


def diagrams() -> dict[str, str]:
    """File name and content of every diagram: what ``redline show NAME --copies 4 --svg FILE`` draws."""
    return {f"{name}.svg": svg(each.sized(COPIES)) for name, each in ARCHITECTURES.items()}


def sections() -> dict[str, str]:
    """The parts of the page that are made from the code, by the name between their markers."""
    return {"map": system_map(), "pages": _pages(), "diagrams": _pictures(), "matrix": matrix()}


def system_map() -> str:
    """One row a system."""
    rows = [
        (
            "architecture",
            "who acts",
            "who computes gradients",
            "what crosses",
            "in step?",
            "lag, 4 copies",
            "train with",
        )
    ]
    rows += [_map_row(each.sized(COPIES, QUEUE)) for each in ARCHITECTURES.values()]
    return _table(rows)


def _map_row(architecture: Architecture) -> tuple[str, ...]:
    acts = next((role for role in architecture.roles if role.runs == "infer"), architecture.acting)
    learns = [role.name for role in architecture.roles if role.runs in ("learn", "train")]
    place = [role.name for role in architecture.roles].index
    ways = [f"{edge.carries} {_way(place(edge.target) - place(edge.source))}" for edge in architecture.edges]
    bound = lag_bound(architecture)
    unit = "updates" if architecture.shares_gradients else "batches"
    lag = "no bound" if bound is None else f"at most {bound} {unit}" if bound else "0"
    who = (
        f"{acts.name}, for {architecture.acting.copies} {architecture.acting.name}s"
        if acts.runs == "infer"
        else ""
    )
    return (
        f"[{architecture.name}](#{architecture.name})",
        who or f"{acts.name} x {acts.copies}",
        ", ".join(learns),
        ", ".join(ways) or "nothing",
        _in_step(architecture),
        lag,
        f"`{_command(architecture)}`" if architecture.name in LOOPS else "not built yet",
    )


def _way(places: int) -> str:
    return "up" if places > 0 else "down" if places < 0 else "among them"


def _in_step(architecture: Architecture) -> str:
    gradient = architecture.edge("gradient")
    if gradient is not None:
        return {
            "barrier": "yes, at each update",
            "race": "no, and no lock",
            "lock": "no; a lock for each chunk",
        }.get(gradient.when_full, "no")
    if not architecture.edges:
        return "yes, one loop"
    return "no" if architecture.has_replay else "no; yes with a queue of 0"


def _command(architecture: Architecture) -> str:
    """A command that trains on it: by a recipe of its own where there is one."""
    own = [name for name, recipe in RECIPES.items() if recipe().parallel.architecture == architecture.name]
    if own:
        return f"redline train ENV --recipe {own[0]}"
    kin = [name for name in RECIPES if architecture.name.startswith(name)]  # gorila's, for its global replay
    recipe = [*kin, "a2c"][0]
    return f"redline train ENV --recipe {recipe} --architecture {architecture.name}"


def _pages() -> str:
    """Links to the pages beside this one, by their own titles."""
    others = sorted(path for path in FOLDER.glob("*.md") if path != PAGE)
    titles = [path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ") for path in others]
    return "\n".join(f"- [{title}]({path.name})" for path, title in zip(others, titles, strict=True))


def _pictures() -> str:
    return "\n\n".join(
        f"### {name}\n\n{each.system}.\n\n![{name}: roles and what travels between them]({name}.svg)"
        for name, each in ARCHITECTURES.items()
    )


@dataclass
class Reasons:
    """Refusals, numbered in the order of their first appearance."""

    lines: list[str] = field(default_factory=list)

    def number(self, line: str) -> int:
        """The number of a reason."""
        if line not in self.lines:
            self.lines.append(line)
        return self.lines.index(line) + 1


def matrix() -> str:
    """Algorithms by architectures: the runtimes on which they run, or the number of the reason why not."""
    reasons = Reasons()
    rows: list[tuple[str, ...]] = [("", *ARCHITECTURES)]
    for config, algorithm in ALGORITHMS.items():
        if not algorithm.__module__.startswith("redline."):  # an example's, which another test has registered
            continue
        cells = [_cell(config, architecture, reasons) for architecture in ARCHITECTURES]
        rows.append((f"**{algorithm.name}**", *cells))
    notes = "\n".join(f"{number}. {line}" for number, line in enumerate(reasons.lines, start=1))
    return f"{_table(rows)}\n\n{notes}"


def _cell(config: type, architecture: str, reasons: Reasons) -> str:
    if architecture not in LOOPS:
        return "not built yet"
    found = {runtime: verdict(config, architecture, runtime) for runtime in RUNTIMES}
    runs = [runtime for runtime, result in found.items() if isinstance(result, ParallelConfig)]
    if not runs:
        reason = next(text for text in found.values() if isinstance(text, str) and "runtime=" not in text)
        return f"no ({reasons.number(reason.removeprefix(f'{ALGORITHMS[config].name} '))})"
    chosen = found[runs[0]]
    assert isinstance(chosen, ParallelConfig)
    lag = ", lag 0" if architecture != "synchronous" and chosen.queue == 0 else ""
    return ", ".join(runs) + lag


def verdict(config: type, architecture: str, runtime: str) -> ParallelConfig | str:
    """What the planner makes of an algorithm, an architecture and a runtime: numbers, or the line of its refusal."""
    replay = ReplayConfig() if ALGORITHMS[config].experience == "replay" else None
    parallel = ParallelConfig(architecture=architecture, runtime=runtime, copies=2)  # type: ignore[arg-type]
    experiment = Experiment(
        "any", config(), replay=replay, sampler=SamplerConfig(num_envs=8), parallel=parallel
    )
    try:
        return parallelism(experiment, SPEC, cores=4)
    except UserError as error:
        return str(error)


def _table(rows: list[tuple[str, ...]]) -> str:
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def filled(page: str) -> str:
    """The page with every generated part made anew between its markers."""
    for name, made in sections().items():
        pattern = rf"(<!-- {name}: [^>]* -->\n).*?(<!-- end of {name} -->)"
        page, count = re.subn(
            pattern, lambda found, made=made: f"{found[1]}\n{made}\n\n{found[2]}", page, flags=re.DOTALL
        )
        assert count == 1, f"markers of {name} in {PAGE}"
    return page


def write() -> None:
    """Write diagrams and page."""
    for name, content in diagrams().items():
        (FOLDER / name).write_text(content, encoding="utf-8")
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    write()
