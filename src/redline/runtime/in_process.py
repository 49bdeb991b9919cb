"""The in-process runtime: one process, the reference for every other. Two loops, for unrolls and for replay.

A loop's ``iterate`` is the smallest piece of training after which a run can be saved and gone on with bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Protocol

import numpy as np
import torch

from redline.actors import Actor, allocate
from redline.actors.transitions import ReplayActor
from redline.learners.transfer import Transfer
from redline.replay import Replay
from redline.replay.config import ReplayConfig
from redline.runtime.crew.board import total
from redline.runtime.experiment import unroll_replay
from redline.runtime.parts import Parts
from redline.runtime.plan import first_seed
from redline.types import Episode, Gauges, Metrics, ReplayBatch, RunError, tree_map

Stop = Callable[[], bool]
CHUNK = 256  # agent steps of one iteration of the replay loop


class Loop(Protocol):
    """What a run drives: it collects and learns, and counts nothing but its own seconds."""

    needs: ClassVar[tuple[str, ...]]  # entries without which ``load_state`` cannot do; others may be missing

    @property
    def clock(self) -> dict[str, float]:
        """Seconds of the wall clock spent stepping, acting and learning."""

    def iterate(self, steps: int, fraction: float, stop: Stop) -> tuple[int, Metrics]:
        """Collect and learn once; returns agent steps taken and metrics. ``steps`` and ``fraction`` are done."""

    def finished_episodes(self) -> list[Episode]:
        """Episodes ended since the last call."""

    def events(self) -> dict[str, int]:
        """Crashes, hangs, ... of the environments."""

    def gauges(self) -> Gauges:
        """How the roles are getting on."""

    def state(self) -> dict[str, Any]:
        """Everything beside the learner."""

    def load_state(self, state: dict[str, Any]) -> bool:
        """Restore; False where episodes in progress could not be."""

    def close(self) -> None:
        """Close the environments."""


def make_loop(parts: Parts, replay: Remembers | None = None) -> Loop:
    """The loop an experiment's algorithm wants, by its attribute ``experience``. ``replay``: see ``ReplayLoop``."""
    return ReplayLoop(parts, replay) if parts.algorithm.experience == "replay" else UnrollLoop(parts)


class Remembers(Protocol):
    """What the replay loop asks of a ``Replay``, or of one that lives elsewhere."""

    config: ReplayConfig

    def __len__(self) -> int:
        """Transitions that can be drawn."""

    @property
    def added(self) -> int:
        """Transitions ever added by this loop."""

    @property
    def add(self) -> Callable[..., None]:
        """See ``Replay.add``."""

    def sample(self, batch_size: int, beta: float = 0.4) -> ReplayBatch:
        """See ``Replay.sample``."""

    def update_priorities(self, index: np.ndarray, td_error: np.ndarray) -> None:
        """See ``Replay.update_priorities``."""

    def break_episodes(self) -> None:
        """See ``Replay.break_episodes``."""

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what ``state`` gave."""


class UnrollLoop:
    """On-policy: all shards collect side by side, then the algorithm learns from the unroll. Lag is zero."""

    needs: ClassVar[tuple[str, ...]] = ("actors",)

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        experiment, algorithm = parts.experiment, parts.algorithm
        self.device = parts.learner.device
        unroll = allocate(
            algorithm,
            parts.learner.acting,
            parts.spec,
            experiment.algorithm.unroll,  # type: ignore[union-attr]
            experiment.sampler.num_envs,
            debug=experiment.run.debug,
        )
        self.unroll = unroll.map(torch.Tensor.pin_memory) if self.device.type == "cuda" else unroll
        self._transfer = Transfer(self.device)
        self.mixer = unroll_replay(experiment, parts.place.first_column)
        self.actors: list[Actor] = []
        column = 0
        for groups in parts.make_environments():
            actor = Actor(
                groups,
                algorithm,
                parts.learner.acting,
                seed=first_seed(experiment.run.seed, parts.place.life) + parts.place.first_column,
                first_column=column,
                device=str(self.device),
                num_envs=parts.place.environments or experiment.sampler.num_envs,
            )
            actor.offset = parts.place.first_column
            self.actors.append(actor)
            column += sum(environment.num_envs for environment in groups)
        self.learning = 0.0

    @property
    def clock(self) -> dict[str, float]:
        """Seconds of the wall clock: actors run side by side, so theirs are averaged."""
        share = 1.0 / len(self.actors)
        waited = {
            name: share * sum(actor.clock[name] for actor in self.actors) for name in ("stepping", "acting")
        }
        return waited | {"learning": self.learning}

    def iterate(self, steps: int, fraction: float, stop: Stop) -> tuple[int, Metrics]:
        """One unroll and what the algorithm makes of it."""
        learner = self.parts.learner
        learner.stop = stop
        learner.exchange.pull(learner)
        self._transfer.wait()
        self.parts.pool(
            [partial(actor.collect, self.unroll, steps, learner.version, stop) for actor in self.actors]
        )
        begin = time.perf_counter()
        stride = self.parts.place.stride or self.unroll.reward.shape[1]
        learner.set_progress(fraction, steps + len(self.unroll.reward) * stride)
        fresh = self.unroll.action.shape[1]
        unroll = self._transfer(self.mixer.mix(self.unroll))
        metrics = self.parts.algorithm.update(learner, unroll, fraction)
        normalize: Any = learner.network.update_normalizer
        seen = tree_map(lambda x: x[:-1, :fresh].flatten(0, 1), unroll.observation)
        normalize(seen, learner.exchange.pool)
        self.learning += time.perf_counter() - begin
        return self.unroll.action.shape[0] * self.unroll.action.shape[1], metrics

    def finished_episodes(self) -> list[Episode]:
        """Episodes ended since the last call, in the order of actors."""
        ended = [episode for actor in self.actors for episode in actor.episodes]
        for actor in self.actors:
            actor.episodes.clear()
        return ended

    def events(self) -> dict[str, int]:
        """Crashes, hangs, ... of the environments."""
        return total(*(group.environment.events() for actor in self.actors for group in actor.groups))

    def gauges(self) -> Gauges:
        """Nothing: one loop does it all."""
        return Gauges()

    def state(self) -> dict[str, Any]:
        """The actors' states."""
        kept = self.mixer.state() if self.parts.experiment.run.save_replay else None
        return {"actors": [actor.state() for actor in self.actors], "unrolls": kept}

    def load_state(self, state: dict[str, Any]) -> bool:
        """Restore; False where episodes in progress, or unrolls kept to be learned from again, could not be."""
        if (saved := len(state["actors"])) != len(self.actors):
            raise RunError(
                f"the checkpoint is of {saved} actors, config.yaml asks for {len(self.actors)}: "
                f"set sampler.shards={saved}"
            )
        whole = self.mixer.load_state(state.get("unrolls"))
        restored = [actor.load_state(told) for actor, told in zip(self.actors, state["actors"], strict=True)]
        return whole and all(restored)

    def close(self) -> None:
        """Close the environments."""
        for actor in self.actors:
            actor.close()


