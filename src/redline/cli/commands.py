"""What can be typed after ``redline``: one dataclass a command. Nothing heavy is imported, so that help is instant."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg, subcommand
from tyro.constructors import PrimitiveConstructorSpec


class WrongUsage(Exception):
    """The command line cannot be understood; the text is one line (exit code 2)."""


def _count(text: str) -> int:
    """A positive whole number as people write it: 20000, 20_000, 2e4, 20k, 1.5M."""
    match = re.fullmatch(r"(\d[\d_]*(?:\.\d+)?(?:[eE]\+?\d+)?)([kKmM]?)", text)
    if match:
        value = float(match[1].replace("_", "")) * {"": 1, "k": 1e3, "m": 1e6}[match[2].lower()]
        if value.is_integer() and value >= 1:
            return int(value)
    raise ValueError(f"expected a whole number of 1 or more (20000, 2e4 and 20k are the same), got '{text}'")


def _seed(text: str) -> int:
    if re.fullmatch(r"\d{1,10}", text) and int(text) < 2**31:
        return int(text)
    raise ValueError(f"expected a whole number from 0 to 2147483647, got '{text}'")


def _room(text: str) -> int:
    """A whole number of 0 or more."""
    if re.fullmatch(r"\d{1,6}", text):
        return int(text)
    raise ValueError(f"expected a whole number of 0 or more, got '{text}'")


def _device(text: str) -> str:
    if re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
        return text
    raise ValueError(f"expected auto, cpu, cuda or cuda:N, got '{text}'")


READERS: dict[
    str, Callable[[str], Any]
] = {}  # option -> how its text is read; errors are shown with its name


def _value(
    kind: type, metavar: str, read: Callable[[str], Any], *options: str
) -> PrimitiveConstructorSpec[Any]:
    READERS.update(dict.fromkeys(options, read))
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda texts: read(texts[0]),
        is_instance=lambda value: isinstance(value, kind),
        str_from_instance=lambda value: [str(value)],
    )


Count = Annotated[int, _value(int, "N", _count, "--steps", "--num-envs", "--seeds", "--episodes", "--copies")]
Room = Annotated[int, _value(int, "N", _room, "--queue")]
Seed = Annotated[int, _value(int, "N", _seed, "--seed")]
Device = Annotated[str, _value(str, "DEVICE", _device, "--device")]
Folder = Annotated[
    str, arg(metavar="FOLDER", help="Where the runs are.", help_behavior_hint="(default: runs)")
]
Run = Annotated[Positional[str], arg(metavar="RUN", help="Name of a run, or its folder.")]
Debug = Annotated[bool, arg(help="Show the traceback of an error.", help_behavior_hint="")]
Plain = Annotated[bool, arg(help="Plain lines instead of the live screen.", help_behavior_hint="")]
Recipe = Annotated[
    str | None, arg(metavar="NAME", help="See `redline recipes`.", help_behavior_hint="(default: fits ENV)")
]
Place = Annotated[
    str | None,
    arg(
        metavar="NAME",
        help="Who does what: see `redline show`.",
        help_behavior_hint="(default: the recipe's)",
    ),
]
Settings = Annotated[
    UseAppendAction[tuple[str, ...]],
    arg(
        name="set",
        metavar="KEY=VALUE",
        help="Change one value, such as algorithm.gamma=0.98; may be given many times.",
        help_behavior_hint="",
    ),
]
Best = Annotated[
    bool, arg(help="The checkpoint with the highest mean return, not the latest.", help_behavior_hint="")
]


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train an agent; Ctrl-C checkpoints and stops."""

    environment: Annotated[
        Positional[str | None],
        arg(
            metavar="ENV",
            help="A Gymnasium id (CartPole-v1, ALE/Pong-v5) or my_package.module:make_env.",
            help_behavior_hint="",
        ),
    ] = None
    recipe: Recipe = None
    steps: Annotated[
        Count | None,
        arg(metavar="N", help="Agent steps in all.", help_behavior_hint="(default: the recipe's)"),
    ] = None
    seed: Annotated[
        Seed | None,
        arg(metavar="N", help="Seed of everything.", help_behavior_hint="(default: the recipe's)"),
    ] = None
    seeds: Annotated[
        Count,
        arg(metavar="N", help="Train N runs one after another, seeds counting up.", help_behavior_hint=""),
    ] = 1
    num_envs: Annotated[
        Count | None,
        arg(metavar="N", help="Environments stepped together.", help_behavior_hint="(default: the recipe's)"),
    ] = None
    device: Annotated[
        Device | None,
        arg(
            metavar="DEVICE", help="cpu, cuda, cuda:N or auto.", help_behavior_hint="(default: the recipe's)"
        ),
    ] = None
    architecture: Place = None
    runtime: Annotated[
        str | None,
        arg(
            metavar="NAME",
            help="Where it runs: in_process, threads, processes or auto.",
            help_behavior_hint="(default: the recipe's)",
        ),
    ] = None
    name: Annotated[
        str | None, arg(metavar="NAME", help="Name of the run.", help_behavior_hint="(default: chosen)")
    ] = None
    folder: Folder = "runs"
    settings: Settings = ()
    config: Annotated[
        str | None,
        arg(
            metavar="FILE", help="Start from a run's config.yaml instead of a recipe.", help_behavior_hint=""
        ),
    ] = None
    wandb: Annotated[bool, arg(help="Log to Weights & Biases too.", help_behavior_hint="")] = False
    no_plan: Annotated[
        bool,
        arg(
            help="Take the recipe's own arrangement. (A long run whose numbers are all left open is planned first.)",
            help_behavior_hint="",
        ),
    ] = False
    no_film: Annotated[
        bool, arg(help="Film no episode for the report at the end.", help_behavior_hint="")
    ] = False
    plain: Plain = False
    debug: Debug = False


