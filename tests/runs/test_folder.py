"""Run folders: names, finding them again, the lock; and where results come from."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from redline.runs.files import write_atomic
from redline.runs.folder import RunFolder, list_runs
from redline.runs.provenance import command_line, git_commit, provenance
from redline.types import RunError, UserError


def make(base: Path, name: str) -> RunFolder:
    run = RunFolder.create(name, base=base)
    run.config.write_text("recipe: ppo\n")
    return run


@pytest.mark.parametrize(
    ("environment", "recipe", "name"),
    [
        ("CartPole-v1", "ppo", "cartpole-v1_ppo_001"),
        ("ALE/Pong-v5", "dqn", "pong-v5_dqn_001"),
        ("my_package.games:make_env", "ppo", "make_env_ppo_001"),
        ("", "", "run_001"),
        ("../..", "ppo", "ppo_001"),
    ],
)
def test_names_come_from_environment_and_recipe(
    tmp_path: Path, environment: str, recipe: str, name: str
) -> None:
    assert RunFolder.create(environment=environment, recipe=recipe, base=tmp_path / "runs").name == name


def test_numbers_go_on(tmp_path: Path) -> None:
    names = [RunFolder.create(environment="E-v0", recipe="ppo", base=tmp_path).name for _ in range(3)]
    assert names == ["e-v0_ppo_001", "e-v0_ppo_002", "e-v0_ppo_003"]
    (tmp_path / "e-v0_ppo_999").mkdir()
    assert RunFolder.create(environment="E-v0", recipe="ppo", base=tmp_path).name == "e-v0_ppo_1000"


def test_a_taken_name_is_refused(tmp_path: Path) -> None:
    make(tmp_path, "mine")
    with pytest.raises(
        UserError, match=r"there is a run 'mine' in .* already: go on with it by `redline resume /.*/mine`"
    ):
        RunFolder.create("mine", base=tmp_path)


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b", "x" * 101, "-x", "a\nb"])
def test_names_that_are_none_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"is not a name for a run"):
        RunFolder.create(name, base=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_open_by_name_or_path(tmp_path: Path) -> None:
    run = make(tmp_path, "pong_ppo_001")
    assert RunFolder.open("pong_ppo_001", base=tmp_path).path == run.path
    assert RunFolder.open(run.path).path == run.path
    assert run.metrics == run.path / "metrics.jsonl"


def test_what_is_typed_for_a_run_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    usual, elsewhere = make(Path("runs"), "mine"), make(Path("my runs"), "mine")
    assert [usual.reference, elsewhere.reference] == ["mine", "my runs/mine"]
    for run in (usual, elsewhere):
        assert RunFolder.open(run.reference).path == run.path
    with pytest.raises(UserError, match=r"go on with it by `redline resume 'my runs/mine'`"):
        RunFolder.create("mine", base="my runs")
    monkeypatch.chdir("my runs/mine")
    here = RunFolder.open(".")
    assert (here.name, here.reference) == ("mine", str(tmp_path / "my runs" / "mine"))


def test_an_unknown_name_gets_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there are none yet"):
        RunFolder.open("pong", base=tmp_path / "none")
    make(tmp_path, "pong-v5_ppo_001")
    make(tmp_path, "cartpole-v1_dqn_001")
    with pytest.raises(
        UserError, match=r"there is no run 'pong-v5_pppo_001' in .*: did you mean 'pong-v5_ppo_001'"
    ):
        RunFolder.open("pong-v5_pppo_001", base=tmp_path)
    with pytest.raises(UserError, match=r"the newest is 'cartpole-v1_dqn_001'"):
        RunFolder.open("zzz", base=tmp_path)


def test_runs_are_listed_oldest_first(tmp_path: Path) -> None:
    for name in ("b", "a"):
        make(tmp_path, name)
    (tmp_path / "no run").mkdir()
    assert [path.name for path in list_runs(tmp_path)] == ["b", "a"]
    assert list_runs(tmp_path / "none") == []


def test_one_process_at_a_time(tmp_path: Path) -> None:
    run = make(tmp_path, "mine")
    other = RunFolder.open(run.path)
    with run:
        run.lock()  # once more is harmless
        with pytest.raises(UserError, match=r"another process \(number \d+\) is writing the run 'mine'"):
            other.lock()
    with other:
        pass
    other.unlock()


def test_the_lock_is_free_after_an_error(tmp_path: Path) -> None:
    run = make(tmp_path, "mine")
    with pytest.raises(KeyError), run:
        raise KeyError
    RunFolder.open(run.path).lock().unlock()


def test_a_read_only_folder_is_one_line(read_only: Path) -> None:
    refused = "(the file system is read-only|permission denied)$"
    with pytest.raises(RunError, match=f"cannot make a run in .*: {refused}"):
        RunFolder.create("new", base=read_only)
    with pytest.raises(RunError, match=f"cannot write the run .*: {refused}"):
        RunFolder.open("old", base=read_only).lock()
    with pytest.raises(RunError, match=f"cannot write .*plan.json: {refused}"):
        RunFolder.open("old", base=read_only).write_plan({}, {}, [])


def test_a_base_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(RunError, match=r"cannot make a run in"):
        RunFolder.create("new", base=tmp_path / "runs")


def test_a_file_is_replaced_whole_or_not_at_all(small_disk: Path) -> None:
    path = small_disk / "config.yaml"
    write_atomic(path, "old")
    with pytest.raises(RunError, match=r"the disk is full"):
        write_atomic(path, b"x" * 3_000_000)
    assert path.read_text() == "old"
    assert list(small_disk.iterdir()) == [path]


def test_provenance_is_plain_and_says_no_names() -> None:
    about = provenance()
    assert json.loads(json.dumps(about)) == about
    assert about["machine"]["cores"] >= 1
    assert about["machine"]["memory_gib"] > 0
    assert about["machine"]["processor"]
    assert about["versions"]["torch"]
    text = json.dumps(about)
    assert str(Path.home()) not in text
    assert str(Path.cwd()) not in text


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["/opt/bin/redline", "train", "ALE/Pong-v5"], "redline train ALE/Pong-v5"),
        (
            ["redline", "--folder=/home/ann/runs", "/home/ann/my env.yaml"],
            'redline --folder=runs "my env.yaml"',
        ),
        (
            ["redline", "--api-key", "abc", "--set", "x.token=abc", "--seed", "1"],
            "redline --api-key *** --set x.token=*** --seed 1",
        ),
        (["r", "--set=environment.kwargs.api_key=abc=="], "r --set=environment.kwargs.api_key=***"),
        (
            ["r", "--set", "environment={id: x, kwargs: {'api_key': abc, token: d}}"],
            "r --set \"environment={id: x, kwargs: {'api_key':***\"",
        ),
        (["r", "train", "my_tokens:make_env", "--set", "a.b=c"], "r train my_tokens:make_env --set a.b=c"),
        (["redline", "C:\\Users\\ann\\config.yaml"], "redline config.yaml"),
        ([], "python"),
        (["-c"], "python"),
        (["/venv/redline/__main__.py", "recipes"], "redline recipes"),
    ],
)
def test_the_command_line_keeps_secrets(arguments: list[str], line: str) -> None:
    assert command_line(arguments) == line


def test_git_commit(tmp_path: Path) -> None:
    assert git_commit(tmp_path / "absent") is None

    def git(*arguments: str) -> None:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e", *arguments]
        subprocess.run(command, check=True, capture_output=True)

    git("init")
    assert git_commit(tmp_path) is None
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first")
    clean = git_commit(tmp_path)
    assert clean is not None
    assert len(clean) == 12
    (tmp_path / "file").write_text("2")
    assert git_commit(tmp_path) == f"{clean}-dirty"
