"""SBX (Stable-Baselines3 in JAX, compiled): PPO on CartPole. Its PPO has no convolutional policy for Pong."""

from __future__ import annotations

from common import Meter, read_options
from sb3_ import make_callback, ppo_settings


def main() -> None:
    """Measure. With --to-score the clock includes compilation, which the user waits for as well."""
    options = read_options("sbx", ["cartpole-ppo"])
    options.set_torch_threads()
    from sbx import PPO
    from stable_baselines3.common.env_util import make_vec_env

    env = make_vec_env("CartPole-v1", n_envs=options.task.num_envs, seed=options.seed)
    model = PPO("MlpPolicy", env, seed=options.seed, **ppo_settings(options.task))
    meter = Meter(options)
    model.learn(options.total, callback=make_callback(meter))
    meter.report(["sbx-rl", "jax", "flax", "stable-baselines3", "gymnasium", "numpy"], "DummyVecEnv")


if __name__ == "__main__":
    main()
