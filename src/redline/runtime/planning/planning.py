"""Measure, predict, choose, verify: from an experiment to a plan."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from redline import environments
from redline.architectures.catalogue import find
from redline.architectures.compatible import refusal
from redline.environments.workers.kept import kept_processes
from redline.planner.choose import CLOSE, choose, rank, speed_of
from redline.planner.costs import Machine
from redline.planner.machines import WhatIf, carried_over
from redline.planner.measured import Costs
from redline.planner.options import Plan, Ranked
from redline.runtime.experiment import Experiment, make_algorithm
from redline.runtime.plan import choose_device
from redline.runtime.planning import cache
from redline.runtime.planning.candidates import Search, configure, options
from redline.runtime.planning.machine import this_machine
from redline.runtime.planning.probe import probe
from redline.runtime.planning.trial import try_out
from redline.types import RunError, Spec, UserError

Say = Callable[[str], None]
TRIED = 3  # plans that are run, beside the best single loop
SECONDS = 4.0  # of each


def costs_of(experiment: Experiment, *, fresh: bool = False, say: Say = lambda _: None) -> Costs:
    """What the experiment costs on this machine: as measured before, or now.

    Raises: UserError where the experiment cannot run at all; RunError where its environment breaks while it is timed.
    """
    key = cache.key_of(experiment, this_machine())
    known = None if fresh else cache.load(key)
    if known is not None:
        say("measured before: --fresh measures again")
        return known
    try:
        costs = probe(experiment, lambda what: say(f"measuring {what}"))
    except (UserError, RunError, KeyboardInterrupt):
        raise
    except Exception as error:
        name = environments.name_of(experiment.environment)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RunError(f"{name} failed while it was measured: {type(error).__name__}: {reason}") from error
    unkept = cache.save(key, costs)
    return costs if unkept is None else replace(costs, notes=(*costs.notes, unkept))


@kept_processes()  # they serve the trials too
def make_plan(
    experiment: Experiment,
    *,
    what_if: WhatIf | None = None,
    machine: Machine | None = None,
    verify: bool = True,
    fresh: bool = False,
    only: str | None = None,
    asked: Collection[str] = (),
    say: Say = lambda _: None,
) -> Plan:
    """The best way to run an experiment.

    Args:
        what_if: changes to the machine or the environment.
        machine: another machine than this one; plans for it are not run.
        verify: whether the best plans are run for some seconds.
        fresh: measure even where it was measured before.
        only: an architecture that it shall be.
        asked: settings (``parallel.copies``) that a plan may not change.
        say: told what is being done.

    Raises: UserError, where nothing can run it, with the reason. RunError.
    """
    device, elsewhere = experiment.learner.device, what_if is not None or machine is not None
    if not (elsewhere and device.startswith("cuda")):  # a GPU that is only asked about need not be here
        choose_device(device)  # what cannot be is refused before a minute of measuring
    spec = environments.probe(experiment.environment)
    if only is not None:
        _check(experiment, spec, only)
    costs = costs_of(experiment, fresh=fresh, say=say)
    target = machine or costs.machine
    if machine is not None:
        costs = carried_over(costs, machine)
    if what_if is not None:
        costs, target = what_if.apply(costs, target)
    search = Search(experiment, spec, costs, target, only, frozenset(asked))
    found, refused = options(search)
    if not found:
        raise UserError(refused[0] if refused else f"no architecture runs {experiment.recipe}")
    say(f"predicting {len(found)} plans")
    ranked = rank(found, costs, target, search.unroll, steps=experiment.run.steps)
    if verify and not elsewhere:
        ranked = _verified(experiment, ranked, say)
    plan = Plan(
        costs,
        target,
        ranked,
        choose(ranked),
        what_if=what_if.text if what_if is not None else "",
        refused=refused,
    )
    return _chosen_first(plan)


def _check(experiment: Experiment, spec: Spec, only: str) -> None:
    """Refuse an architecture that does not exist, or that the algorithm cannot run on. Raises: UserError."""
    algorithm = make_algorithm(experiment, spec)
    reasons = [refusal(find(only).sized(copies, 0), algorithm) for copies in (1, 2)]
    if all(reasons):
        raise UserError(str(reasons[0]))


def _verified(experiment: Experiment, ranked: list[Ranked], say: Say) -> list[Ranked]:
    """The most promising plans with what they did when they were run."""
    done = list(ranked)
    for index in to_try(ranked):
        say(f"trying {ranked[index].option.name}")
        try:
            measured = try_out(configure(experiment, ranked[index].option), SECONDS)
        except UserError as error:
            say(f"{ranked[index].option.name} cannot run: {error}")
            continue
        done[index] = replace(ranked[index], measured=measured)
    return sorted(done, key=lambda each: (each.measured is None, -speed_of(each)))


def to_try(ranked: list[Ranked]) -> list[int]:
    """The best of each kind of plan, ``TRIED`` of them; a tie of the best one; and the best single loop."""
    seen: dict[tuple[str, str, bool], int] = {}
    for index, each in enumerate(ranked):
        seen.setdefault(each.option.kind, index)
    first = sorted(seen.values())[:TRIED]
    if len(first) < TRIED:  # one architecture alone: its next best sizes
        first += [index for index in range(len(ranked)) if index not in first][: TRIED - len(first)]
    # Sizes of one arrangement are often predicted alike, and are not.
    ties = [
        k for k in range(len(ranked)) if k not in first and ranked[k].speed >= (1 - CLOSE) * ranked[0].speed
    ]
    first += ties[:1]
    loop = seen.get(("synchronous", "in_process", False))
    return first if loop is None or loop in first else [*first, loop]


def _chosen_first(plan: Plan) -> Plan:
    chosen = plan.best
    rest = [each for index, each in enumerate(plan.ranked) if index != plan.chosen]
    return replace(plan, ranked=[chosen, *rest], chosen=0)
