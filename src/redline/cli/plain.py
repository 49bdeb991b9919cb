"""A run as plain lines, for logs, pipes and terminals that cannot redraw."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from redline.cli.figures import count, duration, number, rate, time_left
from redline.cli.live import bottleneck, planned

if TYPE_CHECKING:
    from redline.types import Gauges, Progress

EVERY = 10.0  # seconds between lines; the first come sooner


class PlainLines:
    """Writes one line now and then; an ``Observer``. ASCII only, each line whole and flushed at once."""

    def __init__(self, stream: TextIO | None = None, every: float = EVERY) -> None:
        self._stream = stream or sys.stdout
        self._every = every
        self._lines = 0
        self._told = -float("inf")
        self._progress: Progress | None = None
        self._events: dict[str, int] = {}

    def start(self, name: str, folder: str, rules: Sequence[str]) -> None:
        """Print the run's name, folder and rules."""
        self._write(f"run {name} in {folder}")
        for rule in rules:
            self._write(f"- {rule}")

    def update(self, progress: Progress) -> None:
        """Print a line where the last is long enough ago, and at once where something new went wrong."""
        self._progress = progress
        for name, amount in progress.events.items():
            if amount > self._events.get(name, 0):
                self._write(f"{name}: {amount:,} so far")
        self._events = dict(progress.events)
        # 1, 2, 4, ... seconds apart at first: whoever just started a run wants to see it move.
        wait = min(self._every, 2.0 ** max(self._lines - 1, 0)) if self._every == EVERY else self._every
        if time.monotonic() - self._told >= wait:
            self._tell(progress)

    def message(self, text: str) -> None:
        """Print one line."""
        self._write(text)

    def stop(self, reason: str) -> None:
        """Print the last figures and why the run ended."""
        if self._progress is not None:
            self._tell(self._progress)
            if self._progress.gauges.roles:
                self._write(bottleneck(self._progress.shares, self._progress.gauges))
            for sentence in planned(self._progress):
                self._write(sentence)
        self._write(reason)

    def _tell(self, progress: Progress) -> None:
        self._told = time.monotonic()
        self._lines += 1
        self._write(line(progress))

    def _write(self, text: str) -> None:
        print(text.encode("ascii", "replace").decode(), file=self._stream, flush=True)


def line(progress: Progress) -> str:
    """All figures of a run in one line."""
    share = min(progress.steps / max(progress.total_steps, 1), 1.0)
    parts = [f"{share:4.0%} {count(progress.steps)} of {count(progress.total_steps)} agent steps"]
    returns = progress.returns
    if returns:
        mean = number(sum(returns) / len(returns))
        parts.append(f"return {mean} ({number(min(returns))} .. {number(max(returns))})")
    if progress.steps_per_second > 0:  # not known yet in the first moments
        parts.append(
            f"{rate(progress.steps_per_second)} agent steps/s"
            f" {rate(progress.steps_per_second * progress.action_repeat)} frames/s"
            f" {rate(progress.updates_per_second)} updates/s"
        )
    parts.append(" ".join(f"{name} {part:.0%}" for name, part in progress.shares.items() if name != "other"))
    parts += _gauges(progress.gauges)
    parts.append(f"after {duration(progress.elapsed)}")
    parts.append(time_left(progress.steps, progress.total_steps, progress.steps_per_second))
    return " | ".join(part for part in parts if part)


def _gauges(gauges: Gauges) -> list[str]:
    """Roles, queues, lag and replay ratio, where there are any."""
    parts = []
    if gauges.roles:
        parts.append("busy: " + " ".join(f"{name} {share:.0%}" for name, share in gauges.roles.items()))
    queues = []
    for name, depth in gauges.queues.items():
        room = f" of {count(gauges.rooms[name])}" if name in gauges.rooms else ""
        queues.append(f"{name} {count(depth)}{room}")
    if queues:
        parts.append("queue: " + " ".join(queues))
    if gauges.lag:
        bound = "no bound" if gauges.lag_bound is None else f"bound {gauges.lag_bound}"
        mean, most = gauges.lag.get("mean", float("nan")), gauges.lag.get("max", float("nan"))
        parts.append(f"lag {number(mean)} max {number(most)} {bound}")
    if gauges.replay_ratio is not None:
        parts.append(f"replay ratio {number(gauges.replay_ratio)}")
    return parts
