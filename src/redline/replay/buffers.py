"""Memory that batches are handed out in: tensors, and the same memory as arrays to gather into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from redline.replay import frames
from redline.replay.storage import Storage, action_layout
from redline.types import ReplayBatch, Spec

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


class Buffers:
    """``BUFFERS`` of them that take turns."""

    def __init__(self, spec: Spec, storage: Storage, *, pin_memory: bool) -> None:
        """storage: one of those that will be drawn from."""
        self._spec, self._pin = spec, pin_memory
        self._mask = None if storage.mask is None else storage.mask.shape[2:]
        self._buffers: list[Buffer] = []

    def next(self, batch_size: int) -> Buffer:
        """The buffer whose batch was handed out longest ago."""
        if not self._buffers or len(self._buffers[0].batch.index) != batch_size:
            self._buffers = [self._make(batch_size) for _ in range(BUFFERS)]
        self._buffers.append(self._buffers.pop(0))
        return self._buffers[-1]

    def _make(self, batch_size: int) -> Buffer:
        def empty(shape: tuple[int, ...], dtype: Any) -> Tensor:
            kind = torch.from_numpy(np.empty(0, dtype)).dtype
            return torch.empty((batch_size, *shape), dtype=kind, pin_memory=self._pin)

        spaces = frames.space_leaves(self._spec.observation)
        observation, following = (
            {path: empty(space.shape or (), space.dtype) for path, space in spaces.items()} for _ in range(2)
        )
        fields: dict[str, Tensor] = {
            "action": empty(*action_layout(self._spec.action)),
            **{name: empty((), np.float32) for name in ("reward", "discount", "weight")},
            "index": empty((), np.int64),
        }
        if self._mask is not None:
            fields["next_action_mask"] = empty(self._mask, bool)
        arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in fields.items()}
        arrays["observation"] = {path: tensor.numpy() for path, tensor in observation.items()}
        arrays["next_observation"] = {path: tensor.numpy() for path, tensor in following.items()}
        batch = ReplayBatch(
            observation=frames.tree_of(observation), next_observation=frames.tree_of(following), **fields
        )
        return Buffer(batch, arrays)
