"""A run from its first step to its last: counters, metrics, checkpoints, interrupts. The loop does the learning."""

from __future__ import annotations

import contextlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from redline.learners.fitting import check_learner
from redline.learners.learner import Learner
from redline.runs.checkpoint import Loaded, save_checkpoint
from redline.runs.counters import RECENT, Counters
from redline.runs.folder import RunFolder
from redline.runs.metrics import MetricsWriter
from redline.runs.rng import global_rng_state, load_global_rng_state
from redline.runtime.crew.evaluating import Evaluator
from redline.runtime.crew.shares import Shares, shares_of
from redline.runtime.evaluate import evaluate
from redline.runtime.experiment import Experiment
from redline.runtime.in_process import Loop
from redline.runtime.interrupt import InterruptRequest
from redline.runtime.launch import check_loop, inexact, make_loop, with_saved_replay
from redline.runtime.parts import Parts, assemble, rules
from redline.runtime.planning.expected import expectation
from redline.runtime.pool import one_thread_each
from redline.secret import without_secrets
from redline.types import Expected, Interruption, Metrics, Observer, Progress, RunError, UserError

LINES = 200  # of metrics, unless the run says how often
SAVE_EVERY = 60.0  # seconds between checkpoints, unless the run counts them in steps
BEST_COST = 0.01  # share of the time that checkpoints of a new best may take, where there is one a minute
SHOW_EVERY = 0.5  # seconds between calls of the observer
WINDOW = 8.0  # seconds over which rates are measured
EVALUATION_SEED = 1_000_000  # added to the run's, so that evaluation plays other episodes than training
LAST_EVALUATION = 30.0  # seconds that the end of a run waits for an evaluation in progress


