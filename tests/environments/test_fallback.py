"""Where processes cannot be started, ``auto`` steps in this one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ENVIRONMENT = """
import time, gymnasium, numpy as np
class Slow(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}
    def step(self, action):
        time.sleep(0.003)
        return np.zeros(1, np.float32), 1.0, False, False, {}
"""
SCRIPT = """
from redline import environments
from redline.environments import EnvironmentConfig
made = environments.make(EnvironmentConfig(id="slow_environment:Slow"), 4, threads=2)
print(type(made).__name__)
made.close()
"""


def run(tmp_path: Path, arguments: list[str], text: str | None) -> str:
    (tmp_path / "slow_environment.py").write_text(ENVIRONMENT)
    (tmp_path / "unguarded.py").write_text(SCRIPT)
    command = [sys.executable, *arguments]
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command,
        input=text,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


def test_a_slow_environment_gets_workers_where_they_can_be_started(tmp_path: Path) -> None:
    assert run(tmp_path, ["-c", SCRIPT], None) == "Workers"


def test_a_script_read_from_standard_input_steps_in_its_own_process(tmp_path: Path) -> None:
    assert run(tmp_path, ["-"], SCRIPT) == "Inline"


def test_a_script_without_a_guard_steps_in_its_own_process(tmp_path: Path) -> None:
    assert run(tmp_path, ["unguarded.py"], None) == "Inline"
