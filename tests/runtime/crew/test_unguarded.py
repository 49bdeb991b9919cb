"""Scripts that cannot start processes, for want of ``if __name__ == "__main__":`` or of a file: told so in one line,
and never left hanging."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from redline.environments.workers.spawning import ADVICE, CannotSpawn, Parcel, check_script

SCRIPT = """
import redline
redline.train("CartPole-v1", "{recipe}", steps=2000, folder={folder!r}, name="run", overrides={overrides!r})
"""
CASES = {
    "actors": ("impala", ["parallel.runtime=processes", "parallel.copies=2", "run.tensorboard=false"]),
    "workers": ("ppo", ["environment.backend=workers", "environment.workers=2", "run.tensorboard=false"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_script_without_a_guard_is_told(case: str, tmp_path: Path) -> None:
    recipe, overrides = CASES[case]
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(recipe=recipe, folder=str(tmp_path / "runs"), overrides=overrides))
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count(ADVICE) == 1
    assert done.stderr.count("Traceback") == 1, "the children have nothing to say"


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_script_from_standard_input_is_told(case: str, tmp_path: Path) -> None:
    recipe, overrides = CASES[case]
    script = SCRIPT.format(recipe=recipe, folder=str(tmp_path / "runs"), overrides=overrides)
    guarded = script.replace("redline.train", 'if __name__ == "__main__": redline.train')
    done = subprocess.run(
        [sys.executable, "-"], input=guarded, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        "CannotSpawn: this script was read from standard input, and worker processes import it: save it to a file, "
        "or keep to one process by parallel.runtime=threads and environment.backend=inline"
    )
    assert done.stderr.count("Traceback") == 1, "no child was started, and none has anything to say"


class Spec:
    name = "package.__main__"


@pytest.mark.parametrize(
    ("file", "spec", "refused"),
    [
        (None, None, False),  # a notebook, `python`, `python -c`
        ("<stdin>", None, True),
        ("/gone/script.py", None, True),
        ("/gone/script.py", Spec, False),  # `python -m`: imported by its name
        (__file__, None, False),
        (os.path.relpath(__file__), None, False),
    ],
)
def test_what_spawn_cannot_import_is_refused(
    file: str | None, spec: type | None, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = ModuleType("__main__")
    script.__spec__ = spec  # type: ignore[assignment]
    if file is not None:
        script.__file__ = file
    monkeypatch.setitem(sys.modules, "__main__", script)
    if not refused:
        check_script()
        return
    with pytest.raises(CannotSpawn, match="save it to a file"):
        check_script()


def test_a_parcel_outside_a_spawn_is_its_content() -> None:
    import pickle

    assert pickle.loads(pickle.dumps(Parcel([1, 2]))) == [1, 2]


DIES = """
import multiprocessing, os, sys, time
from redline.environments.workers.spawning import Parcel
if __name__ != "__main__":
    os._exit(3)
process = multiprocessing.get_context("spawn").Process(target=print, args=(Parcel(b"x" * 10**7),))
process.start()
process.join()
assert process.exitcode == 3
print("not left hanging")
"""


def test_a_child_that_dies_before_it_has_read_leaves_nobody_writing(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(DIES)
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "not left hanging\n", done.stderr