@dataclass(frozen=True, kw_only=True)
class Resume:
    """Go on with a run from its latest checkpoint."""

    run: Run
    steps: Annotated[
        Count | None,
        arg(
            metavar="N",
            help="Agent steps it shall have in all.",
            help_behavior_hint="(default: to the run's own end)",
        ),
    ] = None
    folder: Folder = "runs"
    plain: Plain = False
    debug: Debug = False


@dataclass(frozen=True, kw_only=True)
class Eval:
    """Play whole episodes, greedily, and tell the returns."""

    run: Run
    episodes: Annotated[
        Count, arg(metavar="N", help="Episodes to play.", help_behavior_hint="(default: 20)")
    ] = 20
    best: Best = False
    folder: Folder = "runs"
    debug: Debug = False


@dataclass(frozen=True, kw_only=True)
class Play:
    """Watch the agent, in a window or in the terminal."""

    run: Run
    episodes: Annotated[
        Count, arg(metavar="N", help="Episodes to play.", help_behavior_hint="(default: 3)")
    ] = 3
    best: Best = False
    folder: Folder = "runs"
    debug: Debug = False


@dataclass(frozen=True, kw_only=True)
class Record:
    """Write a video of the agent into the run's videos/."""

    run: Run
    episodes: Annotated[
        Count, arg(metavar="N", help="Episodes to film.", help_behavior_hint="(default: 1)")
    ] = 1
    best: Best = False
    folder: Folder = "runs"
    debug: Debug = False


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write report.html of one run, or of several side by side."""

    runs: Annotated[
        Positional[tuple[str, ...]],
        arg(metavar="RUN...", help="Names of runs, or their folders.", help_behavior_hint=""),
    ] = ()
    folder: Folder = "runs"
    debug: Debug = False


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """List the recipes: whole experiments, ready to train."""

    debug: Debug = False


@dataclass(frozen=True, kw_only=True)
class Show:
    """Draw an architecture: roles, what travels between them, and how old it may become."""

    name: Annotated[
        Positional[str | None],
        arg(
            metavar="NAME",
            help="An architecture, or a recipe, whose architecture is shown with its numbers.",
            help_behavior_hint="(default: list the architectures)",
        ),
    ] = None
    copies: Annotated[
        Count | None,
        arg(
            metavar="N",
            help="Of the role that steps environments.",
            help_behavior_hint="(default: as on this machine)",
        ),
    ] = None
    queue: Annotated[
        Room | None,
        arg(
            metavar="N",
            help="Finished unrolls of each that may wait.",
            help_behavior_hint="(default: the architecture's)",
        ),
    ] = None
    svg: Annotated[
        str | None,
        arg(metavar="FILE", help="Write a picture instead of printing.", help_behavior_hint=""),
    ] = None
    debug: Debug = False


def _file(what: str, hint: str = "") -> Any:
    return arg(metavar="FILE", help=what, help_behavior_hint=hint)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Say how to train an environment on this machine, or on one that you do not have, how fast, and why."""

    environment: Annotated[
        Positional[str], arg(metavar="ENV", help="A Gymnasium id or my_package.module:make_env.")
    ]
    recipe: Recipe = None
    what_if: Annotated[
        str | None,
        arg(
            metavar="TEXT",
            help="Change the machine or the environment: 'cores=64, gpu=h100x2, env=3x slower, clock=4.2, "
            "memory=256GB, network=10Gb, price=2.5'. Answers are estimates.",
            help_behavior_hint="",
        ),
    ] = None
    machine: Annotated[str | None, _file("Plan for the machine in this file, not for this one.")] = None
    save_machine: Annotated[
        str | None, _file("Write down the machine that was planned for, to edit, share and use by --machine.")
    ] = None
    steps: Annotated[
        Count | None,
        arg(
            metavar="N",
            help="Agent steps to tell the time of.",
            help_behavior_hint="(default: the recipe's)",
        ),
    ] = None
    architecture: Annotated[
        str | None,
        arg(metavar="NAME", help="Plans of this one only.", help_behavior_hint="(default: all that fit)"),
    ] = None
    settings: Settings = ()
    no_verify: Annotated[
        bool, arg(help="Only predict: do not run the best plans for a few seconds.", help_behavior_hint="")
    ] = False
    fresh: Annotated[bool, arg(help="Measure again what was measured before.", help_behavior_hint="")] = False
    html: Annotated[str | None, _file("Where the page goes.", "(default: plan.html in the runs folder)")] = (
        None
    )
    json: Annotated[str | None, _file("Write everything as JSON too.")] = None
    folder: Folder = "runs"
    debug: Debug = False


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure this machine's ceiling and Redline beside it."""

    words: Annotated[
        Positional[tuple[str, ...]],
        arg(
            metavar="NAME...",
            help="A script of benchmarks/, and its own arguments.",
            help_behavior_hint="(default: training)",
        ),
    ] = ()
    debug: Debug = False


