"""RLlib as it comes: PPO on its new API stack, given the environment and nothing else."""

from __future__ import annotations

import os
from typing import Any

from common import DEFAULTS, Meter, Options, read_options

SMOOTHED = 100  # episodes that its mean return is of, by default


def make_config(options: Options) -> tuple[Any, str]:
    """Its configuration, and a note. Games go through the wrappers that its own Atari examples use."""
    import gymnasium
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.tune.registry import register_env

    def pong(_context: Any) -> Any:
        import ale_py
        from ray.rllib.env.wrappers.atari_wrappers import wrap_atari_for_new_api_stack

        gymnasium.register_envs(ale_py)
        game = gymnasium.make("ALE/Pong-v5", frameskip=1, repeat_action_probability=0.0)
        return wrap_atari_for_new_api_stack(game, framestack=4)

    def other(_context: Any) -> Any:
        return gymnasium.make(options.task.environment)

    register_env("task", pong if options.task.game else other)
    config = PPOConfig().environment("task")
    note = f"PPO: {config.num_env_runners} env runners of {config.num_envs_per_env_runner}"
    note += f", rounds of {config.train_batch_size_per_learner:,}"
    return config, f"{note}, {config.num_epochs} epochs of {config.minibatch_size}"


def main() -> None:
    """Measure."""
    options = read_options("rllib", list(DEFAULTS))
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    # One CPU more than there are cores at the least: its defaults want three, and would wait for them for ever.
    ray.init(
        num_cpus=max(os.cpu_count() or 1, 3),
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )
    config, note = make_config(options)
    algorithm = config.build_algo()
    meter = Meter(options)
    meter.restart()
    steps, returns = 0, []
    while not meter.boundary(steps, None, returns):
        told = algorithm.train()["env_runners"]
        steps = int(told["num_env_steps_sampled_lifetime"])
        returns = [float(told.get("episode_return_mean", 0.0))] * SMOOTHED
    meter.report(["ray", "torch", "gymnasium", "ale-py", "mujoco", "numpy"], note)
    ray.shutdown()


if __name__ == "__main__":
    main()
