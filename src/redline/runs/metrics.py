"""What a run measured, line by line: ``metrics.jsonl``, TensorBoard events, and Weights & Biases where asked.

Everything but ``time/...`` is a function of the run's seed and configuration: with those left out, the file
of a run that was interrupted and resumed equals that of one that was not.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from redline.runs.files import disk_errors
from redline.runs.tensorboard import EventWriter
from redline.types import RunError, UserError

FILE = "metrics.jsonl"
WALL_CLOCK = "time/"  # names of what differs from one execution to the next start so


class MetricsWriter:
    """Appends to the metrics of the run in ``folder``; each line is with the operating system when ``write``
    returns.

    A run that resumes calls ``truncate_after`` with its checkpoint's step first, so write the metrics of a
    step before the checkpoint of that step.

    Args:
      folder: the run's folder.
      tensorboard: also write TensorBoard events there.
      wandb: also send to Weights & Biases, under the folder's name.
      config: shown by Weights & Biases.

    Raises:
      UserError: ``wandb`` where it is not installed or does not start.
      RunError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tensorboard: bool = True,
        wandb: bool = False,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self.path = folder / FILE
        self._tensorboard = tensorboard
        self._events: EventWriter | None = None
        self._first_step: int | None = None
        self._wandb = _start_wandb(folder, config) if wandb else None
        with disk_errors("write", self.path):
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115
            self._cut(_end_of_lines(self.path, None))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line: ``{"step": step, ...}``, with null for what is not finite.

        Raises:
          RunError: the disk is full; the line is then left out, not half written.
        """
        numbers = {name: _plain(value) for name, value in values.items()}
        line = json.dumps({"step": step, **{name: _finite(value) for name, value in numbers.items()}})
        self._append(line.encode() + b"\n")
        if self._tensorboard:
            if self._events is None:
                self._events = EventWriter(self.folder, self._first_step)
            self._events.write(step, numbers)
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)

    def truncate_after(self, step: int) -> None:
        """Drop the lines of later steps than ``step``, as a run that goes on from a checkpoint of ``step``
        must.

        Raises:
          RunError: the file cannot be written.
        """
        with disk_errors("write", self.path):
            self._cut(_end_of_lines(self.path, step))
        self._first_step = step + 1

    def sync(self) -> None:
        """Wait until what was written would survive a power cut (a killed process loses nothing anyway)."""
        with disk_errors("write", self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the files and finish with Weights & Biases. Safe to call twice."""
        self._file.close()
        if self._events is not None:
            self._events.close()
        if self._wandb is not None:
            self._wandb.finish()
            self._wandb = None

    def _append(self, line: bytes) -> None:
        end = self._file.seek(0, os.SEEK_END)
        try:
            with disk_errors("write", self.path):
                if self._file.write(line) != len(line):  # the disk had room for a part
                    raise RunError(f"cannot write {self.path}: the disk is full")
        except BaseException:
            self._cut(end)
            raise

    def _cut(self, size: int) -> None:
        if size < self._file.seek(0, os.SEEK_END):
            self._file.truncate(size)


def _end_of_lines(path: Path, step: int | None) -> int:
    """Where the whole lines up to ``step`` end: before the first that is torn, or of a later step."""
    end = 0
    with open(path, "rb") as file:
        for line in file:
            try:
                written = int(json.loads(line)["step"])
            except (ValueError, KeyError, TypeError):
                break
            if not line.endswith(b"\n") or (step is not None and written > step):
                break
            end += len(line)
    return end


def _plain(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int):
        return float(value)
    return value


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def import_wandb() -> Any:
    """The module of Weights & Biases. Raises UserError where it is not installed."""
    try:
        import wandb
    except ImportError:
        raise UserError("Weights & Biases is not installed: pip install 'redline[wandb]'") from None
    return wandb


def _start_wandb(folder: Path, config: Mapping[str, Any] | None) -> Any:
    wandb = import_wandb()
    try:
        return wandb.init(
            project="redline",
            name=folder.name,
            id=folder.name,
            resume="allow",
            dir=str(folder),
            config=dict(config or {}),
        )
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"Weights & Biases does not start: {text.rstrip('.')}; WANDB_MODE=offline keeps its files here"
        ) from error
