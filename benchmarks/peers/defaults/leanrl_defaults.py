"""LeanRL as it comes: its PPO for Atari on EnvPool, unchanged, given the environment and nothing else."""

from __future__ import annotations

from common import Meter, read_options
from leanrl_ import FILE, run

EVERY = 8 * 128  # agent steps of a round by its defaults


def main() -> None:
    """Measure."""
    options = read_options("leanrl", ["pong-defaults"])
    meter = Meter(options)
    run(options, meter, EVERY)
    meter.report(
        ["torch", "tensordict", "envpool", "gymnasium", "numpy"], f"{FILE}: rounds of {EVERY:,} steps"
    )


if __name__ == "__main__":
    main()
