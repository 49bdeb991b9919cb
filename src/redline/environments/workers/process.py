"""What runs inside a worker process: its share of the environments, stepped whenever the doorbell rings."""

from __future__ import annotations

import multiprocessing
import os
import socket
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from redline.environments.batch import Buffers
from redline.environments.config import EnvironmentConfig
from redline.environments.inline import EnvironmentCrash, Inline
from redline.environments.registry import build_single, one_line
from redline.environments.workers.memory import Layout, SharedMemory
from redline.environments.workers.spawning import leave_signals_to_parent
from redline.types import RunError, Spec, UserError

# Doorbell bytes. To the worker: step into slot 0 or 1, or look at the connection. From it: done or failed.
SLOTS = (b"0", b"1")
CONTROL = b"c"
DONE, FAILED = b"d", b"f"

# Answers on the connection. Of the failures, the first is worth a restart; the others end the run.
RESULT, CRASH, FATAL, USAGE = "result", "crash", "fatal", "usage"


@dataclass(frozen=True)
class Share:
    """One worker's part of the batch, as it travels to the new process."""

    config: EnvironmentConfig
    spec: Spec
    num_envs: int  # of the whole batch
    first: int
    last: int  # exclusive
    memory: SharedMemory
    doorbell: socket.socket
    connection: Connection


@dataclass(frozen=True)
class Shared:
    """The arrays of the whole batch in shared memory: actions, and two slots that steps alternate between.

    Two, so that a worker lost in the middle of a step leaves the observations of the step before intact.
    """

    action: np.ndarray  # i64[B], i64[B, K] or f32[B, K]
    slots: tuple[Buffers, Buffers]

    @classmethod
    def lay_out(cls, spec: Spec, num_envs: int, layout: Layout) -> Shared:
        """The same places in every process that lays out the same block."""
        shape = (num_envs, *spec.action.shape)  # type: ignore[misc]
        action = layout.array(shape, np.float32 if spec.action.dtype == np.float32 else np.int64)
        slots = (
            Buffers.allocate(spec, num_envs, layout.array),
            Buffers.allocate(spec, num_envs, layout.array),
        )
        return cls(action, slots)


def main(share: Share) -> None:
    """Entry point of a worker process: serve until the doorbell's other end closes."""
    leave_signals_to_parent()
    threading.Thread(target=die_with_parent, daemon=True).start()
    try:
        serve(share)
    except (OSError, EOFError):
        return  # the parent has closed its ends: nobody is left to tell
    except Exception as error:
        share.connection.send(_failure(error))
        share.doorbell.send(FAILED)


def serve(share: Share) -> None:
    """Make the environments, then answer the doorbell."""
    shared = Shared.lay_out(share.spec, share.num_envs, Layout(share.memory))
    slots = [slot.rows(share.first, share.last) for slot in shared.slots]
    action = shared.action[share.first : share.last]
    envs = [build_single(share.config) for _ in range(share.first, share.last)]
    environment = Inline(
        envs, share.spec, time_limit=share.config.time_limit, buffers=slots[0], first=share.first
    )
    share.connection.send((RESULT, None))
    doorbell = share.doorbell
    try:
        while ring := doorbell.recv(1):
            if ring == CONTROL:
                share.connection.send((RESULT, _control(environment, slots, *share.connection.recv())))
            else:
                environment.use_buffers(slots[SLOTS.index(ring)])
                environment.send(action)
                doorbell.send(DONE)
    finally:
        environment.close()


def _control(environment: Inline, slots: list[Buffers], method: str, slot: int, argument: Any) -> Any:
    environment.use_buffers(slots[slot])
    if method == "reset":
        environment.reset(argument)
        return None
    if method == "render":
        return environment.render(argument)
    if method == "load_state":
        environment.load_state(argument)
        return None
    return environment.state()


def _failure(error: Exception) -> tuple[str, str]:
    if isinstance(error, EnvironmentCrash) or not isinstance(error, UserError):
        return CRASH, str(error) if isinstance(error, UserError) else one_line(error)
    return FATAL if isinstance(error, RunError) else USAGE, str(error)


def die_with_parent() -> None:
    """Wait for the parent process's end, on a thread, and end this process.

    One that is stuck in an environment's step never looks at its channel to the parent.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
