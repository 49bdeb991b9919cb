"""Folders that refuse to be written."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


def _mount(path: Path, options: str) -> None:
    mount = shutil.which("mount")
    if mount is None or os.name == "nt" or os.geteuid() != 0:
        pytest.skip("mounting a small disk takes root")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", options, "tmpfs", str(path)], capture_output=True)
    if done.returncode:
        pytest.skip("this system mounts nothing here")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    _mount(path, "size=1m")
    yield path
    subprocess.run(["umount", str(path)], check=True)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder in which nothing can be written, not even by root; it holds a run ``old``."""
    path = tmp_path / "sealed"
    old = path / "old"
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        path.mkdir()
        _mount(path, "size=1m")
        old.mkdir()
        (old / "config.yaml").write_text("recipe: ppo\n")
        subprocess.run(["mount", "-o", "remount,ro", str(path)], check=True)
        yield path
        subprocess.run(["umount", str(path)], check=True)
        return
    old.mkdir(parents=True)
    (old / "config.yaml").write_text("recipe: ppo\n")
    old.chmod(0o555)
    path.chmod(0o555)
    yield path
    path.chmod(0o755)
    old.chmod(0o755)
