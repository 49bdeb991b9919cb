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

    task, note = options.task, "DummyVecEnv"
    if "defaults" in options.flags:
        model, note = PPO("MlpPolicy", "CartPole-v1", seed=options.seed), "its defaults: one environment"
    else:
        env = make_vec_env("CartPole-v1", n_envs=task.num_envs, seed=options.seed)
        model = PPO("MlpPolicy", env, seed=options.seed, **ppo_settings(task))
    meter = Meter(options)
    model.learn(options.total, callback=make_callback(meter))
    meter.report(["sbx-rl", "jax", "flax", "stable-baselines3", "gymnasium", "numpy"], note)


if __name__ == "__main__":
    main()
