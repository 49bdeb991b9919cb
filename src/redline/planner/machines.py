"""Machines that one does not have: what-ifs as people type them, and machines in files that can be shared.

``--what-if "cores=64, gpu=h100x2, env=3x slower"`` changes the machine that a plan is made for, and carries the costs
measured on one machine over to another. What is carried over is an estimate, and says how sure it is.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from redline.planner.costs import GPU, Curve, Machine, Work
from redline.planner.measured import Costs
from redline.planner.options import Option
from redline.planner.profiles import PUBLISHED, kind, published, same, with_gpu, without_gpu
from redline.types import RunError, UserError

EXAMPLE = "cores=64, gpu=h100x2, env=3x slower"
MOST_CORES, MOST_GPUS = 1_000_000, 10_000  # more is a slip of the finger
CLOCK_ERROR = 0.15  # relative: a core of another clock differs in more than its clock
UNKNOWN_ERROR = 0.3  # relative: another machine's cores, their clock not known
THREADS_ERROR = 0.2  # relative: a learner of more threads than were measured
NO_NETWORK = "network: changes nothing, for plans are of one machine and nothing of them crosses it"


@dataclass(frozen=True)
class WhatIf:
    """Changes to a machine and to the environment. None: as it is."""

    text: str = ""
    cores: int | None = None
    clock: float | None = None  # GHz
    memory: int | None = None  # bytes
    gpu: GPU | None = None
    without_gpu: bool = False
    environment: float = 1.0  # times as long a step
    network: float | None = None  # bytes/s
    price: float | None = None  # of an hour

    def machine(self, machine: Machine) -> Machine:
        """The machine with the changes."""
        given = {
            name: value
            for name in ("cores", "clock", "memory", "network", "price")
            if (value := getattr(self, name)) is not None
        }
        gpus = None if self.without_gpu else self.gpu or machine.gpus
        if self.gpu is not None and same(self.gpu, machine.gpus) and machine.gpus is not None:
            gpus = replace(machine.gpus, count=self.gpu.count)  # its own rates: they may have been measured
        name = f"{machine.name}, if {self.text}" if self.text else machine.name
        return replace(machine, name=name, gpus=gpus, **given)

    def apply(self, costs: Costs, machine: Machine) -> tuple[Costs, Machine]:
        """Costs as they would be, and the machine to plan for.

        Args:
            costs: as measured on ``costs.machine``.
            machine: to which the changes are made: ``costs.machine``, or one from a file.

        Errors:
            UserError: a clock was given, and that of the machine measured on is not known.
        """
        changed = self.machine(machine)
        if self.clock is not None and not costs.machine.clock:
            raise UserError(
                f"--what-if: clock={self.clock:g} cannot be compared: the clock of {costs.machine.name} is not known;"
                " leave clock out, or set it in a machine file (--save-machine, --machine)"
            )
        costs = carried_over(costs, changed)
        if self.environment != 1.0:
            costs = replace(
                costs,
                step={n: work.scaled(self.environment) for n, work in costs.step.items()},
                reset=(costs.reset[0] * self.environment, costs.reset[1] * self.environment),
            )
        if self.network is not None:
            costs = replace(costs, notes=(*costs.notes, NO_NETWORK))
        return costs, changed


def carried_over(costs: Costs, machine: Machine) -> Costs:
    """Costs measured on ``costs.machine`` as they would be on ``machine``: ``estimated`` and ``notes`` say what is not
    measured."""
    here = costs.machine
    if here.clock and machine.clock and here.clock != machine.clock:
        costs = _at_clock(costs, here.clock / machine.clock)
    elif machine.name != here.name and machine.clock != here.clock:
        note = f"cores of {machine.name} taken to be as fast as those of {here.name}: one clock is not known"
        costs = replace(
            costs, estimated={**costs.estimated, "cpu": UNKNOWN_ERROR}, notes=(*costs.notes, note)
        )
    if machine.gpus is None:
        costs = without_gpu(costs)
    elif not same(machine.gpus, here.gpus) or not any(place.startswith("cuda") for place in costs.act):
        costs = with_gpu(costs, machine.gpus)
    if machine.cores > here.cores:
        costs = _of_more_threads(costs, machine.cores)
    return replace(costs, machine=machine, cores=costs.cores_measured)


def uncertainty(option: Option, costs: Costs) -> float:
    """Relative error of a plan's rate that comes from what was reckoned and not measured: 0 where all was measured."""
    used = {"cpu", option.act_on, option.learn_on, *(["threads"] if option.threads > 1 else [])}
    return math.hypot(*(error for name, error in costs.estimated.items() if name in used))


