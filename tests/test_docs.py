"""What the documentation says is true: its Python runs, its commands are understood, its keys and files exist."""

from __future__ import annotations

import dataclasses
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from redline.actors.config import SamplerConfig
from redline.algorithms.a2c import A2CConfig
from redline.algorithms.apex import ApexConfig
from redline.algorithms.appo import APPOConfig
from redline.algorithms.async_q import AsyncQConfig
from redline.algorithms.dqn import DQNConfig
from redline.algorithms.impala import IMPALAConfig
from redline.algorithms.ppo import PPOConfig
from redline.architectures.config import ParallelConfig
from redline.cli.commands import COMMANDS
from redline.cli.parse import parse
from redline.environments.config import EnvironmentConfig
from redline.learners.config import LearnerConfig
from redline.networks.config import NetworkConfig
from redline.recipes import RECIPES
from redline.replay.config import ReplayConfig
from redline.runtime.experiment import Experiment, RunConfig
from redline.runtime.planning import planning, probe
from redline.runtime.planning.together import Budget

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
TEXT = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
TEXT.pop("docs/refusals.md", None)  # a page of mistakes, made anew and checked by tests of its own
OWNERS = {
    "algorithm": (PPOConfig, A2CConfig, DQNConfig, IMPALAConfig, APPOConfig, AsyncQConfig, ApexConfig),
    "environment": (EnvironmentConfig,),
    "network": (NetworkConfig,),
    "learner": (LearnerConfig,),
    "sampler": (SamplerConfig,),
    "replay": (ReplayConfig,),
    "parallel": (ParallelConfig,),
    "run": (RunConfig,),
}
EXCEPT = {"algorithm.beta", "algorithm.gama"}  # the worked example's own; a mistake shown


def blocks(text: str) -> list[str]:
    """Python blocks that are not included from a file."""
    return [code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "--8<--" not in code]


def commands(text: str) -> Iterator[list[str]]:
    """The words of every ``redline ...`` command line in indented blocks."""
    for line in re.findall(r"^ {4}(?:\$ |\.venv/bin/)?redline (.*)$", text, re.MULTILINE):
        words = shlex.split(line.split(" #")[0])
        if words[0].islower() and "--help" not in words:
            yield words


@pytest.mark.slow
@pytest.mark.parametrize("page", [name for name, text in TEXT.items() if blocks(text)])
def test_python_on_the_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDLINE_CACHE", str(tmp_path / "cache"))
    measure, haste = probe.probe, Budget(round=0.02, learn=0.02, network=0.05, crew=0.05)
    monkeypatch.setattr(planning, "probe", lambda experiment, say: measure(experiment, say, haste))
    names: dict[str, object] = {"__name__": "page"}
    monkeypatch.setitem(sys.modules, "page", type(sys)("page"))
    sys.modules["page"].__dict__.update(names)
    for code in blocks(TEXT[page]):
        exec(compile(code, page, "exec"), sys.modules["page"].__dict__)


def test_commands_on_the_pages_are_understood() -> None:
    found = [(page, words) for page, text in TEXT.items() for words in commands(text)]
    assert len(found) > 10
    for page, words in found:
        try:
            parse(words)
        except Exception as error:
            pytest.fail(f"{page}: redline {' '.join(words)}: {error}")


def test_every_option_of_every_command_is_on_its_page() -> None:
    page = TEXT["docs/guide/command-line.md"]
    words = {"settings": "set", "environment": "", "run": "", "runs": "", "words": ""}
    for name, command in COMMANDS.items():
        assert f"`redline {name}" in page
        for item in dataclasses.fields(command):
            option = words.get(item.name, item.name).replace("_", "-")
            assert not option or f"--{option}" in page, (name, option)


def test_keys_on_the_pages_exist() -> None:
    wrong, seen = [], 0
    for page, text in TEXT.items():
        for key in re.findall(rf"(?:`|--set |\")((?:{'|'.join(OWNERS)})\.[a-z_.]+)(?==|`)", text):
            head, *path = key.split(".")
            seen += 1
            if key not in EXCEPT and not any(has_key(owner, path) for owner in OWNERS[head]):
                wrong.append(f"{page}: {key}")
    assert seen > 30
    assert not wrong, "\n".join(wrong)


def has_key(owner: type, path: list[str]) -> bool:
    """Whether a dataclass has a field, or a field of a field, by this name; entries of dicts are free."""
    field = {item.name: item for item in dataclasses.fields(owner)}.get(path[0])
    if field is None:
        return False
    default = field.default_factory() if callable(field.default_factory) else field.default
    if len(path) == 1 or isinstance(default, dict):
        return True
    return dataclasses.is_dataclass(default) and has_key(type(default), path[1:])


def test_keys_have_the_owners_assumed_here() -> None:
    assert {item.name for item in dataclasses.fields(Experiment)} - {"recipe"} == OWNERS.keys()


def test_recipes_on_the_pages_exist() -> None:
    for page, text in TEXT.items():
        for recipe in re.findall(r"(?:--recipe |RECIPE=|recipe=\")(\w+)", text):
            assert recipe in {*RECIPES, "kl_penalty"}, f"{page}: recipe {recipe}"


def test_files_on_the_pages_exist() -> None:
    folders = "|".join(
        sorted(folder.name for folder in (ROOT / "src" / "redline").iterdir() if folder.is_dir())
    )
    for page, text in TEXT.items():
        for name in re.findall(
            rf"`((?:{folders})/[a-z_/]+\.py|(?:tests|examples|docs|benchmarks)/[\w/.-]*)`", text
        ):
            there = (ROOT / "src" / "redline" / name, ROOT / name)
            assert any(path.exists() for path in there), f"{page}: {name}"


def test_make_targets_on_the_pages_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page, text in TEXT.items():
        for target in re.findall(r"(?:^ {4}|`)make (\w+)", text, re.MULTILINE):
            assert target in targets, f"{page}: make {target}"


def test_benchmarks_on_the_pages_and_in_make_take_the_options_they_are_given() -> None:
    makefile = {"Makefile": (ROOT / "Makefile").read_text(encoding="utf-8")}
    found = set()
    for page, text in (TEXT | makefile).items():
        calls = r"(?:redline bench ([a-z]\w+)|python benchmarks/(\w+)\.py)((?: [^\n`|]*)?)"
        for one, other, words in re.findall(calls, text):
            name = one or other
            script = (ROOT / "benchmarks" / f"{name}.py").read_text(encoding="utf-8")
            for option in re.findall(r" (--[a-z][\w-]*)", words):
                found.add((name, option))
                assert f'"{option}"' in script, f"{page}: benchmarks/{name}.py does not take {option}"
    assert ("training", "--seconds") in found
