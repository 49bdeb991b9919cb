"""Memory that batches are handed out in: tensors, and the same memory as arrays to gather into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from redline.replay import frames
from redline.replay.storage import action_layout
from redline.types import ReplayBatch, Spec, tree_map

BUFFERS = 2  # batches that live at once: one being copied to the device while the next is gathered


@dataclass
class Buffer:
    """Memory of one batch: tensors to hand out, and the same memory as arrays to gather into."""

    batch: ReplayBatch
    arrays: dict[str, Any]  # by ReplayBatch's names; observations by path

    def rows(self, first: int, past: int) -> dict[str, Any]:
        """The arrays' rows [first, past)."""
        return {
            name: {path: leaf[first:past] for path, leaf in array.items()}
            if isinstance(array, dict)
            else array[first:past]
            for name, array in self.arrays.items()
        }


Form = tuple[tuple[int, ...], str]  # shape and dtype of one array


def batch_forms(spec: Spec, size: int) -> dict[str, Any]:
    """Shapes and dtypes of a batch of ``size`` transitions, by ReplayBatch's names; observations by path."""

    def form(shape: tuple[int, ...], dtype: Any) -> Form:
        return (size, *shape), np.dtype(dtype).name

    spaces = frames.space_leaves(spec.observation)
    forms: dict[str, Any] = {
        name: {path: form(space.shape or (), space.dtype) for path, space in spaces.items()}
        for name in ("observation", "next_observation")
    }
    forms["action"] = form(*action_layout(spec.action))
    forms |= {name: form((), np.float32) for name in ("reward", "discount", "weight")}
    forms["index"] = form((), np.int64)
    if spec.action_mask:
        forms["next_action_mask"] = form((sum(spec.choices),), bool)
    return forms


def buffer_over(tensors: dict[str, Any]) -> Buffer:
    """A buffer of tensors that are there already, of ``batch_forms``."""
    arrays = tree_map(Tensor.numpy, tensors)
    whole = {name: frames.tree_of(leaf) if isinstance(leaf, dict) else leaf for name, leaf in tensors.items()}
    return Buffer(ReplayBatch(**whole), arrays)


class Buffers:
    """``BUFFERS`` of them that take turns."""

    def __init__(self, spec: Spec, *, pin_memory: bool) -> None:
        self._spec, self._pin = spec, pin_memory
        self._buffers: list[Buffer] = []

    def next(self, batch_size: int) -> Buffer:
        """The buffer whose batch was handed out longest ago."""
        if not self._buffers or len(self._buffers[0].batch.index) != batch_size:
            forms = batch_forms(self._spec, batch_size)
            self._buffers = [buffer_over(tree_map(self._empty, forms)) for _ in range(BUFFERS)]
        self._buffers.append(self._buffers.pop(0))
        return self._buffers[-1]

    def _empty(self, form: Form) -> Tensor:
        kind = torch.from_numpy(np.empty(0, form[1])).dtype
        return torch.empty(form[0], dtype=kind, pin_memory=self._pin)
