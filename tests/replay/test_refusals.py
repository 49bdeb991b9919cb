"""What replay refuses, and the one line that it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import redline.replay.columns as columns
import redline.replay.storage as storage
from redline.replay import Replay, ReplayConfig
from redline.types import RunError, Spec, UserError
from tests.replay.naive import Pictures, Row, add, picture_spec

ROOT = Path(__file__).parents[2]
BAD_CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"capacity": 0}, "replay.capacity is 0: it must be at least 1"),
    ({"alpha": -0.1}, "replay.alpha is -0.1: it must be from 0 to 1"),
    ({"alpha": float("nan")}, "replay.alpha is nan: it must be from 0 to 1"),
    ({"beta": 1.5}, "replay.beta is 1.5: it must be from 0 to 1"),
    ({"beta_final": -1.0}, "replay.beta_final is -1.0: it must be from 0 to 1"),
    ({"priority_epsilon": 0.0}, "replay.priority_epsilon is 0.0: it must be over 0 and under 1"),
    ({"n_step": 0}, "replay.n_step is 0: it must be from 1 to 255"),
    ({"n_step": 256}, "replay.n_step is 256: it must be from 1 to 255"),
    ({"compression": "lz5"}, "replay.compression is 'lz5': did you mean 'lz4'?"),
    ({"compression": "lz4", "memory_map": "x"}, "exclude each other"),
]


@pytest.mark.parametrize(("options", "line"), BAD_CONFIGS, ids=[line for _, line in BAD_CONFIGS])
def test_bad_settings(options: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as error:
        ReplayConfig(**options)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_beta_goes_from_start_to_end() -> None:
    config = ReplayConfig(beta=0.4, beta_final=1.0)
    assert [config.beta_at(x) for x in (-1, 0, 0.5, 1, 2)] == pytest.approx([0.4, 0.4, 0.7, 1.0, 1.0])


def test_capacity_too_small_for_the_environments() -> None:
    with pytest.raises(UserError, match=r"capacity is 100: 64 environments with n_step 3 need at least 320"):
        Replay(picture_spec(), ReplayConfig(capacity=100, n_step=3), 64)


def test_drawing_too_much_or_too_early() -> None:
    replay = Replay(picture_spec(), ReplayConfig(capacity=20), 2)
    with pytest.raises(UserError, match="replay is empty"):
        replay.sample(8)
    with pytest.raises(UserError, match="batch of 32 from a replay of 20: raise replay"):
        replay.sample(32)
    with pytest.raises(UserError, match="at least 1"):
        replay.sample(0)


def test_unknown_spaces() -> None:
    text = gymnasium.spaces.Text(5)
    with pytest.raises(UserError, match="cannot keep observations of Text"):
        Replay(Spec("x", text, gymnasium.spaces.Discrete(2)), ReplayConfig(capacity=10), 1)
    with pytest.raises(UserError, match="cannot keep actions of Text"):
        Replay(Spec("x", gymnasium.spaces.Discrete(2), text), ReplayConfig(capacity=10), 1)


def row_of(replay: Replay) -> Row:
    return Pictures(replay.num_envs, 0, "zeros", ends=0.0).step()


def test_wrong_shapes_and_dtypes_leave_the_replay_as_it_was() -> None:
    replay = Replay(picture_spec(), ReplayConfig(capacity=20), 2)
    row = row_of(replay)
    bad: list[tuple[str, Any, str]] = [
        ("observation", row.observation[:1], "observation of shape [1, 4, 5, 5]: it must be [2, 4, 5, 5]"),
        ("observation", row.observation.astype(np.float32), "observation of float32: the space says uint8"),
        ("reward", row.reward[:, None], "reward of shape [2, 1]: it must be [2]"),
        ("action", row.action[:, None], "action of shape [2, 1]: it must be [2]"),
        ("terminated", np.zeros(3, bool), "terminated of shape [3]: it must be [2]"),
        ("truncated", np.ones(2, bool), "environment 0 was truncated without a final observation"),
    ]
    for name, value, line in bad:
        with pytest.raises(UserError) as error:
            add(replay, Row(**{**vars(row), name: value}))
        assert line in str(error.value)
    assert replay.storage.head == 0


def test_a_stack_that_jumps() -> None:
    replay = Replay(picture_spec(), ReplayConfig(capacity=20), 2)
    row = row_of(replay)
    add(replay, row)
    with pytest.raises(UserError, match="environment 0 gave an observation that does not continue its stack"):
        add(replay, row)


def test_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "available_memory", lambda: 2**30)
    space = gymnasium.spaces.Box(0, 255, (4, 84, 84), np.uint8)
    spec = Spec("x", space, gymnasium.spaces.Discrete(2), frame_stack=4)
    with pytest.raises(RunError) as error:
        Replay(spec, ReplayConfig(), 8)
    line = "replay of 1,000,000 steps needs 6.6 GiB of memory, 1.0 GiB are left: set replay.capacity to 136,"
    assert line in str(error.value)
    Replay(spec, ReplayConfig(capacity=136_000), 8)


def test_memory_that_the_system_refuses() -> None:
    space = gymnasium.spaces.Box(0, 255, (4, 84, 84), np.uint8)
    with pytest.raises(RunError, match=r"needs 6571\.[0-9] GiB of memory"):
        columns.ArrayColumn(1, 10**9, space.shape[1:], np.dtype(np.uint8))


def test_too_little_disk_and_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"replay cannot map .* at "):
        Replay(picture_spec(), ReplayConfig(capacity=20, memory_map=str(tmp_path / "file" / "sub")), 2)
    huge = ReplayConfig(capacity=10**13, memory_map=str(tmp_path / "huge"))
    with pytest.raises(RunError, match=r"replay needs [0-9.]+ GiB on disk, but .* has [0-9.]+ GiB left"):
        Replay(picture_spec(), huge, 2)
    assert not list((tmp_path / "huge").glob("*.npy"))


def test_a_damaged_file_is_replaced(tmp_path: Path) -> None:
    config = ReplayConfig(capacity=20, memory_map=str(tmp_path))
    Replay(picture_spec(), config, 2)
    file = tmp_path / "observation0.npy"
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:100])
    replay = Replay(picture_spec(), config, 2)
    assert file.stat().st_size == size
    add(replay, row_of(replay))


ANOTHER = """
from redline.replay import Replay, ReplayConfig
from tests.replay.naive import picture_spec
replay = Replay(picture_spec(), ReplayConfig(capacity=20, memory_map={folder!r}), 2)
print("mapped", flush=True)
input()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no file locks")
def test_files_that_another_process_writes_to(tmp_path: Path) -> None:
    config = ReplayConfig(capacity=20, memory_map=str(tmp_path))
    command = [sys.executable, "-c", ANOTHER.format(folder=str(tmp_path))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as other:
        assert other.stdout is not None
        try:
            assert other.stdout.readline() == b"mapped\n"
            with pytest.raises(
                RunError, match=r"another process keeps its replay in .*; choose another folder"
            ):
                Replay(picture_spec(), config, 2)
        finally:
            other.kill()
    Replay(picture_spec(), config, 2)
    Replay(picture_spec(), config, 2)  # the same process, again


def test_lz4_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lz4", None)
    monkeypatch.setitem(sys.modules, "lz4.block", None)
    with pytest.raises(UserError, match=r"pip install redline\[lz4\]"):
        Replay(picture_spec(side=40), ReplayConfig(capacity=20, compression="lz4"), 2)


def test_checkpoints_of_another_replay(tmp_path: Path) -> None:
    def make(envs: int = 2, **options: Any) -> Replay:
        replay = Replay(picture_spec(), ReplayConfig(**{"capacity": 20, **options}), envs)
        add(replay, row_of(replay))
        return replay

    one, two = (make(memory_map=str(tmp_path / name)) for name in ("one", "two"))
    cases = [
        (make(capacity=30), make().state(), "another form"),
        (make(envs=4), make().state(), "another form"),
        (make(n_step=2), make().state(), "another form"),
        (make(prioritized=True), make().state(), "differs in replay.prioritized"),
        (make(), make(prioritized=True).state(), "differs in replay.prioritized"),
        (make(), one.state(), "set replay.memory_map to their folder"),
        (make(compression="lz4"), one.state(), "set replay.memory_map to their folder"),
        (two, one.state(), "are not those that the checkpoint was made with"),
    ]
    for replay, state, line in cases:
        with pytest.raises(RunError, match=line):
            replay.load_state(state)
