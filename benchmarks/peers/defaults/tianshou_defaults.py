"""Tianshou as it comes: PPO from its high-level interface, given the environment and nothing else."""

from __future__ import annotations

import contextlib
from typing import Any

from common import DEFAULTS, Finished, Meter, Options, read_options


def make_builder(options: Options, training: Any) -> Any:
    """PPO and its environments, as many as there are cores, stepped as in all its examples."""
    from tianshou.highlevel.env import EnvFactoryRegistered, VectorEnvType
    from tianshou.highlevel.experiment import ExperimentConfig, PPOExperimentBuilder

    experiment = ExperimentConfig(
        seed=options.seed, persistence_enabled=False, log_file_enabled=False, watch=False
    )
    task = options.task
    if not task.game:
        kind = VectorEnvType.SUBPROC_SHARED_MEM_AUTO
        return PPOExperimentBuilder(
            EnvFactoryRegistered(task=task.environment, venv_type=kind), experiment, training
        )
    import ale_py
    import gymnasium
    from tianshou.env.atari.atari_network import ActorFactoryAtariDQN
    from tianshou.env.atari.atari_wrapper import AtariEnvFactory

    gymnasium.register_envs(ale_py)  # it makes one game of its own beside EnvPool's
    builder = PPOExperimentBuilder(AtariEnvFactory(task.environment, 4), experiment, training)
    network = ActorFactoryAtariDQN(scale_obs=True, features_only=True)
    return builder.with_actor_factory(network).with_critic_factory_use_actor()


def main() -> None:
    """Measure. It has no network for pictures but that of its Atari examples."""
    options = read_options("tianshou", [name for name in DEFAULTS if name != "large-defaults"])
    from tianshou.highlevel.config import OnPolicyTrainingConfig
    from tianshou.highlevel.trainer import EpochTrainCallback

    meter = Meter(options)

    class Clock(EpochTrainCallback):  # type: ignore[misc, unused-ignore]
        def callback(self, epoch: int, env_step: int, context: Any) -> None:
            if meter.boundary(env_step):
                raise Finished

    training = OnPolicyTrainingConfig()
    experiment = make_builder(options, training).with_epoch_train_callback(Clock()).build()
    with contextlib.suppress(Finished):
        experiment.run()
    note = f"PPO: {training.num_training_envs} environments, rounds of {training.collection_step_num_env_steps:,}"
    note += f", {training.update_step_num_repetitions} epoch of {training.batch_size}"
    meter.report(["tianshou", "torch", "envpool", "gymnasium", "mujoco", "numpy"], note)


if __name__ == "__main__":
    main()
