"""What a recording asks of the process around it, told without a GPU: the device's part is put in its place."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from redline.learners.graphs import Graphed


@pytest.fixture
def collecting() -> Iterator[list[bool]]:
    """Whether cycles were being collected, at each call of a recorded function; as it was before, afterwards."""
    before = gc.isenabled()
    yield []
    (gc.enable if before else gc.disable)()


@pytest.fixture
def _no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "CUDAGraph", SimpleNamespace)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, **_: contextlib.nullcontext())


@pytest.mark.usefixtures("_no_device")
@pytest.mark.parametrize("enabled", [True, False])
def test_no_cycle_is_collected_while_something_is_recorded(collecting: list[bool], enabled: bool) -> None:
    """PyTorch's pull request 161037: destroying a recording while another is made spoils the latter."""
    (gc.enable if enabled else gc.disable)()

    def function(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        collecting.append(gc.isenabled())
        return batch

    Graphed(function)._record({"x": torch.zeros(3)})
    assert collecting == [False]
    assert gc.isenabled() == enabled


@pytest.mark.usefixtures("_no_device")
def test_cycles_are_collected_again_after_a_recording_that_failed(collecting: list[bool]) -> None:
    gc.enable()

    def function(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        collecting.append(gc.isenabled())
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        Graphed(function)._record({"x": torch.zeros(3)})
    assert (collecting, gc.isenabled()) == ([False], True)
