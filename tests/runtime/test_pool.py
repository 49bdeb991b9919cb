"""The thread pool: order, exceptions, more tasks than threads."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest

from redline.runtime.pool import Pool


def test_results_come_in_order_and_tasks_run_side_by_side() -> None:
    pool, barrier = Pool(3), threading.Barrier(3, timeout=10)

    def meet(number: int) -> int:
        barrier.wait()  # passes only if all three are inside at once
        return number

    assert pool([partial(meet, k) for k in range(3)]) == [0, 1, 2]
    assert pool([partial(int, k) for k in range(7)]) == list(range(7))
    pool.close()


def test_an_exception_waits_for_the_others_and_leaves_the_pool_usable() -> None:
    pool, finished = Pool(2), []

    def slow() -> None:
        time.sleep(0.05)
        finished.append(1)

    def broken() -> None:
        raise ValueError("broken task")

    with pytest.raises(ValueError, match="broken task"):
        pool([broken, slow])
    assert finished == [1]
    assert pool([partial(int, 4), partial(int, 5)]) == [4, 5]
    pool.close()
