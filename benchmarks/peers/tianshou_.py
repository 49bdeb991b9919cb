"""Tianshou: PPO and DQN from its procedural interface; Pong on EnvPool, which it takes by itself where installed."""

from __future__ import annotations

import contextlib
from typing import Any

from common import FOREVER, Finished, Meter, Options, read_options

ROUND = 400  # DQN's agent steps between two rounds of updates: the trainer looks through the whole replay after each


def make_envs(options: Options) -> Any:
    """EnvPool's Pong (84 x 84 x 4, action repeat 4, rewards clipped), or CartPole in process."""
    task = options.task
    if not task.game:
        import gymnasium
        from tianshou.env import DummyVectorEnv

        return DummyVectorEnv([lambda: gymnasium.make("CartPole-v1") for _ in range(task.num_envs)])
    import envpool

    return envpool.make(
        "Pong-v5",
        env_type="gymnasium",
        num_envs=task.num_envs,
        num_threads=options.threads,
        seed=options.seed,
        episodic_life=False,
        reward_clip=True,
    )


def space(of: Any) -> Any:
    """The space of one environment: Tianshou's own vector environments answer with a list."""
    return of[0] if isinstance(of, list) else of


def make_torsos(options: Options, actions: int) -> tuple[Any, Any, Any]:
    """Nature CNN shared by actor and critic for Pong, as in Tianshou's Atari examples; else two layers of 64 each."""
    from tianshou.env.atari.atari_network import DQNet, ScaledObsInputActionReprNet
    from tianshou.utils.net.common import Net

    if options.task.algorithm == "dqn":
        net: Any = ScaledObsInputActionReprNet(DQNet(4, 84, 84, action_shape=actions))
        return net, None, None
    if options.task.game:
        net = ScaledObsInputActionReprNet(
            DQNet(4, 84, 84, action_shape=actions, features_only=True, output_dim_added_layer=512)
        )
        return None, net, net
    return None, Net(state_shape=(4,), hidden_sizes=(64, 64)), Net(state_shape=(4,), hidden_sizes=(64, 64))


def ppo(options: Options, envs: Any, training_fn: Any) -> tuple[Any, Any]:
    """PPO and its trainer's parameters."""
    import torch
    from tianshou.algorithm import PPO
    from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.data import Collector, VectorReplayBuffer
    from tianshou.trainer import OnPolicyTrainerParams
    from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic

    task = options.task
    _, actor_torso, critic_torso = make_torsos(options, space(envs.action_space).n)
    policy = ProbabilisticActorPolicy(
        actor=DiscreteActor(
            preprocess_net=actor_torso, action_shape=space(envs.action_space).n, softmax_output=False
        ),
        dist_fn=lambda logits: torch.distributions.Categorical(logits=logits),
        action_scaling=False,
        action_bound_method=None,
        action_space=space(envs.action_space),
        observation_space=space(envs.observation_space),
    )
    algorithm: Any = PPO(
        policy=policy,
        critic=DiscreteCritic(preprocess_net=critic_torso),
        optim=AdamOptimizerFactory(lr=task.learning_rate, eps=1e-5),
        eps_clip=task.clip,
        ent_coef=task.entropy,
        vf_coef=0.5,
        max_grad_norm=0.5,
        gae_lambda=task.gae_lambda,
        gamma=task.gamma,
    )
    buffer = VectorReplayBuffer(task.steps_per_iteration, task.num_envs, ignore_obs_next=task.game)
    params = OnPolicyTrainerParams(
        training_collector=Collector(policy, envs, buffer),
        max_epochs=1,
        epoch_num_steps=FOREVER,
        collection_step_num_env_steps=task.steps_per_iteration,
        update_step_num_repetitions=task.epochs,
        batch_size=task.minibatch,
        training_fn=training_fn,
        show_progress=False,
    )
    return algorithm, params


def dqn(options: Options, envs: Any, training_fn: Any) -> tuple[Any, Any]:
    """DQN and its trainer's parameters; the replay holds ``learning_starts`` random steps already."""
    from tianshou.algorithm import DQN
    from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.data import Collector, VectorReplayBuffer
    from tianshou.trainer import OffPolicyTrainerParams

    task = options.task
    policy: Any = DiscreteQLearningPolicy(
        model=make_torsos(options, space(envs.action_space).n)[0],
        action_space=space(envs.action_space),
        observation_space=space(envs.observation_space),
        eps_training=task.epsilon,
    )
    algorithm: Any = DQN(
        policy=policy,
        optim=AdamOptimizerFactory(lr=task.learning_rate),
        gamma=task.gamma,
        target_update_freq=task.target_every // task.update_every,
        is_double=False,
    )
    buffer = VectorReplayBuffer(
        task.replay, task.num_envs, ignore_obs_next=True, save_only_last_obs=True, stack_num=4
    )
    collector = Collector(policy, envs, buffer, exploration_noise=True)
    collector.reset()
    collector.collect(n_step=task.learning_starts, random=True)
    params = OffPolicyTrainerParams(
        training_collector=collector,
        max_epochs=1,
        epoch_num_steps=FOREVER,
        collection_step_num_env_steps=ROUND,
        update_step_num_gradient_steps_per_sample=1 / task.update_every,
        batch_size=task.batch,
        training_fn=training_fn,
        show_progress=False,
    )
    return algorithm, params


def main() -> None:
    """Measure."""
    options = read_options("tianshou", ["pong-ppo", "pong-ppo-32", "cartpole-ppo", "pong-dqn", "pong-dqn-8"])
    options.set_torch_threads()
    meter = Meter(options)

    def training_fn(_epoch: int, steps: int) -> None:
        if meter.boundary(steps):
            raise Finished

    make = ppo if options.task.algorithm == "ppo" else dqn
    algorithm, params = make(options, make_envs(options), training_fn)
    with contextlib.suppress(Finished):
        algorithm.run_training(params)
    meter.report(
        ["tianshou", "torch", "envpool", "gymnasium", "numpy"],
        "EnvPool" if options.task.game else "DummyVectorEnv",
    )


if __name__ == "__main__":
    main()
