"""The learner's precision, measured: bf16 is native to processors that multiply it slower than f32.

The very network acts and learns in both, its weights laid out as the learner lays them out. The two take turns, and the
least processor time of each counts, so that what else the machine does at that moment hardly matters.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from redline.algorithms.apex import ApexConfig
from redline.algorithms.dqn import DQNConfig
from redline.algorithms.ppo import PPOConfig
from redline.learners.flat import flatten_parameters, twin
from redline.runtime.experiment import Experiment
from redline.types import Output, Spec, Tree, tree_leaves, tree_map

CLEARLY = 0.9  # bf16 is taken below this share of f32's time: three digits fewer should buy something
MOST_SAMPLES = 128  # of the training pass that is timed; larger ones cost the same per sample
ROUNDS, SECONDS = 7, 1.0  # whichever comes first, though never fewer than three rounds

Clock = Callable[[], float]


@dataclass(frozen=True)
class Work:
    """What an agent step costs in passes through the network."""

    acting: int  # observations of one acting pass
    minibatch: int  # samples of one training pass
    passes: float  # forward and backward passes per agent step

    @classmethod
    def of(cls, experiment: Experiment) -> Work:
        """The work of one thread of an experiment whose threads and shards are chosen."""
        algorithm, envs = experiment.algorithm, experiment.sampler.num_envs
        if isinstance(algorithm, ApexConfig):  # at its own rate: each sample about once
            batch, passes = algorithm.batch, 1.0
        elif isinstance(algorithm, DQNConfig):
            batch, passes = algorithm.batch, algorithm.batch / algorithm.update_every
        elif isinstance(algorithm, PPOConfig):
            batch, passes = envs * algorithm.unroll // algorithm.minibatches, float(algorithm.epochs)
        else:
            batch, passes = envs * algorithm.unroll, 1.0
        acting = envs // (experiment.sampler.shards * experiment.sampler.groups)
        return cls(max(acting, 1), max(min(batch // experiment.learner.threads, MOST_SAMPLES), 1), passes)


def measure_precision(experiment: Experiment, spec: Spec, network: nn.Module) -> tuple[Experiment, list[str]]:
    """Settle ``learner.precision`` where ``plan.resolve`` left it ``auto``; and a sentence on why, for the run's rules.

    ``network`` is left as it is. A given precision is kept and nothing is timed.
    """
    if experiment.learner.precision != "auto":
        return experiment, []
    work = Work.of(experiment)
    seconds = compare(network, spec, work)
    ratio = seconds["bf16"] / seconds["fp32"]
    chosen: Literal["bf16", "fp32"] = "bf16" if ratio < CLEARLY else "fp32"
    reason = (
        f"precision {chosen} was measured on this machine: an agent step's passes cost {seconds['bf16'] * 1e6:,.0f} us "
        f"in bf16, {seconds['fp32'] * 1e6:,.0f} us in fp32"
    )
    return replace(experiment, learner=replace(experiment.learner, precision=chosen)), [reason]


def compare(network: nn.Module, spec: Spec, work: Work, clock: Clock = time.thread_time) -> dict[str, float]:
    """Seconds of one thread per agent step in ``fp32`` and ``bf16``; ``clock`` tells the time."""
    passes = {
        "fp32": network_passes(network, torch.float32, spec, work.acting, work.minibatch),
        "bf16": network_passes(network, torch.bfloat16, spec, work.acting, work.minibatch),
    }
    best = {name: [float("inf"), float("inf")] for name in passes}
    end, threads = time.perf_counter() + SECONDS, torch.get_num_threads()
    torch.set_num_threads(1)  # a thread's clock does not see the others
    try:
        for turn in range(ROUNDS + 1):
            if turn > 3 and time.perf_counter() > end:
                break
            for name, calls in passes.items():
                for kind, call in enumerate(calls):
                    begin = clock()
                    call()
                    spent = clock() - begin
                    if turn > 0:  # the first calls prepare kernels
                        best[name][kind] = min(best[name][kind], spent)
    finally:
        torch.set_num_threads(threads)
    return {
        name: act / work.acting + work.passes * train / work.minibatch for name, (act, train) in best.items()
    }


def random_observations(spec: Spec, count: int, device: str) -> Tree:
    """[1, count, ...] random ones: a picture of zeros might be multiplied faster."""
    space = copy.deepcopy(
        spec.observation
    )  # with a generator of its own: the run's spaces draw what they drew
    space.seed(0)
    samples = [space.sample() for _ in range(count)]
    return tree_map(lambda *leaves: torch.from_numpy(np.stack(leaves))[None].to(device), *samples)


def network_passes(
    network: nn.Module, dtype: torch.dtype, spec: Spec, acting: int, training: int, device: str = "cpu"
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """An acting pass of so many observations, and a training pass, with the weights in ``dtype``, as ``Learner`` keeps
    them. ``network`` is left as it is."""
    return _passes(
        network,
        dtype,
        random_observations(spec, acting, device),
        random_observations(spec, training, device),
        device,
    )


def _passes(
    network: nn.Module, dtype: torch.dtype, few: Tree, many: Tree, device: str
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    network = copy.deepcopy(network).to(device)
    flat = flatten_parameters(network).to(dtype)
    acting, learning = (twin(network, flat, trainable=trainable) for trainable in (False, True))
    leaves = list(learning.parameters())

    def compute(net: nn.Module, observation: Tree) -> Output:
        count = next(tree_leaves(observation)).shape[1]
        state = net.initial_state(count)  # type: ignore[operator]
        output, _ = net(observation, state, torch.zeros((1, count), dtype=torch.bool, device=device))
        return output

    def act() -> None:
        with torch.no_grad():
            compute(acting, few)

    def train() -> None:
        output = compute(learning, many)
        total = output.policy.float().square().mean() + output.value.float().square().mean()
        torch.autograd.grad(total, leaves, allow_unused=True)

    return act, train
