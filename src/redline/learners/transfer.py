"""Batches on their way to a learner's device."""

from __future__ import annotations

from typing import Any

import torch


class Transfer:
    """Copies batches to a device and remembers the newest copy. On a CPU it hands them through.

    A copy from page-locked memory goes on after the call that began it: whoever writes that memory again waits first.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._copied = torch.cuda.Event() if device.type == "cuda" else None

    def __call__(self, batch: Any) -> Any:
        """``batch`` (anything with ``map``) on the device, for the work that is given to it from now on."""
        if self._copied is None:
            return batch
        there = batch.map(lambda x: x.to(self.device, non_blocking=True))
        self._copied.record(torch.cuda.current_stream(self.device))
        return there

    def wait(self) -> None:
        """Until the newest batch has left its memory, which may then be written again."""
        if self._copied is not None:
            self._copied.synchronize()
