"""Plans as values: one way to run an experiment, what is expected of it, and what was measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from redline.planner.costs import Machine, Prediction
from redline.planner.measured import Costs


@dataclass(frozen=True)
class Option:
    """One plan. ``settings`` are the experiment's values that make it, as ``--set`` takes them."""

    architecture: str
    runtime: str  # in_process, threads, processes
    copies: int  # of the role that steps environments
    environments: int  # of one copy
    unroll: int  # time steps between messages
    queue: int = 0
    groups: int = 1
    shards: int = 1
    threads: int = 1  # of the learner
    act_on: str = "cpu fp32"  # a place: see ``Costs``
    learn_on: str = "cpu fp32"
    servers: int = 1  # shards of a parameter server, locked chunks
    workers: int = 0  # processes that step one loop's environments; 1: the loop does; 0: so it does by itself
    largest: int = 0  # workers that an inference server acts for at once; 0: no limit
    ratio: float | None = (
        None  # samples learned from per sample collected; None: it does not learn from replay
    )
    paced: bool = True  # whether actors wait for a learner from replay that is behind its ratio
    take: int = 0  # unrolls in a batch; 0: one of each copy
    apart: bool = False  # whether its replay has a process of its own
    polite: bool = True  # whether its actors give way to their learner where the architecture has them do so
    lag_bound: int | None = 0
    memory: int = 0  # bytes it needs, about
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """In a few words: ``impala, 2 actors of 16 environments, threads``."""
        copies = f"{self.copies} x {self.environments} environments"
        extra = f", {self.threads} learner threads" if self.threads > 1 else ""
        shards = f", {self.shards} actor threads" if self.shards > 1 else ""
        workers = f", {self.workers} worker processes" if self.workers > 1 else ""
        groups = f", {self.groups} groups" if self.groups > 1 else ""
        replay = ", replay apart" if self.apart else ""
        return f"{self.architecture}, {self.runtime}, {copies}{shards}{workers}{groups}{extra}{replay}"

    @property
    def kind(self) -> tuple[str, str, bool]:
        """What plans of one kind share: they differ in sizes and devices only."""
        return self.architecture, self.runtime, self.apart

    @property
    def complexity(self) -> int:
        """What there is to go wrong, for ties: roles and processes beyond one loop."""
        around = {"in_process": 0, "threads": 1, "processes": 2}[self.runtime]
        return around + (self.copies > 1) + (self.shards > 1) + (self.groups > 1) + self.apart


@dataclass(frozen=True)
class Measured:
    """What a plan did when it was run for a while, learning on."""

    steps_per_second: float
    updates_per_second: float
    seconds: float
    utilisation: dict[str, float] = field(default_factory=dict)
    lag: dict[str, float] = field(default_factory=dict)


LEARNED = (
    0.5  # of a run's steps, after which its task is learned in the mean: nobody knows, and recipes leave room
)


@dataclass(frozen=True)
class Ranked:
    """An option with what is expected of it."""

    option: Option
    prediction: Prediction
    samples: float = 1.0  # samples it needs to learn as much as at zero lag (1.1: a tenth more)
    measured: Measured | None = None
    start: float = 0.0  # seconds before its roles are at work, shared out over the run's agent steps

    @property
    def speed(self) -> float:
        """Agent steps/s until the task is learned, worth as much as steps at zero lag: what plans are ranked by."""
        return self.worth(self.prediction.steps_per_second)

    def worth(self, rate: float) -> float:
        """The same of any ``rate`` of agent steps/s, predicted or measured."""
        return 1.0 / (self.samples / max(rate, 1e-9) + self.start / LEARNED)


@dataclass(frozen=True)
class Plan:
    """The planner's whole answer, best first."""

    costs: Costs
    machine: Machine  # that was planned for
    ranked: list[Ranked]
    chosen: int = 0  # index of ranked
    what_if: str = ""  # the change asked about; empty: this very machine
    notes: list[str] = field(default_factory=list)  # a sentence each
    refused: list[str] = field(default_factory=list)  # architectures that cannot run it, with the reason

    @property
    def best(self) -> Ranked:
        """The plan that was chosen."""
        return self.ranked[self.chosen]
