"""The evaluator's job: play greedy episodes with published weights while training goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from redline.runtime.crew.acting import ActingNetwork
from redline.runtime.crew.board import Board, patience
from redline.runtime.crew.ports import Port
from redline.runtime.crew.processes import ProcessCrew
from redline.runtime.crew.region import Region
from redline.runtime.crew.threads import LOOK, Crew, ThreadCrew
from redline.runtime.crew.weights import Publication, WeightStore
from redline.runtime.evaluate import evaluate
from redline.runtime.experiment import Experiment, make_algorithm
from redline.runtime.parts import Parts
from redline.types import Spec


@dataclass
class EvaluatorJob:
    """What an evaluator needs to know."""

    experiment: Experiment
    spec: Spec
    weights: WeightStore
    returns: Region  # f64[episodes]
    seed: int
    board: Board
    name: str = "evaluator"

    def run(self, port: Port) -> None:
        """Play with the newest weights for each number that comes, and send it back when the returns are there."""
        algorithm = make_algorithm(self.experiment, self.spec)
        network = ActingNetwork(self.experiment, self.spec, algorithm.network_kind)
        returns = self.returns.arrays["returns"]
        while True:
            self.board.rest(0)
            number = port.get()
            self.board.begin(0)
            network.read(self.weights)
            episodes = evaluate(
                self.experiment,
                algorithm,
                network.module,
                len(returns),
                self.seed,
                after_step=lambda *_: self.board.begin(0),
            )
            returns[:] = [episode.episode_return for episode in episodes]
            port.put(number)


class Evaluator:
    """An evaluator beside a run: ``ask`` hands it the newest weights, ``answer`` is what it found, once it has."""

    def __init__(self, parts: Parts, seed: int) -> None:
        run = parts.experiment.run
        shared = parts.experiment.parallel.runtime == "processes"
        self._publication = Publication(parts.learner)
        self._weights = WeightStore(self._publication.sizes, shared=shared)
        self._returns = Region({"returns": ((run.evaluate_episodes,), "float64")}, shared=shared)
        self._board = Board(1, shared=shared)
        job: Any = EvaluatorJob(parts.experiment, parts.spec, self._weights, self._returns, seed, self._board)
        wait = patience(self._board, parts.experiment.environment.step_timeout)
        # A thread that hangs cannot be ended, and a run may go on without being judged.
        self._crew: Crew = ProcessCrew([job], patience=wait) if shared else ThreadCrew([job])
        self._asked: int | None = None  # agent steps of the weights that are being judged

    def ask(self, steps: int) -> bool:
        """Judge the newest weights, of ``steps`` agent steps; False while it is still busy with older ones."""
        if self._asked is not None:
            return False
        self._weights.publish(self._publication.views(), steps)
        self._crew.tell(0, 0)
        self._asked = steps
        return True

    def answer(self, timeout: float = 0.0, stop: Callable[[], bool] = bool) -> tuple[int, list[float]] | None:
        """(agent steps of the weights, returns) when it is done; None where it is not within ``timeout`` seconds, or
        before ``stop`` says not to wait any longer."""
        until = time.monotonic() + timeout
        while self._asked is not None:
            if self._crew.wait(min(max(until - time.monotonic(), 0.0), LOOK)):
                steps, self._asked = self._asked, None
                return steps, self._returns.arrays["returns"].tolist()
            if self._crew.revived():  # it was killed: ask its successor
                self._crew.tell(0, 0)
            if stop() or time.monotonic() >= until:
                break
        return None

    def close(self) -> None:
        """End it. Safe to call twice."""
        self._crew.close()
        for each in (self._weights, self._returns, self._board):
            each.close()
