"""CleanRL as it comes: its own PPO files, unchanged, given the environment and nothing else."""

from __future__ import annotations

import contextlib
import os
import runpy
import shutil
import sys
import tempfile
from pathlib import Path

from cleanrl_ import time_steps
from common import Finished, Meter, read_options

FILES = {  # and the agent steps of an iteration by its defaults
    "cartpole-defaults": ("ppo.py", 4 * 128),
    "pong-defaults": ("ppo_atari.py", 8 * 128),
    "cheetah-defaults": ("ppo_continuous_action.py", 2048),
    "slow-defaults": ("ppo.py", 4 * 128),
    "tailed-defaults": ("ppo.py", 4 * 128),
}


def main() -> None:
    """Measure."""
    options = read_options("cleanrl", list(FILES))
    if options.source is None:
        raise SystemExit("cleanrl: give --source, a checkout of github.com/vwxyzjn/cleanrl")
    if options.task.game:
        import ale_py  # noqa: F401 - makes Pong known to gymnasium
    name, every = FILES[options.task.name]
    source = Path(options.source).resolve()
    sys.path.insert(0, str(source))  # for cleanrl_utils
    file = source / "cleanrl" / name
    meter = Meter(options)
    time_steps(every, meter)
    environment = options.task.environment.replace("HalfCheetah-v5", "HalfCheetah-v4")  # gymnasium 0.29's
    sys.argv = [str(file), "--no-cuda", f"--env-id={environment}", f"--seed={options.seed}"]
    folder = tempfile.mkdtemp()
    os.chdir(folder)  # its event files go here, until the end
    with contextlib.suppress(Finished):
        runpy.run_path(str(file), run_name="__main__")
    meter.report(["torch", "gymnasium", "ale-py", "mujoco", "numpy"], f"{name}: rounds of {every:,} steps")
    os.chdir(source)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
