"""docs/systems shows what the code does today: diagrams, the map, and what runs where."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from redline.algorithms.dqn import DQNConfig
from redline.algorithms.impala import IMPALAConfig
from redline.algorithms.ppo import PPOConfig
from redline.architectures.catalogue import ARCHITECTURES
from redline.architectures.config import ParallelConfig
from redline.cli.main import main
from redline.cli.parse import parse
from tests.architectures.pages import COPIES, FOLDER, PAGE, diagrams, filled, verdict


def test_the_page_is_what_the_code_makes_of_it() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page) == page, "run `make systems`"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_diagram_is_what_show_draws(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copies = f" --copies {COPIES}" if name != "synchronous" else ""
    assert main(f"show {name}{copies} --svg {tmp_path}/drawn.svg".split()) == 0
    capsys.readouterr()
    drawn = (tmp_path / "drawn.svg").read_text(encoding="utf-8")
    assert drawn == (FOLDER / f"{name}.svg").read_text(encoding="utf-8"), "run `make systems`"


def test_no_diagram_is_left_over() -> None:
    assert {path.name for path in FOLDER.glob("*.svg")} == diagrams().keys()


def test_commands_of_the_map_are_understood() -> None:
    commands = re.findall(r"`redline (train ENV [^`]+)`", PAGE.read_text(encoding="utf-8"))
    assert commands
    for command in commands:
        parse(command.split())


def test_a_verdict_is_the_planner_s() -> None:
    ppo = verdict(PPOConfig, "impala", "threads")
    assert isinstance(ppo, ParallelConfig)
    assert ppo.queue == 0
    impala = verdict(IMPALAConfig, "impala", "processes")
    assert isinstance(impala, ParallelConfig)
    assert (impala.copies, impala.queue) == (2, 1)
    assert "needs lag <= 1" in str(verdict(PPOConfig, "apex", "threads"))
    assert "learns from replay" in str(verdict(DQNConfig, "impala", "threads"))
    assert "one loop" in str(verdict(PPOConfig, "synchronous", "threads"))
