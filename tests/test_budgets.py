"""Files, functions, classes and folders stay small enough to read; what is public is described and in the reference.

A module may go over with a line in its docstring that starts with ``Over budget:`` and gives the reason.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "redline"
REFERENCE = ROOT / "docs" / "reference"


@dataclass(frozen=True)
class Budget:
    """Most lines of a file, a function and a class, public methods of a class, arguments, files in a folder."""

    file: int = 400
    function: int = 60
    class_lines: int = 250
    methods: int = 12
    arguments: int = 8
    folder: int = 12


TREES = {  # tests and benchmarks are read in pieces: they get more room, not none
    "src": Budget(),
    "examples": Budget(),
    "tests": Budget(file=700, function=120, folder=16),
    "benchmarks": Budget(file=700, function=120),
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def lines(node: Function | ast.ClassDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def arguments(node: Function) -> int:
    """How many arguments a caller may give, ``self`` and ``cls`` apart."""
    names = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return len(names) - (bool(names) and names[0] in ("self", "cls"))


def public_methods(node: ast.ClassDef) -> list[str]:
    """Methods without a leading underscore; properties and overloads are not counted."""
    decorated = ("property", "setter", "cached_property", "overload")
    return [
        item.name
        for item in node.body
        if isinstance(item, Function)
        and not item.name.startswith("_")
        and not any(ast.unparse(each).endswith(decorated) for each in item.decorator_list)
    ]


def excesses(file: Path, budget: Budget) -> Iterator[str]:
    """What in one file is over budget, a line each."""
    text = file.read_text(encoding="utf-8")
    tree = ast.parse(text)
    if re.search(r"^\s*Over budget: \S", ast.get_docstring(tree) or "", re.MULTILINE):
        return
    if text.count("\n") > budget.file:
        yield f"{text.count(chr(10))} lines, at most {budget.file}"
    for node in ast.walk(tree):
        if isinstance(node, Function):
            if lines(node) > budget.function:
                yield f"{node.lineno} {node.name}: {lines(node)} lines, at most {budget.function}"
            if arguments(node) > budget.arguments:
                yield f"{node.lineno} {node.name}: {arguments(node)} arguments, at most {budget.arguments}"
        elif isinstance(node, ast.ClassDef):
            if lines(node) > budget.class_lines:
                yield f"{node.lineno} {node.name}: {lines(node)} lines, at most {budget.class_lines}"
            if len(public_methods(node)) > budget.methods:
                yield f"{node.lineno} {node.name}: {len(public_methods(node))} methods, at most {budget.methods}"


@pytest.mark.parametrize("tree", TREES)
def test_files_are_within_budget(tree: str) -> None:
    over = [
        f"{file.relative_to(ROOT)}: {excess}"
        for file in sorted((ROOT / tree).rglob("*.py"))
        for excess in excesses(file, TREES[tree])
    ]
    assert not over, "\n".join(over)


@pytest.mark.parametrize("tree", TREES)
def test_folders_are_within_budget(tree: str) -> None:
    folders = {file.parent for file in (ROOT / tree).rglob("*.py")}
    counts = {
        folder: sum(1 for file in folder.glob("*.py") if file.name != "__init__.py") for folder in folders
    }
    over = {str(folder.relative_to(ROOT)): n for folder, n in counts.items() if n > TREES[tree].folder}
    assert not over


@functools.cache
def protocol_methods(file: Path) -> frozenset[str]:
    """Methods that a Protocol in ``file`` describes once, for all who provide them."""
    protocols = [
        node
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
        and any(ast.unparse(base).startswith("Protocol") for base in node.bases)
    ]
    methods = [item for node in protocols for item in node.body if isinstance(item, Function)]
    return frozenset(item.name for item in methods if ast.get_docstring(item))


def undocumented(file: Path, described: set[str]) -> Iterator[str]:
    """Public modules, classes, functions and methods of a file that have no docstring."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    if tree.body and not ast.get_docstring(tree):
        yield "the module"
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            if not ast.get_docstring(node):
                yield f"{node.lineno} {node.name}"
            for item in node.body if isinstance(node, ast.ClassDef) else ():
                hidden = not isinstance(item, Function) or item.name.startswith("_") or item.name in described
                if not hidden and not ast.get_docstring(item):
                    yield f"{item.lineno} {node.name}.{item.name}"


def test_everything_public_is_documented() -> None:
    assert {"send", "recv", "initial_state"} <= protocol_methods(PACKAGE / "types.py")
    bare = []
    for file in sorted(PACKAGE.rglob("*.py")):
        described = {"forward"}  # the class says what goes in and comes out
        described |= protocol_methods(PACKAGE / "types.py").union(
            *map(protocol_methods, file.parent.glob("*.py"))
        )
        bare += [f"{file.relative_to(ROOT)}: {name}" for name in undocumented(file, described)]
    assert not bare, "\n".join(bare)


def modules() -> Iterator[str]:
    """Modules that have something to describe; a folder's own where its ``__init__`` defines something."""
    for file in PACKAGE.rglob("*.py"):
        body = ast.parse(file.read_text(encoding="utf-8")).body
        defines = any(isinstance(node, Function | ast.ClassDef) and node.name[0] != "_" for node in body)
        if body and (defines or not file.name.startswith("_")):
            parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
            yield ".".join(parts).removesuffix(".__init__")


def test_every_module_is_in_the_reference_pages() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in REFERENCE.glob("*.md"))
    there, here = set(re.findall(r"^::: (\S+)", pages, re.MULTILINE)), set(modules())
    assert not here - there, f"add to docs/reference/: {sorted(here - there)}"
    assert not there - here, f"no such modules, in docs/reference/: {sorted(there - here)}"


CASES = {
    "file": "x = 1\n" * 401,
    "function": "def f():\n" + "    x = 1\n" * 60,
    "class": "class C:\n" + "    x = 1\n" * 250,
    "methods": "class C:\n" + "".join(f"    def m{i}(self): ...\n" for i in range(13)),
    "arguments": "def f(a, b, c, d, e, f, g, *, h, i): ...\n",
}


@pytest.mark.parametrize("case", CASES)
def test_going_over_is_seen_and_may_be_explained(tmp_path: Path, case: str) -> None:
    file = tmp_path / "module.py"
    file.write_text(CASES[case])
    assert len(list(excesses(file, Budget()))) == 1
    file.write_text('"""A table.\n\nOver budget: one row for each register of the chip.\n"""\n' + CASES[case])
    assert not list(excesses(file, Budget()))


def test_being_undocumented_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(
        "class C:\n    def send(self): ...\n    def other(self): ...\n    def _own(self): ...\ndef f(): ...\n"
    )
    assert list(undocumented(file, {"send"})) == ["the module", "1 C", "3 C.other", "5 f"]