@dataclass(frozen=True, kw_only=True)
class Study:
    """Ask one of the field's questions about parallel training of this machine: measures, prints, plots."""

    name: Annotated[
        Positional[str | None],
        arg(metavar="NAME", help="Which study.", help_behavior_hint="(default: list them)"),
    ] = None
    seeds: Annotated[
        Count, arg(metavar="N", help="Seeds of each run.", help_behavior_hint="(default: 3)")
    ] = 3
    steps: Annotated[
        Count | None,
        arg(metavar="N", help="Agent steps of each run.", help_behavior_hint="(default: the study's)"),
    ] = None
    out: Annotated[
        str,
        arg(metavar="FOLDER", help="Where table and plot go.", help_behavior_hint="(default: runs/studies)"),
    ] = "runs/studies"
    folder: Annotated[
        str, arg(metavar="FOLDER", help="Where its runs go.", help_behavior_hint="(default: runs/studies)")
    ] = "runs/studies"
    debug: Debug = False


COMMANDS: dict[str, Any] = {
    "train": Train,
    "resume": Resume,
    "eval": Eval,
    "play": Play,
    "record": Record,
    "report": Report,
    "recipes": Recipes,
    "show": Show,
    "plan": Plan,
    "bench": Bench,
    "study": Study,
}
Command = Train | Resume | Eval | Play | Record | Report | Recipes | Show | Plan | Bench | Study
AnyCommand: Any = (
    Annotated[Train, subcommand("train")]
    | Annotated[Resume, subcommand("resume")]
    | Annotated[Eval, subcommand("eval")]
    | Annotated[Play, subcommand("play")]
    | Annotated[Record, subcommand("record")]
    | Annotated[Report, subcommand("report")]
    | Annotated[Recipes, subcommand("recipes")]
    | Annotated[Show, subcommand("show")]
    | Annotated[Plan, subcommand("plan")]
    | Annotated[Bench, subcommand("bench")]
    | Annotated[Study, subcommand("study")]
)
