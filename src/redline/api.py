"""The Python side: train, resume, load, evaluate, record. The command line calls these and nothing else."""

from __future__ import annotations

import contextlib
import importlib.util
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from redline.architectures.compatible import without_effect
from redline.environments.workers.spawning import leave_if_imported
from redline.planner.choose import predict
from redline.planner.costs import Machine
from redline.planner.explaining.explain import Explanation
from redline.planner.explaining.explain import explain as explain_plan
from redline.planner.machines import parse_what_if
from redline.planner.options import Plan
from redline.recipes import family_of, find
from redline.recipes.config import load_yaml, override, save_yaml, to_dict
from redline.reports.html import write_report
from redline.runs.checkpoint import Loaded, best_checkpoint, list_checkpoints, load_checkpoint, load_newest
from redline.runs.counters import FEWEST
from redline.runs.folder import RunFolder
from redline.runs.metrics import import_wandb
from redline.runs.provenance import provenance
from redline.runtime import training
from redline.runtime.evaluate import Policy
from redline.runtime.evaluate import evaluate as play_episodes
from redline.runtime.experiment import ALGORITHMS, Experiment
from redline.runtime.parts import Parts, rules
from redline.runtime.planning.planning import make_plan
from redline.runtime.planning.trial import try_out
from redline.runtime.pool import one_thread_each
from redline.types import Environment, Observer, Progress, RunError, Step, UserError

DEFAULT_RECIPE = "ppo"
Which = str  # "latest", "best", or the path of one of the run's checkpoint folders


class Interrupted(Exception):
    """The run was interrupted, and a checkpoint written: ``redline.resume(error.run)`` goes on with it."""

    def __init__(self, run: str) -> None:
        super().__init__(f"interrupted; checkpoint written: go on by `redline resume {shlex.quote(run)}`")
        self.run = run


class Quiet:
    """An observer that shows nothing."""

    def start(self, name: str, folder: str, rules: Sequence[str]) -> None:
        """Nothing."""

    def update(self, progress: Progress) -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""

    def stop(self, reason: str) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Evaluation:
    """Whole episodes played without learning."""

    returns: list[float]
    lengths: list[int]  # agent steps

    @property
    def mean_return(self) -> float:
        """Mean of the returns."""
        return float(np.mean(self.returns))

    @property
    def median_return(self) -> float:
        """Median of the returns."""
        return float(np.median(self.returns))


@dataclass(frozen=True)
class Run:
    """A run on disk."""

    path: Path
    steps: int  # agent steps done
    episodes: int
    mean_return: float  # of the last 100 episodes; NaN when none ended
    seconds: float  # spent training
    environment: str | Callable[..., Any] = field(repr=False)  # a lambda cannot be found again by its name

    @property
    def name(self) -> str:
        """The run's name, by which it is resumed."""
        return self.path.name

    def load(self, which: Which = "latest") -> Policy:
        """The trained policy."""
        return load(self, which)

    def evaluate(self, episodes: int = 20, *, seed: int = 1_000_000) -> Evaluation:
        """Play whole episodes greedily."""
        return evaluate(self.load(), episodes, seed=seed)

    def report(self) -> Path:
        """Write ``report.html`` and return its path."""
        return write_report(self.path)


def train(
    environment: str | Callable[..., Any] | None = None,
    recipe: str | None = None,
    *,
    steps: int | None = None,
    seed: int | None = None,
    num_envs: int | None = None,
    device: str | None = None,
    overrides: Sequence[str] = (),
    **options: Any,
) -> Run:
    """Train an agent and return its run.

    Args:
      environment: a Gymnasium id, ``package.module:factory``, or a callable that returns a ``gymnasium.Env`` or a
        ``gymnasium.vector.VectorEnv``.
      recipe: its name (``redline recipes`` lists them); without one, PPO in the variant for the environment.
      steps: agent steps (not frames).   seed: of everything.   num_envs: environments stepped together.
      device: ``cpu``, ``cuda`` or ``auto``.   overrides: ``a.b=c`` strings, as ``--set`` on the command line.
      options: ``architecture`` and ``runtime`` (who does what, and where: ``redline show`` lists the former),
        ``name`` of the run, ``folder`` it lies in (``runs``), ``observer``, ``config`` (a config.yaml to rerun).

    Raises:
      UserError: something asked for does not exist.   RunError: the run could not go on.   Interrupted: checkpointed.
    """
    unknown = set(options) - {"architecture", "runtime", "name", "folder", "observer", "config"}
    if unknown:
        raise UserError(
            f"train has no option {min(unknown)!r}: architecture, runtime, name, folder, observer and config are left"
        )
    shorthand = {"run.steps": steps, "run.seed": seed, "sampler.num_envs": num_envs, "learner.device": device}
    shorthand |= {f"parallel.{name}": options.get(name) for name in ("architecture", "runtime")}
    settings = [f"{key}={value}" for key, value in shorthand.items() if value is not None]
    experiment = make_experiment(
        environment, recipe, config=options.get("config"), overrides=[*settings, *overrides]
    )
    if reason := without_effect(experiment.parallel, overrides, ALGORITHMS[type(experiment.algorithm)]):
        raise UserError(reason)
    to_dict(experiment)  # refuses what config.yaml could not hold, before there is a folder
    if experiment.run.wandb:
        import_wandb()

    def make_folder(parts: Parts) -> RunFolder:
        base = options.get("folder") or "runs"
        name = options.get("name")
        return RunFolder.create(name, environment=parts.spec.name, recipe=experiment.recipe, base=base)

    leave_if_imported()
    return _run(experiment, make_folder, options.get("observer") or Quiet(), None)


