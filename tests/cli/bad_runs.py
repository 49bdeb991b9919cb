"""Bad run folders, checkpoints and environments."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from redline.runs.folder import RunFolder
from tests.cli.refusal import RUN, TINY, Arrange, Case, write_file

INLINE = "--set environment.backend=inline"
WORKERS = "--set environment.backend=workers --set environment.step_timeout=0.5 --set environment.workers=1"


def broken(name: str, line: str, code: int = 1, more: str = "") -> Case:
    """A case of ``tests/cli/broken.py``."""
    words = f"train tests.cli.broken:{name} --steps 200 --plain {TINY} {more or INLINE}"
    spaced = re.sub(r"(?<!^)(?=[A-Z](?![A-Z]))", " ", name).lower().replace("_", " ")
    return Case(f"environment: {spaced}", words.strip(), line, code, slow=more == WORKERS)


def _each_checkpoint(change: Callable[[Path], None]) -> Arrange:
    def arrange(folder: Path) -> None:
        for path in (folder / "runs" / RUN / "checkpoints").iterdir():
            change(path)

    return arrange


def _truncate(path: Path) -> None:
    for file in path.rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-100])


def _flip(path: Path) -> None:
    for file in path.rglob("*.safetensors"):
        data = bytearray(file.read_bytes())
        data[-7] ^= 1
        file.write_bytes(bytes(data))


def _garbage(path: Path) -> None:
    for file in path.rglob("*.json"):
        file.write_text("not json")


def _change_header(**changes: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        file = path / "checkpoint.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


_newer = _change_header(format_version=99)
_foreign = _change_header(format="model zoo")


@contextlib.contextmanager
def _no_room(_folder: Path) -> Iterator[None]:
    """No file may grow beyond 4 KiB: the disk errors of a full quota, without filling a disk."""
    import resource  # not on Windows

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with RunFolder.open(RUN, base=folder / "runs"):
        yield


def _config(change: Callable[[str], str]) -> Arrange:
    def arrange(folder: Path) -> None:
        path = folder / "runs" / RUN / "config.yaml"
        path.write_text(change(path.read_text()))

    return arrange


OTHER_NETWORK = _config(lambda text: text.replace("hidden: [64, 64]", "hidden: [32]"))
NORMALISED = _config(lambda text: text.replace("normalize_observation: false", "normalize_observation: true"))

RUNS: list[Case] = [
    Case(
        "unknown run",
        "resume toi",
        r"redline: there is no run 'toi' in runs: did you mean 'toy'\?",
        needs_run=True,
    ),
    Case("no runs yet", "eval toy", r"redline: there is no run 'toy' in runs: there are none yet.*"),
    Case(
        "name that is taken",
        f"train tests.cli.broken:Toy --name {RUN}",
        r"redline: there is a run 'toy' .*",
        needs_run=True,
    ),
    Case(
        "name that is no name", "train CartPole-v1 --name a/b", r"redline: 'a/b' is not a name for a run: .*"
    ),
    Case(
        "folder that is a file",
        "train CartPole-v1 --folder f",
        r"redline: cannot make a run in f: .*",
        1,
        write_file("f", ""),
    ),
    Case(
        "run whose configuration was changed",
        f"eval {RUN}",
        r"redline: unknown key 'run.stepps': did you mean 'run.steps'\?.*",
        arrange=_config(lambda text: text.replace("  steps:", "  stepps:")),
        needs_run=True,
    ),
    Case(
        "run whose network was changed",
        f"eval {RUN}",
        r"redline: the checkpoint has \d+ weights, the network of its config.yaml \d+: .*",
        1,
        OTHER_NETWORK,
        needs_run=True,
    ),
    Case(
        "run resumed with another network",
        f"resume {RUN} --steps 96",
        r"redline: the checkpoint has \d+ weights, the network of its config.yaml \d+: .*",
        1,
        OTHER_NETWORK,
        needs_run=True,
    ),
    Case(
        "run resumed with normalised observations",
        f"resume {RUN} --steps 96",
        r"redline: the checkpoint has no observer.*mean, which the network of its config.yaml keeps: .*",
        1,
        NORMALISED,
        needs_run=True,
    ),
    Case(
        "run judged with normalised observations",
        f"eval {RUN}",
        r"redline: the checkpoint has no observer.*mean, which the network of its config.yaml keeps: .*",
        1,
        NORMALISED,
        needs_run=True,
    ),
    Case(
        "run resumed with another optimizer",
        f"resume {RUN} --steps 96",
        r"redline: the checkpoint keeps exp_avg, exp_avg_sq, learner.optimizer=rmsprop needs square_avg: .*",
        1,
        _config(lambda text: text.replace("optimizer: adam", "optimizer: rmsprop")),
        needs_run=True,
    ),
    Case(
        "fewer steps than are done",
        f"resume {RUN} --steps 32",
        r"redline: the run has 64 steps already; --steps is the total",
        needs_run=True,
    ),
    Case(
        "best before there is one",
        f"eval {RUN} --best",
        r"redline: run toy has no best checkpoint yet \(it takes 20 episodes\): leave --best out",
        1,
        needs_run=True,
    ),
    Case(
        "checkpoints cut short",
        f"eval {RUN}",
        r"redline: no checkpoint in .* is usable: .*",
        1,
        _each_checkpoint(_truncate),
        True,
    ),
    Case(
        "checkpoints with a flipped bit",
        f"eval {RUN}",
        r"redline: no checkpoint .* has changed since .*",
        1,
        _each_checkpoint(_flip),
        True,
    ),
    Case(
        "checkpoint that is garbage",
        f"resume {RUN}",
        r"redline: no checkpoint .*is not readable",
        1,
        _each_checkpoint(_garbage),
        True,
    ),
    Case(
        "checkpoint of another program",
        f"eval {RUN}",
        r"redline: .* is not a checkpoint of Redline's.*",
        1,
        _each_checkpoint(_foreign),
        True,
    ),
    Case(
        "checkpoint of another version",
        f"eval {RUN}",
        r"redline: the checkpoint .* was written by Redline .* in format 99; .*",
        1,
        _each_checkpoint(_newer),
        True,
    ),
    Case(
        "run without checkpoints",
        f"play {RUN}",
        r"redline: run toy has no checkpoint yet: .*",
        1,
        _each_checkpoint(shutil.rmtree),
        True,
    ),
    Case(
        "film of what draws nothing", f"record {RUN}", r"redline: .* draws no pictures .*", 1, needs_run=True
    ),
    Case(
        "folder that may not be written",
        "train CartPole-v1 --folder /sys/runs",
        r"redline: cannot make a run in /sys/runs: (permission denied|the file system is read-only)",
        1,
    ),
    Case(
        "no room on the disk",
        f"resume {RUN} --steps 96",
        r"redline: cannot write .*larger than allowed here",
        1,
        None,
        True,
        _no_room,
    ),
    Case(
        "run that another process is training",
        f"resume {RUN}",
        r"redline: another process \(.*\) is writing .*",
        2,
        None,
        True,
        _locked,
    ),
    Case(
        "run whose environment has gone",
        f"eval {RUN}",
        r"redline: environment 'tests.cli.broken:Gone': module tests.cli.broken has no 'Gone'.*",
        arrange=_config(lambda text: text.replace("broken:Toy", "broken:Gone")),
        needs_run=True,
    ),
]

ENVIRONMENTS: list[Case] = [
    broken(
        "RaisesInConstructor",
        r"redline: environment .* cannot be made: FileNotFoundError: no licence file",
        2,
    ),
    broken("RaisesInReset", r"redline: .*cannot load level 3.*"),
    broken("RaisesInStep", r"redline: .*division by zero.*"),
    broken("NaNObservation", r"redline: .* gave observation nan at its step 5: observations must be finite"),
    broken("NaNReward", r"redline: .* gave reward nan at its step 5: rewards must be finite"),
    broken("WrongShape", r"redline: .*observation.*\[?4.*"),
    broken("WrongDtype", r"redline: .*observation.*"),
    broken("WrongReward", r"redline: .*reward.*"),
    broken("ThreeValues", r"redline: .* raised in step\(\): ValueError: not enough values to unpack .*"),
    broken("ResetWithoutInfo", r"redline: .* raised in reset\(\): ValueError: too many values to unpack .*"),
    broken("MissingPart", r"redline: .*observation.speed is missing.*"),
    broken("TextObservation", r"redline: .*observation space Text.* is not supported; supported: .*", 2),
    broken("EmptyObservation", r"redline: .*observation space Box.* is not supported; supported: .*", 2),
    broken("TupleAction", r"redline: .*action space Tuple.* is not supported; supported: .*", 2),
    broken("NoLegalAction", r"redline: .* gave an action mask without a legal action"),
    broken("MaskOfWrongSize", r"redline: .*mask.*"),
    broken(
        "MaskForContinuousActions", r"redline: .* gives an action mask, but its actions are continuous .*", 2
    ),
    broken("AlwaysCrashes", r"redline: .*exited with code 3 \(5 failures in a row\)", 1, WORKERS),
    broken("AlwaysHangs", r"redline: .*no answer within 0.5 s \(5 failures in a row\)", 1, WORKERS),
    broken("returns_none", r"redline: .*gave a NoneType, not a gymnasium.Env.*", 2),
    broken("needs_level", r"redline: .*cannot be made: TypeError: .*level.*", 2),
]
