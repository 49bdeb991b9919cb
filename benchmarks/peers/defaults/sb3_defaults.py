"""Stable-Baselines3 as it comes: PPO, given its policy and the environment and nothing else."""

from __future__ import annotations

from typing import Any

from common import DEFAULTS, Meter, Options, read_options
from sb3_ import make_callback

PICTURES = ("pong-defaults", "large-defaults")


def make_model(options: Options) -> tuple[Any, str]:
    """The algorithm, and a note."""
    from stable_baselines3 import PPO

    task = options.task
    env: Any = task.environment
    if task.game:  # its Atari helper, as its documentation has it
        import ale_py
        import gymnasium
        from stable_baselines3.common.env_util import make_atari_env
        from stable_baselines3.common.vec_env import VecFrameStack

        gymnasium.register_envs(ale_py)
        env = VecFrameStack(make_atari_env(task.environment, seed=options.seed), n_stack=4)
    policy = "CnnPolicy" if task.name in PICTURES else "MlpPolicy"
    return PPO(policy, env, seed=options.seed), "PPO: 1 environment, unrolls of 2,048, 10 epochs of 64"


def main() -> None:
    """Measure."""
    options = read_options("sb3", list(DEFAULTS))
    model, note = make_model(options)
    meter = Meter(options)
    model.learn(options.total, callback=make_callback(meter))
    meter.report(["stable-baselines3", "torch", "gymnasium", "ale-py", "mujoco", "numpy"], note)


if __name__ == "__main__":
    main()
