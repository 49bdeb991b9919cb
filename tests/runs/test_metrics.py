"""Metrics: whole lines, cut back on resume, and TensorBoard files that TensorBoard reads."""

from __future__ import annotations

import builtins
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import redline
from redline.runs.metrics import MetricsWriter
from redline.runs.tensorboard import EventWriter
from redline.types import RunError, UserError


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself makes of the event files."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    tags = found.Tags()
    read = {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in tags["scalars"]}
    return read | {
        tag: [(e.step, float(np.array(e.tensor_proto.float_val)[0])) for e in found.Tensors(tag)]
        for tag in tags["tensors"]
    }


def test_lines_are_there_at_once(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, tensorboard=False)
    writer.write(10, {"return/mean": 1.5, "updates": 3, "f32": np.float32(0.5), "i": np.int64(4)})
    assert lines(tmp_path) == [{"step": 10, "return/mean": 1.5, "updates": 3, "f32": 0.5, "i": 4.0}]
    writer.write(20, {"a": math.nan, "b": -math.inf})
    assert lines(tmp_path)[1] == {"step": 20, "a": None, "b": None}
    writer.close()
    writer.close()


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    writer = MetricsWriter(whole, tensorboard=False)
    for step in range(1, 31):
        writer.write(step, {"x": step / 7})
    writer.close()
    writer = MetricsWriter(parts, tensorboard=False)
    for step in range(1, 24):
        writer.write(step, {"x": step / 7})
    writer.close()
    with open(parts / "metrics.jsonl", "a") as file:
        file.write('{"step": 24, "x')  # killed here
    writer = MetricsWriter(parts, tensorboard=False)
    writer.truncate_after(20)
    assert lines(parts)[-1]["step"] == 20
    for step in range(21, 31):
        writer.write(step, {"x": step / 7})
    writer.close()
    assert (parts / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_a_torn_line_is_mended_without_resume(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step"')
    writer = MetricsWriter(tmp_path, tensorboard=False)
    writer.write(2, {})
    writer.close()
    assert lines(tmp_path) == [{"step": 1}, {"step": 2}]


def test_truncating_to_nothing_and_beyond(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, tensorboard=False)
    for step in (5, 5, 10):
        writer.write(step, {})
    writer.truncate_after(99)
    assert len(lines(tmp_path)) == 3
    writer.truncate_after(5)
    assert len(lines(tmp_path)) == 2
    writer.truncate_after(0)
    assert lines(tmp_path) == []
    writer.write(1, {})
    writer.close()
    assert lines(tmp_path) == [{"step": 1}]


def test_a_full_disk_leaves_whole_lines(small_disk: Path) -> None:
    writer = MetricsWriter(small_disk, tensorboard=False)

    def fill() -> None:
        for step in range(100_000):
            writer.write(step, {f"name/{index}": step / 3 for index in range(30)})

    with pytest.raises(RunError, match=r"cannot write .*metrics.jsonl: the disk is full$"):
        fill()
    writer.close()
    found = lines(small_disk)
    assert [line["step"] for line in found] == list(range(len(found)))
    assert len(found) > 100


def test_a_read_only_folder_is_one_line(read_only: Path) -> None:
    with pytest.raises(
        RunError, match=r"cannot write .*metrics.jsonl: (the file system is read-only|permission)"
    ):
        MetricsWriter(read_only / "old")


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path)
    for step in (1, 300, 2**40):
        writer.write(step, {"return/mean": step / 3, "déjà": -1.0, "huge": 1e300, "nothing": math.nan})
    writer.close()
    found = scalars(tmp_path)
    assert [step for step, _ in found["return/mean"]] == [1, 300, 2**40]
    np.testing.assert_allclose(
        [value for _, value in found["return/mean"]], [1 / 3, 100, 2**40 / 3], rtol=1e-6
    )
    assert found["déjà"][0] == (1, -1.0)
    assert math.isinf(found["huge"][0][1])
    assert math.isnan(found["nothing"][0][1])


def test_tensorboard_forgets_what_a_resumed_run_takes_back(tmp_path: Path) -> None:
    first = EventWriter(tmp_path)
    for step in range(1, 11):
        first.write(step, {"x": 1.0})
    first.close()
    second = EventWriter(tmp_path, first_step=6)
    for step in range(6, 9):
        second.write(step, {"x": 2.0})
    second.close()
    assert scalars(tmp_path)["x"] == [(step, 1.0 if step < 6 else 2.0) for step in range(1, 9)]


def test_no_event_file_without_events(tmp_path: Path) -> None:
    MetricsWriter(tmp_path).close()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_weights_and_biases_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true_import = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name == "wandb":
            raise ImportError(name)
        return true_import(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install 'redline\[wandb\]'"):
        MetricsWriter(tmp_path, wandb=True)


class Recorder:
    """What ``MetricsWriter`` uses of Weights & Biases."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.began: dict[str, Any] = {}
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = 0

    def init(self, **settings: Any) -> Recorder:
        if self.error is not None:
            raise self.error
        self.began = settings
        return self

    def log(self, numbers: dict[str, float], step: int) -> None:
        self.logged.append((step, numbers))

    def finish(self) -> None:
        self.finished += 1


def test_weights_and_biases_gets_config_and_metrics_but_no_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Recorder()
    monkeypatch.setitem(sys.modules, "wandb", service)
    run = redline.train(
        "tests.environments.samples:keyed_counter",
        steps=512,
        folder=str(tmp_path),
        name="seen",
        overrides=["run.wandb=true", "run.log_every=256", "environment.kwargs.api_key=hunter2"],
    )
    assert service.began["name"] == service.began["id"] == "seen"
    assert service.began["dir"] == str(run.path)
    assert service.began["config"]["environment"]["kwargs"] == {"api_key": "***"}
    assert service.began["config"]["run"]["steps"] == 512
    assert [step for step, _ in service.logged] == [256, 512]
    assert "return/mean" in service.logged[-1][1]
    assert service.finished == 1


def test_weights_and_biases_that_does_not_start_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", Recorder(RuntimeError("No API key configured.\nLog in.")))
    with pytest.raises(
        UserError, match=r"does not start: No API key configured\. Log in; WANDB_MODE=offline"
    ):
        MetricsWriter(tmp_path, wandb=True)
