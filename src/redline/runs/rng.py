"""Random number generators as checkpointable state, and back: what a bit-for-bit resume needs."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from redline.types import RunError

Generator = random.Random | np.random.Generator | torch.Generator


def rng_state(generator: Generator) -> dict[str, Any]:
    """Everything ``generator`` needs to go on from here, as a tree that a checkpoint can hold."""
    if isinstance(generator, torch.Generator):
        return {"kind": "torch", "device": generator.device.type, "state": generator.get_state()}
    if isinstance(generator, np.random.Generator):
        return {"kind": "numpy", "state": generator.bit_generator.state}
    version, internal, gauss = generator.getstate()
    return {"kind": "python", "version": version, "state": np.array(internal, np.uint32), "gauss": gauss}


def load_rng_state(generator: Generator, state: dict[str, Any]) -> None:
    """Put ``generator`` where ``rng_state`` found it.

    Raises:
      RunError: the state is of another kind of generator (a run that moved from GPU to CPU, for one).
    """
    kind = state.get("kind")
    try:
        if isinstance(generator, torch.Generator) and kind == "torch":
            generator.set_state(state["state"])
        elif isinstance(generator, np.random.Generator) and kind == "numpy":
            generator.bit_generator.state = state["state"]
        elif isinstance(generator, random.Random) and kind == "python":
            internal = tuple(int(word) for word in state["state"])
            generator.setstate((state["version"], internal, state["gauss"]))
        else:
            raise ValueError(f"it is of kind {kind}")
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        target = f"{type(generator).__module__}.{type(generator).__name__}"
        raise RunError(f"the saved random state does not fit a {target}: {error}") from error


def go_on_from(generator: torch.Generator, state: torch.Tensor) -> bool:
    """Put ``generator`` where its ``get_state`` was ``state``; False where that was on another kind of device.

    A GPU's generator and a CPU's have no state in common: it then stays where its seed has put it.
    """
    if state.shape != generator.get_state().shape:
        return False
    generator.set_state(state.cpu())
    return True


def global_rng_state() -> dict[str, Any]:
    """The states of the generators that libraries share: Python's, numpy's, torch's (and its CUDA ones)."""
    version, internal, gauss = random.getstate()
    state: dict[str, Any] = {
        "python": {"version": version, "state": np.array(internal, np.uint32), "gauss": gauss},
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def load_global_rng_state(state: dict[str, Any]) -> None:
    """Put the shared generators where ``global_rng_state`` found them (CUDA's where there are as many)."""
    python = state["python"]
    random.setstate((python["version"], tuple(int(word) for word in python["state"]), python["gauss"]))
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if len(state.get("cuda", ())) == torch.cuda.device_count() > 0:
        torch.cuda.set_rng_state_all(state["cuda"])
