"""Random number generators as checkpointable state, and back: what a bit-for-bit resume needs.

Environments in worker processes read this file, and do without torch: it is imported where it is needed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


def rng_state(generator: np.random.Generator) -> dict[str, Any]:
    """The state of ``generator`` with its (128-bit) integers as text: JSON readers would round them."""
    return _each(generator.bit_generator.state, lambda value: str(value) if type(value) is int else value)


def load_rng_state(generator: np.random.Generator, state: dict[str, Any]) -> None:
    """Put back what ``rng_state`` gave; an integer that was left one is taken, too."""
    generator.bit_generator.state = _each(
        state, lambda value: int(value) if isinstance(value, str) and value.isdigit() else value
    )


def _each(tree: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(tree, dict):
        return {key: _each(value, function) for key, value in tree.items()}
    return function(tree)


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
    import torch

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
    import torch

    python = state["python"]
    random.setstate((python["version"], tuple(int(word) for word in python["state"]), python["gauss"]))
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if len(state.get("cuda", ())) == torch.cuda.device_count() > 0:
        torch.cuda.set_rng_state_all(state["cuda"])