class ReplayLoop:
    """Off-policy: the learner updates from replay while the environments step."""

    needs: ClassVar[tuple[str, ...]] = ("actor", "replay", "last")

    def __init__(self, parts: Parts, replay: Remembers | None = None) -> None:
        """replay: one that is shared with other loops; None: make one."""
        self.parts = parts
        experiment = parts.experiment
        assert experiment.replay is not None
        self.config: Any = experiment.algorithm
        self.num_envs = experiment.sampler.num_envs
        own = replay is None
        if replay is None:
            replay = Replay(
                parts.spec,
                experiment.replay,
                self.num_envs,
                gamma=self.config.gamma,
                seed=experiment.run.seed + parts.place.first_column,
                pin_memory=parts.learner.device.type == "cuda",
            )
        self.replay = replay
        environment = parts.make_environments()[0][0]
        device = str(parts.learner.device)
        self.actor = ReplayActor(
            environment,
            parts.algorithm,
            parts.learner.acting,
            seed=first_seed(experiment.run.seed, parts.place.life) + parts.place.first_column,
            device=device,
            first_environment=parts.place.first_column,
            num_environments=parts.place.environments or self.num_envs,
        )
        self._transfer = Transfer(parts.learner.device)
        self.together = own and not experiment.replay.prioritized and parts.learner.device.type == "cpu"
        self.learning = 0.0
        self.last: Metrics = {}
        self._counted: int | None = None  # agent steps of the run when the target network was last thought of
        self._fill = 1  # transitions that the replay needs before it is learned from

    @property
    def clock(self) -> dict[str, float]:
        """Seconds of the wall clock; stepping counts only what learning did not hide."""
        return self.actor.clock | {"learning": self.learning}

    def iterate(self, steps: int, fraction: float, stop: Stop) -> tuple[int, Metrics]:
        """About ``CHUNK`` agent steps of the run, with the updates that are due; returns those taken here."""
        ticks, learner, place = 0, self.parts.learner, self.parts.place
        stride, algorithm = place.stride or self.num_envs, self.parts.algorithm
        learner.set_progress(fraction, steps)
        while ticks * stride < CHUNK and not stop():
            before = self._whole(steps, ticks * stride) if self._counted is None else self._counted
            ticks += 1
            counted = steps + ticks * stride + place.head_start
            learner.exchange.pull(learner)
            due = algorithm.due(counted, stride) if self._filled(counted) else 0
            batches = self._act(before, due)
            try:
                after = self._whole(steps, ticks * stride)
                begin = time.perf_counter()
                for number in range(due):
                    self._update(fraction, batches[number] if batches else None)
                if algorithm.target_due(before, after):
                    learner.copy_target()
                self._counted = after
                self.learning += time.perf_counter() - begin
            finally:  # an update that is broken off leaves no step under way: environments are saved between steps
                self.actor.receive(self.replay.add, self._transform)
        return ticks * self.num_envs, {name: float(value) for name, value in self.last.items()}

    def _filled(self, counted: int) -> bool:
        """Whether replay is learned from. Copies that wait for each other at every update must all say the same."""
        if self.parts.place.learns_from is not None:
            return counted >= self.parts.place.learns_from()
        return len(self.replay) > 0 and self.replay.added >= self._fill

    def _whole(self, steps: int, taken: int) -> int:
        """Agent steps of the run when ``taken`` have been added here to ``steps``."""
        whole = self.parts.place.whole
        return steps + taken if whole is None else whole(taken)

    def _act(self, steps: int, due: int) -> list[ReplayBatch]:
        """Act and send; meanwhile draw the batches of the updates due, and value what followed by the target network.

        They may be drawn together, and valued in one pass, because nothing they depend on changes before the last of
        these updates: uniform replay, and a target network. Empty, and each update draws for itself, where priorities
        change with every update, or on a GPU, which has the target's pass in its recorded step.
        """
        size = self.config.batch
        together = self.together and 0 < due * size <= self.replay.config.capacity
        if not together:
            self.actor.act(steps)
            return []
        begin = time.perf_counter()
        drawn = self.replay.sample(due * size)
        # An observation that is acted on costs about two in a large batch: both threads get the same.
        first = max(due * size - 2 * self.num_envs, 0) // 2
        values = self.parts.algorithm.next_values
        target, after = self.parts.learner.target, drawn.next_observation
        self.learning += time.perf_counter() - begin

        def act_and_value() -> list[torch.Tensor]:  # networks have no answer to no observation
            self.actor.act(steps)
            return [values(target, tree_map(lambda x: x[:first], after))] if first else []

        others = partial(values, target, tree_map(lambda x: x[first:], after))
        mine, rest = self.parts.pool([act_and_value, others])
        drawn.next_values = torch.cat([*mine, rest])
        return [drawn.map(lambda x, k=k: x[k * size : (k + 1) * size]) for k in range(due)]  # type: ignore[misc]

    def _update(self, fraction: float, batch: ReplayBatch | None) -> None:
        assert self.parts.experiment.replay is not None
        if batch is None:
            self._transfer.wait()
            batch = self.replay.sample(self.config.batch, self.parts.experiment.replay.beta_at(fraction))
        batch = self._transfer(batch)
        self.last, errors = self.parts.algorithm.update(self.parts.learner, batch)
        if self.parts.experiment.replay.prioritized:
            self.replay.update_priorities(batch.index.cpu().numpy(), errors.cpu().numpy())

    def _transform(self, reward: np.ndarray) -> np.ndarray:
        return np.clip(reward, -1.0, 1.0) if self.parts.learner.config.reward == "clip" else reward

    def finished_episodes(self) -> list[Episode]:
        """Episodes ended since the last call."""
        ended, self.actor.episodes = self.actor.episodes, []
        return ended

    def events(self) -> dict[str, int]:
        """Crashes, hangs, ... of the environments."""
        return self.actor.environment.events()

    def gauges(self) -> Gauges:
        """How often each transition has been learned from."""
        produced = max(self.replay.added, 1)
        return Gauges(replay_ratio=self.parts.learner.version * self.config.batch / produced)

    def state(self) -> dict[str, Any]:
        """The actor's state and, unless the run leaves it out, the replay's."""
        saved = self.replay.state() if self.parts.experiment.run.save_replay else None
        return {"actor": self.actor.state(), "replay": saved, "last": dict(self.last)}

    def load_state(self, state: dict[str, Any]) -> bool:
        """Restore; False where episodes in progress or the replay could not be."""
        exact = self.actor.load_state(state["actor"])
        self.last = dict(state["last"])
        if state["replay"] is None:
            self.refill()
            return False
        self.replay.load_state(state["replay"])
        if not exact:
            self.replay.break_episodes()
        return exact

    def refill(self) -> None:
        """What was remembered is lost: it fills again before it is learned from, with this copy's share."""
        whole = self.parts.place.environments or self.num_envs
        self._fill = max(self.config.learning_starts * self.num_envs // whole, 1)

    def close(self) -> None:
        """Close the environments."""
        self.actor.close()
