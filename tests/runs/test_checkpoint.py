"""Checkpoints: what comes back is what was put in, or one line that says why not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from redline.runs.checkpoint import (
    CorruptError,
    best_checkpoint,
    list_checkpoints,
    load_checkpoint,
    load_newest,
    read_header,
    save_checkpoint,
)
from redline.types import RunError

FILES = ("checkpoint.json", "state.json", "state.safetensors")


def state_of(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "weights": torch.full((50,), float(step)),
        "replay": np.full((7, 3), step, np.uint8),
    }


def test_rotation_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save_checkpoint(tmp_path, step, state_of(step), best=step < 30)
    save_checkpoint(tmp_path, 40, state_of(40))
    assert [load_checkpoint(path)["step"] for path in list_checkpoints(tmp_path)] == [30, 40]
    best = best_checkpoint(tmp_path)
    assert best is not None
    assert load_checkpoint(best)["step"] == 20
    assert len(list(tmp_path.iterdir())) == 3


def test_newest_is_the_one_written_last_even_with_fewer_steps(tmp_path: Path) -> None:
    for step in (100, 200, 150):  # resumed from 100
        save_checkpoint(tmp_path, step, state_of(step))
    newest = load_newest(tmp_path)
    assert newest is not None
    assert newest.step == newest.state["step"] == 150


def test_the_same_step_may_be_written_twice(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 5, {"x": 1})
    path = save_checkpoint(tmp_path, 5, {"x": 2}, keep=1)
    assert load_checkpoint(path) == {"x": 2}
    assert list_checkpoints(tmp_path) == [path]


def test_nothing_there_is_none(tmp_path: Path) -> None:
    assert load_newest(tmp_path / "absent") is None
    assert list_checkpoints(tmp_path) == []
    assert best_checkpoint(tmp_path) is None


def test_what_is_no_data_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"cannot hold function \(at learner/hook\)"):
        save_checkpoint(tmp_path, 1, {"learner": {"hook": lambda: None}})
    with pytest.raises(TypeError, match=r"sparse"):
        save_checkpoint(tmp_path, 1, {"x": torch.eye(3).to_sparse()})
    with pytest.raises(TypeError, match=r"Python objects"):
        save_checkpoint(tmp_path, 1, {"x": np.array([None])})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_byte_is_noticed(tmp_path: Path, name: str) -> None:
    path = save_checkpoint(tmp_path, 1, {"x": torch.arange(4), "y": "z"})
    whole = (path / name).read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        (path / name).write_bytes(damaged)
        with pytest.raises(RunError) as caught:
            load_checkpoint(path)
        assert "\n" not in str(caught.value)
    (path / name).write_bytes(whole)
    assert load_checkpoint(path)["y"] == "z"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_a_file_cut_short_is_noticed(tmp_path: Path, name: str, part: float) -> None:
    path = save_checkpoint(tmp_path, 1, state_of(1))
    whole = (path / name).read_bytes()
    (path / name).write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(CorruptError, match=r"is damaged"):
        load_checkpoint(path)
    (path / name).unlink()
    with pytest.raises(RunError, match=f"{name} is missing|it has no {name}"):
        load_checkpoint(path)


def test_a_damaged_newest_is_passed_over(tmp_path: Path) -> None:
    for step in (1, 2):
        path = save_checkpoint(tmp_path, step, state_of(step))
    (path / "state.safetensors").write_bytes(b"")
    found = load_newest(tmp_path)
    assert found is not None
    assert found.step == 1
    assert "00002-step-2 is damaged: state.safetensors has 0 bytes instead of" in found.messages[0]
    assert found.messages[1] == "going on from 00001-step-1"
    shutil.rmtree(found.path)
    with pytest.raises(RunError, match=r"no checkpoint in .* is usable: the checkpoint .* is damaged"):
        load_newest(tmp_path)


def test_another_versions_checkpoint_names_an_older_one(tmp_path: Path) -> None:
    for step in (1, 2):
        path = save_checkpoint(tmp_path, step, state_of(step))
    header = json.loads((path / "checkpoint.json").read_text())
    (path / "checkpoint.json").write_text(json.dumps(header | {"format_version": 9, "redline": "7.0"}))
    line = (
        "written by Redline 7.0 in format 9; this is Redline .*, which reads format 1; 00001-step-1 is usable"
    )
    with pytest.raises(RunError, match=line):
        load_newest(tmp_path)
    shutil.rmtree(tmp_path / "00001-step-1")
    with pytest.raises(RunError, match=r"there is no older one that is usable"):
        load_newest(tmp_path)


def test_foreign_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"there is no checkpoint"):
        load_checkpoint(tmp_path / "absent")
    foreign = tmp_path / "00001-step-1"
    foreign.mkdir()
    with pytest.raises(RunError, match=r"is not a checkpoint of Redline's: it has no checkpoint.json"):
        load_checkpoint(foreign)
    for text in ("{}", "[]", '{"format": "other"}'):
        (foreign / "checkpoint.json").write_text(text)
        with pytest.raises(RunError, match=r"is not a checkpoint of Redline's"):
            load_checkpoint(foreign)


def test_header_says_what_it_is(tmp_path: Path) -> None:
    header = read_header(save_checkpoint(tmp_path, 123, {"a": 1}))
    assert (header["format"], header["format_version"], header["step"]) == ("redline checkpoint", 1, 123)
    assert header["redline"]


def test_leftovers_of_a_killed_process_go(tmp_path: Path) -> None:
    (tmp_path / ".00003-step-9.tmp").mkdir()
    (tmp_path / ".00003-step-9.tmp" / "state.json").write_text("{")
    save_checkpoint(tmp_path, 1, {})
    assert [path.name for path in tmp_path.iterdir()] == ["00001-step-1"]


def test_a_full_disk_leaves_the_old_checkpoint(small_disk: Path) -> None:
    save_checkpoint(small_disk, 1, state_of(1))
    with pytest.raises(RunError, match=r"cannot write a checkpoint in .*: the disk is full$"):
        save_checkpoint(small_disk, 2, {"x": np.ones(3_000_000, np.uint8)})
    assert [path.name for path in small_disk.iterdir()] == ["00001-step-1"]
    newest = load_newest(small_disk)
    assert newest is not None
    assert newest.step == 1
    save_checkpoint(small_disk, 3, state_of(3))  # room again: the run can go on


def test_a_file_size_limit_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="no limits on this system")
    save_checkpoint(tmp_path, 1, state_of(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        with pytest.raises(RunError, match=r"the file would be larger than allowed here"):
            save_checkpoint(tmp_path, 2, {"x": torch.zeros(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["00001-step-1"]


def test_a_read_only_folder_is_one_line(read_only: Path) -> None:
    with pytest.raises(
        RunError, match=r"cannot write a checkpoint in .*: (the file system is read-only|permission)"
    ):
        save_checkpoint(read_only / "old" / "checkpoints", 1, {})
