"""What actor-critic algorithms share: acting, and the batch of single samples that A2C's and PPO's losses read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from redline.ops import distributions
from redline.ops.distributions import Distribution
from redline.ops.returns import episode_ends
from redline.types import ActInput, Spec, Tree, Unroll, tree_map


class ActorCritic:
    """Acting for algorithms that learn a policy and its value from unrolls; they add ``name`` and ``update``."""

    name = "actor_critic"
    network_kind: Literal["actor_critic"] = "actor_critic"
    experience: Literal["unroll"] = "unroll"
    max_lag: int | None = 1  # batches between the weights that acted and those that learn: on-policy
    target_network = False
    recordable = True  # ``act`` reads nothing but tensors and the generator
    bootstraps = True  # by the acting weights' value of an unroll's last observation: actors compute it

    def __init__(self, config: Any, spec: Spec) -> None:
        self.config, self.spec = config, spec
        self.distribution = distributions.make(spec.action)
        self.to_environment = self.distribution.to_environment

    def record(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """What to remember of each action: name -> (shape, dtype) of one environment's entry."""
        return {"log_prob": ((), torch.float32), "value": ((), torch.float32)}

    def act(self, network: Any, x: ActInput) -> tuple[dict[str, Tensor], Tree]:
        """Sample (or, greedily, pick) actions: record {action, log_prob, value} [B, ...] and the next state."""
        return act(network, self.distribution, x)

    def value(self, network: Any, x: ActInput) -> Tensor:
        """f32[B] state values, for bootstrapping."""
        return value(network, x)


@dataclass
class Samples:
    """What the losses read: time-major [T, N, ...]; feed-forward networks get T = 1, N = all samples."""

    observation: Tree  # [T, N, ...]
    action: Tensor  # [T, N, ...]
    log_prob: Tensor  # f32[T, N] of the action under the policy that ratios are taken to: on policy, the one that acted
    value: Tensor  # f32[T, N] by the same policy's weights
    advantage: Tensor  # f32[T, N]
    target: Tensor  # f32[T, N] value target
    reset: Tensor  # bool[T, N]
    action_mask: Tensor | None  # bool[T, N, A]
    state: Tree = None  # [N, ...] recurrent state before the first step
    clip: Any = None  # PPO's epsilon at this point of the run: a number, or f32[] where losses are recorded

    @classmethod
    def of(cls, unroll: Unroll, advantage: Tensor, *, recurrent: bool, **instead: Tensor) -> Samples:
        """The samples of an unroll; without recurrence time and environments become one axis of T * B.

        ``instead``: ``value``, ``log_prob`` or ``target`` f32[T, B] in place of what the actor recorded.
        """
        length = len(unroll.action)
        value = instead["value"] if "value" in instead else unroll.record["value"]
        fields: dict[str, Any] = {
            "observation": tree_map(lambda x: x[:length], unroll.observation),
            "action": unroll.action,
            "log_prob": instead.get("log_prob", unroll.record["log_prob"]),
            "value": value,
            "advantage": advantage,
            "target": instead["target"] if "target" in instead else advantage + value,
            "reset": unroll.reset[:length],
            "action_mask": None if unroll.action_mask is None else unroll.action_mask[:length],
        }
        if recurrent:
            return cls(**fields, state=unroll.state)
        return cls(**{name: tree_map(lambda x: x.flatten(0, 1)[None], leaf) for name, leaf in fields.items()})

    @property
    def columns(self) -> int:
        """Length of the sample axis N."""
        return self.action.shape[1]

    def take(self, index: Tensor) -> Samples:
        """The samples with column indices i64[M]: [T, M, ...]."""
        whole = ("state", "clip")
        parts = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in whole}
        taken = {name: tree_map(lambda x: x.index_select(1, index), leaf) for name, leaf in parts.items()}
        state = tree_map(lambda x: x.index_select(0, index), self.state)
        return Samples(**taken, state=state, clip=self.clip)

    def map(self, function: Callable[[Tensor], Tensor]) -> Samples:
        """The same samples with ``function`` applied to every tensor."""
        leaves = {name: getattr(self, name) for name in self.__dataclass_fields__}
        clip = leaves.pop("clip")
        mapped = {name: tree_map(function, leaf) for name, leaf in leaves.items()}
        return Samples(**mapped, clip=function(clip) if isinstance(clip, Tensor) else clip)


def act(network: Any, distribution: Distribution, x: ActInput) -> tuple[dict[str, Tensor], Tree]:
    """One forward pass: action, its log-probability and the state's value, each [B, ...]; and the next state."""
    output, state = network(tree_map(lambda leaf: leaf[None], x.observation), x.state, x.reset[None])
    parameters, value = output.policy[0].float(), output.value[0].float()
    if not x.explore:
        return {"action": distribution.mode(parameters, x.action_mask), "value": value}, state
    action, log_prob = distribution.sample_log_prob(parameters, x.generator, x.action_mask)
    return {"action": action, "log_prob": log_prob, "value": value}, state


def value(network: Any, x: ActInput) -> Tensor:
    """The network's value f32[B] of observations [B, ...] in recurrent state ``x.state``."""
    output, _ = network(tree_map(lambda leaf: leaf[None], x.observation), x.state, x.reset[None])
    return output.value[0].float()


def ends(learner: Any, unroll: Unroll, gamma: float) -> tuple[Tensor, Tensor]:
    """Rewards f32[T, B] as the learner transforms them and discounts f32[T, B]: see ``ops.returns.episode_ends``."""
    reward = learner.rewards(unroll.reward, unroll.terminated | unroll.truncated)
    return episode_ends(reward, unroll.terminated, unroll.truncated, unroll.final_value, gamma)


def next_values(unroll: Unroll) -> Tensor:
    """Values f32[T+1, B] of all the unroll's observations by the weights that acted."""
    assert unroll.bootstrap_value is not None
    return torch.cat([unroll.record["value"], unroll.bootstrap_value[None]])
