"""Predicted beside measured: plans of many environments and architectures, each predicted from a probe, then run.

    python benchmarks/planner.py [CASE ...] [--seconds 4] [--rounds 1] [--plans 6] [--json FILE]

A case is an environment with a recipe, and perhaps an architecture that it is held to. Of the plans there are, the best
of each architecture and runtime (on each device, where there is a GPU) and a spread of the others are run for some
seconds, learning on. Errors are relative, of agent steps/s (and, where plans have any, of mean lag). ``chosen`` is what
``redline plan`` would train with after trying its best; ``best`` the fastest to learn of all that were run here.
``--plans 1000`` runs every plan there is; ``--rounds 3`` all of them three times, in turn, and takes medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from redline import api, environments
from redline.planner.choose import choose, rank, speed_of
from redline.planner.options import Measured, Ranked
from redline.runs.provenance import provenance
from redline.runtime.planning.candidates import Search, configure, options
from redline.runtime.planning.planning import costs_of, to_try
from redline.runtime.planning.trial import try_out
from redline.types import RunError, UserError

HERE = str(Path(__file__).resolve().parent)
WORLD = "worlds:"
CASES: dict[str, tuple[str, str, str | None, tuple[str, ...]]] = {
    "cartpole-ppo": ("CartPole-v1", "ppo", None, ()),
    "cartpole-impala": ("CartPole-v1", "impala", None, ()),
    "cartpole-dqn": ("CartPole-v1", "dqn", None, ()),
    "cartpole-a3c": ("CartPole-v1", "a3c", "a3c", ()),
    "cartpole-accel_async": ("CartPole-v1", "a2c", "accel_async", ()),
    "pong-ppo": ("ALE/Pong-v5", "ppo", None, ()),
    "pong-impala": ("ALE/Pong-v5", "impala", None, ()),
    "pong-dqn": ("ALE/Pong-v5", "dqn", None, ("replay.capacity=50000",)),
    "pong-dqn-one": ("ALE/Pong-v5", "dqn", None, ("replay.capacity=50000", "sampler.num_envs=1")),
    "cheetah-ppo": ("HalfCheetah-v5", "ppo", None, ()),
    "slow-ppo": (f"{WORLD}slow", "ppo", None, ("algorithm.unroll=32",)),
    "remote-impala": (f"{WORLD}remote", "impala", None, ()),
    "tailed-impala": (f"{WORLD}tailed", "impala", None, ()),
    "large-ppo": (f"{WORLD}large", "ppo", None, ("network.torso=nature", "algorithm.unroll=32")),
}


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    seconds: float  # of each run
    rounds: int  # runs of each plan
    plans: int  # of each case, at least
    fresh: bool  # probe again


def measure(name: str, effort: Effort) -> list[dict[str, Any]]:
    """Rows of one case: plans predicted and run."""
    environment, recipe, only, overrides = CASES[name]
    settings = [*overrides, *([f"parallel.architecture={only}"] if only else [])]
    experiment = api.make_experiment(environment, recipe, overrides=settings)
    costs = costs_of(experiment, fresh=effort.fresh)
    spec = environments.probe(experiment.environment)
    search = Search(experiment, spec, costs, costs.machine, only)
    found, _ = options(search)
    ranked = rank(found, costs, costs.machine, search.unroll, every=True, steps=experiment.run.steps)
    would = set(to_try(ranked))  # what the planner itself would try
    looked = would | _of_each_place(ranked)
    chosen = sorted({*looked, *_spread(len(ranked), max(effort.plans - len(looked), 0))})
    runs: dict[int, list[Measured]] = {index: [] for index in chosen}
    for _ in range(effort.rounds):
        for index in chosen:
            try:
                runs[index].append(try_out(configure(experiment, ranked[index].option), effort.seconds))
            except (UserError, RunError) as error:
                print(f"{name}: {ranked[index].option.name}: {error}", file=sys.stderr)
    rows, tried = [], {}
    for index, did in runs.items():
        if did:
            tried[index] = replace(ranked[index], measured=_median(did))
            rows.append(_row(name, tried[index]))
            if effort.rounds > 1:
                rows[-1]["runs"] = [round(each.steps_per_second, 1) for each in did]
            print(_line(rows[-1]), file=sys.stderr, flush=True)
    _mark(rows, list(tried.values()), [i for i, index in enumerate(tried) if index in would])
    return rows


def _median(runs: list[Measured]) -> Measured:
    """Medians of what they reached; whatever else comes from the run in the middle."""
    middle = sorted(runs, key=lambda each: each.steps_per_second)[len(runs) // 2]
    return replace(
        middle,
        steps_per_second=statistics.median(each.steps_per_second for each in runs),
        lag={key: statistics.median(each.lag.get(key, 0.0) for each in runs) for key in middle.lag},
    )


def _of_each_place(ranked: list[Ranked]) -> set[int]:
    """Where there is a GPU: the best of each architecture and runtime, by where it learns."""
    seen: dict[tuple[str, str, str], int] = {}
    for index, each in enumerate(ranked):
        seen.setdefault((each.option.architecture, each.option.runtime, each.option.learn_on), index)
    return set(seen.values()) if len({place for _, _, place in seen}) > 1 else set()


def _spread(count: int, wanted: int) -> list[int]:
    """Places all over a ranking, the first of them left out: the planner tries that anyway."""
    return [int(x) for x in np.linspace(0, count - 1, wanted + 1)[1:]] if wanted else []


def _row(case: str, each: Ranked) -> dict[str, Any]:
    option, did = each.option, each.measured
    assert did is not None
    error = each.prediction.steps_per_second / did.steps_per_second - 1
    row: dict[str, Any] = {
        "case": case,
        "plan": option.name,
        "architecture": option.architecture,
        "runtime": option.runtime,
        "learns_on": option.learn_on,
        "acts_on": option.act_on,
        "predicted": round(each.prediction.steps_per_second, 1),
        "measured": round(did.steps_per_second, 1),
        "error": round(error, 4),
        "samples": round(each.samples, 4),
    }
    if (
        did.lag and each.prediction.lag and option.architecture != "apex"
    ):  # of a replay's samples it is their age
        row["lag_predicted"] = round(each.prediction.lag["mean"], 3)
        row["lag_measured"] = round(did.lag["mean"], 3)
    return row


def _mark(rows: list[dict[str, Any]], tried: list[Ranked], would: list[int]) -> None:
    """Which plan the planner would train with, and which learned the fastest."""
    if not rows:
        return
    best = max(range(len(tried)), key=lambda i: speed_of(tried[i]))
    rows[best]["best"] = True
    if would:
        picked = would[choose([tried[i] for i in would])]
        rows[picked]["chosen"] = round(speed_of(tried[picked]) / speed_of(tried[best]), 4)


def _line(row: dict[str, Any]) -> str:
    lag = f" lag {row['lag_predicted']} / {row['lag_measured']}" if "lag_measured" in row else ""
    return (
        f"{row['case']:20} {row['plan']:66} {row['learns_on']:9} {row['predicted']:>9,.0f} {row['measured']:>9,.0f} "
        f"{row['error']:+7.1%}{lag}"
    )


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Errors over all rows, and how near the chosen plans come to the best."""
    errors = [abs(row["error"]) for row in rows]
    lags = [
        abs(row["lag_predicted"] - row["lag_measured"]) / max(row["lag_measured"], 0.5)
        for row in rows
        if row.get("lag_measured") or row.get("lag_predicted")  # where both are zero nothing was at stake
    ]
    return {
        "configurations": len(rows),
        "cases": len({row["case"] for row in rows}),
        "architectures": sorted({row["architecture"] for row in rows}),
        "median_error": statistics.median(errors),
        "p90_error": float(np.percentile(errors, 90)),
        "median_lag_error": statistics.median(lags) if lags else None,
        "lag_within_a_fifth": [sum(lag <= 0.2 for lag in lags), len(lags)],
        "chosen_over_best": {row["case"]: row["chosen"] for row in rows if "chosen" in row},
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the cases named (all, by default) and print one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each run")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each plan, in turn")
    parser.add_argument("--plans", type=int, default=6, help="of each case, at least")
    parser.add_argument("--fresh", action="store_true", help="probe again")
    parser.add_argument("--json", help="write the rows to this file too")
    wanted = parser.parse_args(argv)
    for name in wanted.cases:
        if name not in CASES:
            parser.error(f"no case {name!r}: choose of {', '.join(CASES)}")
    if HERE not in sys.path:
        sys.path.insert(0, HERE)  # worlds.py, for this process and those it starts
    rows: list[dict[str, Any]] = []
    result: dict[str, Any] = {}
    for name in wanted.cases or CASES:
        rows += measure(name, Effort(wanted.seconds, wanted.rounds, wanted.plans, wanted.fresh))
        result = {"benchmark": "planner", **summary(rows), "rows": rows, "provenance": provenance()}
        if wanted.json:  # after each case: a round takes long
            Path(wanted.json).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
