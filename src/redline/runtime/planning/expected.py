"""What a run is expected to do, where its experiment has been measured: the planner's model, of the run as it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from redline.planner.choose import predict
from redline.planner.costs import Prediction
from redline.planner.options import Option
from redline.runtime.experiment import Experiment, uses_replay
from redline.runtime.planning import cache
from redline.runtime.planning.candidates import acts_where_it_learns, paced_on, ratio_on
from redline.runtime.planning.machine import this_machine


def option_of(experiment: Experiment) -> Option:
    """The option that an experiment is, whose automatic choices are made."""
    parallel, sampler, learner = experiment.parallel, experiment.sampler, experiment.learner
    algorithm: Any = experiment.algorithm
    copies = 1 if parallel.architecture == "synchronous" else parallel.copies
    unroll = 1 if uses_replay(experiment) else algorithm.unroll
    if parallel.architecture == "apex":
        unroll = max(parallel.slot, 1)
    place = "cpu" if learner.device == "cpu" else "cuda"
    acts_on_gpu = acts_where_it_learns(parallel.architecture)
    return Option(
        architecture=parallel.architecture,
        runtime=parallel.runtime,
        copies=copies,
        environments=max(sampler.num_envs // copies, 1),
        unroll=unroll,
        queue=parallel.queue or 0,
        groups=sampler.groups,
        shards=sampler.shards,
        threads=learner.threads,
        act_on=f"{place if acts_on_gpu else 'cpu'} {learner.precision}",
        learn_on=f"{place} {learner.precision}",
        servers=max(parallel.servers, 1),
        workers=experiment.environment.workers,
        ratio=ratio_on(experiment, parallel.architecture, parallel.queue),
        paced=paced_on(experiment, parallel.architecture),
        take=parallel.batch,
        largest=parallel.max_batch,
        apart=parallel.replay == "process",
        polite=parallel.give_way,
    )


def expectation(experiment: Experiment) -> Prediction | None:
    """What the model says of a run whose automatic choices are made; None where its pieces were never measured."""
    machine = this_machine()
    option = option_of(experiment)
    for costs in cache.known(experiment, machine):
        if not option.act_on.startswith("cuda"):  # actors on the CPU compute as was found best there
            option = replace(option, act_on=next(place for place in costs.learn if place.startswith("cpu")))
        if option.learn_on in costs.learn and option.act_on in costs.act:
            try:
                return predict(option, costs, machine)
            except (
                KeyError,
                ValueError,
            ):  # an arrangement that the model knows nothing of: it goes on without
                return None
    return None
