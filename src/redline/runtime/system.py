"""What is asked of the operating system: to leave freed memory here, and to let the learner have a core first."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading

from redline.architectures.model import gives_way
from redline.runs.provenance import usable_cores
from redline.runtime.experiment import Experiment
from redline.runtime.plan import architecture_of

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # of glibc's malloc.h
LARGEST_MMAP_THRESHOLD = 32 * 2**20  # glibc accepts no more
NICE = 10  # levels of politeness: about a tenth of an equal's share of a core that both want
POLITEST = 19  # there are no more levels


def keep_freed_memory() -> bool:
    """Tell the C library not to hand freed blocks back to the system, whose next use would fault every page in anew.

    Convolutions allocate and free megabytes a hundred times a second: saves about a tenth of the time of a Nature CNN's
    update on a CPU; costs the peak of memory once reached. Returns whether there was something to tell: glibc on Linux
    only, elsewhere nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = {
        M_MMAP_THRESHOLD: LARGEST_MMAP_THRESHOLD,
        M_TRIM_THRESHOLD: 2**31 - 1,
        M_TOP_PAD: 64 * 2**20,
    }
    return all([bool(mallopt(name, value)) for name, value in settings.items()])


def give_way(experiment: Experiment, threads: int = 1) -> None:
    """From now on let the experiment's learner have a core first, if its architecture wants that on this machine, where
    each of those who make unrolls may keep so many ``threads`` busy.

    On Linux it holds for the calling thread and all that it starts; elsewhere for processes of their own only, and on
    Windows for nobody: who has a core there is up to the system. Other programs come first, too: ``parallel.give_way``
    turns it off.
    """
    wanted = experiment.parallel.give_way and gives_way(architecture_of(experiment), usable_cores(), threads)
    if not wanted:
        return
    with contextlib.suppress(OSError):  # a system that forbids it: then all are equal
        if sys.platform == "linux":
            me = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, me, min(os.getpriority(os.PRIO_PROCESS, me) + NICE, POLITEST))
        elif hasattr(os, "nice") and experiment.parallel.runtime == "processes":
            os.nice(NICE)
