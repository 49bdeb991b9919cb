"""Sample Factory: its asynchronous PPO, one pass over each sample; actors, policy worker and learner are processes."""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

from common import Meter, Options, read_options


def make_envpool(name: str, cfg: Any, env_config: Any, render_mode: str | None = None) -> Any:
    """Sample Factory's own EnvPool environment. Module level: its worker processes look it up by name.

    Mended: it asks EnvPool for the interface of ``gym``, which is no longer installed beside gymnasium; and EnvPool's
    object lacks what gymnasium's ``close`` of vector environments looks at, so that it is told it is closed already.
    """
    import envpool
    from sf_examples.envpool.atari import envpool_atari_utils as own

    class Gymnasium:
        @staticmethod
        def make(task: str, env_type: str, **more: Any) -> Any:
            made = envpool.make(task, env_type="gymnasium", num_threads=cfg.envpool_num_threads, **more)
            made.closed = True
            return made

    own.envpool = Gymnasium
    return own.make_atari_env(name, cfg, env_config, render_mode)


def make_wrapped(name: str, cfg: Any, env_config: Any, render_mode: str | None = None) -> Any:
    """Sample Factory's own wrappers over ale-py, whose games are registered by its import."""
    import ale_py  # noqa: F401
    from sf_examples.atari.atari_utils import make_atari_env

    return make_atari_env(name, cfg, env_config, render_mode)


def words(options: Options, folder: str) -> list[str]:
    """The task's settings on Sample Factory's command line; the rest is as in its EnvPool Atari example."""
    task = options.task
    settings: dict[str, Any] = {
        "algo": "APPO",
        "env": "atari_pong",
        "experiment": "pong",
        "train_dir": folder,
        "device": "cpu",
        "seed": options.seed,
        "train_for_env_steps": options.total,
        "async_rl": True,
        "serial_mode": False,
        "with_vtrace": False,  # True ends in an AttributeError: 'advantages' (learner.py, _record_summaries)
        "recurrence": 1,
        "rollout": task.unroll,
        "batch_size": task.minibatch,
        "num_batches_per_epoch": 1,
        "num_epochs": task.epochs,
        "learning_rate": task.learning_rate,
        "lr_schedule": "constant",
        "gamma": task.gamma,
        "gae_lambda": task.gae_lambda,
        "ppo_clip_ratio": task.clip,
        "exploration_loss_coeff": task.entropy,
        "normalize_input": False,
        "normalize_returns": False,
        "summaries_use_frameskip": False,  # counts agent steps, not frames
        "save_every_sec": 100_000,
        "save_best_every_sec": 100_000,
    }
    settings |= dict(flag.split("=", 1) for flag in options.flags if "=" in flag)
    return [f"--{name}={value}" for name, value in settings.items()]


def configure(options: Options, folder: str) -> tuple[Any, str]:
    """Sample Factory's configuration and a note on the environments: EnvPool, or (--flag wrappers) its wrappers."""
    from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
    from sample_factory.envs.env_utils import register_env

    num_envs = options.task.num_envs
    if "wrappers" in options.flags:
        from sf_examples.atari.atari_params import atari_override_defaults

        register_env("atari_pong", make_wrapped)
        layout = [f"--num_workers={options.threads}", f"--num_envs_per_worker={num_envs // options.threads}"]
        layout += ["--batched_sampling=False", "--worker_num_splits=2"]
        note = f"{options.threads} workers, Python wrappers over ale-py"
    else:
        from sf_examples.envpool.atari.envpool_atari_params import add_atari_env_args, atari_override_defaults
        from sf_examples.envpool.envpool_utils import add_envpool_common_args

        register_env("atari_pong", make_envpool)
        layout = ["--num_workers=2", "--num_envs_per_worker=1", f"--env_agents={num_envs // 2}"]
        layout += [
            f"--envpool_num_threads={max(options.threads // 2, 1)}",
            "--batched_sampling=True",
            "--worker_num_splits=1",
        ]
        note = f"2 workers of {num_envs // 2} games on EnvPool"
    argv = layout + words(options, folder)
    parser: argparse.ArgumentParser
    parser, partial = parse_sf_args(argv=argv)
    if "wrappers" not in options.flags:
        add_envpool_common_args(partial.env, parser)
        add_atari_env_args(partial.env, parser)
    atari_override_defaults(partial.env, parser)
    return parse_full_cfg(parser, argv), note


def train(cfg: Any, meter: Meter) -> Any:
    """Train until ``meter`` has seen enough; the configuration as it was completed."""
    from sample_factory.algo.runners.runner import AlgoObserver
    from sample_factory.train import make_runner

    class Clock(AlgoObserver):  # type: ignore[misc, unused-ignore]
        def on_start(self, runner: Any) -> None:
            meter.restart()

        def on_training_step(self, runner: Any, iteration: int) -> None:
            if meter.boundary(runner.env_steps.get(0, 0)):
                runner.cfg.train_for_env_steps = 0  # it stops after the iteration that reaches this

    cfg, runner = make_runner(cfg)
    runner.register_observer(Clock())
    runner.init()
    runner.run()
    return cfg


def main() -> None:
    """Measure."""
    options = read_options("samplefactory", ["pong-impala", "pong-appo"])
    meter = Meter(options)
    with tempfile.TemporaryDirectory() as folder:
        cfg, note = configure(options, folder)
        train(cfg, meter)
    packages = ["sample-factory", "torch", "envpool", "gymnasium", "ale-py", "numpy"]
    meter.report(packages, f"learner and policy worker 1 thread each; {note}")


if __name__ == "__main__":
    main()
