"""Imports point one way only: a folder may use those on earlier lines of ORDER, never its neighbours or later ones."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import itertools
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "redline"
LOCAL = {"redline", "tests", "examples", "benchmarks"}
ORDER = [
    {"plain_yaml", "secret", "types", "version"},
    {"ops", "reports", "runs"},
    {"networks", "environments"},
    {"search"},
    {"algorithms", "actors", "inference", "replay", "learners"},
    {"architectures"},
    {"planner"},
    {"runtime"},
    {"population"},
    {"recipes"},
    {"api"},
    {"studies"},
    {"cli"},
    {"__init__", "__main__"},
]
LEVEL = {folder: level for level, folders in enumerate(ORDER) for folder in folders}

# Processes and sockets are started by the runtime, and by environments that step in worker processes.
STARTERS = {"multiprocessing", "subprocess", "socket", "socketserver", "concurrent", "torch.multiprocessing"}
MAY_START = {"runtime", "environments"}
MAY_START_FILES = {
    "runs/provenance.py": "asks git and the system what commit and machine this is, and waits for the answer",
}


def sources(package: Path = PACKAGE) -> list[Path]:
    return sorted(package.rglob("*.py"))


def folder_of(file: Path, package: Path = PACKAGE) -> str:
    return file.relative_to(package).parts[0].removesuffix(".py")


@functools.cache
def parsed(text: str) -> ast.Module:
    return ast.parse(text)


@functools.cache
def distributions() -> Mapping[str, list[str]]:
    """Packages that provide each module, of all that are installed."""
    return importlib.metadata.packages_distributions()


def imported(file: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything a file imports: at the top, in functions, for type checking, by name."""
    for node in ast.walk(parsed(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def imported_folders(file: Path, package: Path = PACKAGE) -> Iterator[tuple[int, str]]:
    """(line, folder of the package) for each import of the package's own."""
    for line, name in imported(file):
        parts = name.split(".")
        if parts[0] != package.name:
            continue
        there = parts[1] if len(parts) > 1 else "__init__"
        is_module = (package / there).is_dir() or (package / f"{there}.py").exists()
        yield line, there if is_module else "__init__"


def wrong_imports(package: Path = PACKAGE) -> list[str]:
    """What breaks the order, a line each."""
    wrong = []
    for file in sources(package):
        here = folder_of(file, package)
        for line, there in imported_folders(file, package):
            if here != there and not LEVEL[there] < LEVEL[here]:
                wrong.append(f"{file.relative_to(package)}:{line}: {here} may not import {there}")
    return wrong


def test_every_folder_has_its_line_in_the_order() -> None:
    here = {folder_of(file) for file in sources()}
    assert here <= LEVEL.keys(), f"give them a line in ORDER: {sorted(here - LEVEL.keys())}"


def test_imports_point_one_way() -> None:
    assert not wrong_imports(), "\n".join(wrong_imports())


def test_imports_are_absolute() -> None:
    relative = [
        f"{file.relative_to(PACKAGE)}:{line}"
        for file in sources()
        for line, name in imported(file)
        if name.startswith(".")
    ]
    assert not relative, f"relative imports: {relative}"


def test_modules_do_not_import_each_other_in_circles() -> None:
    """Within a folder too: no cycle among modules, counting what is imported when a module is first loaded."""
    graph = {file: set(_loaded_modules(file)) for file in sources()}
    done: set[Path] = set()

    def visit(file: Path, path: tuple[Path, ...]) -> None:
        assert file not in path, " -> ".join(str(each.relative_to(PACKAGE)) for each in (*path, file))
        if file not in done:
            for other in graph[file]:
                visit(other, (*path, file))
            done.add(file)

    for file in graph:
        visit(file, ())


def _loaded_modules(file: Path) -> Iterator[Path]:
    """Modules of the package, other than folders' __init__, that ``file`` imports at its top level."""
    tree = parsed(file.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE.name:
            base = PACKAGE.joinpath(*(node.module or "").split(".")[1:])
            candidates = [base.with_suffix(".py"), *(base / f"{alias.name}.py" for alias in node.names)]
            yield from (each for each in candidates if each.exists() and each != file)


def test_only_the_runtime_and_environments_start_processes() -> None:
    wrong = []
    for file in sources():
        name = str(file.relative_to(PACKAGE).as_posix())
        if folder_of(file) in MAY_START or name in MAY_START_FILES:
            continue
        for line, module in imported(file):
            if module.split(".")[0] in STARTERS or ".".join(module.split(".")[:2]) in STARTERS:
                wrong.append(f"{name}:{line}: {module}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(("tree", "extras"), [("src", False), ("examples", False), ("tests", True)])
def test_packages_that_are_imported_are_declared(tree: str, extras: bool) -> None:
    """What happens to be installed here is not installed everywhere. Optional packages are imported in functions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = list(project["dependencies"])
    if extras:
        wanted += itertools.chain(*project["optional-dependencies"].values())
    declared = {re.split(r"[\[<>=~! ]", each)[0].lower() for each in wanted}
    missing = set()
    for file in (ROOT / tree).rglob("*.py"):
        nodes = parsed(file.read_text(encoding="utf-8")).body
        for node in nodes if tree == "src" else ast.walk(ast.Module(nodes, [])):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for top in {name.split(".")[0] for name in names} - sys.stdlib_module_names - LOCAL:
                if not {each.lower() for each in distributions().get(top, [top])} & declared:
                    missing.add(f"{file.relative_to(ROOT)}: {top}")
    assert not missing, "\n".join(sorted(missing))


def test_exceptions_are_still_needed() -> None:
    for name in MAY_START_FILES:
        assert (PACKAGE / name).exists(), f"{name} is gone: remove it from MAY_START_FILES"


@pytest.mark.parametrize(
    "line",
    [
        "from redline.api import train",
        "import redline.recipes.config",
        "from redline import learners",
        "def late():\n    from redline.replay import buffer",
        "if TYPE_CHECKING:\n    from redline.actors.unroll import Unroll",
        "import importlib\nimportlib.import_module('redline.cli.main')",
        "from redline import version",
    ],
)
def test_a_wrong_import_is_seen(tmp_path: Path, line: str) -> None:
    """``algorithms`` imports what stands beside or below it."""
    package = tmp_path / "redline"
    for folder in ("algorithms", "api", "recipes", "learners", "replay", "actors", "cli", "ops"):
        (package / folder).mkdir(parents=True)
    file = package / "algorithms" / "example.py"
    file.write_text("from redline import ops\nimport redline.ops.returns\n")
    assert wrong_imports(package) == []
    file.write_text(line + "\n")
    assert len(wrong_imports(package)) == 1
