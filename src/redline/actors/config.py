"""How experience is collected."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SamplerConfig:
    """Environments and how they are shared out. 0 means chosen for the machine, and written into the run's config."""

    num_envs: int = 8  # environments in all: B of the unroll
    shards: int = 0  # actor threads side by side, each with its own environments
    groups: int = 0  # groups of environments per actor; with 2, one steps while the other acts

    def __post_init__(self) -> None:
        if self.num_envs < 1:
            raise ValueError(f"num_envs must be 1 or more, got {self.num_envs}")
        if self.shards < 0 or self.groups < 0:
            raise ValueError(
                f"shards and groups must be 0 (chosen) or more, got {self.shards}, {self.groups}"
            )
        shards, groups = max(self.shards, 1), max(self.groups, 1)
        if shards * groups > self.num_envs:
            raise ValueError(
                f"{shards} shards x {groups} groups need as many environments, but num_envs is {self.num_envs}"
            )
