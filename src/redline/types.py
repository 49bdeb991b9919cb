"""The contracts between Redline's parts: what an environment gives, what an algorithm takes, what travels.

Axes, everywhere: ``T`` time, ``B`` environments, ``A`` actions, ``...`` the observation's own axes. Time first, batch
second. Index ``t`` holds the observation, the action taken on it, and the reward and end-of-episode flags that
followed; observations run to ``T + 1``. A *tree* is an array, or a (nested) dict of arrays with equal leading axes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import gymnasium
import numpy as np

if TYPE_CHECKING:  # worker processes import this file, and do without torch: seconds and 150 MB for each
    import torch
    from torch import Tensor

Tree = Any  # an array or tensor, or a (nested) dict of them


def tree_map(function: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """Apply ``function`` to every leaf of ``tree`` (and the matching leaves of ``rest``); None stays None."""
    if tree is None:
        return None
    if isinstance(tree, dict):
        return {key: tree_map(function, leaf, *(other[key] for other in rest)) for key, leaf in tree.items()}
    return function(tree, *rest)


def tree_leaves(tree: Tree) -> Iterator[Any]:
    """The leaves of a tree, depth first, in insertion order."""
    if isinstance(tree, dict):
        for leaf in tree.values():
            yield from tree_leaves(leaf)
    elif tree is not None:
        yield tree


class UserError(Exception):
    """Something the user can mend. Its text is one line: what, where, and the nearest valid choice (exit code 2)."""


class RunError(UserError):
    """A run that cannot go on for a reason outside Redline's code: disk, environment, checkpoint (exit code 1)."""


class Interruption(Exception):
    """Work was broken off at a safe point because the run shall stop: nothing is in flight, weights are whole."""


@dataclass(frozen=True)
class Spec:
    """What one environment looks like to everything else."""

    name: str  # the id the user typed, or the factory's qualified name
    observation: gymnasium.Space  # of one environment: Box, Discrete, MultiBinary, or (nested) Dict of them
    action: gymnasium.Space  # of one environment: Discrete, MultiDiscrete or Box
    action_repeat: int = 1  # frames per agent step
    frame_stack: int = 1  # observations are this many single frames on axis 0, newest last (1: no stack)
    action_mask: bool = False  # steps carry a mask of legal actions
    threaded: bool = (
        False  # steps on threads of its own, as many as it is given, without the interpreter's lock
    )
    rules: tuple[str, ...] = ()  # one plain sentence each, printed in the run's first lines
    own: tuple[gymnasium.Space, gymnasium.Space] | None = (
        None  # (observation, action) spaces as the environment spells them; None: as above
    )

    @property
    def choices(self) -> list[int]:
        """How many there are to choose from: one number for a Discrete action, one a part for a MultiDiscrete.

        An action mask has as many entries as these sum to, part after part. Raises: UserError for continuous actions.
        """
        return choices_of(self.action, self.name)


def choices_of(action: gymnasium.Space, name: str) -> list[int]:
    """The numbers of actions that an action mask of the environment ``name`` is about (see ``Spec.choices``)."""
    if isinstance(action, gymnasium.spaces.Discrete):
        return [int(action.n)]
    if isinstance(action, gymnasium.spaces.MultiDiscrete):
        return [int(n) for n in action.nvec]
    raise UserError(f"environment {name!r}: gives an action mask, but its actions are continuous ({action})")


@dataclass(frozen=True)
class Episode:
    """One finished episode."""

    index: int  # which environment of the batch
    episode_return: float  # sum of raw rewards
    length: int  # agent steps


@dataclass
class Step:
    """What a batched environment gives back for the actions it was sent (numpy arrays).

    Same-step autoreset: where an episode ended, ``observation`` is already the next episode's first one and
    ``final_observation`` holds the last one of the old. Arrays may be reused by the environment at its next ``send``.
    """

    observation: Tree  # [B, ...] what to act on next
    reward: np.ndarray  # f32[B] raw
    terminated: np.ndarray  # bool[B]
    truncated: np.ndarray  # bool[B]
    final_observation: Tree = None  # [B, ...] rows valid where an episode ended; None when none did
    action_mask: np.ndarray | None = None  # bool[B, A] for ``observation``; True is legal
    episodes: Sequence[Episode] = ()


