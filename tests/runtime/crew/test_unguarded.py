"""Scripts that start processes without ``if __name__ == "__main__":``: told so in one line, and never left hanging."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from redline.environments.workers.spawning import ADVICE, Parcel

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
