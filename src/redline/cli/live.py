"""The live screen of a run: one glance tells how far it is, how well it does, and what holds it back."""

from __future__ import annotations

import itertools
import textwrap
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from redline.cli.figures import History, count, duration, number, rate, sparkline, time_left

if TYPE_CHECKING:
    from redline.types import Gauges, Progress

REFRESH = 0.9  # seconds between drawings: a drawing costs about 2 ms of one core
PARTS = {
    "stepping": ("█", "blue"),
    "acting": ("▓", "cyan"),
    "learning": ("▒", "magenta"),
    "waiting": ("▁", "yellow"),
    "other": ("░", "dim"),
}
MORE = (("▞", "green"), ("▚", "bright_blue"), ("▖", "bright_magenta"))  # for clocks that have other names
METER = 10  # columns of a role's bar
LAG = {"p95": "95% within", "max": "most"}
MARGIN, LABEL = 2, 9  # columns before the left-hand words, and of them


class LiveScreen:
    """Draws a run on a terminal; an ``Observer``. The run's rules and messages stay above, the figures below."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._live: Live | None = None
        self._history = History()
        self._episodes = 0
        self._name = ""
        self._progress: Progress | None = None
        self._told = self._drawn = 0.0  # when the run last told of itself, and when that was drawn
        self._drawing = threading.Lock()
        self._over = threading.Event()
        self._ticker: threading.Thread | None = None

    def start(self, name: str, folder: str, rules: Sequence[str]) -> None:
        """Print the rules and begin to draw."""
        self._name = name
        self.console.print(Rule(Text(name, style="bold"), align="left", style="dim"))
        for rule in rules:
            self._print("•", rule, "dim")
        self._print("•", f"written to {folder}; Ctrl-C checkpoints and stops", "dim")
        self._live = Live(console=self.console, auto_refresh=False, vertical_overflow="crop")
        self._live.start()
        self._told = time.monotonic()
        self._draw()
        self._drawn = 0.0  # what the run tells first is drawn at once
        self._ticker = threading.Thread(target=self._tick, name="redline-screen", daemon=True)
        self._ticker.start()

    def _tick(self) -> None:
        """The clock goes on while a long iteration tells nothing."""
        while not self._over.wait(REFRESH):
            if time.monotonic() - self._drawn >= REFRESH:
                self._draw()

    def update(self, progress: Progress) -> None:
        """Draw, unless that was done a moment ago."""
        self._progress, self._told = progress, time.monotonic()
        if progress.returns and progress.episodes > self._episodes:
            self._episodes = progress.episodes
            self._history.add(sum(progress.returns) / len(progress.returns))
        if self._told - self._drawn >= REFRESH:
            self._draw()

    def message(self, text: str) -> None:
        """Print a line above the figures."""
        self._print("→", text, "yellow")

    def _print(self, mark: str, text: str, style: str) -> None:
        """One line above the figures; where it is too long it goes on below its first word."""
        row = Table.grid(padding=(0, 1))
        row.add_row(Text(f"  {mark}", style=style), Text(text, style="dim" if style == "dim" else ""))
        self.console.print(row)

    def stop(self, reason: str) -> None:
        """Draw for the last time, and give the terminal back."""
        self._over.set()
        if self._ticker is not None:
            self._ticker.join()
        if self._live is not None:
            if self._progress is not None:
                self._draw(reason)
            self._live.stop()
            self._live = None

    def _draw(self, reason: str = "") -> None:
        with self._drawing:
            if self._live is None:
                return
            self._drawn = time.monotonic()
            since = self._drawn - self._told
            if self._progress is None:
                picture = Text(f"  preparing the first update ... {duration(since)}", style="dim")
            else:
                picture = screen(self._progress, self._history.values, self.console.width, reason, since)
            self._live.update(picture, refresh=True)


def screen(
    progress: Progress, history: Sequence[float], width: int, reason: str = "", since: float = 0.0
) -> Text:
    """The figures of a run as lines of at most ``width`` columns. since: seconds ago it told them."""
    room = max(width - MARGIN - LABEL - 1, 24)
    bar, legend = _shares(progress.shares, room)
    fits = len(bar.plain) + len(legend.plain) + 2 <= room
    work = [bar.append("  ").append_text(legend)] if fits else [bar, legend]
    gauges = progress.gauges
    sentence = bottleneck(progress.shares, gauges)
    rows: list[tuple[str, list[Text]]] = [
        ("progress", [_bar(progress, room)]),
        ("time", [_clock(progress, reason, since)]),
        ("return", [_returns(progress, history, room)]),
        ("speed", [_speeds(progress)]),
        ("learner" if "learner" in gauges.roles else "work", work),
        ("roles", _roles(gauges.roles, room)),
        ("queues", [Text(line) for line in _queues(gauges)]),
        ("lag", [Text(line) for line in _lag(gauges)]),
        ("limit", [Text(line) for line in textwrap.wrap(sentence, room)]),
        ("plan", [Text(line) for text in planned(progress) for line in textwrap.wrap(text, room)]),
        ("events", [Text(line, style="yellow") for line in textwrap.wrap(_events(progress), room)]),
    ]
    lines: list[Text] = []
    for label, texts in rows:
        for index, text in enumerate(texts):
            text.truncate(room, overflow="ellipsis")
            name = f"{'':{MARGIN}}{'' if index else label:{LABEL}} "
            lines.append(Text.assemble((name, "bold"), text, no_wrap=True))
    return Text("\n").join(lines)


def bottleneck(shares: dict[str, float], gauges: Gauges) -> str:
    """One plain sentence on what holds the run back: which role, or in one loop which part of it."""
    # Late: the reports are not needed to parse a command line.
    from redline.reports import summary

    if not gauges.roles:
        return summary.bottleneck(shares)
    return summary.role_bottleneck(gauges.roles, gauges.queues, gauges.rooms, lag_bound=gauges.lag_bound)


def planned(progress: Progress) -> list[str]:
    """The run beside what the planner's model says of it, where it says anything."""
    from redline.planner.explaining.live import beside  # late, as above

    if progress.predicted is None:
        return []
    return beside(progress.predicted, progress.steps_per_second, progress.gauges.roles)


