"""CleanRL: its own single files, unchanged, from a checkout (``--source``); only its environments' ``step`` is timed.

CleanRL is not installed from PyPI, whose last release (0.4.8, 2021) needs gym 0.21. gymnasium 0.29.1 is the version
its files are written for.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import Finished, Meter, Options, read_options

FILES = {
    "pong-ppo": "ppo_atari.py",
    "pong-ppo-32": "ppo_atari.py",
    "cartpole-ppo": "ppo.py",
    "pong-dqn": "dqn_atari.py",
}


def command_line(options: Options) -> list[str]:
    """The flags that give CleanRL's file the task's settings."""
    task = options.task
    flags: dict[str, Any] = {
        "env-id": "PongNoFrameskip-v4" if task.game else "CartPole-v1",
        "seed": options.seed,
        "total-timesteps": options.total,
        "num-envs": task.num_envs,
        "learning-rate": task.learning_rate,
        "gamma": task.gamma,
    }
    if task.algorithm == "dqn":
        flags |= {
            "buffer-size": task.replay,
            "learning-starts": task.learning_starts,
            "batch-size": task.batch,
            "train-frequency": task.update_every,
            "target-network-frequency": task.target_every,
            "start-e": task.epsilon,
            "end-e": task.epsilon,
        }
    else:
        flags |= {
            "num-steps": task.unroll,
            "num-minibatches": task.num_envs * task.unroll // task.minibatch,
            "update-epochs": task.epochs,
            "gae-lambda": task.gae_lambda,
            "clip-coef": task.clip,
            "ent-coef": task.entropy,
        }
    return ["--no-cuda", *(f"--{name}={value}" for name, value in flags.items())]


def time_steps(every: int, meter: Meter) -> None:
    """Have gymnasium's vector environment tell ``meter`` of every ``every`` agent steps (a round), with the returns."""
    from gymnasium.vector import SyncVectorEnv

    step = SyncVectorEnv.step
    returns: list[float] = []
    taken = 0

    def timed(self: Any, actions: Any) -> Any:
        nonlocal taken
        if taken == 0:
            meter.restart()
        if taken % every == 0 and meter.boundary(taken, None, returns):
            raise Finished
        taken += self.num_envs
        stepped = step(self, actions)
        ended = [
            info["episode"]["r"] for info in stepped[4].get("final_info", ()) if info and "episode" in info
        ]
        returns.extend(float(each.item()) for each in ended)
        return stepped

    SyncVectorEnv.step = timed  # type: ignore[method-assign]


def main() -> None:
    """Measure."""
    options = read_options("cleanrl", list(FILES))
    if options.source is None:
        raise SystemExit("cleanrl: give --source, a checkout of github.com/vwxyzjn/cleanrl")
    options.set_torch_threads()
    if options.task.game:
        import ale_py  # noqa: F401 - makes Pong known to gymnasium
    source = Path(options.source).resolve()
    sys.path.insert(0, str(source))  # for cleanrl_utils
    file = source / "cleanrl" / FILES[options.task.name]
    meter = Meter(options)
    time_steps(options.task.steps_per_iteration, meter)
    sys.argv = [str(file), *command_line(options)]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # its event files go here
        with contextlib.suppress(Finished):
            runpy.run_path(str(file), run_name="__main__")
        os.chdir(source)
    meter.report(
        ["torch", "gymnasium", "ale-py", "stable-baselines3", "numpy"], f"{file.name}, its own wrappers"
    )


if __name__ == "__main__":
    main()
