"""Ctrl-C and SIGTERM: the first asks the run to stop at a safe point, which it does within seconds."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

GRACE = 1.0  # seconds an interrupted run gets to reach the end of its iteration


class InterruptRequest:
    """Set by the first Ctrl-C or SIGTERM; the second Ctrl-C is the ordinary KeyboardInterrupt."""

    def __init__(self) -> None:
        self.at: float | None = None

    def __call__(self) -> bool:
        """Whether it is time to stop in the middle of an iteration."""
        return self.at is not None and time.perf_counter() - self.at > GRACE

    @contextmanager
    def listening(self) -> Iterator[InterruptRequest]:
        """Take the signals while inside; outside the main thread nothing is taken."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def handle(number: int, _frame: Any) -> None:
            if self.at is not None and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.at = time.perf_counter()

        for number in previous:
            signal.signal(number, handle)
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
