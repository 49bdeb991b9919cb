"""Which plans there are: what learning depends on stays as the recipe has it, and what cannot run is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from redline import api, environments
from redline.architectures.compatible import refusal
from redline.planner.costs import Machine
from redline.planner.options import Option
from redline.planner.profiles import published, with_gpu
from redline.planner.workload import architecture_of, workload
from redline.recipes.config import override
from redline.runtime.experiment import ALGORITHMS, Experiment, make_algorithm
from redline.runtime.plan import resolve
from redline.runtime.planning.candidates import ASYNCHRONOUS, Search, configure, options
from redline.runtime.planning.expected import option_of
from redline.runtime.replicas.share import check_shares
from tests.runtime.planning.costs import MACHINE, costs_for


def search_of(recipe: str, only: str | None = None, machine: Machine = MACHINE, **costs: float) -> Search:
    experiment = api.make_experiment("CartPole-v1", recipe)
    spec = environments.probe(experiment.environment)
    return Search(experiment, spec, costs_for(experiment, **costs), machine, only)


@pytest.mark.parametrize("recipe", ["ppo", "impala", "a2c", "dqn", "apex", "n_step_q"])
def test_plans_keep_the_batch_and_run(recipe: str) -> None:
    """Every option makes an experiment that the launcher would accept, with the recipe's samples in a batch."""
    search = search_of(recipe)
    found, _ = options(search)
    assert len(found) >= 5
    algorithm: Any = search.experiment.algorithm
    for option in found:
        experiment = configure(search.experiment, option)
        mine: Any = experiment.algorithm
        if search.replays:
            assert (mine.batch, mine.update_every) == (algorithm.batch, algorithm.update_every)
        else:
            assert experiment.sampler.num_envs * mine.unroll == search.costs.batch
        make_algorithm(experiment, search.spec)
        assert refusal(architecture_of(option), ALGORITHMS[type(mine)]) is None
        assert option.copies * option.environments == experiment.sampler.num_envs


def test_on_policy_learning_gets_no_replay_and_no_lag_it_cannot_bear() -> None:
    found, refused = options(search_of("ppo"))
    assert {option.architecture for option in found} == {"synchronous", "impala", "seed", "accel_sync"}
    assert all((option.lag_bound or 0) <= 1 for option in found)
    assert any("apex: on-policy" in reason for reason in refused)


def test_replay_learning_gets_no_architecture_without_a_replay() -> None:
    search = search_of("dqn")
    found, refused = options(search)
    algorithm: Any = search.experiment.algorithm
    assert "apex" in {option.architecture for option in found}
    assert not {"impala", "seed"} & {option.architecture for option in found}
    assert len(refused) == 2
    assert all(option.ratio == algorithm.batch / algorithm.update_every for option in found)


def test_batches_of_each_copys_own_are_only_for_recipes_made_for_them() -> None:
    assert not set(ASYNCHRONOUS) & {option.architecture for option in options(search_of("a2c"))[0]}
    assert "a3c" in {option.architecture for option in options(search_of("a3c"))[0]}
    assert {option.architecture for option in options(search_of("a2c", only="accel_async"))[0]} == {
        "accel_async"
    }


def test_waiting_environments_get_more_copies_than_there_are_cores() -> None:
    busy = max(option.copies for option in options(search_of("impala"))[0])
    waiting = max(option.copies for option in options(search_of("impala", wait=5e-3))[0])
    assert busy <= 2 * MACHINE.cores < waiting


def test_actors_that_shall_not_give_way_do_not_in_any_plan() -> None:
    search = search_of("impala", only="impala")
    equal = replace(search, experiment=override(search.experiment, ["parallel.give_way=false"]))
    assert all(option.polite for option in options(search)[0])
    assert not any(option.polite for option in options(equal)[0])


def test_an_architecture_that_wants_two_copies_says_so_where_there_is_room_for_one() -> None:
    found, refused = options(search_of("impala", only="seed", machine=replace(MACHINE, cores=1)))
    assert not found
    assert refused == ["seed: wants two copies at least, and here are 8 environments and 1 core(s)"]


def test_memory_is_a_limit() -> None:
    small = replace(MACHINE, memory=600 * 2**20)
    found, refused = options(search_of("impala", machine=small))
    assert found
    assert max(option.memory for option in found) <= small.memory
    assert len(found) < len(options(search_of("impala"))[0])
    del refused


