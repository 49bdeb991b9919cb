"""The learner's numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LearnerConfig:
    """How gradients become weights. Algorithm numbers (clip, gamma, ...) live with their algorithm."""

    optimizer: Literal["adam", "rmsprop", "adagrad", "sgd"] = "adam"
    learning_rate: float = 2.5e-4
    anneal: bool = False  # learning rate falls linearly to 0 over the run
    epsilon: float = 1e-5  # added to the optimiser's denominator
    epsilon_inside: bool = False  # RMSProp: inside the root, as in the papers of A3C, IMPALA and Ape-X
    decay: float = 0.99  # RMSProp's averaging of squared gradients
    centered: bool = False  # RMSProp: divided by the gradients' deviation instead of their root mean square
    momentum: float = 0.0  # RMSProp's
    max_grad_norm: float | None = 0.5  # global norm, clipped after the gradients of all shards are averaged
    reward: Literal["raw", "clip", "normalize"] = (
        "raw"  # clip: to [-1, 1]; normalize: by the returns' deviation
    )
    device: str = "auto"  # cpu, cuda, cuda:N; auto: cuda where there is one
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: the faster, measured
    threads: int = (
        0  # data-parallel gradient shards on the CPU; 0: chosen from the network's size and the cores
    )
    compile: bool = False  # torch.compile the network that learns (warm-up of half a minute)
    cuda_graphs: bool = True  # capture the update once and replay it (CUDA only)

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        if self.max_grad_norm is not None and self.max_grad_norm <= 0:
            raise ValueError(f"max_grad_norm must be above 0 (or null for none), got {self.max_grad_norm}")
        if self.threads < 0:
            raise ValueError(f"threads must be 0 (chosen) or more, got {self.threads}")
        if self.epsilon <= 0 or not 0 <= self.decay < 1:
            raise ValueError(f"epsilon must be above 0 and decay in [0, 1), got {self.epsilon}, {self.decay}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum}")
