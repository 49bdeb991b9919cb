"""SBX (Stable-Baselines3 in JAX) as it comes: PPO, given its policy and the environment and nothing else."""

from __future__ import annotations

from common import DEFAULTS, Meter, read_options
from sb3_ import make_callback


def main() -> None:
    """Measure. Its PPO has no convolutional policy."""
    options = read_options(
        "sbx", [name for name in DEFAULTS if name not in ("pong-defaults", "large-defaults")]
    )
    from sbx import PPO

    model = PPO("MlpPolicy", options.task.environment, seed=options.seed)
    meter = Meter(options)
    model.learn(options.total, callback=make_callback(meter))
    note = "PPO: 1 environment, unrolls of 2,048, 10 epochs of 64"
    meter.report(["sbx-rl", "jax", "flax", "stable-baselines3", "gymnasium", "mujoco", "numpy"], note)


if __name__ == "__main__":
    main()
