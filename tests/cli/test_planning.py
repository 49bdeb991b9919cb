"""``redline plan``: what it asks the planner for, what it prints, what it leaves."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from redline import api
from redline.cli.main import main
from redline.cli.parse import parse
from redline.planner.explaining.explain import Explanation, explain
from redline.planner.machines import load_machine, parse_what_if
from redline.planner.options import Plan
from tests.planner.sample import COSTS, MACHINE, predict, sample_plan

Asked = dict[str, Any]


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What ``api.plan`` was asked for; it answers with the sample."""
    found: Asked = {}

    def plan(
        environment: str, recipe: str | None = None, *, report: Callable[[str], None], **options: Any
    ) -> Plan:
        found.update(environment=environment, recipe=recipe, **options)
        options = {"machine": None, "what_if": ""} | options
        report("measuring [the environment]")
        costs, machine = COSTS, options["machine"] or MACHINE
        if options["what_if"]:
            costs, machine = parse_what_if(options["what_if"]).apply(costs, machine)
        return sample_plan(costs, machine, options["what_if"])

    def explained(plan: Plan) -> Explanation:
        return explain(plan, predict)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, "plan", plan, raising=False)
    monkeypatch.setattr(api, "explain", explained, raising=False)
    return found


def output(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(words) == 0
    shown, errors = capsys.readouterr()
    assert not errors
    return shown


def test_the_answer_is_printed_and_a_page_is_left(
    asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = output(["plan", "CartPole-v1", "--recipe", "impala"], capsys)
    assert asked == {
        "environment": "CartPole-v1",
        "recipe": "impala",
        "what_if": "",
        "machine": None,
        "verify": True,
        "fresh": False,
        "overrides": [],
    }
    assert "measuring [the environment]" in shown
    assert "Train with architecture impala in threads: 2 actors of 16 environments." in shown
    assert "The learner is the bottleneck" in shown
    assert re.search(r"^impala, threads, 2 x 16 environments +1,778 . 10% +1,707 ", shown, re.M)
    assert "refused: apex: on-policy" in shown
    assert "next: redline train CartPole-v1 --recipe impala --set parallel.architecture=impala" in shown
    page = (tmp_path / "runs" / "plan.html").read_text(encoding="utf-8")
    assert "A plan for ALE/Pong-v5" in page


def test_everything_asked_for_reaches_the_planner(
    asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "plan CartPole-v1 --architecture impala --set algorithm.gamma=0.98 --recipe impala --fresh --no-verify"
    words += " --steps 300000 --set network.hidden=[32,32]"
    shown = output([*words.split(), "--html", "there/p.html"], capsys)
    own = ["algorithm.gamma=0.98", "network.hidden=[32,32]"]
    assert asked["overrides"] == [*own, "parallel.architecture=impala", "run.steps=300000"]
    said = "--set algorithm.gamma=0.98 --set 'network.hidden=[32,32]' --steps 300000 --set parallel"
    assert f"next: redline train CartPole-v1 --recipe impala {said}" in shown
    assert (asked["verify"], asked["fresh"]) == (False, True)
    assert (tmp_path / "there" / "p.html").is_file()
    assert not (tmp_path / "runs").exists()


def test_a_what_if_is_estimated_not_run(
    asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "cores=64, gpu=h100x2, env=3x slower, price=2.5"
    words = ["plan", "CartPole-v1", "--what-if", text, "--json", "plan.json", "--steps", "2M"]
    shown = output([*words, "--save-machine", "big.yaml"], capsys)
    assert (asked["what_if"], asked["verify"]) == (text, False)
    assert f"If {text}: estimated" in shown
    assert "2M agent steps take about" in shown
    assert "next:" not in shown
    data = json.loads((tmp_path / "plan.json").read_text())
    assert data["plan"]["machine"]["cores"] == 64
    assert data["steps"] == 2_000_000
    saved = load_machine(tmp_path / "big.yaml")
    assert (saved.cores, saved.price) == (64, 2.5)
    assert saved.gpus is not None
    assert saved.gpus.count == 2
    output(["plan", "CartPole-v1", "--machine", "big.yaml"], capsys)
    assert asked["machine"] == saved
    assert asked["verify"] is False


def test_an_output_that_knows_only_ascii_gets_ascii(
    asked: Asked, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Plain:
        def __init__(self, stream: Any) -> None:
            self.stream, self.encoding = stream, "ascii"

        def __getattr__(self, name: str) -> Any:
            return getattr(self.stream, name)

    import sys

    monkeypatch.setattr(sys, "stdout", Plain(sys.stdout))
    assert main(["plan", "CartPole-v1"]) == 0
    shown = capsys.readouterr().out
    assert shown.isascii()
    assert "1,778 +- 10%" in shown


def test_a_page_that_cannot_be_written_is_one_line(
    asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for option in ("--html", "--json"):
        capsys.readouterr()
        assert main(["plan", "CartPole-v1", option, "file/plan"]) == 1
        errors = capsys.readouterr().err
        assert errors.startswith("redline: cannot write file/plan")
        assert errors.count("\n") == 1


def test_nothing_is_measured_for_a_question_that_cannot_be_answered(
    asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["--what-if", "gpu=h10"], ["--machine", "none.yaml"], ["--recipe", "impalla"]):
        assert main(["plan", "CartPole-v1", *words]) == 2
    assert not asked
    parse(["plan", "CartPole-v1", "--what-if", "cores=64, env=2x faster"])


class TestTrainingByAPlan:
    """``redline train ENV`` with nothing else said plans first, where the run is long enough to pay for it."""

    @pytest.fixture
    def trained(self, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> Asked:
        """What ``api.train`` was asked for; looks find a slow machine."""
        found: Asked = {}

        class Enough(Exception):
            pass

        def train(environment: str, recipe: str | None, **options: Any) -> None:
            found.update(environment=environment, recipe=recipe, **options)
            raise Enough

        monkeypatch.setattr(api, "train", train)
        monkeypatch.setattr(api, "rate", lambda experiment, seconds: 100.0)
        return found

    def test_a_long_run_gets_the_plans_values(self, trained: Asked, asked: Asked) -> None:
        main(["train", "CartPole-v1", "--steps", "1M", "--plain"])
        assert asked["environment"] == "CartPole-v1"
        plan = sample_plan(COSTS, MACHINE, "")
        assert plan.best.option.settings, "the sample says what to set"
        key, value = next(iter(plan.best.option.settings.items()))
        assert f"{key}={value}" in trained["overrides"]

    @pytest.mark.parametrize(
        "words",
        [
            ["--steps", "1M", "--no-plan"],
            ["--steps", "1M", "--recipe", "ppo"],
            ["--steps", "1M", "--set", "learner.threads=1"],
            ["--steps", "1M", "--architecture", "impala"],
            ["--steps", "20k"],
        ],
    )
    def test_no_plan_where_something_was_said_or_the_run_is_short(
        self, words: list[str], trained: Asked, asked: Asked
    ) -> None:
        main(["train", "CartPole-v1", "--plain", *words])
        assert trained["environment"] == "CartPole-v1"
        assert not asked

    def test_a_quick_machine_needs_no_plan(
        self, trained: Asked, asked: Asked, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(api, "rate", lambda experiment, seconds: 1e6)
        main(["train", "CartPole-v1", "--steps", "1M", "--plain"])
        assert trained["environment"] == "CartPole-v1"
        assert not asked
