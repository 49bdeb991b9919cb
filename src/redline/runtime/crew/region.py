"""Arrays that several roles see: laid out once, from a tree of forms, in plain or in shared memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from redline.environments.workers.memory import Layout, SharedMemory
from redline.types import Tree, tree_map

Form = tuple[tuple[int, ...], str]  # shape and dtype of one array


class Region:
    """``arrays``: a tree like ``forms``, zeroed. Pickles (while a process is being spawned) where it is ``shared``.

    Pages are committed when they are first written, so room that is rarely needed costs nothing.
    """

    def __init__(self, forms: Tree, *, shared: bool) -> None:
        """forms: a tree of (shape, dtype)."""
        self.forms = forms
        self._memory: SharedMemory | None = None
        if shared:
            measure = _Measure()
            tree_map(measure.array, forms)
            self._memory = SharedMemory(measure.size)
        self.arrays: Any = self._lay()

    def _lay(self) -> Tree:
        layout = Layout(self._memory)
        return tree_map(lambda form: layout.array(form[0], np.dtype(form[1])), self.forms)

    def close(self) -> None:
        """Give up this process's hold; arrays stay valid while they are referenced. Safe to call twice."""
        if self._memory is not None:
            self._memory.close()

    def __getstate__(self) -> dict[str, Any]:
        if self._memory is None:
            raise TypeError("a region in plain memory cannot be sent to another process")
        return {"forms": self.forms, "memory": self._memory}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.forms, self._memory = state["forms"], state["memory"]
        self.arrays = self._lay()


class _Measure:
    """Counts bytes as ``Layout`` places arrays, without making any."""

    def __init__(self) -> None:
        self.size = 0

    def array(self, form: Form) -> None:
        layout = Layout()
        layout.size = self.size
        shape, dtype = form
        self.size += -(-int(np.prod(shape)) * np.dtype(dtype).itemsize // 64) * 64
