"""PufferLib 3: its trainer PuffeRL and its Nature CNN; Pong on EnvPool, CartPole in its own serial vector."""

from __future__ import annotations

import ast
import configparser
import os
import tempfile
from pathlib import Path
from typing import Any

from common import Meter, Options, read_options


class EnvPoolPong:
    """EnvPool's Pong behind what PuffeRL asks of a vector environment: ``async_reset``, ``recv``, ``send``."""

    def __init__(self, options: Options) -> None:
        import envpool
        import numpy as np

        self.num_agents = self.agents_per_batch = options.task.num_envs
        self.envs = envpool.make(
            "Pong-v5",
            env_type="gymnasium",
            num_envs=self.num_agents,
            num_threads=options.threads,
            seed=options.seed,
            reward_clip=True,
        )
        self.single_observation_space = self.envs.observation_space
        self.single_action_space = self.envs.action_space
        self.ids = np.arange(self.num_agents)
        self.mask = np.ones(self.num_agents, dtype=bool)
        self.zeros = np.zeros(self.num_agents, dtype=np.float32)
        self.latest: tuple[Any, ...] = ()

    def async_reset(self, _seed: int) -> None:
        """Start all games; EnvPool was seeded when it was made."""
        observation, _ = self.envs.reset()
        self.latest = (observation, self.zeros, self.zeros > 0, self.zeros > 0)

    def send(self, actions: Any) -> None:
        """Step all games."""
        self.latest = self.envs.step(actions)[:4]

    def recv(self) -> tuple[Any, ...]:
        """The step that ``send`` made."""
        return (*self.latest, [], self.ids, self.mask)

    def close(self) -> None:
        """End EnvPool's threads."""
        self.envs.close()


def make_cartpole(options: Options, returns: list[float]) -> Any:
    """Eight CartPoles in process, in PufferLib's Serial vector; episode returns are added to ``returns``."""
    import gymnasium
    import pufferlib.emulation
    import pufferlib.vector

    class Record(gymnasium.Wrapper):
        total = 0.0

        def reset(self, **more: Any) -> Any:
            self.total = 0.0
            return self.env.reset(**more)

        def step(self, action: Any) -> Any:
            observation, reward, terminated, truncated, _ = self.env.step(action)
            self.total += float(reward)
            if terminated or truncated:
                returns.append(self.total)
            return observation, reward, terminated, truncated, {}

    def make(buf: Any = None, seed: int = 0) -> Any:
        env = Record(gymnasium.make("CartPole-v1"))
        return pufferlib.emulation.GymnasiumPufferEnv(env=env, buf=buf, seed=seed)

    return pufferlib.vector.make(make, backend="Serial", num_envs=options.task.num_envs, seed=options.seed)


def make_policy(options: Options, envs: Any) -> Any:
    """PufferLib's own Nature CNN; for CartPole, as its Default policy has one layer, two layers of 64."""
    import pufferlib.models
    from torch import nn

    class NatureCNN(pufferlib.models.Convolutional):
        """3.0.0's trainer calls ``forward_eval``, which its own network lacks."""

        def forward_eval(self, observations: Any, state: Any = None) -> Any:
            return self.forward(observations, state)

    if options.task.game:
        return NatureCNN(envs, framestack=4, flat_size=64 * 7 * 7)
    policy = pufferlib.models.Default(envs, hidden_size=64)
    policy.encoder = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
    return policy


def defaults(section: str) -> dict[str, Any]:
    """What a section of PufferLib's ``default.ini`` says."""
    import pufferlib

    file = configparser.ConfigParser()
    file.read(Path(pufferlib.__file__).parent / "config" / "default.ini")
    said: dict[str, Any] = {}
    for key, text in file[section].items():
        try:
            said[key] = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            said[key] = text
    return said


def settings(options: Options) -> dict[str, Any]:
    """PuffeRL's configuration: the task's numbers, Adam, and its other defaults."""
    task = options.task
    return defaults("train") | {
        "env": task.name,
        "device": "cpu",
        "use_rnn": False,
        "optimizer": "adam",
        "seed": options.seed,
        "total_timesteps": options.total,
        "learning_rate": task.learning_rate,
        "gamma": task.gamma,
        "gae_lambda": task.gae_lambda,
        "update_epochs": task.epochs,
        "clip_coef": task.clip,
        "vf_coef": 0.5,
        "ent_coef": task.entropy,
        "max_grad_norm": 0.5,
        "adam_beta1": 0.9,
        "adam_eps": 1e-5,
        "batch_size": task.steps_per_iteration,
        "minibatch_size": task.minibatch,
        "bptt_horizon": task.unroll,
        "checkpoint_interval": 10**9,
    }


def main() -> None:
    """Measure."""
    options = read_options("pufferlib", ["pong-ppo", "pong-ppo-32", "cartpole-ppo"])
    options.set_torch_threads()
    import pufferlib.pufferl as pufferl
    import torch

    pufferl.ADVANTAGE_CUDA = False
    returns: list[float] = []
    envs = EnvPoolPong(options) if options.task.game else make_cartpole(options, returns)
    policy = make_policy(options, envs)
    meter = Meter(options)

    def act(observations: Any) -> Any:
        with torch.no_grad():
            logits, _ = policy.forward_eval(torch.as_tensor(observations))
        return logits.argmax(-1).numpy()

    pufferl.PuffeRL.print_dashboard = lambda *_args, **_more: None  # it would clear the terminal
    trainer = pufferl.PuffeRL(settings(options), envs, policy)
    meter.restart()
    done = False
    while not done:
        trainer.evaluate()
        trainer.train()
        done = meter.boundary(trainer.global_step, act, returns)
    trainer.utilization.stop()
    note = "EnvPool" if options.task.game else "its Serial vector"
    meter.report(["pufferlib", "torch", "envpool", "gymnasium", "numpy"], note)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # importing PufferLib leaves a link where it is done
        main()
