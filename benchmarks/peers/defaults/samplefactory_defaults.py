"""Sample Factory as it comes: its examples for Gymnasium, Atari and MuJoCo, given the environment and nothing else."""

from __future__ import annotations

import tempfile
from typing import Any

from common import DEFAULTS, Meter, Options, read_options
from samplefactory_ import make_wrapped, train


def make_plain(name: str, cfg: Any = None, env_config: Any = None, render_mode: str | None = None) -> Any:
    """As in its example for Gymnasium; ``name`` is that of a task. Module level: worker processes look it up."""
    import gymnasium

    return gymnasium.make(DEFAULTS[name])


def make_cheetah(name: str, cfg: Any = None, env_config: Any = None, render_mode: str | None = None) -> Any:
    """Its own."""
    from sf_examples.mujoco.mujoco_utils import make_mujoco_env

    return make_mujoco_env("mujoco_halfcheetah", cfg, env_config, render_mode)


def configure(options: Options, folder: str) -> Any:
    """Its configuration: nothing given but the environment, the place and how long."""
    from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
    from sample_factory.envs.env_utils import register_env

    name = "atari_pong" if options.task.game else options.task.name
    argv = [f"--env={name}", "--experiment=own", f"--train_dir={folder}", "--device=cpu"]
    argv += [f"--seed={options.seed}", f"--train_for_env_steps={options.total}"]
    parser, _ = parse_sf_args(argv=argv)
    if options.task.game:
        from sf_examples.atari.atari_params import atari_override_defaults

        register_env(name, make_wrapped)
        atari_override_defaults(name, parser)
        parser.set_defaults(summaries_use_frameskip=False)  # counts agent steps, not frames
    elif name == "cheetah-defaults":
        from sf_examples.mujoco.mujoco_params import mujoco_override_defaults

        register_env(name, make_cheetah)
        mujoco_override_defaults(name, parser)
    else:
        register_env(name, make_plain)
    return parse_full_cfg(parser, argv)


def main() -> None:
    """Measure."""
    options = read_options("samplefactory", list(DEFAULTS))
    meter = Meter(options)
    with tempfile.TemporaryDirectory() as folder:
        cfg = train(configure(options, folder), meter)
    note = f"APPO: {cfg.num_workers} workers of {cfg.num_envs_per_worker}, unrolls of {cfg.rollout}"
    note += f", batches of {cfg.batch_size}, {cfg.num_epochs} epochs"
    meter.report(["sample-factory", "torch", "gymnasium", "ale-py", "mujoco", "numpy"], note)


if __name__ == "__main__":
    main()
