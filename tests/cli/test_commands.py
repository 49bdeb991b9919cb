"""Each command, really run: what it prints, what it leaves, and how it ends."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from redline.architectures.catalogue import ARCHITECTURES
from redline.architectures.draw import text
from redline.architectures.svg import svg
from redline.cli.main import main
from redline.cli.pictures import TerminalPictures
from redline.recipes import RECIPES
from tests.cli.refusal import RUN, TINY

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of its own, with a finished run in it."""
    shutil.copytree(prepared / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def output(words: str, capsys: pytest.CaptureFixture[str], code: int = 0) -> str:
    capsys.readouterr()
    assert main(words.split()) == code
    shown, errors = capsys.readouterr()
    assert not errors
    return shown


def test_train_tells_rules_progress_and_what_comes_next(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = output(f"train tests.cli.broken:Toy --steps 96 --name again --seed 3 {TINY}", capsys)
    assert "run again in runs/again" in shown
    assert "seed 3" in shown
    assert re.search(r"100% 96 of 96 agent steps \| return 10 ", shown)
    assert re.search(r"^again: 96 agent steps, \d+ episodes, .* mean return 10 over the last", shown, re.M)
    assert (folder / "runs/again/report.html").is_file()
    config = (folder / "runs/again/config.yaml").read_text()
    assert "seed: 3" in config
    assert "unroll: 16" in config


def test_what_comes_next_can_be_typed_as_it_stands(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        *f"train tests.cli.broken:Toy --steps 32 --no-film --plain {TINY}".split(),
        "--folder",
        "my runs",
    ]
    assert main([*words, "--name", "again"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    evaluate, _, page = line.removeprefix("next: ").split(" | ")
    assert main([*shlex.split(evaluate)[1:], "--episodes", "1"]) == 0
    assert Path(shlex.split(page)[1]).is_file()


@pytest.mark.parametrize("film", [True, False])
def test_the_report_shows_the_agent_unless_told_not_to(
    folder: Path, capsys: pytest.CaptureFixture[str], film: bool
) -> None:
    words = f"train CartPole-v1 --name filmed --plain --steps 512 {'' if film else '--no-film'}"
    output(words, capsys)
    assert len(list((folder / "runs/filmed/videos").glob("*.mp4"))) == film
    assert ("<video" in (folder / "runs/filmed/report.html").read_text()) == film


def test_a_config_can_be_run_again_with_changes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = f"runs/{RUN}/config.yaml"
    shown = output(
        f"train --config {config} --name again --steps 32 --plain --set learner.learning_rate=0.1", capsys
    )
    assert "32 of 32 agent steps" in shown
    before, after = ((folder / "runs" / name / "config.yaml").read_text() for name in (RUN, "again"))
    changed = set(before.splitlines()) ^ set(after.splitlines())
    assert {line.strip().split(":")[0] for line in changed} <= {
        "steps",
        "learning_rate",
        "log_every",
        "checkpoint_every",
    }


def test_seeds_are_runs_of_their_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output(f"train tests.cli.broken:Toy --steps 32 --seeds 2 --seed 5 --name many {TINY}", capsys)
    for seed in (5, 6):
        assert f"seed: {seed}" in (folder / f"runs/many_{seed}/config.yaml").read_text()
    shown = output("report many_5 many_6", capsys)
    assert Path(shown.strip()).is_file()


def test_resume_goes_on_to_the_steps_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = output(f"resume {RUN} --steps 128", capsys)
    assert "128 of 128 agent steps" in shown
    steps = [
        json.loads(line)["step"]
        for line in (folder / "runs" / RUN / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == sorted(steps)
    assert steps[-1] == 128


def test_the_best_checkpoint_is_judged_where_there_is_one(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where there was none, the latest was taken for it without a word."""
    assert main(f"eval {RUN} --best".split()) == 1
    assert "has no best checkpoint yet (it takes 20 episodes): leave --best out" in capsys.readouterr().err
    output(f"resume {RUN} --steps 512", capsys)
    assert output(f"eval {RUN} --episodes 1 --best", capsys).startswith("return 10 +- 0 over 1")


def test_eval_report_and_play(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = output(f"eval {RUN} --episodes 3", capsys)
    assert shown.startswith(
        "return 10 +- 0 over 3 episodes (from 10 to 10, median 10); 10 agent steps an episode"
    )
    assert output(f"eval {folder / 'runs' / RUN} --episodes 1", capsys).startswith("return 10 +- 0 over 1")
    page = Path(output(f"report {RUN}", capsys).strip())
    assert page.is_file()
    shown = output(f"play {RUN} --episodes 2", capsys)
    assert shown.splitlines() == [
        "episode 1: return 10, 10 agent steps",
        "episode 2: return 10, 10 agent steps",
    ]


def test_recipes_lists_every_recipe_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = output("recipes", capsys).splitlines()
    for name in RECIPES:
        row = next(line for line in lines if line.startswith(f"{name} "))
        assert len(row.split(maxsplit=5)) == 6  # name, algorithm, architecture, steps, environments, words
    impala = next(line for line in lines if line.startswith("impala_atari "))
    assert impala.split()[1:3] == ["impala", "impala"]


def test_show_lists_draws_and_takes_numbers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = output("show", capsys)
    for name, each in ARCHITECTURES.items():
        assert re.search(rf"^{name} +{re.escape(each.system)}$", listed, re.M)
    assert output("show impala --copies 4 --queue 1", capsys).startswith(
        text(ARCHITECTURES["impala"].sized(4, 1))
    )
    shown = output("show impala --copies 4 --queue 0", capsys)
    assert "Lag is 0" in shown
    assert "runs: ppo, a2c, " in shown
    assert "refused: dqn cannot run on architecture impala" in shown
    assert "runs: ppo" not in output("show impala --copies 4 --queue 1", capsys)
    assert output("show impala --copies 3 --svg impala.svg", capsys) == "impala.svg\n"
    assert (folder / "impala.svg").read_text() == svg(ARCHITECTURES["impala"].sized(3))


def test_show_gives_a_recipe_its_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    shown = output("show impala_atari --copies 5", capsys)
    assert shown.startswith("recipe impala_atari: IMPALA on Atari")
    assert (
        "algorithm impala, 32 environments, runtime processes" in shown
    )  # five actors are too many for threads
    assert "actor x 5" in shown
    assert "Lag is 0: one loop" in output("show ppo_atari", capsys)


def test_an_output_that_knows_only_ascii_gets_ascii(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["show", "apex"]) == 0
    stream.flush()
    assert b"| actor" in stream.buffer.getvalue()  # type: ignore[attr-defined]


def test_names_that_the_output_cannot_spell_are_shown_as_far_as_it_can(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    words = f"train tests.cli.broken:Toy --steps 32 --name again --no-film --plain {TINY} --folder läufe"
    assert main(words.split()) == 0
    assert main(["report", "again", "--folder", "läufe"]) == 0
    stream.flush()
    assert stream.buffer.getvalue().splitlines()[-1] == b"l?ufe/again/report.html"  # type: ignore[attr-defined]


def test_train_takes_architecture_and_runtime(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "train CartPole-v1 --recipe a2c --architecture impala --runtime threads --steps 256 --name beside"
    shown = output(f"{words} --plain --set run.tensorboard=false --set parallel.copies=2", capsys)
    config = (folder / "runs/beside/config.yaml").read_text()
    assert "architecture: impala" in config
    assert "runtime: threads" in config
    assert "- architecture impala, runtime threads: Lag is 0: each actor waits" in shown
    assert re.search(r"busy: actor \d+% learner \d+% \| queue: unrolls \d of 2 \| lag 0 max 0 bound 0", shown)
    assert re.search(r"\(actor \d+%, learner \d+%", shown)  # the sentence at the end
    assert "<b>Lag</b>" in (folder / "runs/beside/report.html").read_text()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert re.fullmatch(r"redline \d+\.\d+\.\d+\n", output("--version", capsys))


def test_debug_adds_the_traceback(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "tests.cli.broken:RaisesInStep", "--debug", *TINY.split()]) == 1
    errors = capsys.readouterr().err
    assert "Traceback (most recent call last)" in errors
    assert errors.splitlines()[-1].startswith("redline: environment 'tests.cli.broken:RaisesInStep'")


def test_an_error_nobody_foresaw_is_one_line_too(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise KeyError("two\nlines")

    monkeypatch.setattr("redline.api.load", fail)
    assert main(["eval", RUN]) == 1
    assert (
        capsys.readouterr().err
        == r"redline: unexpected KeyError: 'two\nlines' (--debug shows where it happened)" + "\n"
    )


def test_output_that_nobody_reads_any_more() -> None:
    program = f"{sys.executable} -m redline recipes | head -1"
    done = subprocess.run(program, shell=True, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("recipe ")
    assert done.stderr == ""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_checkpoints_and_the_run_goes_on(tmp_path: Path, number: int) -> None:
    words = f"train tests.cli.broken:Toy --steps 100M --name long --plain {TINY}".split()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "redline", *words],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "agent steps |" in line:
                break
        sent = time.monotonic()
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        waited = time.monotonic() - sent
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert errors == "redline: interrupted; checkpoint written: go on by `redline resume long`\n"
    assert waited < 30  # under 5 seconds on a machine that is not busy testing
    [checkpoint] = (tmp_path / "runs/long/checkpoints").glob("[0-9]*")
    steps = int(checkpoint.name.rpartition("-")[2])
    assert steps > 0
    done = subprocess.run(
        [sys.executable, "-m", "redline", "resume", "long", "--plain", "--steps", str(steps + 32)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"{steps + 32:,} of {steps + 32:,}" in done.stdout


def test_terminal_pictures_are_drawn_over_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("LINES", "12")
    stream = io.StringIO()
    screen = TerminalPictures(stream)
    screen.show(np.zeros((8, 8, 3), np.uint8))
    screen.tell("episode 1")
    screen.show(np.zeros((8, 8, 3), np.uint8))
    screen.show(np.zeros((8, 8, 3), np.uint8))
    screen.close()
    text = stream.getvalue()
    assert text.startswith("\x1b[?25l")
    assert text.endswith("\x1b[?25h\x1b[0m")
    assert text.count("\x1b[5A") == 2  # four lines of picture and one of text
    assert text.count("episode 1") == 3
