"""How whoever steps environments has actions chosen, wherever the network computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from redline.types import ActInput, Tree

Choose = Callable[[ActInput], tuple[dict[str, Tensor], Tree]]


def chooser(algorithm: Any, network: Any, generator: torch.Generator, device: torch.device) -> Choose:
    """``algorithm.act`` with ``network`` on ``device``, for whoever is on the host.

    It takes inputs [B, ...] on the host and gives a record [B, ...] on the host. The next state stays on the
    device; one from a checkpoint may be on the host.

    generator: what actions are drawn from. A network may do the whole of an act at once (``whole_act``), of algorithms
    whose ``act`` reads nothing but tensors and the generator (``recordable``).
    """
    if device.type == "cpu":
        return lambda x: algorithm.act(network, x)
    if getattr(algorithm, "recordable", False) and hasattr(network, "whole_act"):
        whole = network.whole_act(algorithm, generator)
        return lambda x: (whole(x), None)

    def choose(x: ActInput) -> tuple[dict[str, Tensor], Tree]:
        record, state = algorithm.act(network, x.to(device))
        return {name: leaf.cpu() for name, leaf in record.items()}, state

    return choose
