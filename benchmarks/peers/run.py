"""Measure Redline and its peers on this machine, each in its own virtual environment, all in one go.

    python benchmarks/peers/run.py --redline .venv/bin/python

Standard library only. Prints a table and, last, one line of JSON with medians and ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
import venv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import DEFAULTS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ENVIRONMENTS = ROOT / ".venv-peers"
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
ALLOWANCE = 240.0  # seconds a script may take beside its measured time: imports, compilation, warm-up
SCORE_CAP = 120.0  # seconds of training on the way to 475
PONG_PPO = ("pong-ppo", "pong-ppo-32")
PONG_ACTOR_LEARNER = ("pong-impala", "pong-appo")
VECTORS = tuple(name for name in DEFAULTS if name not in ("pong-defaults", "large-defaults"))  # not pictures


@dataclass(frozen=True)
class Peer:
    """One framework: what it can be measured on and where it comes from."""

    name: str
    tasks: tuple[str, ...]
    torch: bool = True  # learns with PyTorch
    to_score: bool = False  # can be timed until CartPole is solved
    repository: str | None = None  # not usable from PyPI: files are taken from a checkout of ``commit``
    commit: str = ""
    flags: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """Environment and requirements, shared by variants such as ``leanrl-compile``."""
        return self.name.partition("-")[0]


LEANRL = ("https://github.com/pytorch-labs/LeanRL", "8dbb6336b7f6cc65cdbbeb2e86637c38867e2677")
CLEANRL = ("https://github.com/vwxyzjn/cleanrl", "fe8d8a03c41a7ef5b523e2e354bd01c363e786bb")
PEERS = {
    peer.name: peer
    for peer in (
        Peer("sb3", (*PONG_PPO, "cartpole-ppo", "pong-dqn", "pong-dqn-8", *DEFAULTS), to_score=True),
        Peer("sbx", ("cartpole-ppo", *VECTORS), torch=False, to_score=True),
        Peer(
            "cleanrl",
            (*PONG_PPO, "cartpole-ppo", "pong-dqn", "pong-defaults", *VECTORS),
            repository=CLEANRL[0],
            commit=CLEANRL[1],
        ),
        Peer("leanrl", (*PONG_PPO, "pong-defaults"), repository=LEANRL[0], commit=LEANRL[1]),
        Peer("leanrl-compile", PONG_PPO, repository=LEANRL[0], commit=LEANRL[1], flags=("compile",)),
        Peer("pufferlib", (*PONG_PPO, "cartpole-ppo", *VECTORS), to_score=True),
        Peer("rllib", (*PONG_ACTOR_LEARNER, *DEFAULTS)),
        Peer("samplefactory", (*PONG_ACTOR_LEARNER, *DEFAULTS)),
        Peer("tianshou", (*PONG_PPO, "cartpole-ppo", "pong-dqn", "pong-dqn-8", "pong-defaults", *VECTORS)),
    )
}
REDLINE = Peer(
    "redline",
    (*PONG_PPO, "cartpole-ppo", "pong-dqn", "pong-dqn-8", *PONG_ACTOR_LEARNER, *DEFAULTS),
    to_score=True,
)
PROCESSES = ("parallel.runtime=processes", "parallel.replay=process")
BESIDE = Peer(  # the same updates for each step, while an actor steps and a replay gathers in processes of their own
    "redline-beside",
    ("pong-dqn", "pong-dqn-8"),
    flags=("parallel.architecture=apex", *PROCESSES, "parallel.copies=1", "learner.threads=1"),
)
OURS = (REDLINE.name, BESIDE.name)
TASKS = REDLINE.tasks


class Unavailable(Exception):
    """A peer cannot be measured here; the text says why, in one line."""


@dataclass
class Results:
    """What has been measured, and what has not."""

    rates: dict[tuple[str, str], list[float]] = field(default_factory=dict)  # (task, peer) -> agent steps/s
    scores: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # peer -> lines of --to-score
    lines: list[dict[str, Any]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def add(self, line: dict[str, Any], name: str) -> None:
        """Keep one script's line under the peer's (or variant's) name."""
        line["peer"] = name
        self.lines.append(line)
        if "seconds_to_475" in line:
            self.scores.setdefault(name, []).append(line)
        elif line["agent_steps_per_second"]:
            self.rates.setdefault((line["task"], name), []).append(line["agent_steps_per_second"])

    def medians(self) -> dict[str, dict[str, float]]:
        """Median agent steps/s by task and peer."""
        table: dict[str, dict[str, float]] = {}
        for (task, name), values in self.rates.items():
            table.setdefault(task, {})[name] = statistics.median(values)
        return table

    def seconds_to_475(self) -> dict[str, dict[str, float | None]]:
        """Median seconds by peer; None where a run did not get there."""
        table: dict[str, dict[str, float | None]] = {}
        for name, lines in self.scores.items():
            for key in ("seconds_to_475", "seconds_to_475_greedy"):
                values = [line[key] for line in lines]
                table.setdefault(name, {})[key] = None if None in values else statistics.median(values)
        return table


def run_quietly(command: list[str], **more: Any) -> None:
    """Run to the end; on failure raise with the last line that looks like the reason."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **more
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{command[0]}: {error}") from None
    if done.returncode:
        raise Unavailable(reason(done.stdout))


def reason(output: str) -> str:
    """The line of a failed command's output that says why."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if "Error" in line or line.lower().startswith(("error:", "fatal:"))]
    useful = [
        line for line in telling if "subprocess-exited" not in line and "metadata-generation" not in line
    ]
    return (useful or telling or lines or ["no output"])[-1][:300]


def environment_of(peer: Peer) -> Path:
    """The Python of the peer's environment, made and filled when its requirements have changed."""
    folder = ENVIRONMENTS / peer.folder
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    requirements = HERE / "requirements" / f"{peer.folder}.txt"
    stamp = folder / "installed"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest and python.exists():
        return python
    print(f"installing {peer.folder} into {folder.relative_to(ROOT)} ...", file=sys.stderr, flush=True)
    venv.create(folder, with_pip=True, clear=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if peer.folder == "pufferlib":
        run_quietly([*pip, "torch==2.13.0", "numpy==1.26.4", "setuptools<81", "wheel", "Cython"], timeout=900)
        build = os.environ | {"NO_OCEAN": "1", "PYTHONPATH": str(HERE / "requirements" / "pufferlib_build")}
        run_quietly([*pip, "--no-build-isolation", "-r", str(requirements)], env=build, timeout=900)
    else:
        run_quietly([*pip, "-r", str(requirements)], timeout=900)
    stamp.write_text(digest)
    return python


def source_of(peer: Peer, given: dict[str, str]) -> list[str]:
    """``--source`` for a peer whose files come from a checkout: the user's, else a clone made here."""
    if peer.repository is None:
        return []
    if peer.folder in given:
        return ["--source", str(Path(given[peer.folder]).resolve())]
    folder = ENVIRONMENTS / "source" / peer.folder
    if not (folder / peer.folder).is_dir():
        git = ["git", "-c", "advice.detachedHead=false"]
        quiet = os.environ | {"GIT_TERMINAL_PROMPT": "0"}
        run_quietly([*git, "clone", "--quiet", peer.repository, str(folder)], env=quiet, timeout=300)
        run_quietly([*git, "-C", str(folder), "checkout", "--quiet", peer.commit], timeout=60)
    return ["--source", str(folder)]


def measure(command: list[str], seconds: float) -> dict[str, Any]:
    """Run one script in a process group of its own; its line of JSON."""
    path = (str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH"))  # common.py, worlds.py, the user's own
    process = subprocess.Popen(
        command,
        cwd=HERE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=os.name != "nt",
    )
    try:
        output, _ = process.communicate(timeout=seconds + ALLOWANCE)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"no result after {seconds + ALLOWANCE:.0f} s") from None
    finally:
        end(process)
    for line in reversed(output.splitlines()):
        if line.startswith('{"peer"'):
            return dict(json.loads(line))
    raise Unavailable(reason(output))


def end(process: subprocess.Popen[str]) -> None:
    """End the script and whatever it started."""
    if os.name != "nt":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    elif process.poll() is None:
        process.kill()
    process.wait()


def threads_for(task: str, asked: int) -> int:
    """Threads for one task: all cores for Pong; one for CartPole, whose matrices are too small to share out.

    None are asked for where every setting is the framework's own.
    """
    return 0 if task in DEFAULTS else asked or (1 if task.startswith("cartpole") else CORES)


def script_of(peer: Peer, task: str) -> str:
    """The script that measures a peer on a task."""
    return str(
        HERE / "defaults" / f"{peer.folder}_defaults.py" if task in DEFAULTS else HERE / f"{peer.folder}_.py"
    )


def wait_for_quiet(limit: float) -> float:
    """The one-minute load, after waiting up to ``limit`` seconds for other programs to leave the machine alone."""
    if not hasattr(os, "getloadavg"):
        return float("nan")
    deadline = time.monotonic() + limit
    while os.getloadavg()[0] > 0.3 and time.monotonic() < deadline:
        time.sleep(5)
    return os.getloadavg()[0]


def one_round(
    jobs: list[tuple[Peer, str, list[str]]], arguments: argparse.Namespace, results: Results
) -> None:
    """Measure every job once, one after the other."""
    for peer, task, command in jobs:
        key = f"{peer.name} {task}"
        if key in results.skipped:
            continue
        modes: list[tuple[float, list[str]]] = [(arguments.seconds, [])]
        if task.startswith("cartpole") and peer.to_score and arguments.to_score:
            modes.append((SCORE_CAP, ["--to-score"]))
        for seconds, more in modes:
            load = wait_for_quiet(arguments.wait)
            threads = threads_for(task, arguments.threads)
            limits = (f"learner.threads={threads}", f"sampler.shards={threads}") if arguments.threads else ()
            chosen = limits if peer is REDLINE else peer.flags
            flags = [word for flag in chosen for word in ("--flag", flag)]
            full = [
                *command,
                "--task",
                task,
                "--seconds",
                str(seconds),
                "--threads",
                str(threads),
                *flags,
                *more,
            ]
            try:
                line = measure(full, seconds)
            except Unavailable as error:
                results.skipped[key] = str(error)
                print(f"{key}: {error}", file=sys.stderr, flush=True)
                break
            results.add(line | {"load_before": round(load, 2)}, peer.name)
            print(json.dumps(line), file=sys.stderr, flush=True)


def gather(arguments: argparse.Namespace, results: Results) -> list[tuple[Peer, str, list[str]]]:
    """All jobs in order: by task, and within a task Redline first, then its peers."""
    commands: dict[str, tuple[Peer, str, list[str]]] = {}
    if arguments.redline:
        for ours in (REDLINE, BESIDE):
            commands[ours.name] = (ours, arguments.redline, [])
    sources = dict(item.split("=", 1) for item in arguments.source)
    for name in arguments.peers:
        peer = PEERS[name]
        try:
            source = source_of(peer, sources)
            commands[name] = (peer, str(environment_of(peer)), source)
        except Unavailable as error:
            results.skipped[name] = str(error)
            print(f"{name}: not installed: {error}", file=sys.stderr, flush=True)
    return [
        (peer, task, [python, script_of(peer, task), *source])
        for task in arguments.tasks
        for peer, python, source in commands.values()
        if task in peer.tasks
    ]


def summary(results: Results, arguments: argparse.Namespace) -> dict[str, Any]:
    """Medians, and Redline's ratio to the best of its peers."""
    medians = results.medians()
    ratios: dict[str, dict[str, Any]] = {}
    for task, rates in medians.items():
        others = {name: rate for name, rate in rates.items() if name not in OURS}
        on_torch = {name: rate for name, rate in others.items() if PEERS[name].torch}
        ratios[task] = {}
        for label, field_ in (("best", others), ("best_torch", on_torch)):
            if field_:
                best = max(field_, key=lambda name: field_[name])
                ratio = round(rates["redline"] / field_[best], 2) if "redline" in rates else None
                ratios[task] |= {label: best, f"redline_to_{label}": ratio}
    return {
        "medians": medians,
        "ratios": ratios,
        "seconds_to_475": results.seconds_to_475(),
        "skipped": results.skipped,
        "repeats": arguments.repeats,
        "seconds": arguments.seconds,
        "machine": {"cores": CORES, "processor": processor(), "system": platform.platform()},
        "runs": results.lines,
    }


def processor() -> str:
    """The processor's name."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def show(results: Results, report: dict[str, Any]) -> None:
    """The readable table."""
    for task, rates in report["medians"].items():
        print(f"\n{task}: agent steps/s, learning on (median, lowest to highest; threads)")
        for name in sorted(rates, key=lambda name: -rates[name]):
            values = results.rates[task, name]
            line = next(line for line in results.lines if line["peer"] == name and line["task"] == task)
            ratio = f"{rates['redline'] / rates[name]:6.2f}x" if "redline" in rates else ""
            print(
                f"  {name:<15}{rates[name]:>9,.0f}  {min(values):>8,.0f} to {max(values):>8,.0f}"
                f"  {line['threads'] or 'own'} thr {ratio:>8}  {line['note']}"
            )
    if report["seconds_to_475"]:
        print("\ncartpole-ppo: seconds of training to 475 (last 100 training episodes; greedy play of 100)")
        for name, seconds in report["seconds_to_475"].items():
            shown = ["not reached" if value is None else f"{value:.1f}" for value in seconds.values()]
            print(f"  {name:<15}{shown[0]:>12}{shown[1]:>13}")
    for name, why in report["skipped"].items():
        print(f"not measured: {name}: {why}")
    print()


def words(text: str) -> list[str]:
    """A list given with commas."""
    return text.split(",")


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peers",
        type=words,
        default=list(PEERS),
        help=f"of {','.join(PEERS)}",
    )
    parser.add_argument(
        "--tasks", type=words, default=["pong-ppo", "cartpole-ppo", "pong-dqn"], help=f"of {','.join(TASKS)}"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="measured time of each run")
    parser.add_argument("--repeats", type=int, default=1, help="rounds; peers take turns within each")
    parser.add_argument("--threads", type=int, default=0, help="0: all cores for Pong, 1 for CartPole")
    parser.add_argument(
        "--redline", help="Python that Redline is installed in; without it only peers are measured"
    )
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="your checkout of cleanrl or leanrl",
    )
    parser.add_argument("--to-score", action="store_true", help="also time CartPole until it is solved")
    parser.add_argument(
        "--wait", type=float, default=0.0, help="seconds to wait before each run for a load below 0.3"
    )
    parser.add_argument("--output", type=Path, help="also write the JSON here, indented")
    parser.add_argument("--install-only", action="store_true", help="make the environments and stop")
    arguments = parser.parse_args()
    for given, known in ((arguments.peers, PEERS), (arguments.tasks, TASKS)):
        for name in given:
            if name not in known:
                parser.error(f"unknown {name!r}: choose from {', '.join(known)}")
    if arguments.redline:
        arguments.redline = os.path.abspath(arguments.redline)
    return arguments


def main() -> None:
    """Install, measure in turns, report."""
    arguments = read_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the running script is ended as well
    results = Results()
    jobs = gather(arguments, results)
    if not arguments.install_only:
        for turn in range(arguments.repeats):
            one_round(jobs if turn % 2 == 0 else jobs[::-1], arguments, results)
    report = summary(results, arguments)
    show(results, report)
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