@runtime_checkable
class Environment(Protocol):
    """B environments stepped together. ``send`` starts the step, ``recv`` waits for it: others compute in between."""

    spec: Spec
    num_envs: int

    def reset(self, seed: int) -> Step:
        """Start every environment afresh; environment ``i`` is seeded with ``seed + i``."""

    def send(self, action: np.ndarray) -> None:
        """Start stepping with actions i64[B], i64[B, K] or f32[B, K]."""

    def recv(self) -> Step:
        """Wait for the step that ``send`` started."""

    def render(self, index: int = 0) -> np.ndarray | None:
        """u8[H, W, 3] picture of one environment, or None where it cannot draw itself."""

    def state(self) -> dict[str, Any] | None:
        """Everything needed to go on from here bit for bit (a tree of arrays and plain values), or None."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to a state that ``state`` gave. Call ``observe`` for the observation to act on."""

    def observe(self) -> Step:
        """The current observation again (reward 0, nothing ended)."""

    def events(self) -> dict[str, int]:
        """Counts of what went wrong and was mended: ``crashes``, ``hangs``."""

    def close(self) -> None:
        """Release processes, threads and memory. Safe to call twice."""


class ActInput(NamedTuple):
    """What an algorithm sees when it chooses actions for one time step of B environments (tensors)."""

    observation: Tree  # [B, ...]
    state: Tree  # [B, ...] recurrent state, or None
    reset: Tensor  # bool[B] True where the observation starts an episode
    action_mask: Tensor | None  # bool[B, A]
    generator: torch.Generator  # the acting worker's own
    steps: int  # agent steps taken by the whole run, for exploration schedules
    explore: bool = True  # False: greedy
    first_environment: int = 0  # number of environment 0 among all that the run's actors step
    num_environments: int = 0  # how many those are; 0: these and those numbered before them
    record: bool = False  # whether the actor writes down what the algorithm asked to remember

    def to(self, device: torch.device) -> ActInput:
        """The same on a device: itself where it is there already. Copies from page-locked memory are not waited for."""

        def move(leaf: Tensor) -> Tensor:
            return leaf.to(device, non_blocking=True)

        return self._replace(
            observation=tree_map(move, self.observation),
            state=tree_map(move, self.state),
            reset=move(self.reset),
            action_mask=tree_map(move, self.action_mask),
        )


# Fields of an Unroll that are [B, ...]; all others are [T, B, ...].
BY_ENVIRONMENT = ("state", "bootstrap_value")


@dataclass
class Unroll:
    """T steps of B environments (tensors); ``observation``, ``action_mask`` and ``reset`` have T + 1 rows."""

    observation: Tree  # [T+1, B, ...]
    action: Tensor  # i64[T, B], i64[T, B, K] or f32[T, B, K]
    reward: Tensor  # f32[T, B] raw
    terminated: Tensor  # bool[T, B]
    truncated: Tensor  # bool[T, B]
    reset: Tensor  # bool[T+1, B] observation t starts an episode (recurrent state is zeroed before it)
    final_value: Tensor  # f32[T, B] value of the final observation where truncated, else 0
    record: dict[str, Tensor] = field(
        default_factory=dict
    )  # [T, B, ...] what the algorithm asked to remember
    state: Tree = None  # [B, ...] recurrent state before observation 0
    bootstrap_value: Tensor | None = None  # f32[B] acting weights' value of observation T
    action_mask: Tensor | None = None  # bool[T+1, B, A]
    policy_version: Tensor | None = None  # i64[2, B] oldest and newest version of the weights that acted
    final_observation: Tree = None  # [T, B, ...] rows valid where truncated; only where replay wants them

    def map(self, function: Callable[[Tensor], Tensor]) -> Unroll:
        """The same unroll with ``function`` applied to every tensor."""
        return Unroll(**{item.name: tree_map(function, getattr(self, item.name)) for item in fields(self)})


@dataclass
class ReplayBatch:
    """N transitions drawn from replay (tensors). ``reward`` is the n-step sum; ``discount`` its gamma^n, or 0."""

    observation: Tree  # [N, ...]
    action: Tensor  # i64[N] or f32[N, K]
    reward: Tensor  # f32[N]
    discount: Tensor  # f32[N] gamma^n; 0 where the window ended in a terminal state
    next_observation: Tree  # [N, ...] n steps later, or the final observation of a truncated episode
    weight: Tensor  # f32[N] importance weights (1 for uniform replay)
    index: Tensor  # i64[N] for ``update_priorities``
    next_action_mask: Tensor | None = None  # bool[N, A]
    next_values: Tensor | None = None  # f32[N, A] of the target network, where they were computed beforehand

    def map(self, function: Callable[[Tensor], Tensor]) -> ReplayBatch:
        """The same batch with ``function`` applied to every tensor."""
        return ReplayBatch(
            **{item.name: tree_map(function, getattr(self, item.name)) for item in fields(self)}
        )


