"""A sum tree over priorities, eight children a node: one node's children fill one cache line.

Parents are recomputed from their children, never adjusted by differences, so that rounding does not build up.
The smallest leaf above zero is kept beside the sums, for the importance weights.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from redline.ops.compiled import jit

WIDTH = 8


_jit = partial(jit, exact=True)  # what is found must agree with what was summed


@_jit
def _update(
    sums: np.ndarray, lows: np.ndarray, offsets: np.ndarray, leaves: np.ndarray, values: np.ndarray
) -> None:
    """Set leaves i64[M] to values f64[M] and mend their ancestors, level by level."""
    deepest = len(offsets) - 1
    base = offsets[deepest]
    for i in range(len(leaves)):
        sums[base + leaves[i]] = values[i]
    stride = 1
    for level in range(deepest - 1, -1, -1):
        stride *= WIDTH
        base, children = offsets[level], offsets[level + 1]
        previous = -1
        for i in range(len(leaves)):
            node = leaves[i] // stride
            if node == previous:  # neighbours share their parent
                continue
            previous = node
            total, low = 0.0, np.inf
            for child in range(children + node * WIDTH, children + (node + 1) * WIDTH):
                total += sums[child]
                if level == deepest - 1:
                    if 0.0 < sums[child] < low:
                        low = sums[child]
                elif lows[child] < low:
                    low = lows[child]
            sums[base + node] = total
            lows[base + node] = low


@_jit
def _find(sums: np.ndarray, offsets: np.ndarray, targets: np.ndarray, out: np.ndarray) -> None:
    """For each target f64[M] in [0, total): the leaf whose share of the running sum holds it.

    ``targets`` is used up. All queries go down one level before any goes down the next: their cache misses
    then overlap.
    """
    out[:] = 0
    for level in range(1, len(offsets)):
        base = offsets[level]
        for i in range(len(targets)):
            first = out[i] * WIDTH
            target, chosen, before = targets[i], -1, 0.0
            running = 0.0
            for child in range(WIDTH):
                value = sums[base + first + child]
                if value > 0.0 and (chosen < 0 or target >= running):
                    # Zero is never chosen, and rounding cannot run past the last leaf above zero.
                    chosen, before = child, running
                running += value
            out[i] = first + max(chosen, 0)
            targets[i] = target - before


class SumTree:
    """Priorities f64 of ``size`` leaves, all zero at first. Zero means absent."""

    def __init__(self, size: int) -> None:
        self.size = size
        levels = [size]
        while levels[0] > 1:
            levels.insert(0, -(-levels[0] // WIDTH))
        if len(levels) == 1:
            levels.insert(0, 1)
        padded = [1, *(WIDTH * above for above in levels[:-1])]  # every node has all its children
        self._offsets = np.concatenate([[0], np.cumsum(padded[:-1])]).astype(np.int64)
        self._sums = np.zeros(sum(padded), np.float64)
        self._lows = np.full(int(self._offsets[-1]), np.inf)

    @property
    def total(self) -> float:
        """Sum of all leaves."""
        return float(self._sums[0])

    @property
    def low(self) -> float:
        """The smallest leaf above zero; infinity when all are zero."""
        return float(self._lows[0])

    @property
    def leaves(self) -> np.ndarray:
        """f64[size] view of the leaves: change them through ``update`` only."""
        first = int(self._offsets[-1])
        return self._sums[first : first + self.size]

    @property
    def nbytes(self) -> int:
        """Bytes taken."""
        return self._sums.nbytes + self._lows.nbytes

    def update(self, leaves: np.ndarray, values: np.ndarray) -> None:
        """Set leaves i64[M] to values f64[M] >= 0. Where a leaf comes twice, the later value stays."""
        _update(self._sums, self._lows, self._offsets, leaves, values)

    def find(self, targets: np.ndarray) -> np.ndarray:
        """Leaves i64[M] at ``targets`` f64[M] in [0, total) of the running sum; overwrites ``targets``."""
        out = np.empty(len(targets), np.int64)
        _find(self._sums, self._offsets, targets, out)
        return out