@pytest.mark.parametrize("recipe", ["ppo", "impala", "dqn"])
def test_settings_make_the_option(recipe: str) -> None:
    """What is printed for ``--set`` gives the same experiment as the option itself."""
    search = search_of(recipe)
    for option in options(search)[0]:
        words = [f"{key}={_yaml(value)}" for key, value in option.settings.items()]
        assert override(search.experiment, words) == configure(search.experiment, option)


def _yaml(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.parametrize("recipe", ["ppo", "impala", "dqn"])
def test_a_run_is_found_again_as_the_option_that_made_it(recipe: str) -> None:
    """So that a run in progress is compared with the prediction of the very plan."""
    search = search_of(recipe)
    search = replace(search, machine=replace(MACHINE, cores=2))
    equal = replace(search, experiment=override(search.experiment, ["parallel.give_way=false"]))
    plans = [(each, option) for each in (search, equal) for option in options(each)[0]]
    for search, option in plans:
        resolved: Experiment = resolve(configure(search.experiment, option), search.spec, 1000)
        again = option_of(resolved)
        same = (
            *("architecture", "copies", "environments", "unroll", "queue", "threads", "ratio", "learn_on"),
            *("polite", "apart"),
        )
        assert [getattr(again, name) for name in same] == [getattr(option, name) for name in same], option


def test_workloads_share_a_batch_out() -> None:
    """A copy of a synchronous data-parallel plan learns from its share, which costs more than its part."""
    search = search_of("a2c")
    one = next(
        o for o in options(search)[0] if o.architecture == "synchronous" and o.threads == o.shards == 1
    )
    four = Option("accel_sync", "threads", 4, one.environments // 4, one.unroll)
    whole = workload(one, search.costs, MACHINE).learn.core
    part = workload(four, search.costs, MACHINE).learn.core
    assert whole / 4 < part < whole


@pytest.mark.parametrize("recipe", ["ppo_lstm", "ppo", "dqn"])
def test_every_plan_of_a_large_machine_can_be_trained(recipe: str) -> None:
    """Each copy's share, too: not more minibatches than it has environments."""
    search = search_of(recipe, machine=replace(MACHINE, cores=16))
    for option in options(search)[0]:
        resolved = resolve(configure(search.experiment, option), search.spec, 1000)
        if architecture_of(option).shares_gradients:
            check_shares(resolved, search.spec)


def test_a_batch_that_takes_few_unrolls_takes_the_same_share_of_more() -> None:
    search = search_of("impala", only="impala")
    asked = override(search.experiment, ["parallel.copies=4", "parallel.batch=2", "sampler.num_envs=16"])
    asked = override(asked, ["parallel.architecture=impala"])
    for option in options(replace(search, experiment=asked))[0]:
        assert configure(asked, option).parallel.batch == max(round(option.copies / 2), 1)


def test_a_learner_may_have_threads_between_those_measured() -> None:
    search = search_of("ppo", only="synchronous", machine=replace(MACHINE, cores=8))
    learn = {"cpu fp32": {1: 20e-3, 16: 4e-3}}
    found, _ = options(replace(search, costs=replace(search.costs, learn=learn)))
    assert {option.threads for option in found} == {1, 2, 4, 8}


def with_a_gpu(recipe: str, *asked: str) -> list[Option]:
    search = search_of(recipe, machine=replace(MACHINE, gpus=published("h100")))
    costs = with_gpu(search.costs, published("h100"))
    experiment = override(search.experiment, list(asked))
    return options(replace(search, costs=costs, experiment=experiment))[0]


def test_plans_keep_to_the_device_and_the_precision_that_were_asked_for() -> None:
    assert {option.learn_on for option in with_a_gpu("ppo")} == {"cpu fp32", "cuda fp32", "cuda bf16"}
    assert {option.learn_on for option in with_a_gpu("ppo", "learner.device=cpu")} == {"cpu fp32"}
    on_gpu = with_a_gpu("ppo", "learner.device=cuda", "learner.precision=fp32")
    assert {option.learn_on for option in on_gpu} == {"cuda fp32"}


def test_who_learns_on_a_gpu_acts_there_and_a_loop_may_alternate() -> None:
    for option in with_a_gpu("ppo"):
        if option.architecture in ("synchronous", "seed", "accel_sync"):
            assert option.act_on == option.learn_on
        else:
            assert option.act_on == "cpu fp32"
    loops = [each for each in with_a_gpu("ppo") if each.architecture == "synchronous" and each.workers < 2]
    assert {each.groups for each in loops if each.learn_on.startswith("cuda")} == {1, 2}
    assert {each.groups for each in loops if each.learn_on.startswith("cpu")} == {1}


def test_apex_counts_updates_by_steps_but_beside_actors_of_its_own() -> None:
    """Where collecting and learning take turns (``DQN.due``); beside actors it goes at its own rate, up to a bound."""
    search = search_of("apex")
    algorithm: Any = search.experiment.algorithm
    by_steps = algorithm.batch / algorithm.update_every
    for option in options(search)[0]:
        beside = option.architecture == "apex"
        assert (option.ratio, option.paced) == ((None, False) if beside else (by_steps, True)), option
    bound = override(search.experiment, ["parallel.replay_ratio=3"])
    bounded = next(each for each in options(replace(search, experiment=bound, only="apex"))[0])
    assert (bounded.ratio, bounded.paced) == (3.0, False)
    assert not workload(bounded, search.costs, MACHINE).paced, "its actors never wait"
    turns = override(search.experiment, ["parallel.queue=0"])
    found, _ = options(replace(search, experiment=turns, only="apex"))
    assert {option.ratio for option in found} == {by_steps}


@pytest.mark.parametrize(
    ("setting", "held"),
    [
        ("parallel.copies=4", lambda made: made.parallel.copies == 4),
        ("sampler.num_envs=8", lambda made: made.sampler.num_envs == 8),
        ("learner.threads=2", lambda made: made.learner.threads == 2),
        ("parallel.batch=1", lambda made: made.parallel.batch == 1),
        ("environment.backend=workers", lambda made: made.environment.backend == "workers"),
    ],
)
def test_what_was_asked_for_no_plan_changes(setting: str, held: Any) -> None:
    search = search_of("impala")
    asked = override(search.experiment, [setting])
    kept = replace(search, experiment=asked, asked=frozenset([setting.partition("=")[0], "run.seed"]))
    found, refused = options(kept)
    assert found
    assert all(held(configure(asked, option)) for option in found)
    if setting == "parallel.copies=4":
        assert any("synchronous: no plan keeps parallel.copies=4" in reason for reason in refused)
    open_ = override(search.experiment, ["parallel.copies=0"])
    left = options(replace(search, experiment=open_, asked=frozenset(["parallel.copies"])))[0]
    assert len({option.copies for option in left}) > 1, "0 leaves it open"


def test_a_learner_beside_actors_may_have_the_cores_that_they_leave() -> None:
    found, _ = options(search_of("impala", machine=replace(MACHINE, cores=8)))
    threads = {(option.copies, option.threads) for option in found if option.architecture == "impala"}
    assert {(1, 1), (1, 7), (4, 1), (4, 4), (8, 1)} <= threads
    assert {option.threads for option in found if option.architecture == "accel_sync"} == {1}


def test_the_gpu_that_was_asked_for_is_the_one() -> None:
    asked = override(search_of("ppo").experiment, ["learner.device=cuda:1"])
    option = Option("synchronous", "in_process", 1, 8, 32, act_on="cuda fp32", learn_on="cuda fp32")
    assert configure(asked, option).learner.device == "cuda:1"


def test_a_batch_of_fewer_unrolls_is_a_smaller_one() -> None:
    search = search_of("impala", only="impala")
    asked = override(
        search.experiment, ["parallel.architecture=impala", "parallel.copies=4", "parallel.batch=1"]
    )
    option = next(o for o in options(replace(search, experiment=asked))[0] if o.copies == 4)
    edge = architecture_of(option).edge("unroll")
    assert edge is not None
    assert edge.take == option.take == 1
    learn = workload(option, search.costs, MACHINE).learn.core
    whole = workload(replace(option, take=0), search.costs, MACHINE).learn.core
    assert whole / 4 <= learn < whole


def test_a_replay_in_files_needs_no_memory() -> None:
    search = search_of("dqn", only="synchronous")
    mapped = override(search.experiment, ["replay.memory_map=somewhere"])
    plain, there = (options(replace(search, experiment=e))[0][0] for e in (search.experiment, mapped))
    assert there.memory < plain.memory
