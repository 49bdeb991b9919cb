"""Which architecture and runtime a run has, and their numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ParallelConfig:
    """Who does what, and where. 0 and ``auto`` mean chosen for the machine, and written into the run's config."""

    architecture: str = "synchronous"  # `redline show NAME` draws each
    runtime: Literal["auto", "in_process", "threads", "processes"] = "auto"
    copies: int = 0  # of the role that steps environments: actors, workers, bundles, replicas
    queue: int | None = (
        None  # finished unrolls of one actor that may wait; 0: it waits for the learner, lag is zero
    )
    batch: int = 0  # unrolls learned from at once; 0: one of each actor
    slot: int = 0  # agent steps of each environment that an actor sends to replay at a time; 0: chosen
    replay: Literal["thread", "process"] = (
        "thread"  # where the replay lives (apex): in the learner's process, or in one of its own
    )
    publish_every: int = 1  # updates between publications of weights (replay)
    replay_ratio: float | None = None  # samples learned from per sample collected at most; null: no bound
    hosts: int = 0  # processes that a server's workers share, a thread each (seed); 0: one for each core
    max_batch: int = 0  # workers that an inference server acts for at once (seed, queue above 0); 0: no limit
    max_wait: float = 0.0  # seconds that a worker's request may wait for company (seed, queue above 0)
    late: Literal["wait", "drop"] = (
        "wait"  # an unroll that would exceed the bound on lag: wait for it, or do without
    )
    give_way: bool = (
        True  # actors that could keep every core busy let the learner have one first, by a lower priority
    )
    delay: int = 0  # batches by which actors get weights late, to study what lag does
    servers: int = (
        0  # shards of the parameter server (gorila), locked chunks of the central parameters (accel_async)
    )
    fetch_every: int = 1  # gradients a bundle sends between fetches of the weights (gorila)
    target_every: int = (
        0  # server updates between target networks (gorila); 0: as many as the algorithm's steps make
    )
    collective: Literal["auto", "shared", "torch"] = (
        "auto"  # where copies that step together meet: shared memory, or torch.distributed (accel_sync)
    )
    max_staleness: int | None = None  # updates; gradients older than this are rejected (gorila)
    outlier: float | None = (
        None  # deviations of the loss above its mean beyond which no gradient is sent (gorila)
    )

    def __post_init__(self) -> None:
        for name in (
            "copies",
            "queue",
            "batch",
            "delay",
            "slot",
            "hosts",
            "max_batch",
            "max_wait",
            "servers",
            "target_every",
        ):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        for name in ("fetch_every", "publish_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.replay_ratio is not None and self.replay_ratio <= 0:
            raise ValueError(f"replay_ratio must be above 0 (or null for no bound), got {self.replay_ratio}")
        if self.max_staleness is not None and self.max_staleness < 0:
            raise ValueError(f"max_staleness must be 0 or more (or null for none), got {self.max_staleness}")
        if self.outlier is not None and self.outlier <= 0:
            raise ValueError(f"outlier must be above 0 (or null for none), got {self.outlier}")
