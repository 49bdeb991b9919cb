"""Stable-Baselines3: PPO and DQN with its own policies (CnnPolicy is the Nature CNN, MlpPolicy is 64 x 64)."""

from __future__ import annotations

from typing import Any

from common import Meter, Options, read_options


def linear(value: float) -> Any:
    """A schedule that falls from ``value`` to 0 over the run."""
    return lambda remaining: remaining * value


def ppo_settings(task: Any) -> dict[str, Any]:
    """A task's numbers as the arguments of PPO, in SB3 and SBX alike."""
    return {
        "learning_rate": linear(task.learning_rate),
        "n_steps": task.unroll,
        "batch_size": task.minibatch,
        "n_epochs": task.epochs,
        "gamma": task.gamma,
        "gae_lambda": task.gae_lambda,
        "clip_range": linear(task.clip),
        "ent_coef": task.entropy,
    }


def make_callback(meter: Meter) -> Any:
    """A callback that tells ``meter`` of every iteration's start, and ends the training when it says so."""
    from stable_baselines3.common.callbacks import BaseCallback

    class Clock(BaseCallback):
        done = False

        def _on_training_start(self) -> None:
            meter.restart()

        def _on_rollout_start(self) -> None:
            returns = [episode["r"] for episode in self.model.ep_info_buffer]
            self.done = meter.boundary(self.num_timesteps, self._act, returns)

        def _on_step(self) -> bool:
            return not self.done

        def _act(self, observations: Any) -> Any:
            return self.model.predict(observations, deterministic=True)[0]

    return Clock()


def pong(options: Options) -> tuple[Any, str]:
    """Pong behind SB3's VecEnv: ale-py's own vector environment, or (--flag wrappers) SB3's AtariWrapper."""
    if "wrappers" in options.flags:
        import ale_py
        import gymnasium
        from stable_baselines3.common.env_util import make_atari_env
        from stable_baselines3.common.vec_env import VecFrameStack

        gymnasium.register_envs(ale_py)
        envs = make_atari_env("PongNoFrameskip-v4", n_envs=options.task.num_envs, seed=options.seed)
        return VecFrameStack(envs, 4), "make_atari_env and VecFrameStack, in process"
    from sb3_ale import AleVecEnv

    return AleVecEnv(
        "pong", options.task.num_envs, options.threads, options.seed
    ), "ale-py vector environment"


def make_model(options: Options) -> tuple[Any, str]:
    """The algorithm, ready to learn, and a note on its environment."""
    from stable_baselines3 import DQN, PPO
    from stable_baselines3.common.env_util import make_vec_env

    task = options.task
    if task.game:
        env, note = pong(options)
    else:
        env, note = make_vec_env("CartPole-v1", n_envs=task.num_envs, seed=options.seed), "DummyVecEnv"
    policy = "CnnPolicy" if task.game else "MlpPolicy"
    if task.algorithm == "dqn":
        model: Any = DQN(
            policy,
            env,
            learning_rate=task.learning_rate,
            buffer_size=task.replay,
            learning_starts=task.learning_starts,
            batch_size=task.batch,
            train_freq=task.steps_per_iteration // task.num_envs,
            gradient_steps=task.updates_per_iteration,
            target_update_interval=task.target_every,
            exploration_initial_eps=task.epsilon,
            exploration_final_eps=task.epsilon,
            device="cpu",
            seed=options.seed,
        )
        return model, note
    return PPO(policy, env, device="cpu", seed=options.seed, **ppo_settings(task)), note


def main() -> None:
    """Measure."""
    options = read_options("sb3", ["pong-ppo", "pong-ppo-32", "cartpole-ppo", "pong-dqn", "pong-dqn-8"])
    options.set_torch_threads()
    model, note = make_model(options)
    meter = Meter(options)
    model.learn(options.total, callback=make_callback(meter))
    meter.report(["stable-baselines3", "torch", "gymnasium", "ale-py", "numpy"], note)


if __name__ == "__main__":
    main()
