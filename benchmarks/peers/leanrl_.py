"""LeanRL: its PPO for Atari, unchanged, from a checkout (``--source``); ``--flag compile`` adds its --compile.

Its files are written for gym below 0.26 and EnvPool of that time, and log to Weights & Biases: a shim gives EnvPool
of today the old shape of ``reset`` and ``step``, gymnasium goes under the name of gym, and logging does nothing.
"""

from __future__ import annotations

import contextlib
import runpy
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import Finished, Meter, Options, read_options

FILE = "ppo_atari_envpool_torchcompile.py"


def old_envpool(meter: Meter, every: int, threads: int = 0) -> Any:
    """A module with ``make`` alone, whose environments tell ``meter`` of every ``every`` agent steps (a round)."""
    import envpool
    import gymnasium

    class OldGym(gymnasium.Env):
        def __init__(self, env: Any, number: int) -> None:
            self.env, self.number, self.taken = env, number, 0
            self.observation_space, self.action_space = env.observation_space, env.action_space
            if not isinstance(env.action_space, gymnasium.spaces.Discrete):
                self.action_space = gymnasium.spaces.Discrete(int(env.action_space.n))

        def reset(self, **_: Any) -> Any:
            return self.env.reset()[0]

        def step(self, action: Any) -> Any:
            if self.taken % every == 0 and meter.boundary(self.taken):
                raise Finished
            self.taken += self.number
            observation, reward, terminated, truncated, info = self.env.step(action)
            return observation, reward, terminated | truncated, info

        def close(self) -> None:
            self.env.close()

    def make(name: str, env_type: str, **settings: Any) -> Any:
        settings |= {"num_threads": threads} if threads else {}
        return OldGym(envpool.make(name, env_type="gymnasium", **settings), settings["num_envs"])

    module = types.ModuleType("envpool")
    module.make = make  # type: ignore[attr-defined]
    return module


def run(options: Options, meter: Meter, every: int, words: Sequence[str] = ()) -> None:
    """Run LeanRL's file with ``words`` on its command line until ``meter``, told every ``every`` steps, has enough."""
    if options.source is None:
        raise SystemExit("leanrl: give --source, a checkout of github.com/pytorch-labs/LeanRL")
    import gymnasium

    wandb = types.ModuleType("wandb")
    wandb.init = wandb.log = lambda *_args, **_more: None  # type: ignore[attr-defined]
    sys.modules |= {"wandb": wandb, "gym": gymnasium, "envpool": old_envpool(meter, every, options.threads)}
    file = Path(options.source).resolve() / "leanrl" / FILE
    sys.argv = [str(file), "--no-cuda", "--env-id=Pong-v5", f"--seed={options.seed}", *words]
    with contextlib.suppress(Finished):
        runpy.run_path(str(file), run_name="__main__")


def main() -> None:
    """Measure."""
    options = read_options("leanrl", ["pong-ppo", "pong-ppo-32"])
    options.set_torch_threads()
    task, compiled = options.task, "compile" in options.flags
    meter = Meter(options)
    words = [
        f"--total-timesteps={options.total}",
        f"--num-envs={task.num_envs}",
        f"--num-steps={task.unroll}",
        f"--num-minibatches={task.num_envs * task.unroll // task.minibatch}",
        f"--update-epochs={task.epochs}",
        *(["--compile"] if compiled else []),
    ]
    run(options, meter, task.steps_per_iteration, words)
    note = f"{FILE}, EnvPool{', compiled' if compiled else ''}"
    meter.report(["torch", "tensordict", "envpool", "gymnasium", "numpy"], note)


if __name__ == "__main__":
    main()