class Training:
    """One run in one process. ``run`` trains to the end and returns ``done`` or ``interrupted``."""

    def __init__(
        self,
        parts: Parts,
        loop: Loop,
        folder: RunFolder,
        observer: Observer,
        restored: Loaded | None = None,
    ) -> None:
        self.parts, self.folder, self.observer = parts, folder, observer
        self.config = parts.experiment.run
        self.log_every = self.config.log_every or max(self.config.steps // LINES, 1)
        self.counters = Counters()
        self.interrupt = InterruptRequest()
        self.metrics: Metrics = {}
        self.loop = loop
        self.exact = True
        if restored is not None:  # before anything is written: a resume that fails leaves the run as it was
            self._restore(restored)
        self.writer = _writer(folder, parts.experiment)
        # What a run that was killed before its first checkpoint wrote is written again.
        self.writer.truncate_after(-1 if restored is None else self.counters.steps)
        beside = self.config.evaluate_every > 0 and parts.experiment.parallel.runtime != "in_process"
        self.evaluator = Evaluator(parts, self.config.seed + EVALUATION_SEED) if beside else None
        if restored is not None:  # again: what was made since may have drawn from them
            load_global_rng_state(restored.state["random"])
        self._began, self._lately = time.perf_counter(), Shares()
        self._before = self.counters.elapsed
        self._saved, self._save_seconds = self._began, 0.0  # when, and how long the last checkpoint took
        self._rates: deque[tuple[float, int, int]] = deque()
        self._last_clock: tuple[float, dict[str, float]] = (0.0, dict.fromkeys(self.loop.clock, 0.0))
        self._shown = 0.0
        self.expected: Expected | None = None

    def _restore(self, loaded: Loaded) -> None:
        state, learner = loaded.state, self.parts.learner
        with _restoring(loaded):
            check_learner(state["learner"], learner)
            check_loop(state["loop"], self.loop.needs, self.parts.experiment)
            learner.load_state(state["learner"])
            self.exact = self.loop.load_state(state["loop"])
            self.counters = Counters.of(state["counters"])
            self.metrics = dict(state["metrics"])
            load_global_rng_state(state["random"])

    def state(self) -> dict[str, Any]:
        """Everything that the run needs to go on."""
        loop = (
            self.loop.state()
        )  # first: it may bring others to rest, and their newest weights to the learner
        replay = self.parts.experiment.replay
        return {
            "learner": self.parts.learner.state(),
            "loop": loop,
            "counters": self.counters.state(),
            "metrics": {name: float(value) for name, value in self.metrics.items()},
            "random": global_rng_state(),
            "capacity": replay.capacity if replay is not None else 0,
        }

    def run(self) -> str:
        """Train until the run's steps are done, its return is reached, or someone interrupts."""
        counters = self.counters
        with self.interrupt.listening():
            while counters.steps < self.config.steps and self.interrupt.at is None:
                before = counters.steps
                if not self._iterate():
                    break
                if self._crossed(before, self.log_every) or counters.steps >= self.config.steps:
                    self._log()
                if self._crossed(before, self.config.evaluate_every):
                    self._evaluate()
                self._hear_evaluator()
                if self._checkpoint_due(before):
                    self._save()
                self._show()
                if self._solved():
                    self.observer.message(f"mean return {np.mean(counters.returns):.1f} reached: stopping")
                    break
            if counters.steps < self.config.steps and self.interrupt.at is None:
                self._log()
            self._save()
            self._hear_evaluator(LAST_EVALUATION)  # only now: what was learned is safe, however long it takes
            self._show(force=True)
        return "interrupted" if self.interrupt.at is not None else "done"

    def _iterate(self) -> bool:
        counters = self.counters
        fraction = min(counters.steps / self.config.steps, 1.0)
        try:
            steps, self.metrics = self.loop.iterate(counters.steps, fraction, self.interrupt)
        except Interruption:
            return False
        counters.steps += steps
        for episode in self.loop.finished_episodes():
            counters.episodes += 1
            counters.returns.append(episode.episode_return)
            counters.lengths.append(episode.length)
        counters.elapsed = self._before + time.perf_counter() - self._began
        return True

    def _checkpoint_due(self, before: int) -> bool:
        if self.config.checkpoint_every:
            return self._crossed(before, self.config.checkpoint_every)
        since = time.perf_counter() - self._saved
        affordable = since * BEST_COST > self._save_seconds
        at_line = affordable and self._crossed(before, self.log_every)
        return since > SAVE_EVERY or (at_line and self.counters.at_best())

    def _crossed(self, before: int, every: int) -> bool:
        return every > 0 and before // every < self.counters.steps // every

    def _solved(self) -> bool:
        target = self.config.stop_at_return
        returns = self.counters.returns
        return target is not None and len(returns) == RECENT and float(np.mean(returns)) >= target

    def _log(self) -> None:
        counters = self.counters
        values = {
            "frames": float(counters.steps * self.parts.spec.action_repeat),
            "updates": float(self.parts.learner.version),
            "episodes": float(counters.episodes),
            "learning_rate": self.parts.learner.learning_rate,
        }
        values |= counters.metrics()
        values |= {f"events/{name}": float(count) for name, count in self.loop.events().items()}
        values |= self.loop.gauges().metrics()
        losses = _finite(self.metrics, self.parts.learner, counters.steps)
        self.writer.write(counters.steps, values | losses | self._timing())

    def _timing(self) -> dict[str, float]:
        elapsed = time.perf_counter() - self._began
        steps, updates = self._rate()
        values = {
            "time/elapsed": self.counters.elapsed,
            "time/steps_per_second": steps,
            "time/frames_per_second": steps * self.parts.spec.action_repeat,
            "time/updates_per_second": updates,
        }
        then, before = self._last_clock
        clock = self.loop.clock
        self._last_clock = (elapsed, dict(clock))
        return values | {
            f"time/{name}": share
            for name, share in _with_rest(shares_of(clock, before, elapsed - then)).items()
        }

    def _rate(self) -> tuple[float, float]:
        now, steps, updates = time.perf_counter(), self.counters.steps, self.parts.learner.version
        self._rates.append((now, steps, updates))
        while len(self._rates) > 2 and now - self._rates[0][0] > WINDOW:
            self._rates.popleft()
        then, old_steps, old_updates = self._rates[0]
        seconds = now - then
        if seconds <= 0:
            return 0.0, 0.0
        return (steps - old_steps) / seconds, (updates - old_updates) / seconds

    def _evaluate(self) -> None:
        """Judge the newest weights: here, or beside the run where it has roles side by side."""
        if self.evaluator is not None:
            self.evaluator.ask(self.counters.steps)
            return
        parts = self.parts
        try:
            episodes = evaluate(
                parts.experiment,
                parts.algorithm,
                parts.learner.acting,
                self.config.evaluate_episodes,
                self.config.seed + EVALUATION_SEED,
                after_step=self._heed_interrupt,
            )
        except Interruption:
            return
        self._write_evaluation(self.counters.steps, [episode.episode_return for episode in episodes])

    def _heed_interrupt(self, *_: Any) -> None:
        if self.interrupt():
            raise Interruption

    def _hear_evaluator(self, patience: float = 0.0) -> None:
        if self.evaluator is None:
            return
        answer = self.evaluator.answer(patience, lambda: self.interrupt.at is not None)
        if answer is not None:
            self._write_evaluation(*answer)

    def _write_evaluation(self, steps: int, returns: list[float]) -> None:
        values = {
            "evaluation/return": float(np.mean(returns)),
            "evaluation/min": min(returns),
            "evaluation/max": max(returns),
            "evaluation/steps": float(steps),
        }
        self.writer.write(self.counters.steps, values)

    def _save(self) -> None:
        begin, best = time.perf_counter(), self.counters.at_best()
        if best:  # judged now: the weights of a higher mean that passed since the last checkpoint are gone
            self.counters.best = float(np.mean(self.counters.returns))
        state = self.state()
        # Before anything is written: each checkpoint of weights that have diverged would drive a good one out.
        _finite(self.metrics, self.parts.learner, self.counters.steps)
        self.writer.sync()
        keep = self.config.keep
        save_checkpoint(self.folder.checkpoints, self.counters.steps, state, keep=keep, best=best)
        self._saved = time.perf_counter()
        self._save_seconds = self._saved - begin

    def _show(self, *, force: bool = False) -> None:
        now = time.perf_counter()
        if not force and now - self._shown < SHOW_EVERY:
            return
        self._shown = now
        counters, parts = self.counters, self.parts
        steps, updates = self._rate()
        self.observer.update(
            Progress(
                steps=counters.steps,
                total_steps=self.config.steps,
                frames=counters.steps * parts.spec.action_repeat,
                updates=parts.learner.version,
                episodes=counters.episodes,
                elapsed=counters.elapsed,
                steps_per_second=steps,
                updates_per_second=updates,
                action_repeat=parts.spec.action_repeat,
                returns=list(counters.returns),
                lengths=list(counters.lengths),
                shares=_with_rest(self._lately.of(self.loop.clock)),
                metrics={name: float(value) for name, value in self.metrics.items()},
                events=self.loop.events(),
                gauges=self.loop.gauges(),
                predicted=self.expected,
            )
        )

    def close(self) -> None:
        """Close environments, files and threads. Safe to call twice."""
        self.loop.close()
        if self.evaluator is not None:
            self.evaluator.close()
        self.writer.close()
        self.parts.close()


@contextlib.contextmanager
def _restoring(loaded: Loaded) -> Iterator[None]:
    """Whatever goes wrong meanwhile is told in one line, as what it is and with the checkpoint's path."""
    try:
        yield
    except (UserError, Interruption):  # lines of their own
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")
        raise RunError(f"cannot go on from the checkpoint {loaded.path}: {what}") from error


def _finite(metrics: Metrics, learner: Learner, steps: int) -> dict[str, float]:
    """The metrics as they are written. Raises: RunError where one of them, or a weight, is not finite."""
    losses = {f"loss/{name}": float(value) for name, value in metrics.items()}
    broken = [name for name, value in losses.items() if not np.isfinite(value)]
    if not broken and not torch.isfinite(learner.flat).all():
        broken = ["a weight"]
    if broken:
        raise RunError(
            f"{broken[0]} is not finite after {steps} agent steps: lower learner.learning_rate "
            f"(now {learner.learning_rate:g}) or set learner.max_grad_norm; the last checkpoint is whole"
        )
    return losses


def _writer(folder: RunFolder, experiment: Experiment) -> MetricsWriter:
    config = without_secrets(json.loads(json.dumps(asdict(experiment), default=str)))
    run = experiment.run
    return MetricsWriter(folder.path, tensorboard=run.tensorboard, wandb=run.wandb, config=config)


def _with_rest(shares: dict[str, float]) -> dict[str, float]:
    return shares | {"other": max(1.0 - sum(shares.values()), 0.0)}


def _expected(experiment: Experiment) -> Expected | None:
    found = expectation(experiment)
    return None if found is None else Expected(found.steps_per_second, found.error, found.utilisation)


def train(
    experiment: Experiment,
    open_folder: Callable[[Parts], RunFolder],
    write_config: Callable[[RunFolder, Parts], None],
    observer: Observer,
    restored: Loaded | None = None,
) -> Training:
    """Assemble, open the run's folder (only now, when nothing is left to refuse), restore, write the config, train.

    The returned training is closed and holds counters and parts.
    """
    with one_thread_each():
        parts = assemble(experiment)
        fresh = parts.experiment.replay
        if restored is not None:
            parts.experiment = with_saved_replay(parts.experiment, experiment, restored.state)
        training: Training | None = None
        reason = ""
        try:
            loop = make_loop(parts)
            try:
                folder = open_folder(parts)
                training = Training(parts, loop, folder, observer, restored)
            except BaseException:
                loop.close()
                raise
            write_config(folder, parts)  # only now: where the restoring failed, the old one stays
            training.expected = _expected(parts.experiment)
            reason = "failed"
            observer.start(folder.name, str(folder.path), rules(parts))
            if restored is not None and not training.exact:
                observer.message(inexact(restored.state["loop"], parts.experiment))
            kept = parts.experiment.replay
            if kept is not None and fresh is not None and kept.capacity < fresh.capacity:
                observer.message(
                    f"the replay keeps room for the {kept.capacity:,} transitions that the run was first given steps "
                    f"for; a new run of as many steps would have room for {fresh.capacity:,}"
                )
            reason = training.run()
            return training
        finally:
            if training is not None:
                if reason:
                    observer.stop(reason)
                training.close()
            parts.close()
