"""What is chosen without measuring: where roles live, and in what an actor computes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

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
from redline.types import Spec, UserError

ROOT = Path(__file__).parents[2]
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


@pytest.mark.parametrize("threaded", [True, False])
def test_an_environment_that_no_process_can_import_stays_in_threads(threaded: bool) -> None:
    made = pong("impala_atari")
    made = replace(made, environment=replace(made.environment, id=lambda: None))
    spec = replace(PONG, threaded=threaded)
    assert parallelism(made, spec, 16).runtime == "threads"
    made = replace(made, parallel=replace(made.parallel, runtime="processes"))
    with pytest.raises(
        UserError, match=r"runtime=processes: environment .*lambda.* cannot be sent.*; use threads"
    ):
        parallelism(made, spec, 16)


@pytest.mark.parametrize(
    ("architecture", "works"), [("gorila", False), ("accel_async", False), ("a3c", True)]
)
def test_what_windows_cannot_hand_to_processes(
    monkeypatch: pytest.MonkeyPatch, architecture: str, works: bool
) -> None:
    monkeypatch.setattr(plan, "WINDOWS", True, raising=False)
    made = pong("a3c_atari")
    asked = replace(made.parallel, architecture=architecture, runtime="processes")
    if works:
        assert parallelism(replace(made, parallel=asked), PONG, 16).runtime == "processes"
    else:
        with pytest.raises(UserError, match=f"architecture {architecture} needs Linux or macOS; use threads"):
            parallelism(replace(made, parallel=asked), PONG, 16)
        left = replace(made, parallel=replace(asked, runtime="auto"))
        assert parallelism(left, PONG, 16).runtime == "threads"


COMMAND = """
import gymnasium, redline
def make():
    return gymnasium.make("CartPole-v1")
if __name__ == "__main__":
    redline.train(make, "impala", steps=200, folder={folder!r}, overrides={overrides!r})
"""


@pytest.mark.slow
def test_what_a_command_line_defines_is_trained_in_threads_and_a_scripts_may_have_processes(
    tmp_path: Path,
) -> None:
    overrides = ["run.tensorboard=false", "sampler.num_envs=2", "parallel.copies=2", "learner.precision=fp32"]
    script = tmp_path / "script.py"
    script.write_text(COMMAND.format(folder=str(tmp_path / "script"), overrides=overrides))
    text = COMMAND.format(folder=str(tmp_path / "command"), overrides=overrides)
    for words, runtime in (([script], "processes"), (["-c", text], "threads")):
        done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        [config] = (tmp_path / ("command" if "-c" in words else "script")).glob("*/config.yaml")
        assert f"runtime: {runtime}" in config.read_text()


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
