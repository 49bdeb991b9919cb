"""LeanRL as it comes: its PPO for Atari on EnvPool, unchanged, given the environment and nothing else."""

from __future__ import annotations

import contextlib
import runpy
import sys
import types
from pathlib import Path

from common import Finished, Meter, read_options
from leanrl_ import old_envpool

FILE = "ppo_atari_envpool_torchcompile.py"
EVERY = 8 * 128  # agent steps of an iteration by its defaults


def main() -> None:
    """Measure."""
    options = read_options("leanrl", ["pong-defaults"])
    if options.source is None:
        raise SystemExit("leanrl: give --source, a checkout of github.com/pytorch-labs/LeanRL")
    import gymnasium

    meter = Meter(options)
    wandb = types.ModuleType("wandb")
    wandb.init = wandb.log = lambda *_args, **_more: None  # type: ignore[attr-defined]
    sys.modules |= {"wandb": wandb, "gym": gymnasium, "envpool": old_envpool(meter, EVERY)}
    file = Path(options.source).resolve() / "leanrl" / FILE
    sys.argv = [str(file), "--no-cuda", "--env-id=Pong-v5", f"--seed={options.seed}"]
    with contextlib.suppress(Finished):
        runpy.run_path(str(file), run_name="__main__")
    meter.report(
        ["torch", "tensordict", "envpool", "gymnasium", "numpy"], f"{FILE}: rounds of {EVERY:,} steps"
    )


if __name__ == "__main__":
    main()
