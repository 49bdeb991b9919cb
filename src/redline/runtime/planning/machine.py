"""What this machine has: cores that may be used, clock, memory, GPUs."""

from __future__ import annotations

import os
import platform

import torch

from redline.planner.costs import GPU, Machine
from redline.runs.provenance import memory_limit, usable_cores


def this_machine() -> Machine:
    """Name, usable cores, memory and GPUs of this machine, or of the container."""
    memory = 0
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        memory = min(memory, memory_limit() or memory)
    gpus = None
    if torch.cuda.is_available():
        about = torch.cuda.get_device_properties(0)
        gpus = GPU(about.name, torch.cuda.device_count(), memory=about.total_memory, measured=True)
    name, clock = _processor()
    return Machine(name, usable_cores(), clock=clock, memory=memory, gpus=gpus)


MOST = "/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"  # kHz


def _processor() -> tuple[str, float]:
    """The processor's name and its clock in GHz to a tenth; 0 where it is not told.

    The clock is the highest, where that is told: what ``cpu MHz`` tells is of this moment, and changes by the second
    where cores may rest.
    """
    told: dict[str, str] = {}
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                key, _, value = line.partition(":")
                told.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    try:
        with open(MOST, encoding="ascii") as file:
            clock = round(float(file.read()) / 1e6, 1)
    except (OSError, ValueError):
        try:
            clock = round(float(told.get("cpu MHz", 0.0)) / 1000, 1)
        except ValueError:
            clock = 0.0
    return told.get("model name") or platform.processor() or platform.machine(), clock
