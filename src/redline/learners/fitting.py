"""Whether what was saved is of a learner like this one: asked before anything is loaded.

Loading fails in many ways that have nothing to do with a changed configuration (no memory left, a device that is gone,
a mistake of ours), and their errors are of the same kinds as those of a wrong shape. So names and shapes are compared
first, and what fails afterwards is called by its own name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from redline.types import RunError

CHANGED = "config.yaml was changed, or the checkpoint is of another run"


def check_network(saved: dict[str, Any], flat: Tensor, network: nn.Module) -> None:
    """Raises RunError, saying what, where a learner's ``saved`` state has not the weights and buffers of ``network``.

    flat: f32[P] its weights.
    """
    weights: Tensor = saved["weights"]
    if weights.shape != flat.shape:
        raise RunError(
            f"the checkpoint has {weights.numel()} weights, the network of its config.yaml {flat.numel()}: {CHANGED}"
        )
    _check_buffers(saved["buffers"], network.named_buffers())


def check_learner(saved: dict[str, Any], learner: Any) -> None:
    """The same for all that ``learner`` would load but its optimiser's statistics, which it compares itself."""
    check_network(saved, learner.flat, learner.network)
    if learner.target is None:
        return
    if saved["target"] is None:
        raise RunError(
            f"the checkpoint has no target network, the algorithm of its config.yaml learns from one: {CHANGED}"
        )
    # Checkpoints of the first days have no statistics of the target network's own.
    _check_buffers(saved.get("target_buffers") or saved["buffers"], learner.target.named_buffers())


def _check_buffers(saved: dict[str, Tensor], buffers: Iterable[tuple[str, Tensor]]) -> None:
    for name, buffer in buffers:
        if name not in saved:
            raise RunError(
                f"the checkpoint has no {name}, which the network of its config.yaml keeps: {CHANGED}"
            )
        if saved[name].shape != buffer.shape:
            there, here = list(saved[name].shape), list(buffer.shape)
            raise RunError(
                f"the checkpoint's {name} has shape {there}, the network's of its config.yaml {here}: {CHANGED}"
            )
