"""The live screen of a run: one glance tells how far it is, how well it does, and what holds it back."""

from __future__ import annotations

import textwrap
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
    from redline.types import Progress

REFRESH = 0.9  # seconds between drawings: a drawing costs about 2 ms of one core
PARTS = {
    "stepping": ("█", "blue"),
    "acting": ("▓", "cyan"),
    "learning": ("▒", "magenta"),
    "other": ("░", "dim"),
}
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
        self._drawn = 0.0

    def start(self, name: str, folder: str, rules: Sequence[str]) -> None:
        """Print the rules and begin to draw."""
        self._name = name
        self.console.print(Rule(Text(name, style="bold"), align="left", style="dim"))
        for rule in rules:
            self._print("•", rule, "dim")
        self._print("•", f"written to {folder}; Ctrl-C checkpoints and stops", "dim")
        self._live = Live(console=self.console, auto_refresh=False, vertical_overflow="crop")
        self._live.start()
        self._live.update(Text("  preparing the first update ...", style="dim"), refresh=True)

    def update(self, progress: Progress) -> None:
        """Draw, unless that was done a moment ago."""
        self._progress = progress
        if progress.returns and progress.episodes > self._episodes:
            self._episodes = progress.episodes
            self._history.add(sum(progress.returns) / len(progress.returns))
        now = time.monotonic()
        if now - self._drawn >= REFRESH:
            self._drawn = now
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
        if self._live is not None:
            self._draw(reason)
            self._live.stop()
            self._live = None

    def _draw(self, reason: str = "") -> None:
        if self._live is not None and self._progress is not None:
            width = self.console.width
            self._live.update(screen(self._progress, self._history.values, width, reason), refresh=True)


def screen(progress: Progress, history: Sequence[float], width: int, reason: str = "") -> Text:
    """The figures of a run as lines of at most ``width`` columns."""
    room = max(width - MARGIN - LABEL - 1, 24)
    bar, legend = _shares(progress.shares, room)
    fits = len(bar.plain) + len(legend.plain) + 2 <= room
    work = [bar.append("  ").append_text(legend)] if fits else [bar, legend]
    rows: list[tuple[str, list[Text]]] = [
        ("progress", [_bar(progress, room)]),
        ("time", [_clock(progress, reason)]),
        ("return", [_returns(progress, history, room)]),
        ("speed", [_speeds(progress)]),
        ("work", work),
        ("limit", [Text(line) for line in textwrap.wrap(bottleneck(progress.shares), room)]),
        ("events", [Text(line, style="yellow") for line in textwrap.wrap(_events(progress), room)]),
    ]
    lines: list[Text] = []
    for label, texts in rows:
        for index, text in enumerate(texts):
            text.truncate(room, overflow="ellipsis")
            name = f"{'':{MARGIN}}{'' if index else label:{LABEL}} "
            lines.append(Text.assemble((name, "bold"), text, no_wrap=True))
    return Text("\n").join(lines)


def bottleneck(shares: dict[str, float]) -> str:
    """One plain sentence on what holds the run back."""
    # Late: the reports are not needed to parse a command line.
    from redline.reports.summary import bottleneck as sentence

    return sentence(shares)


def _bar(progress: Progress, room: int) -> Text:
    share = min(progress.steps / max(progress.total_steps, 1), 1.0)
    tail = f" {share:4.0%}  {count(progress.steps)} of {count(progress.total_steps)} agent steps"
    width = max(min(room - len(tail), 60), 8)
    done = round(width * share)
    return Text.assemble(("━" * done, "green"), ("━" * (width - done), "bright_black"), tail)


def _clock(progress: Progress, reason: str) -> Text:
    left = time_left(progress.steps, progress.total_steps, progress.steps_per_second)
    style = {"done": "bold green", "interrupted": "bold yellow", "failed": "bold red"}.get(reason, "bold")
    return Text.assemble((reason or left or "...", style), f"   {duration(progress.elapsed)} gone")


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
    """A bar in four shades, and what they stand for."""
    known = {name: shares[name] for name in PARTS if name in shares}
    total = max(sum(known.values()), 1.0)  # parts that overlap add up to more than all the time
    width = min(room, 40)
    bar, legend, reached = Text(), Text(), 0.0
    for name, share in known.items():
        glyph, style = PARTS[name]
        reached += share
        bar.append(glyph * (round(reached / total * width) - len(bar.plain)), style=style)
        legend.append("  " if legend.plain else "").append(glyph, style=style).append(f" {name} {share:.0%}")
    return bar, legend