def make_experiment(
    environment: str | Callable[..., Any] | None,
    recipe: str | None,
    *,
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> Experiment:
    """The experiment of a recipe (or of a config.yaml), for an environment, with ``a.b=c`` overrides."""
    if config is not None:
        experiment = load_yaml(Experiment, config)
    else:
        if environment is None:
            raise UserError("train needs an environment, such as CartPole-v1 or ALE/Pong-v5")
        experiment = find(recipe or DEFAULT_RECIPE, environment if isinstance(environment, str) else "")
    if environment is not None:
        experiment = replace(experiment, environment=replace(experiment.environment, id=environment))
    return override(experiment, list(overrides))


def plan(
    environment: str | Callable[..., Any] | None,
    recipe: str | None = None,
    *,
    what_if: str = "",
    machine: Machine | None = None,
    verify: bool = True,
    fresh: bool = False,
    overrides: Sequence[str] = (),
    report: Callable[[str], None] = lambda _: None,
) -> Plan:
    """How to run an experiment on this machine: measured, predicted, and the best plans tried.

    Args:
      environment, recipe, overrides: as ``train`` takes them; what they set no plan changes.
      what_if: changes, such as ``"cores=64, gpu=h100, env=3x slower"``.   machine: another one than this.
      verify: run the best plans for some seconds each.   fresh: measure again what was measured before.
      report: told what is being done, a line at a time.

    Raises:
      UserError: something asked for does not exist or cannot be.   RunError: the environment broke while it was timed.
    """
    experiment = make_experiment(environment, recipe, overrides=overrides)
    asked = {setting.partition("=")[0].strip() for setting in overrides}
    held = "parallel.architecture" in asked
    leave_if_imported()
    return make_plan(
        experiment,
        what_if=parse_what_if(what_if) if what_if else None,
        machine=machine,
        verify=verify,
        fresh=fresh,
        only=experiment.parallel.architecture if held else None,
        asked=asked,
        say=report,
    )


def rate(experiment: Experiment, seconds: float) -> float:
    """Agent steps/s of an experiment, learning, as it is: by training it for about ``seconds``."""
    return try_out(experiment, seconds, warm=0.0).steps_per_second


def explain(found: Plan) -> Explanation:
    """Where a plan's time goes, what limits it, and what would help next."""
    return explain_plan(found, predict)


def resume(
    run: str | Path | Run, *, steps: int | None = None, observer: Observer | None = None, folder: str = "runs"
) -> Run:
    """Go on with a run where its newest checkpoint stands; ``steps``: agent steps it shall have in all."""
    leave_if_imported()
    watch = observer or Quiet()
    # Locked before anything is read: another process may be about to write its last checkpoint.
    with _open(run, folder) as found:
        experiment = _experiment(run, found)
        loaded = load_newest(found.checkpoints)
        if steps is not None:
            # To ask again for what the run was given is no mistake: it may have gone a few steps beyond.
            if loaded is not None and loaded.step > steps != experiment.run.steps:
                raise UserError(f"the run has {loaded.step:,} steps already; --steps is the total")
            experiment = override(experiment, [f"run.steps={steps}"])
        for message in loaded.messages if loaded else ():
            watch.message(message)
        return _run(experiment, lambda _: found, watch, loaded)


def _run(
    experiment: Experiment,
    make_folder: Callable[[Parts], RunFolder],
    observer: Observer,
    restored: Loaded | None,
) -> Run:
    locked: list[RunFolder] = []

    def open_folder(parts: Parts) -> RunFolder:
        folder = make_folder(parts)
        locked.append(folder)
        return folder.lock()

    def write_config(folder: RunFolder, parts: Parts) -> None:
        _write_config(folder, parts, replace(parts.experiment, replay=experiment.replay))

    try:
        done = training.train(experiment, open_folder, write_config, observer, restored)
        write_report(done.folder.path)
    finally:
        for folder in locked:
            folder.unlock()
            folder.discard_if_empty()
    counters = done.counters
    if done.interrupt.at is not None:
        raise Interrupted(done.folder.reference)
    mean = float(np.mean(counters.returns)) if counters.returns else float("nan")
    environment = experiment.environment.id
    return Run(done.folder.path, counters.steps, counters.episodes, mean, counters.elapsed, environment)


def _write_config(folder: RunFolder, parts: Parts, experiment: Experiment) -> None:
    """The complete configuration, every automatic choice made; where it came from; the planned parallelism.

    experiment: that of the parts, but for a replay as large as asked for, so that more steps find room."""
    save_yaml(experiment, folder.config)
    learner, sampler = parts.experiment.learner, parts.experiment.sampler
    plan = {"device": learner.device, "precision": learner.precision, "gradient_shards": learner.threads}
    plan |= {"actor_threads": sampler.shards, "groups": sampler.groups, "num_envs": sampler.num_envs}
    folder.write_plan(plan, provenance(learner.device), rules(parts))


def _open(run: str | Path | Run, folder: str) -> RunFolder:
    return RunFolder.open(run.path if isinstance(run, Run) else run, base=folder)


def _experiment(run: str | Path | Run, found: RunFolder) -> Experiment:
    """What config.yaml says, and a run's own environment where this process still has it."""
    experiment = load_yaml(Experiment, found.config)
    if isinstance(run, Run) and callable(run.environment):
        return replace(experiment, environment=replace(experiment.environment, id=run.environment))
    return experiment


def load(run: str | Path | Run, which: Which = "latest", *, folder: str = "runs") -> Policy:
    """The policy of a run's ``latest`` or ``best`` checkpoint, or of the checkpoint folder at a path."""
    found = _open(run, folder)
    experiment = _experiment(run, found)
    if which not in ("latest", "best"):
        if not Path(which).is_dir():
            raise UserError(
                f"there is no checkpoint {which!r}: choose latest, best, or a folder in {found.checkpoints}"
            )
        return Policy(experiment, load_checkpoint(Path(which)))
    if which == "best" and list_checkpoints(found.checkpoints):
        path = best_checkpoint(found.checkpoints)
        if path is None:
            raise RunError(
                f"run {found.name} has no best checkpoint yet (it takes {FEWEST} episodes): leave --best out"
            )
        return Policy(experiment, load_checkpoint(path))
    loaded = load_newest(found.checkpoints)
    if loaded is None:
        there = shlex.quote(found.reference)
        raise RunError(f"run {found.name} has no checkpoint yet: `redline resume {there}` trains it")
    return Policy(experiment, loaded.state)


def evaluate(
    policy: Policy | Run, episodes: int = 20, *, seed: int = 1_000_000, explore: bool = False
) -> Evaluation:
    """Play whole episodes in fresh environments, greedily unless ``explore``."""
    if episodes < 1:
        raise UserError(f"episodes must be 1 or more, got {episodes}")
    if isinstance(policy, Run):
        policy = policy.load()
    with one_thread_each():
        ended = play_episodes(
            policy.experiment, policy.algorithm, policy.network, episodes, seed, explore=explore
        )
    return Evaluation([e.episode_return for e in ended], [e.length for e in ended])


def record(
    run: str | Path | Run,
    episodes: int = 1,
    *,
    which: Which = "latest",
    seed: int = 0,
    folder: str = "runs",
    most: int | None = None,
) -> Path:
    """Film whole episodes (or their first ``most`` pictures) into the run's ``videos/``; return the mp4's path."""
    import imageio.v2 as imageio  # late: only films need it

    found = _open(run, folder)
    policy = load(run, which, folder=folder)
    found.videos.mkdir(exist_ok=True)
    path = found.videos / f"step-{policy.steps}.mp4"
    pictures: list[np.ndarray] = []

    def film(environment: Environment, _step: Step) -> None:
        picture = environment.render()
        if picture is None:
            raise RunError(f"{draws_nothing(policy.spec.name)}, so it cannot be filmed")
        pictures.append(_even(picture))
        if len(pictures) == most:
            raise _FilmFull

    with contextlib.suppress(_FilmFull):
        play_episodes(
            policy.experiment, policy.algorithm, policy.network, episodes, seed, after_step=film, num_envs=1
        )
    fps = 60 // policy.spec.action_repeat if family_of(policy.spec.name) == "atari" else 30
    scratch = path.with_name(f".{path.name}")  # what is broken off while it is encoded is no film
    try:
        imageio.mimwrite(scratch, pictures, fps=fps, macro_block_size=1)  # type: ignore[arg-type]
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    return path


def draws_nothing(name: str) -> str:
    """That an environment renders nothing as rgb_array, and what may help."""
    missing = importlib.util.find_spec("pygame") is None
    hint = " (many environments draw with pygame: pip install 'redline[play]')" if missing else ""
    return f"{name} draws no pictures{hint}"


class _FilmFull(Exception):
    """Enough pictures."""


def _even(picture: np.ndarray) -> np.ndarray:
    """Video encoders want even sides."""
    return picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]
