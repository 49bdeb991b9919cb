"""What a probe found out about one experiment on one machine: the planner's only source of numbers. Plain values."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from redline.planner.costs import GPU, Curve, Machine, Work


@dataclass(frozen=True)
class Costs:
    """Costs of an environment, a network and an algorithm. Places are ``cpu fp32``, ``cpu bf16``, ``cuda bf16``, ...

    CPU figures are of one thread unless they say how many; those of a GPU are its own seconds, queue apart.
    """

    environment: str
    recipe: str
    algorithm: str
    machine: Machine  # on which they were measured, or to which they were carried over (see ``cores``)
    parameters: int
    observation_bytes: int  # of one environment's observation
    batch: (
        int  # samples that one batch holds (an unroll of all environments), or one update draws from replay
    )
    updates: float  # optimiser steps made of one batch
    minibatch: int  # samples of one of them
    envs: int  # environments of the recipe, with which whole batches were measured
    action_repeat: int  # frames in an agent step
    step: dict[int, Work]  # environments stepped together by one thread -> one round
    act: dict[str, Curve]  # place -> seconds of one acting pass against observations in it
    record: Curve  # core-seconds of a round's bookkeeping in an actor, against environments
    train: dict[str, Curve]  # place -> seconds of one forward and backward pass against samples
    learn: dict[str, dict[int, float]]  # place -> threads -> seconds of one whole batch by the real learner
    estimate: float  # share of ``learn`` that estimates returns and advantages; the rest improves the policy
    hand: dict[str, float]  # runtime -> core-seconds of taking in one message
    publish: float  # seconds of one publication of the weights
    besides: float = (
        0.0  # core-seconds of a batch beside actors that neither update, publication nor messages tell
    )
    draw: float = (
        0.0  # core-seconds of an update's batch out of a replay, and its priorities back: part of ``learn``
    )
    store: float = 0.0  # core-seconds of one agent step's way into a replay, where a slot's come together
    serve: dict[str, Curve] = field(
        default_factory=dict
    )  # runtime -> core-seconds of an inference server's batch beyond the pass
    latency: dict[str, float] = field(
        default_factory=dict
    )  # runtime -> seconds of a worker's round in which nobody works: it and its server waking each other
    between: float = (
        0.0  # core-seconds of a loop's batch (of a round, from replay) that no piece accounts for
    )
    between_gpu: float | None = None  # the same of a loop that computes on a GPU; None: not measured
    threaded: bool = (
        False  # whether stepping spreads over cores by itself (simulators in C++ with threads of their own)
    )
    together: float = (
        1.0  # how much longer their stepping on every core takes than its core-seconds over the cores
    )
    request: float = 0.0  # core-seconds of a worker's round beyond stepping
    exchange: dict[str, float] = field(
        default_factory=dict
    )  # architecture -> seconds of sharing one gradient
    drag: dict[str, float] = field(default_factory=dict)
    # ``threads``, ... -> how much longer than by fair shares of the cores as many actors take as there are cores;
    # ``threads actor`` and ``learner`` -> fewer actors, by one, and a learner; ``processes full actor``, ... -> all;
    # ``threads step``, ... -> as many as cores in lock-step with a learner; seen at training, over what pieces tell:
    # ``threads beside``, ... -> an actor beside a learner; ``threads copies``, ... -> as many as cores that share
    # gradients; ``threads served step``, ... -> a server, its workers and a learner in lock-step; ``threads served``,
    # ... -> the same not in lock-step; ``threads served crowd``, ... -> a server with a worker for each environment
    uneven: dict[str, tuple[float, ...]] = field(default_factory=dict)
    # ``threads learner``, ... -> how long its batches took beside actors, over their mean
    queueing: float = (
        0.0  # seconds that a batch takes longer among a thread for each environment, all of one interpreter
    )
    start: dict[str, float] = field(default_factory=dict)  # runtime -> seconds before its roles are at work
    reset: tuple[float, float] = (0.0, 0.0)  # seconds of a reset: median, 99th percentile
    transfer: Curve | None = None  # seconds to bring bytes to the GPU, against bytes
    spread: float = 0.0  # relative: how far repeated measurements lay apart
    flops: float = (
        0.0  # of one observation's forward pass, a multiplication with its addition being two; 0: unknown
    )
    kernels: int = 0  # that a GPU runs for one forward pass; 0: unknown
    estimated: dict[str, float] = field(default_factory=dict)
    # place, or "cpu" or "environment" -> relative error of what was reckoned rather than measured
    notes: tuple[str, ...] = ()  # what the probe was not sure of
    cores: int = 0  # of the machine on which they were measured; 0: those of ``machine``

    @property
    def cores_measured(self) -> int:
        """Cores of the machine on which they were measured."""
        return self.cores or self.machine.cores

    def longer(self, times: int, passes: float = 1.0) -> Costs:
        """The same for batches of unrolls so many times as long, in minibatches as large, and for so many times as many
        passes over each sample."""
        gpu = None if self.between_gpu is None else self.between_gpu * times
        learned = times * passes
        return replace(
            self,
            batch=self.batch * times,
            updates=self.updates * learned,
            learn={
                place: {threads: seconds * learned for threads, seconds in each.items()}
                for place, each in self.learn.items()
            },
            estimate=self.estimate / passes,
            hand={runtime: seconds * times for runtime, seconds in self.hand.items()},
            besides=self.besides * times,
            queueing=self.queueing * learned,
            between=self.between * times,
            between_gpu=gpu,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return _plain(self)

    @classmethod
    def of(cls, saved: dict[str, Any]) -> Costs:
        """From ``as_dict``'s values, read back from JSON (where keys have become strings)."""
        curves = {name: _curve(saved[name]) for name in ("record", "transfer")}
        by_place = {
            name: {place: _curve(points) for place, points in saved[name].items()}
            for name in ("act", "train", "serve")
        }
        return cls(
            **{
                **saved,
                **curves,
                **by_place,
                "machine": machine_of(saved["machine"]),
                "step": {int(n): work_of(work) for n, work in saved["step"].items()},
                "learn": {
                    place: {int(threads): seconds for threads, seconds in each.items()}
                    for place, each in saved["learn"].items()
                },
                "reset": tuple(saved["reset"]),
                "uneven": {name: tuple(values) for name, values in saved.get("uneven", {}).items()},
                "notes": tuple(saved["notes"]),
            }
        )


def machine_of(saved: dict[str, Any]) -> Machine:
    """A machine from plain values."""
    gpus = saved.get("gpus")
    return Machine(**{**saved, "gpus": GPU(**gpus) if gpus else None})


def work_of(saved: dict[str, Any]) -> Work:
    """Work from plain values."""
    return Work(**{**saved, "tail": tuple(saved["tail"])})


def _curve(saved: Any) -> Curve | None:
    return None if saved is None else Curve.of(saved["points"])


def _plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(each) for each in value]
    return value
