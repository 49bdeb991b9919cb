"""Networks for a spec: ``build`` gives a module that obeys ``redline.types.Network``.

Parameters are drawn from torch's global generator: seed it first.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import Literal, cast

import torch
from gymnasium import spaces
from torch import Tensor, nn

from redline.networks.config import NetworkConfig
from redline.networks.cores import Core
from redline.networks.layers import Dense, Head, scale_gradient
from redline.networks.normalizer import ObservationNormalizer
from redline.networks.observations import Part, parts
from redline.networks.tanh import PolicyValue
from redline.networks.torsos import SeparateDense, Torso, check_torso, policy_value_torso
from redline.ops import distributions
from redline.ops.moments import Pool
from redline.types import Output, Spec, Tree, UserError, tree_leaves

KINDS = ("actor_critic", "q")


def build(spec: Spec, config: NetworkConfig, kind: Literal["actor_critic", "q"]) -> nn.Module:
    """The network for ``spec``'s spaces.

    Args:
      kind: ``actor_critic``: policy holds the P parameters of ``ops.distributions.make(spec.action)``, value the state
        value. ``q``: policy holds the values of A actions, value zeros.

    Raises:
      UserError: for spaces or combinations that no network here takes.
    """
    if kind not in KINDS:
        nearest = difflib.get_close_matches(str(kind), KINDS, 1, 0.0)[0]
        raise UserError(f"network kind {kind!r} is unknown; did you mean {nearest!r}?")
    observed = parts(spec.observation, flat=config.torso == "mlp")
    check_torso(observed, config)
    if kind == "q":
        return ActionValue(observed, spec, config)
    if config.dueling:
        raise UserError(
            "network.dueling is for action values (dqn); policies have no dueling head: leave it false"
        )
    return ActorCritic(observed, spec, config)


class Observer(nn.Module):
    """What all networks share: observations [T, B, ...] to prepared parts [T * B, ...], and normalisation."""

    def __init__(self, observed: Sequence[Part], config: NetworkConfig) -> None:
        super().__init__()
        self.observed = tuple(observed)
        wanted = [config.normalize_observation and part.continuous for part in observed]
        if config.normalize_observation and not any(wanted):
            raise UserError(
                "network.normalize_observation needs a part of floats, and there is none: leave it false"
            )
        self.normalizers = nn.ModuleDict(
            {str(k): ObservationNormalizer(part.shape) for k, part in enumerate(observed) if wanted[k]}
        )

    def _normalizers(self) -> list[tuple[int, ObservationNormalizer]]:
        return [(int(key), cast(ObservationNormalizer, module)) for key, module in self.normalizers.items()]

    def prepare(self, observation: Tree) -> list[Tensor]:
        """[T, B, ...] -> one tensor per part, f32[T * B, features] or u8[T * B, C, H, W]."""
        inputs = [part.prepare(part.of(observation).flatten(0, 1)) for part in self.observed]
        for key, normalizer in self._normalizers():
            inputs[key] = normalizer(inputs[key])
        return inputs

    def update_normalizer(self, observation: Tree, pool: Pool | None = None) -> None:
        """Merge observations [..., *space.shape] (any leading axes) into the running statistics, if there are any."""
        for key, normalizer in self._normalizers():
            part = self.observed[key]
            x = part.of(observation)
            normalizer.update(part.prepare(x.flatten(0, x.dim() - len(part.space.shape or ()) - 1)), pool)


class ActorCritic(nn.Module):
    """Policy and value over shared or separate torsos, through a recurrent core where there is one.

    Orthogonal initialisation: sqrt 2 inside, 0.01 for the policy head, 1 for the value head (Andrychowicz et al. 2021).
    """

    def __init__(self, observed: Sequence[Part], spec: Spec, config: NetworkConfig) -> None:
        super().__init__()
        distribution = distributions.make(spec.action)
        self.observer = Observer(observed, config)
        self.torso = policy_value_torso(observed, config, orthogonal=True)
        features = self.torso.features
        self.core = _core(config, features, orthogonal=True)
        features = features if self.core is None else self.core.features
        # A Gaussian's scale is a free parameter: the head gives the means alone.
        gaussian = isinstance(distribution, distributions.DiagonalGaussian)
        outputs = distribution.parameters // 2 if gaussian else distribution.parameters
        self.log_std = nn.Parameter(torch.zeros(outputs)) if gaussian else None
        self.policy = Head(features, outputs, 0.01)
        self.value = Head(features, 1, 1.0)

    def initial_state(self, batch: int) -> dict[str, Tensor] | None:
        """Zero recurrent state, f32[batch, core_size] each, or None."""
        return None if self.core is None else self.core.initial_state(batch)

    def update_normalizer(self, observation: Tree, pool: Pool | None = None) -> None:
        """Merge observations [T, B, ...] into the running statistics, if there are any."""
        self.observer.update_normalizer(observation, pool)

    def closed_form(self) -> PolicyValue | None:
        """Policy and value without a graph, where the gradients are written down; None where autograd must find them.

        Its gradients are in the order of ``parameters()``; it takes what ``observer.prepare`` gives.
        """
        return self._direct() if self.log_std is None else None

    def _direct(self) -> PolicyValue | None:
        plain = isinstance(self.torso, SeparateDense) and self.core is None and self.torso.dense.one_node
        return cast(SeparateDense, self.torso).dense.with_heads(self.policy, self.value) if plain else None

    def forward(self, observation: Tree, state: Tree, reset: Tensor) -> tuple[Output, Tree]:
        """Observation [T, B, ...], state [B, ...] or None, reset bool[T, B] -> output [T, B, ...], next state."""
        time, batch = next(tree_leaves(observation)).shape[:2]
        inputs = self.observer.prepare(observation)
        if (direct := self._direct()) is not None:
            policy, value = direct.outputs(inputs[0])
        else:
            for_policy, for_value = self.torso(inputs)
            if self.core is not None:
                through, state = self.core(for_policy.view(time, batch, -1), state, reset)
                for_policy = for_value = through.flatten(0, 1)
            policy, value = self.policy(for_policy), self.value(for_value)
        if self.log_std is not None:
            policy = torch.cat([policy, self.log_std.float().expand_as(policy)], -1)
        return Output(policy.view(time, batch, -1), value.view(time, batch)), state


class ActionValue(nn.Module):
    """Values of A discrete actions. Initialised as torch does it, which is as DQN did."""

    def __init__(self, observed: Sequence[Part], spec: Spec, config: NetworkConfig) -> None:
        super().__init__()
        if not isinstance(spec.action, spaces.Discrete):
            name = type(spec.action).__name__
            raise UserError(
                f"action values need a Discrete action space; {spec.name} has {name}: use ppo or a2c"
            )
        self.observer = Observer(observed, config)
        self.torso = Torso(observed, config, dense=not config.dueling)
        self.core = _core(config, self.torso.features, orthogonal=False)
        features = self.torso.features if self.core is None else self.core.features
        actions = int(spec.action.n)
        self.head = (
            Dueling(features, self.torso.width, actions) if config.dueling else Head(features, actions, None)
        )

    def initial_state(self, batch: int) -> dict[str, Tensor] | None:
        """Zero recurrent state, f32[batch, core_size] each, or None."""
        return None if self.core is None else self.core.initial_state(batch)

    def update_normalizer(self, observation: Tree, pool: Pool | None = None) -> None:
        """Merge observations [T, B, ...] into the running statistics, if there are any."""
        self.observer.update_normalizer(observation, pool)

    def forward(self, observation: Tree, state: Tree, reset: Tensor) -> tuple[Output, Tree]:
        """Observation [T, B, ...], state [B, ...] or None, reset bool[T, B] -> output [T, B, ...], next state."""
        time, batch = next(tree_leaves(observation)).shape[:2]
        features = self.torso(self.observer.prepare(observation))
        if self.core is not None:
            through, state = self.core(features.view(time, batch, -1), state, reset)
            features = through.flatten(0, 1)
        values = self.head(features).view(time, batch, -1)
        return Output(values, values.new_zeros(time, batch)), state


class Dueling(nn.Module):
    """Q = V + A - mean A, each stream with a hidden layer of its own (Wang et al. 2016, equation 9).

    Both streams send gradients into the torso, so what enters it is scaled by 1 / sqrt 2 (section 4.2).
    """

    def __init__(self, features: int, width: int, actions: int) -> None:
        super().__init__()
        self.streams = Dense(features, (width,), activation="relu", copies=2)
        self.value = Head(width, 1, None)
        self.advantage = Head(width, actions, None)

    def forward(self, features: Tensor) -> Tensor:
        """[N, features] -> [N, actions]."""
        value, advantage = self.streams(scale_gradient(features, 1 / math.sqrt(2))).unbind(0)
        advantage = self.advantage(advantage)
        return self.value(value) + advantage - advantage.mean(-1, keepdim=True)


def _core(config: NetworkConfig, features: int, *, orthogonal: bool) -> Core | None:
    if config.core == "none":
        return None
    return Core(config.core, features, config.core_size, orthogonal=orthogonal)
