"""From words to a command: what is understood, and the one line for what is not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from redline.cli import commands
from redline.cli.parse import parse


def test_train_reads_every_option() -> None:
    words = (
        "train ALE/Pong-v5 --recipe dqn --steps 1.5M --seed 7 --seeds 3 --num-envs 16 --device cuda:1 --name x"
        " --folder there --set a.b=-1 --set c=[1, 2] --wandb --plain --debug"
    )
    command = parse([word.replace("[1,", "[1, 2]") for word in words.split(" ") if word != "2]"])
    assert command == commands.Train(
        environment="ALE/Pong-v5",
        recipe="dqn",
        steps=1_500_000,
        seed=7,
        seeds=3,
        num_envs=16,
        device="cuda:1",
        name="x",
        folder="there",
        settings=("a.b=-1", "c=[1, 2]"),
        wandb=True,
        plain=True,
        debug=True,
    )


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ("train --config a.yaml", commands.Train(config="a.yaml")),
        ("train CartPole-v1 --num_envs=2k", commands.Train(environment="CartPole-v1", num_envs=2000)),
        ("train X --steps 1_000", commands.Train(environment="X", steps=1000)),
        ("train X --steps 2e4", commands.Train(environment="X", steps=20_000)),
        ("resume a --steps 20k", commands.Resume(run="a", steps=20_000)),
        ("eval a --episodes 5 --best", commands.Eval(run="a", episodes=5, best=True)),
        ("play a", commands.Play(run="a")),
        ("record a --folder f", commands.Record(run="a", folder="f")),
        ("report a b", commands.Report(runs=("a", "b"))),
        ("recipes", commands.Recipes()),
        ("bench", commands.Bench()),
        ("bench training pong", commands.Bench(words=("training", "pong"))),
        (
            "bench training pong --seconds 8 -k --debug",
            commands.Bench(words=("training", "pong", "--seconds", "8", "-k"), debug=True),
        ),
    ],
)
def test_commands(words: str, command: commands.Command) -> None:
    assert parse(words.split()) == command


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            "",
            "no command given; valid: train, resume, eval, play, record, report, recipes, show, plan, bench, "
            "study (redline --help)",
        ),
        ("trian CartPole-v1", "unknown command 'trian': did you mean 'train'?"),
        ("--verson", "unknown option '--verson': valid: train, "),
        ("train X --stesp 5", "unknown option '--stesp' of 'redline train': did you mean '--steps'?"),
        ("train X --stesp=5", "unknown option '--stesp' of 'redline train': did you mean '--steps'?"),
        ("train X --xyzzy", "unknown option '--xyzzy' of 'redline train': valid: --recipe, "),
        ("train X -r ppo", "unknown option '-r' of 'redline train'"),
        ("train X --steps", "option --steps of 'redline train' needs a value: --steps N"),
        ("train X --recipe --plain", "option --recipe of 'redline train' needs a value: --recipe NAME"),
        ("train X --steps fast", "--steps: expected a whole number of 1 or more (20000, 2e4 and 20k are"),
        ("train X --steps 0", "--steps: expected a whole number of 1 or more"),
        ("train X --steps -5", "--steps: expected a whole number of 1 or more"),
        ("train X --steps 1.5", "--steps: expected a whole number of 1 or more"),
        ("train X --num-envs=x", "--num-envs: expected a whole number of 1 or more"),
        ("train X --seed -1", "--seed: expected a whole number from 0 to 2147483647, got '-1'"),
        ("train X --seed 9999999999", "--seed: expected a whole number from 0 to 2147483647"),
        ("train X --device gpu", "--device: expected auto, cpu, cuda or cuda:N, got 'gpu'"),
        ("train X Y", "'redline train' does not take 'Y': see redline train --help"),
        ("eval", "'redline eval' needs RUN: see redline eval --help"),
        ("eval a --best=1", "option --best of 'redline eval' takes no value"),
        ("recipes all", "'redline recipes' does not take 'all'"),
    ],
)
def test_refusals_are_one_line_with_the_nearest_choice(words: str, line: str) -> None:
    with pytest.raises(commands.WrongUsage) as caught:
        parse(words.split())
    text = str(caught.value)
    assert text.startswith(line)
    assert "\n" not in text


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in commands.COMMANDS)])
def test_help_names_every_option(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(words)
    assert caught.value.code in (0, None)
    shown, errors = capsys.readouterr()
    assert "usage: redline" in shown
    assert not errors
    assert "STR" not in shown  # every value has a name of its own
    assert ("train" if words == ["--help"] else "--debug") in shown


def test_help_and_typos_do_not_wait_for_torch() -> None:
    program = (
        "import sys; from redline.cli.main import main; code = main(sys.argv[1:]);"
        "sys.exit(99 if 'torch' in sys.modules else code)"
    )
    for words, code in (
        (["--help"], 0),
        (["train", "--help"], 0),
        (["trian"], 2),
        (["train", "--steps", "x"], 2),
    ):
        done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, check=False)
        assert done.returncode == code, done.stderr.decode()