def cost_per_million(machine: Machine, steps_per_second: float) -> float | None:
    """Price of a million agent steps, in the currency of ``machine.price``; None where no price is given."""
    if not machine.price or steps_per_second <= 0:
        return None
    return machine.price * 1e6 / (steps_per_second * 3600)


def parse_what_if(text: str) -> WhatIf:
    """What a text asks about, such as ``cores=64, gpu=h100x2, env=3x slower, clock=4.2, memory=256GB, network=10Gb,
    price=2.5``.

    Errors:
        UserError: a key or value is unknown, or two contradict each other: one line that names the nearest valid one.
    """
    given: dict[str, str] = {}
    for item in (part.strip() for part in text.split(",")):
        if not item:
            continue
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not value:
            raise UserError(f"--what-if: cannot read '{item}': write key=value, such as {EXAMPLE}")
        key = _ALIASES.get(key.lower(), key.lower())
        if key not in _READ:
            near = difflib.get_close_matches(key, [*_READ, "environment"], n=1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise UserError(f"--what-if: unknown key '{key}': {hint}valid: {', '.join(_READ)}")
        if given.get(key, value) != value:
            raise UserError(f"--what-if: {key} is both '{given[key]}' and '{value}': keep one of them")
        given[key] = value
    if not given:
        raise UserError(f"--what-if is empty: write key=value, such as {EXAMPLE}")
    values = {name: found for key, value in given.items() for name, found in _READ[key](value).items()}
    return WhatIf(text=", ".join(f"{key}={value}" for key, value in given.items()), **values)


def save_machine(machine: Machine, path: Path | str) -> Path:
    """Write a machine to a YAML file (JSON where it ends in ``.json``), to be edited, shared and used.

    Errors:
        RunError: it cannot be written.
    """
    path = Path(path)
    data = asdict(machine)
    text = (
        json.dumps(data, indent=2) + "\n"
        if path.suffix == ".json"
        else "# for `redline plan ENV --machine FILE`: memory and rates in bytes, clock in GHz, price of an hour\n"
        + yaml.safe_dump(data, sort_keys=False)
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunError(f"cannot write the machine to {path}: {error.strerror}") from error
    return path


def load_machine(path: Path | str) -> Machine:
    """A machine from a YAML or JSON file: ``name``, ``cores``, and where known ``clock``, ``memory``, ``gpus``,
    ``network``, ``price``. A GPU needs no more than the name of a published profile.

    Errors:
        UserError: no such file, or it is no machine; one line that says what and where.
    """
    path = Path(path)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--machine {path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"--machine {path}{where}: this is neither YAML nor JSON") from None
    if not isinstance(data, dict) or "cores" not in data:
        raise UserError(f"--machine {path}: a machine file needs at least 'cores: N' (see --save-machine)")
    gpus = data.pop("gpus", None)
    values = _numbers(data, Machine, f"--machine {path}")
    if values["cores"] < 1 or values["cores"] > MOST_CORES:
        raise UserError(f"--machine {path}: cores must be 1 to {MOST_CORES:,}, got {values['cores']}")
    return Machine(**{"name": path.stem, **values, "gpus": None if gpus is None else _gpu_of(gpus, path)})


def _gpu_of(data: Any, path: Path) -> GPU | None:
    if isinstance(data, str):
        return _gpu(data, f"--machine {path}: gpus")["gpu"]
    if not isinstance(data, dict) or not isinstance(data.get("name"), str):
        raise UserError(f"--machine {path}: gpus needs a name, such as 'gpus: {{name: h100, count: 1}}'")
    values = _numbers(data, GPU, f"--machine {path}: gpus")
    count = values.get("count", 1)
    if not 1 <= count <= MOST_GPUS:
        raise UserError(f"--machine {path}: gpus.count must be 1 to {MOST_GPUS:,}, got {count}")
    given = {key: value for key, value in values.items() if value}  # a driver does not tell rates: 0
    known = kind(GPU(values["name"]))
    if known is not None:
        return replace(published(known), **given)
    if not values.get("tflops"):
        near = difflib.get_close_matches(values["name"].lower(), PUBLISHED, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise UserError(
            f"--machine {path}: gpus.tflops is missing, and '{values['name']}' has no published profile: {hint}"
            f"give its dense bf16 TFLOP/s, or one of {', '.join(PUBLISHED)}"
        )
    return GPU(**given)


def _numbers(data: dict[str, Any], kind: type, where: str) -> dict[str, Any]:
    """A file's values as a dataclass's fields want them."""
    wanted = {item.name: str(item.type) for item in fields(kind) if item.name != "gpus"}
    found: dict[str, Any] = {}
    for key, value in data.items():
        if key not in wanted:
            near = difflib.get_close_matches(str(key), wanted, n=1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            valid = ", ".join(item.name for item in fields(kind))
            raise UserError(f"{where}: unknown key '{key}': {hint}valid: {valid}")
        if wanted[key] == "str":
            found[key] = str(value)
        elif wanted[key] == "bool":
            found[key] = value is True
        else:
            found[key] = _number_of(value, wanted[key] == "int", f"{where}: {key}")
    return found


def _number_of(value: Any, whole: bool, where: str) -> int | float:
    try:  # YAML 1.1 reads 3e9 as text
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not 0.0 <= number < 1e18 or (whole and not number.is_integer()):
        wanted = "a whole number" if whole else "a number"
        raise UserError(f"{where} must be {wanted} of 0 or more, got {value!r}")
    return int(number) if whole else number


def _cores(text: str) -> dict[str, Any]:
    if not re.fullmatch(r"\d{1,7}", text) or not 1 <= int(text) <= MOST_CORES:
        raise UserError(f"--what-if: cores={text}: expected a whole number from 1 to {MOST_CORES:,}")
    return {"cores": int(text)}


def _clock(text: str) -> dict[str, Any]:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:ghz)?", text.lower())
    if not match or not 0.1 <= float(match[1]) <= 10.0:
        raise UserError(f"--what-if: clock={text}: expected GHz from 0.1 to 10, such as clock=4.2")
    return {"clock": float(match[1])}


def _memory(text: str) -> dict[str, Any]:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([mgt])(i?)b?", text.lower())
    if not match or not float(match[1]):
        raise UserError(f"--what-if: memory={text}: expected an amount with its unit, such as memory=256GB")
    power = {"m": 2, "g": 3, "t": 4}[match[2]]
    return {"memory": int(float(match[1]) * (1024 if match[3] else 1000) ** power)}


def _network(text: str) -> dict[str, Any]:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([MG])(b|bit|B)(?:/s|ps)?", text)
    if not match or not float(match[1]):
        raise UserError(
            f"--what-if: network={text}: expected a rate, such as network=10Gb (bits/s) or network=1GB (bytes/s)"
        )
    rate = float(match[1]) * {"M": 1e6, "G": 1e9}[match[2]]
    return {"network": rate if match[3] == "B" else rate / 8}


def _price(text: str) -> dict[str, Any]:
    if not re.fullmatch(r"\d+(\.\d+)?", text) or not float(text):
        raise UserError(f"--what-if: price={text}: expected the price of an hour, such as price=2.5")
    return {"price": float(text)}


def _environment(text: str) -> dict[str, Any]:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*x\s*(slower|faster)", text.lower())
    if not match or not 1e-3 <= float(match[1]) <= 1e6:
        raise UserError(f"--what-if: env={text}: expected how much, such as env=3x slower or env=2x faster")
    factor = float(match[1])
    return {"environment": factor if match[2] == "slower" else 1.0 / factor}


def _gpu(text: str, where: str = "--what-if: gpu") -> dict[str, Any]:
    name = text.lower().replace(" ", "")
    if name == "none":
        return {"without_gpu": True, "gpu": None}
    match = re.fullmatch(r"(.+)x(\d{1,6})", name)
    count = 1
    if name not in PUBLISHED and match and (match[1] in PUBLISHED or match[1][-1].isdigit()):
        name, count = match[1], int(match[2])
    if not 1 <= count <= MOST_GPUS:
        raise UserError(f"{where}={text}: expected 1 to {MOST_GPUS:,} of them, or none")
    try:
        return {"gpu": published(name, count)}
    except UserError as error:
        raise UserError(f"{where}={text}: {error}") from None


_ALIASES = {"environment": "env", "net": "network", "gpus": "gpu", "core": "cores", "mem": "memory"}
_READ: dict[str, Callable[[str], dict[str, Any]]] = {
    "cores": _cores,
    "clock": _clock,
    "memory": _memory,
    "gpu": _gpu,
    "env": _environment,
    "network": _network,
    "price": _price,
}


def _at_clock(costs: Costs, factor: float) -> Costs:
    """Everything that cores do takes ``factor`` times as long; what a GPU does, and what is waited for, does not."""

    def work(each: Work) -> Work:
        return replace(each, core=each.core * factor)

    def curves(places: dict[str, Curve]) -> dict[str, Curve]:
        return {
            place: curve if place.startswith("cuda") else curve.scaled(factor)
            for place, curve in places.items()
        }

    return replace(
        costs,
        step={n: work(each) for n, each in costs.step.items()},
        act=curves(costs.act),
        train=curves(costs.train),
        learn={
            place: each if place.startswith("cuda") else {n: seconds * factor for n, seconds in each.items()}
            for place, each in costs.learn.items()
        },
        record=costs.record.scaled(factor),
        hand={runtime: seconds * factor for runtime, seconds in costs.hand.items()},
        publish=costs.publish * factor,
        draw=costs.draw * factor,
        store=costs.store * factor,
        besides=costs.besides * factor,
        queueing=costs.queueing * factor,
        between=costs.between * factor,
        between_gpu=None if costs.between_gpu is None else costs.between_gpu * factor,
        serve={runtime: curve.scaled(factor) for runtime, curve in costs.serve.items()},
        request=costs.request * factor,
        exchange={name: seconds * factor for name, seconds in costs.exchange.items()},
        reset=(costs.reset[0] * factor, costs.reset[1] * factor),
        estimated={**costs.estimated, "cpu": CLOCK_ERROR},
        notes=(
            *costs.notes,
            f"cores {1 / factor:.2g}x as fast by their clock alone: caches and memory may differ",
        ),
    )


def _of_more_threads(costs: Costs, cores: int) -> Costs:
    """A learner's threads beyond those measured, by Amdahl's law through the fewest and the most that were."""
    learn: dict[str, dict[int, float]] = {}
    added = False
    for place, measured in costs.learn.items():
        learn[place] = dict(measured)
        few, many = min(measured), max(measured)
        if place.startswith("cuda") or few == many:
            continue
        shared = max((measured[few] - measured[many]) / (1 / few - 1 / many), 0.0)
        alone = max(measured[few] - shared / few, 0.0)
        threads = many * 2
        while threads <= min(cores, 16):
            learn[place][threads] = alone + shared / threads
            threads, added = threads * 2, True
    if not added:
        return costs
    note = "learners of more threads than this machine has cores: by Amdahl's law through those measured"
    return replace(
        costs,
        learn=learn,
        estimated={**costs.estimated, "threads": THREADS_ERROR},
        notes=(*costs.notes, note),
    )
