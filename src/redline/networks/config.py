"""The network's numbers: what stands between observations and heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class NetworkConfig:
    """Torso (what sees), core (what remembers) and their sizes. Heads follow from the algorithm and action space."""

    torso: Literal["auto", "mlp", "nature", "impala"] = (
        "auto"  # of image parts; auto: nature, impala below 36 px
    )
    hidden: tuple[int, ...] = (64, 64)  # units per layer, for parts that are not images
    activation: Literal["tanh", "relu"] = "tanh"  # of the hidden layers; convolutions always use ReLU
    core: Literal["none", "lstm", "gru"] = "none"
    core_size: int = 128  # units
    shared_torso: bool | None = (
        None  # policy and value share one torso; None: images and cores do, the rest not
    )
    dueling: bool = False  # action-value networks only (Wang et al. 2016)
    normalize_observation: bool = False  # running mean and variance of the float parts
    layer_norm: bool = False  # before each hidden layer's activation
    impala_channels: tuple[int, ...] = (16, 32, 32)  # per residual stage (Espeholt et al. 2018)

    def __post_init__(self) -> None:
        for name in ("hidden", "impala_channels"):
            sizes = getattr(self, name)
            if not sizes or any(size < 1 for size in sizes):
                raise ValueError(f"{name} must be one or more sizes of at least 1, got {tuple(sizes)}")
        if self.core_size < 1:
            raise ValueError(f"core_size must be 1 or more, got {self.core_size}")
        if self.core != "none" and self.shared_torso is False:
            raise ValueError("shared_torso must be true or left open with a recurrent core, got false")
