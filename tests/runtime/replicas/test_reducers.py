"""Meeting in shared rows: whoever waits looks where it has a core to itself, and is woken where it has not."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from redline.runtime.replicas import reducers
from redline.runtime.replicas.reducers import Abandoned, Rows, SharedReducer


@pytest.mark.parametrize("cores", [1, 8], ids=["woken", "looking"])
def test_every_copy_leaves_with_the_same_sum_round_after_round(
    cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reducers, "usable_cores", lambda: cores)
    rows = Rows(4, 32, shared=False)
    assert (rows.bell is not None) == (cores < 4)

    def meet(role: int) -> list[float]:
        reducer, sums = SharedReducer(rows, role, lambda: False), []
        for turn in range(200):
            x = torch.tensor([float(role + turn)])
            reducer(x)
            sums.append(x.item())
        return sums

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(meet, range(4)))
    assert found == [[6.0 + 4 * turn for turn in range(200)]] * 4
    rows.close()


@pytest.mark.parametrize("cores", [1, 8], ids=["woken", "looking"])
def test_who_waits_for_nobody_gives_up(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reducers, "usable_cores", lambda: cores)
    stop = threading.Event()
    rows = Rows(2, 32, shared=False)
    threading.Timer(0.05, stop.set).start()
    with pytest.raises(Abandoned):
        SharedReducer(rows, 0, stop.is_set)(torch.zeros(1))
    rows.close()