def _bar(progress: Progress, room: int) -> Text:
    share = min(progress.steps / max(progress.total_steps, 1), 1.0)
    tail = f" {share:4.0%}  {count(progress.steps)} of {count(progress.total_steps)} agent steps"
    width = max(min(room - len(tail), 60), 8)
    done = round(width * share)
    return Text.assemble(("━" * done, "green"), ("━" * (width - done), "bright_black"), tail)


def _clock(progress: Progress, reason: str, since: float) -> Text:
    meanwhile = since * progress.steps_per_second  # as far as anybody can tell
    left = time_left(progress.steps + meanwhile, progress.total_steps, progress.steps_per_second)
    style = {"done": "bold green", "interrupted": "bold yellow", "failed": "bold red"}.get(reason, "bold")
    return Text.assemble((reason or left or "...", style), f"   {duration(progress.elapsed + since)} gone")


def _returns(progress: Progress, history: Sequence[float], room: int) -> Text:
    returns = progress.returns
    if not returns:
        return Text("no episode has ended yet", style="dim")
    mean = number(sum(returns) / len(returns))
    spread = f" mean of the last {len(returns)}, from {number(min(returns))} to {number(max(returns))}"
    line = Text.assemble((mean, "bold green"), spread)
    episodes = f"   {progress.episodes:,} episodes"
    curve = sparkline(history, min(room - len(line.plain) - len(episodes) - 3, 48))
    if len(curve) >= 4:
        line.append("   ").append(curve, style="green")
    return line.append(episodes, style="dim")


def _events(progress: Progress) -> str:
    return ", ".join(f"{name} {amount:,}" for name, amount in progress.events.items() if amount)


def _speeds(progress: Progress) -> Text:
    steps, repeat = progress.steps_per_second, progress.action_repeat
    return Text.assemble(
        (rate(steps), "bold"),
        " agent steps/s   ",
        (rate(steps * repeat), "bold"),
        " frames/s   ",
        (rate(progress.updates_per_second), "bold"),
        " updates/s",
    )


def _shares(shares: dict[str, float], room: int) -> tuple[Text, Text]:
    """A bar in shades, and what they stand for; names that are not known get shades of their own."""
    styles = (
        dict(zip([name for name in shares if name not in PARTS], itertools.cycle(MORE), strict=False)) | PARTS
    )
    known = {name: shares[name] for name in [*PARTS, *shares] if name in shares and name != "other"}
    known |= {"other": shares["other"]} if "other" in shares else {}
    total = max(sum(known.values()), 1.0)  # parts that overlap add up to more than all the time
    width = min(room, 40)
    bar, legend, reached = Text(), Text(), 0.0
    for name, share in known.items():
        glyph, style = styles[name]
        reached += share
        bar.append(glyph * (round(reached / total * width) - len(bar.plain)), style=style)
        legend.append("  " if legend.plain else "").append(glyph, style=style).append(f" {name} {share:.0%}")
    return bar, legend


def _roles(roles: dict[str, float], room: int) -> list[Text]:
    """How busy each role is, as bars side by side, or below each other where they do not fit."""
    each = []
    for name, share in roles.items():
        done = round(min(max(share, 0.0), 1.0) * METER)
        bar = [("█" * done, "green"), ("░" * (METER - done), "bright_black")]
        each.append(Text.assemble(f"{name} ", *bar, f" {share:4.0%}"))
    line = Text("   ").join(each)
    return ([line] if len(line.plain) <= room else each) if each else []


def _queues(gauges: Gauges) -> list[str]:
    parts = []
    for name, depth in gauges.queues.items():
        room = f" of {count(gauges.rooms[name])}" if name in gauges.rooms else ""
        parts.append(f"{name} {count(depth)}{room}")
    if gauges.replay_ratio is not None:
        parts.append(f"replay ratio {number(gauges.replay_ratio)}")
    return ["   ".join(parts)] if parts else []


def _lag(gauges: Gauges) -> list[str]:
    if not gauges.lag:
        return []
    figures = "   ".join(f"{LAG.get(name, name)} {number(value)}" for name, value in gauges.lag.items())
    bound = "no bound" if gauges.lag_bound is None else f"bound {gauges.lag_bound}"
    return [f"{figures}   {bound} (batches)"]
