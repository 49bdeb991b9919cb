"""PufferLib as it comes: its trainer with ``default.ini``, given the environment and nothing else."""

from __future__ import annotations

import os
import tempfile
from typing import Any

from common import DEFAULTS, Meter, read_options


def make_one(buf: Any = None, seed: int = 0, environment: str = "") -> Any:
    """One environment. Module level: worker processes look it up."""
    import gymnasium
    import pufferlib.emulation

    return pufferlib.emulation.GymnasiumPufferEnv(env=gymnasium.make(environment), buf=buf, seed=seed)


def main() -> None:
    """Measure."""
    options = read_options(
        "pufferlib", [name for name in DEFAULTS if name not in ("pong-defaults", "large-defaults")]
    )
    import pufferlib.models
    import pufferlib.vector
    from pufferlib import pufferl
    from pufferlib_ import defaults

    pufferl.ADVANTAGE_CUDA = False
    vec, train = defaults("vec"), defaults("train")
    envs = pufferlib.vector.make(
        make_one,
        env_kwargs={"environment": options.task.environment.replace("Cheetah-v5", "Cheetah-v4")},
        backend=getattr(pufferlib.vector, vec.pop("backend")),
        **vec,
    )
    config = train | {"env": options.task.name, "device": "cpu", "use_rnn": False, "seed": options.seed}
    pufferl.PuffeRL.print_dashboard = lambda *_args, **_more: None  # it would clear the terminal
    try:
        trainer = pufferl.PuffeRL(config, envs, pufferlib.models.Default(envs))
    except pufferlib.APIUsageError as error:
        envs.close()  # else its workers keep this process from ending
        raise SystemExit(f"Error: {error}") from None
    meter = Meter(options)
    meter.restart()
    done = False
    while not done:
        trainer.evaluate()
        trainer.train()
        done = meter.boundary(trainer.global_step)
    trainer.utilization.stop()
    note = f"{vec['num_envs']} environments, minibatches of {config['minibatch_size']:,}"
    meter.report(["pufferlib", "torch", "gymnasium", "mujoco", "numpy"], note)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # importing PufferLib leaves a link where it is done
        main()
