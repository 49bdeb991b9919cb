"""What is chosen without measuring: where roles live, and in what an actor computes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from gymnasium import spaces

from redline import api, recipes
from redline.runtime import plan
from redline.runtime.crew import acting
from redline.runtime.crew.acting import ActingNetwork
from redline.runtime.crew.weights import WeightStore
from redline.runtime.experiment import Experiment
from redline.runtime.parts import assemble, rules
from redline.runtime.plan import parallelism, resolve
from redline.types import Spec

PONG = Spec(
    "ALE/Pong-v5",
    observation=spaces.Box(0, 255, (4, 84, 84), "uint8"),
    action=spaces.Discrete(6),
    frame_stack=4,
    threaded=True,
)


def pong(recipe: str) -> Experiment:
    made = recipes.find(recipe, "ALE/Pong-v5")
    return replace(made, environment=replace(made.environment, id="ALE/Pong-v5"))


@pytest.mark.parametrize(
    ("recipe", "cores", "runtime", "copies"),
    [
        ("impala_atari", 2, "threads", 1),
        ("impala_atari", 4, "threads", 3),
        ("impala_atari", 16, "processes", 15),
        ("apex_atari", 16, "processes", 15),
        ("a3c_atari", 2, "threads", 2),
        ("a3c_atari", 16, "processes", 16),
        ("seed_atari", 16, "threads", 4),  # its workers have no network
    ],
)
def test_a_few_actors_share_an_interpreter_and_many_get_their_own(
    recipe: str, cores: int, runtime: str, copies: int
) -> None:
    found = parallelism(pong(recipe), PONG, cores)
    assert (found.runtime, found.copies) == (runtime, copies)


def test_actor_threads_leave_an_environment_for_every_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "usable_cores", lambda: 8)
    made = pong("ppo_atari")
    made = replace(made, learner=replace(made.learner, device="cpu"))
    made = replace(made, sampler=replace(made.sampler, num_envs=4, groups=2))
    assert resolve(made, PONG, 1_000_000).sampler.shards == 2


def test_an_environment_that_no_process_can_import_stays_in_threads() -> None:
    made = pong("impala_atari")
    made = replace(made, environment=replace(made.environment, id=lambda: None))
    assert parallelism(made, PONG, 16).runtime == "threads"


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_actors_beside_a_gpu_compute_in_what_their_processor_multiplies(
    monkeypatch: pytest.MonkeyPatch, native: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(acting, "has_bf16", lambda _: native)
    made = pong("impala_atari")
    made = replace(made, learner=replace(made.learner, device="cuda", precision="bf16"))
    network = ActingNetwork(made, PONG, "actor_critic")
    weights = [parameter.detach() for parameter in network.module.parameters()]
    assert {weight.dtype for weight in weights} == {dtype}
    sizes = [view.nbytes for view in network._views]
    assert sizes[0] == 2 * sum(weight.numel() for weight in weights)  # what travels is bf16 either way
    store = WeightStore(sizes, shared=False)
    new = torch.full((sizes[0] // 2,), 0.375, dtype=torch.bfloat16)
    views = [new.view(torch.uint8).numpy(), *network._views[1:]]
    store.publish(views, 7)
    assert network.read(store) == 7
    assert all(bool((weight == 0.375).all()) for weight in weights)
    store.close()


@pytest.mark.parametrize(
    ("recipe", "settings", "where"),
    [
        ("ppo", ["sampler.shards=2"], "8 environments in 2 actor thread(s)"),
        ("impala", ["parallel.runtime=processes"], "8 environments in 2 actor(s), in processes"),
        ("seed", ["parallel.runtime=threads"], "8 environments in 2 worker(s), in threads"),
        (
            "a3c",
            ["parallel.runtime=threads", "sampler.num_envs=8"],
            "8 environments in 2 worker(s), in threads",
        ),
    ],
)
def test_the_rules_say_who_steps_the_environments(recipe: str, settings: list[str], where: str) -> None:
    more = [*settings, *(["parallel.copies=2"] if recipe != "ppo" else []), "sampler.num_envs=8"]
    parts = assemble(api.make_experiment("CartPole-v1", recipe, overrides=more))
    assert any(rule.endswith(where) for rule in rules(parts)), rules(parts)
    parts.close()
