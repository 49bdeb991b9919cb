"""Redline as it comes: what ``redline train ENVIRONMENT`` does, planned as it plans a run that is long."""

from __future__ import annotations

import contextlib
import tempfile
from typing import Any

from common import DEFAULTS, Finished, Meter, read_options
from redline_ import Clock

NAMES = {  # where Redline's name is another
    "pong-defaults": "ALE/Pong-v5",
    "slow-defaults": "worlds:slow",
    "tailed-defaults": "worlds:tailed",
    "large-defaults": "worlds:large",
}


def main() -> None:
    """Measure. The plan is made before the clock starts (once for a machine: what it measures is kept)."""
    options = read_options("redline", list(DEFAULTS))
    from redline import api

    environment = NAMES.get(options.task.name, options.task.environment)
    found = api.plan(environment)
    settings = [f"{key}={value}" for key, value in found.best.option.settings.items()]
    if options.to_score:
        settings += ["run.stop_at_return=475", "run.log_every=2048"]
    meter = Meter(options)
    with tempfile.TemporaryDirectory() as folder:
        run: Any = None
        with contextlib.suppress(Finished):
            run = api.train(
                environment,
                steps=options.total,
                seed=options.seed,
                overrides=[*settings, "run.tensorboard=false"],
                folder=folder,
                observer=Clock(meter),
            )
    if run is not None and run.mean_return >= 475:
        meter.solved = (run.seconds, run.steps)
    meter.report(["redline", "torch", "gymnasium", "ale-py", "mujoco", "numpy"], found.best.option.name)


if __name__ == "__main__":
    main()
