"""RLlib: IMPALA and APPO, one env runner in a process of its own and the learner in this one.

Flags: ``old-stack`` for its old API stack; ``patient`` waits for samples in place of asking again at once.
"""

from __future__ import annotations

import os
from typing import Any

from common import THREAD_VARIABLES, Meter, Options, read_options


def make_module() -> Any:
    """The Nature CNN as an RLModule on u8[B, 4, 84, 84]; RLlib's default CNN pads and has no layer of 512 to share."""
    import torch
    from ray.rllib.core.columns import Columns
    from ray.rllib.core.learner.utils import make_target_network
    from ray.rllib.core.rl_module.apis import (
        TARGET_NETWORK_ACTION_DIST_INPUTS,
        TargetNetworkAPI,
        ValueFunctionAPI,
    )
    from ray.rllib.core.rl_module.torch import TorchRLModule
    from torch import nn

    class NatureCNN(TorchRLModule, ValueFunctionAPI, TargetNetworkAPI):  # type: ignore[misc, unused-ignore]
        def setup(self) -> None:
            self.torso = nn.Sequential(
                nn.Conv2d(4, 32, 8, 4),
                nn.ReLU(),
                nn.Conv2d(32, 64, 4, 2),
                nn.ReLU(),
                nn.Conv2d(64, 64, 3, 1),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(3136, 512),
                nn.ReLU(),
            )
            self.policy = nn.Linear(512, int(self.action_space.n))
            self.value = nn.Linear(512, 1)

        def features(self, batch: dict[str, Any], torso: Any) -> Any:
            return torso(batch[Columns.OBS].float() / 255.0)

        def _forward(self, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
            return {Columns.ACTION_DIST_INPUTS: self.policy(self.features(batch, self.torso))}

        def _forward_train(self, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
            features = self.features(batch, self.torso)
            return {Columns.ACTION_DIST_INPUTS: self.policy(features), Columns.EMBEDDINGS: features}

        def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Any:
            features = self.features(batch, self.torso) if embeddings is None else embeddings
            return self.value(features).squeeze(-1)

        def make_target_networks(self) -> None:  # for APPO
            self.target_torso = make_target_network(self.torso)
            self.target_policy = make_target_network(self.policy)

        def get_target_network_pairs(self) -> list[tuple[Any, Any]]:
            return [(self.torso, self.target_torso), (self.policy, self.target_policy)]

        def forward_target(self, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
            with torch.no_grad():
                features = self.features(batch, self.target_torso)
                return {TARGET_NETWORK_ACTION_DIST_INPUTS: self.target_policy(features)}

    return NatureCNN


def make_envs(context: Any) -> Any:
    """ale-py's vector environment: 84 x 84 x 4 u8 frames, reset in the step after the last, as RLlib expects."""
    from ale_py.vector_env import AtariVectorEnv

    return AtariVectorEnv(
        "pong",
        context["num_envs"],
        num_threads=context["threads"],
        reward_clipping=True,
        use_fire_reset=False,
    )


def new_stack(options: Options) -> tuple[Any, str]:
    """The configuration, and a note."""
    from ray.rllib.algorithms.appo import APPOConfig
    from ray.rllib.algorithms.impala import IMPALAConfig
    from ray.rllib.core.rl_module.rl_module import RLModuleSpec

    task = options.task
    settings: dict[str, Any] = {
        "lr": task.learning_rate,
        "gamma": task.gamma,
        "train_batch_size_per_learner": task.minibatch,
        "num_epochs": task.epochs,
        "vf_loss_coeff": 0.5,
        "entropy_coeff": task.entropy,
        "grad_clip": 40.0,
    }
    config: Any = IMPALAConfig() if task.algorithm == "impala" else APPOConfig()
    config.training(**settings)
    config.environment("pong", env_config={"threads": options.threads})
    config.env_runners(
        num_env_runners=1,
        num_envs_per_env_runner=task.num_envs,
        rollout_fragment_length=task.unroll,
        gym_env_vectorize_mode="vector_entry_point",
    )
    if "patient" in options.flags:
        config.training(timeout_s_sampler_manager=0.1)
    config.learners(num_learners=0)
    config.rl_module(rl_module_spec=RLModuleSpec(module_class=make_module()))
    return config, "new API stack, 1 env runner, local learner, ale-py vector environment"


def old_stack(options: Options) -> tuple[Any, str]:
    """The same (--flag old-stack) on the old API stack, with its own Atari wrappers and vision network: slower."""
    from ray.rllib.algorithms.appo import APPOConfig
    from ray.rllib.algorithms.impala import IMPALAConfig

    task = options.task
    config: Any = IMPALAConfig() if task.algorithm == "impala" else APPOConfig()
    config.api_stack(enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False)
    config.training(
        lr=task.learning_rate,
        gamma=task.gamma,
        train_batch_size=task.minibatch,
        vf_loss_coeff=0.5,
        entropy_coeff=task.entropy,
        grad_clip=40.0,
        model={
            "dim": 84,
            "conv_filters": [[32, [8, 8], 4], [64, [4, 4], 2], [64, [3, 3], 1], [512, [11, 11], 1]],
            "vf_share_layers": True,
        },
    )
    config.environment("pong-wrapped", clip_rewards=True)
    config.env_runners(
        num_env_runners=1, num_envs_per_env_runner=task.num_envs, rollout_fragment_length=task.unroll
    )
    config.resources(num_gpus=0)
    return config, "old API stack, 1 rollout worker, learner thread, RLlib's own wrappers"


def make_wrapped(_context: Any) -> Any:
    """One game behind RLlib's own wrappers."""
    import ale_py
    import gymnasium
    from ray.rllib.env.wrappers.atari_wrappers import wrap_deepmind

    gymnasium.register_envs(ale_py)
    game = gymnasium.make("ALE/Pong-v5", frameskip=1, repeat_action_probability=0.0)
    return wrap_deepmind(game, dim=84, framestack=True, noframeskip=True)


def main() -> None:
    """Measure."""
    options = read_options("rllib", ["pong-impala", "pong-appo"])
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault(
        "RAY_worker_niceness", "0"
    )  # its own 15 starves the env runner where anything else runs
    options.set_torch_threads()
    for name in (
        THREAD_VARIABLES
    ):  # for the learner only: Ray gives an env runner as many threads as it has CPUs, one
        os.environ.pop(name, None)
    import ray
    from ray.tune.registry import register_env

    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, configure_logging=False)
    register_env("pong", make_envs)
    register_env("pong-wrapped", make_wrapped)
    old = "old-stack" in options.flags
    config, note = old_stack(options) if old else new_stack(options)
    config.reporting(
        min_time_s_per_iteration=1, min_train_timesteps_per_iteration=options.task.minibatch if old else 0
    )
    algorithm = config.build_algo()
    meter = Meter(options)
    steps = 0
    while not meter.boundary(steps):
        result = algorithm.train()
        if old:
            steps = int(result["info"]["num_env_steps_trained"])
        else:
            # Received steps are learned from at once. The learner's own count has one step more for every unroll.
            steps = int(result.get("env_runners", {}).get("num_env_steps_sampled_lifetime", steps))
    meter.report(["ray", "torch", "gymnasium", "ale-py", "numpy"], note)
    ray.shutdown()


if __name__ == "__main__":
    main()
