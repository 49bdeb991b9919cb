"""Where results come from: command, commit, machine, versions. No host, user or folder names, no secrets."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from redline.secret import HIDDEN, hide_assigned, is_secret
from redline.version import VERSION

CGROUP = Path("/sys/fs/cgroup")  # of this container, as Linux shows it
_PACKAGES = ("torch", "numpy", "gymnasium", "ale-py", "mujoco", "envpool")


def provenance(device: str = "cpu") -> dict[str, Any]:
    """Plain values for the report: ``command``, ``commit``, ``machine`` and ``versions``.

    Args:
      device: the device the run computes on; a GPU is named only then, since asking starts CUDA.
    """
    return {
        "command": command_line(sys.argv),
        "commit": git_commit(Path.cwd()),
        "machine": machine(device),
        "versions": {"python": platform.python_version(), **versions()},
    }


def command_line(arguments: list[str]) -> str:
    """The command as typed, without the folders of absolute paths and without the values of secrets."""
    shown = [_program(arguments[0] if arguments else "")]
    hide_next = False
    for argument in arguments[1:]:
        name, equals, value = argument.partition("=")
        if hide_next:
            argument = HIDDEN
        elif (hidden := hide_assigned(argument)) is not None:
            argument = hidden
        elif equals:
            argument = f"{name}={_last_part(value)}"
        else:
            argument = _last_part(argument)
        hide_next = not equals and name.startswith("-") and is_secret(name)
        shown.append(f'"{argument}"' if " " in argument else argument)
    return " ".join(shown)


def git_commit(folder: Path) -> str | None:
    """The commit of ``folder``, with ``-dirty`` where tracked files differ; None outside a repository."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--match="]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=3, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def machine(device: str = "cpu") -> dict[str, Any]:
    """``system``, ``processor``, ``cores`` (usable), ``memory_gib``, and ``gpu`` where it computes on one."""
    memory = _memory_bytes()
    summary: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": usable_cores(),
        "memory_gib": round(memory / 2**30, 1) if memory else None,
    }
    if device.startswith("cuda") and torch.cuda.is_available():
        summary["gpu"] = torch.cuda.get_device_name(device)
    return summary


def usable_cores() -> int:
    """Cores this process may run on (fewer than the machine has, in a container or under ``taskset``)."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(min(here, int(_quota() or here)), 1)


def _quota() -> float | None:
    """Cores' worth of time that a container may use (``docker run --cpus``); None: no limit, or none that is told."""
    try:
        quota, period = (CGROUP / "cpu.max").read_text(encoding="ascii").split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # "max": no limit
        return None


def memory_limit() -> int | None:
    """Bytes that a container may use; None as for cores."""
    try:
        return int((CGROUP / "memory.max").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _program(path: str) -> str:
    if path in ("", "-c", "-m"):
        return "python"
    program = Path(path)
    return program.parent.name if program.name == "__main__.py" else program.name


def _last_part(argument: str) -> str:
    absolute = argument.startswith(("/", "~")) or re.match(r"[A-Za-z]:[\\/]", argument)
    return re.split(r"[\\/]", argument.rstrip("\\/"))[-1] if absolute else argument


def versions() -> dict[str, str]:
    """Of Redline, which may run from its sources, and of the packages around it that are installed."""
    return dict(_versions())


@functools.cache
def _versions() -> dict[str, str]:
    # Reading what a package says of itself takes milliseconds, and a run asks several times.
    found = {"redline": VERSION}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _processor() -> str:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        if sys.platform == "linux":
            match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
            if match:
                return match[1].strip()
        elif sys.platform == "darwin":
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            name = subprocess.run(
                command, capture_output=True, text=True, timeout=3, check=True
            ).stdout.strip()
            if name:
                return name
    return platform.processor() or platform.machine() or "unknown"


def _memory_bytes() -> int | None:
    if sys.platform == "win32":
        return _windows_memory_bytes()
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def _windows_memory_bytes() -> int | None:
    # GetPhysicallyInstalledSystemMemory counts in KiB.
    kibibytes = ctypes.c_ulonglong()
    library = getattr(ctypes, "windll", None)
    if library is None or not library.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kibibytes)):
        return None
    return kibibytes.value * 1024
