"""A whole experiment as one value: what ``config.yaml`` holds, a recipe returns and a run is made from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from redline.actors.config import SamplerConfig
from redline.algorithms.a2c import A2C, A2CConfig
from redline.algorithms.apex import Apex, ApexConfig
from redline.algorithms.appo import APPO, APPOConfig
from redline.algorithms.async_q import AsyncQ, AsyncQConfig
from redline.algorithms.dqn import DQN, DQNConfig
from redline.algorithms.impala import IMPALA, IMPALAConfig
from redline.algorithms.ppo import PPO, PPOConfig
from redline.architectures.config import ParallelConfig
from redline.environments.config import EnvironmentConfig
from redline.learners.config import LearnerConfig
from redline.networks.config import NetworkConfig
from redline.replay.config import ReplayConfig
from redline.replay.unrolls import UnrollReplay
from redline.types import Spec, UserError


@dataclass(frozen=True)
class RunConfig:
    """How long, how seeded, and what is written when. Steps are agent steps."""

    steps: int = 1_000_000
    seed: int = 0
    log_every: int = 0  # steps between lines of metrics.jsonl; 0: 200 lines a run
    checkpoint_every: int = 0  # steps between checkpoints; 0: once a minute
    keep: int = 2  # newest checkpoints kept, beside the best
    save_replay: bool = True  # replay in checkpoints: exact resume, at the price of its size
    evaluate_every: int = 0  # steps between evaluations with greedy actions; 0: never
    evaluate_episodes: int = 10
    stop_at_return: float | None = None  # stop once the mean return of the last 100 episodes is this high
    tensorboard: bool = True
    wandb: bool = False
    debug: bool = False  # fill buffers with NaN, so that an unwritten row shouts

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be 1 or more, got {self.steps}")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must be in [0, 2**31), got {self.seed}")
        for name in ("log_every", "checkpoint_every", "evaluate_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.keep < 1 or self.evaluate_episodes < 1:
            raise ValueError(
                f"keep and evaluate_episodes must be 1 or more, got {self.keep}, {self.evaluate_episodes}"
            )


AlgorithmConfig = PPOConfig | A2CConfig | DQNConfig | IMPALAConfig | APPOConfig | AsyncQConfig | ApexConfig
ALGORITHMS: dict[type[Any], type[Any]] = {
    PPOConfig: PPO,
    A2CConfig: A2C,
    DQNConfig: DQN,
    IMPALAConfig: IMPALA,
    APPOConfig: APPO,
    AsyncQConfig: AsyncQ,
    ApexConfig: Apex,
}


@dataclass(frozen=True)
class Experiment:
    """Algorithm, environment, network and their numbers; each part's numbers have one owner."""

    recipe: str
    algorithm: AlgorithmConfig
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    replay: ReplayConfig | None = None
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    run: RunConfig = field(default_factory=RunConfig)


def uses_replay(experiment: Experiment) -> bool:
    """Whether the experiment's algorithm learns from replay (by its own word), not from unrolls."""
    return bool(ALGORITHMS[type(experiment.algorithm)].experience == "replay")


def make_algorithm(experiment: Experiment, spec: Spec) -> Any:
    """The algorithm of an experiment, for environments like ``spec``; refuses what cannot work, with the reason."""
    config = experiment.algorithm
    algorithm = ALGORITHMS[type(config)]
    check_minibatches(experiment, experiment.sampler.num_envs)
    if algorithm.network_kind == "q" and not hasattr(spec.action, "n"):
        kind = type(spec.action).__name__
        raise UserError(f"{algorithm.name} needs one discrete action, {spec.name} has {kind}: use recipe ppo")
    if uses_replay(experiment):
        _check_replay(experiment, algorithm.name)
    if getattr(config, "replay_share", 0.0) and experiment.learner.reward == "normalize":
        raise UserError(
            "learner.reward=normalize follows each environment's return, and algorithm.replay_share mixes in older "
            "unrolls: use clip or raw, or a share of 0"
        )
    return algorithm(config, spec)


def unroll_replay(experiment: Experiment, first_column: int = 0) -> UnrollReplay:
    """What an experiment's batches of unrolls are mixed with; its share is 0 where the algorithm wants none."""
    config = experiment.algorithm
    share, capacity = getattr(config, "replay_share", 0.0), getattr(config, "replay_unrolls", 1)
    return UnrollReplay(capacity, share, seed=experiment.run.seed + first_column)


def _check_replay(experiment: Experiment, name: str) -> None:
    if experiment.network.core != "none":
        raise UserError(
            f"network.core={experiment.network.core}: {name} has no recurrent form; use none, or recipe ppo"
        )
    if experiment.replay is None:
        raise UserError(f"{name} needs a replay: set replay.capacity=100000, or start from recipe dqn")
    if experiment.network.normalize_observation:
        raise UserError(
            f"network.normalize_observation=true: {name} learns from replay, whose observations are not normalised; "
            "use false, or recipe ppo"
        )
    if experiment.learner.reward == "normalize":
        raise UserError("learner.reward=normalize would change rewards already in replay: use clip or raw")


def check_minibatches(experiment: Experiment, environments: int, hint: str = "") -> None:
    """Refuse more minibatches than there are samples in a batch with unrolls of so many environments (at least).

    hint: what else would help. Raises: UserError.
    """
    config = experiment.algorithm
    if not isinstance(config, PPOConfig):
        return
    recurrent = experiment.network.core != "none"
    available = environments if recurrent else environments * config.unroll
    if config.minibatches > available:
        unit = (
            "environments (a recurrent network's minibatches are whole unrolls)"
            if recurrent
            else "samples an unroll"
        )
        raise UserError(
            f"algorithm.minibatches={config.minibatches} is more than the {available} {unit}: use {available}{hint}"
        )