class Output(NamedTuple):
    """What a network gives for observations [T, B, ...]."""

    policy: Tensor  # f32[T, B, P] distribution parameters, or f32[T, B, A] action values
    value: Tensor  # f32[T, B] state values (zeros for action-value networks)


class Network(Protocol):
    """A torch module over time-major input. ``reset[t]`` zeroes the recurrent state before step t."""

    def __call__(self, observation: Tree, state: Tree, reset: Tensor) -> tuple[Output, Tree]:
        """observation [T, B, ...], state [B, ...] or None, reset bool[T, B] -> output [T, B, ...], next state."""

    def initial_state(self, batch: int) -> Tree:
        """Zero recurrent state [B, ...] (a dict of tensors), or None for feed-forward networks."""


Metrics = dict[str, "Tensor | float"]
Loss = Callable[
    [Any, Any], tuple["Tensor", Metrics]
]  # (network, batch) -> scalar loss and metrics, left on device


@dataclass
class Gauges:
    """How a run's roles are getting on, where there is more than one."""

    roles: dict[str, float] = field(default_factory=dict)  # share of the wall clock that each role was busy
    queues: dict[str, float] = field(default_factory=dict)  # what waits, by name
    rooms: dict[str, float] = field(default_factory=dict)  # how many can wait, by the same names
    lag: dict[str, float] = field(default_factory=dict)  # batches: "mean", "p95", "max" of the newest unrolls
    lag_bound: int | None = None  # batches; None: no bound
    replay_ratio: float | None = None  # samples consumed / samples produced

    def metrics(self) -> dict[str, float]:
        """As they stand in metrics.jsonl: ``roles/actor``, ``queue/unrolls``, ``lag/mean``, ``lag/bound``, ..."""
        values = {f"roles/{name}": share for name, share in self.roles.items()}
        values |= {f"queue/{name}": depth for name, depth in self.queues.items()}
        values |= {f"lag/{name}": batches for name, batches in self.lag.items()}
        if self.lag and self.lag_bound is not None:
            values["lag/bound"] = float(self.lag_bound)
        if self.replay_ratio is not None:
            values["replay_ratio"] = self.replay_ratio
        return values


def lag_gauges(lags: Counter[int]) -> dict[str, float]:
    """Mean, p95 and max of lags counted by their batches; empty where there are none."""
    total = sum(lags.values())
    if not total:
        return {}
    seen = 0
    for lag in sorted(lags):
        seen += lags[lag]
        if seen > 0.95 * (total - 1):
            break
    return {
        "mean": sum(lag * count for lag, count in lags.items()) / total,
        "p95": float(lag),
        "max": float(max(lags)),
    }


@dataclass(frozen=True)
class Expected:
    """What the planner's model says of a run."""

    steps_per_second: float  # agent steps
    error: float  # relative: how sure that is
    roles: dict[str, float] = field(default_factory=dict)  # share of the wall clock that each role is busy


@dataclass
class Progress:
    """Where a run stands, as shown to the user about once a second. Agent steps and frames are never mixed."""

    steps: int  # agent steps done
    total_steps: int
    frames: int  # agent steps x action repeat
    updates: int  # optimiser steps
    episodes: int
    elapsed: float  # seconds of this process
    steps_per_second: float  # over the last few seconds
    updates_per_second: float
    action_repeat: int
    returns: Sequence[float]  # of the last 100 episodes, oldest first
    lengths: Sequence[int]
    shares: dict[str, float]  # share of the main loop's wall clock, by the loop's own names, and "other"
    metrics: dict[str, float] = field(default_factory=dict)  # newest losses and the like
    events: dict[str, int] = field(default_factory=dict)  # crashes, hangs, non-finite rewards, ...
    gauges: Gauges = field(default_factory=Gauges)
    predicted: Expected | None = None  # by the planner's model, where the experiment has been measured


class Observer(Protocol):
    """Follows a run: the live screen, plain lines, a notebook."""

    def start(self, name: str, folder: str, rules: Sequence[str]) -> None:
        """Called once, with the sentences that state the run's rules."""

    def update(self, progress: Progress) -> None:
        """Called about once a second."""

    def message(self, text: str) -> None:
        """One line worth telling: a checkpoint, a restarted worker."""

    def stop(self, reason: str) -> None:
        """Called once: ``done``, ``interrupted`` or ``failed``."""
