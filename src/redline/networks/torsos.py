"""From observations to features: one torso per part of the observation, concatenated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from redline.networks.config import NetworkConfig
from redline.networks.images import ImpalaCNN, NatureCNN
from redline.networks.layers import Dense
from redline.networks.observations import Part
from redline.types import UserError

PartTorso = NatureCNN | ImpalaCNN | Dense

NATURE_PIXELS = 36  # three valid convolutions leave nothing of less


class Torso(nn.Module):
    """Prepared parts -> features [N, features].

    ``dense`` False leaves out each part's last dense layer, ``width`` units: a dueling head has its own two.
    """

    def __init__(
        self, parts: Sequence[Part], config: NetworkConfig, *, dense: bool = True, orthogonal: bool = False
    ) -> None:
        super().__init__()
        torsos = [_part_torso(part, config, dense, orthogonal) for part in parts]
        self.parts = nn.ModuleList(torsos)
        self.features = sum(torso.features for torso in torsos)
        images = [torso.units for torso in torsos if not isinstance(torso, Dense)]
        self.width = max(images, default=config.hidden[-1])

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        features = [torso(x) for torso, x in zip(self.parts, inputs, strict=True)]
        features = [x[0] if x.dim() == 3 else x for x in features]
        return features[0] if len(features) == 1 else torch.cat([x.float() for x in features], -1)


class Shared(nn.Module):
    """One torso for policy and value: both get the same features."""

    def __init__(self, torso: Torso) -> None:
        super().__init__()
        self.torso, self.features = torso, torso.features

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        features = self.torso(inputs)
        return features, features


class Separate(nn.Module):
    """A torso each for policy and value."""

    def __init__(self, policy: Torso, value: Torso) -> None:
        super().__init__()
        self.policy, self.value, self.features = policy, value, policy.features

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        return self.policy(inputs), self.value(inputs)


class SeparateDense(nn.Module):
    """The same for one vector of observations, both torsos in one batched product per layer."""

    def __init__(self, inputs: int, config: NetworkConfig, *, orthogonal: bool) -> None:
        super().__init__()
        self.dense = Dense(
            inputs,
            config.hidden,
            activation=config.activation,
            copies=2,
            layer_norm=config.layer_norm,
            orthogonal=orthogonal,
        )
        self.features = self.dense.features

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        policy, value = self.dense(inputs[0]).unbind(0)
        return policy, value


def policy_value_torso(
    parts: Sequence[Part], config: NetworkConfig, *, orthogonal: bool
) -> Shared | Separate | SeparateDense:
    """The torso of an actor-critic: prepared parts -> features for the policy, features for the value."""
    shared = config.shared_torso
    if shared is None:
        shared = config.core != "none" or any(_kind(part, config) != "mlp" for part in parts)
    if shared:
        return Shared(Torso(parts, config, orthogonal=orthogonal))
    if len(parts) == 1 and not parts[0].image:
        return SeparateDense(parts[0].shape[0], config, orthogonal=orthogonal)
    return Separate(Torso(parts, config, orthogonal=orthogonal), Torso(parts, config, orthogonal=orthogonal))


def check_torso(parts: Sequence[Part], config: NetworkConfig) -> None:
    """Raise UserError where the torso asked for does not fit the observations."""
    images = [part for part in parts if part.image]
    if config.torso in ("nature", "impala") and not images:
        shown = ", ".join(f"{part.name}: {part.space}" for part in parts)
        raise UserError(
            f"network.torso {config.torso!r} needs an image (Box of uint8); got {shown}; use 'mlp'"
        )
    small = [part for part in images if min(part.shape[1:]) < NATURE_PIXELS]
    if config.torso == "nature" and small:
        size = "x".join(str(length) for length in small[0].shape[1:])
        raise UserError(
            f"network.torso 'nature' needs images of at least {NATURE_PIXELS} pixels; {small[0].name} has {size}; "
            f"use 'impala'"
        )


def _kind(part: Part, config: NetworkConfig) -> str:
    """mlp, nature or impala."""
    if not part.image:
        return "mlp"
    if config.torso == "auto":
        return "nature" if min(part.shape[1:]) >= NATURE_PIXELS else "impala"
    return config.torso


def _part_torso(part: Part, config: NetworkConfig, dense: bool, orthogonal: bool) -> PartTorso:
    kind = _kind(part, config)
    if kind == "nature":
        return NatureCNN(part.shape, dense=dense, orthogonal=orthogonal)
    if kind == "impala":
        return ImpalaCNN(part.shape, config.impala_channels, dense=dense, orthogonal=orthogonal)
    hidden = config.hidden if dense else config.hidden[:-1]
    return Dense(
        part.shape[0],
        hidden,
        activation=config.activation,
        layer_norm=config.layer_norm,
        orthogonal=orthogonal,
    )
