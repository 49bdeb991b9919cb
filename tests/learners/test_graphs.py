"""What a recording asks of the process around it, told without a GPU: the device's part is put in its place."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from redline.learners import graphs
from redline.learners.graphs import WARM_UP, Graphed, recording_of

HERE = torch.device("cuda:0")
OTHER = torch.device("cuda:1")
Batch = dict[str, torch.Tensor] | None


class Cuda:
    """Stands in for ``torch.cuda`` on a machine with several devices: which one is current, and on which stream.

    ``log`` gets a line for each call of the recorded function and each replay: what, where, on which device's stream.
    """

    def __init__(self) -> None:
        self.log: list[tuple[str, int, int]] = []
        self._device = 0
        self._defaults = [self.Stream(number) for number in range(2)]
        self._stream: Any = None
        self._doing = "eager"

    def current_device(self) -> int:
        return self._device

    def current_stream(self) -> Any:
        return self._stream or self._defaults[self._device]

    def Stream(self, device: int) -> Any:
        return SimpleNamespace(device=device, wait_stream=lambda other: None)

    def CUDAGraph(self) -> Any:
        return SimpleNamespace(replay=lambda: self.note("replay"))

    def device(self, device: torch.device) -> AbstractContextManager[None]:
        return self._changed(_device=device.index)

    def stream(self, stream: Any) -> AbstractContextManager[None]:
        return self._changed(_stream=stream)

    def graph(
        self, graph: Any, stream: Any = None, capture_error_mode: str = "global"
    ) -> AbstractContextManager[None]:
        """Without a stream of the caller's, PyTorch takes one of the device that was current at the first recording."""
        return self._changed(_stream=stream or self._defaults[0], _doing="record")

    @contextmanager
    def _changed(self, **values: Any) -> Iterator[None]:
        before = {name: getattr(self, name) for name in values}
        self.__dict__.update(values)
        try:
            yield
        finally:
            self.__dict__.update(before)

    def note(self, what: str | None = None) -> None:
        self.log.append((what or self._doing, self._device, self.current_stream().device))


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cuda]:
    made = Cuda()
    for name in ("current_device", "current_stream", "Stream", "CUDAGraph", "device", "stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, getattr(made, name))
    graphs._stream.cache_clear()
    yield made
    graphs._stream.cache_clear()


@pytest.fixture
def collecting() -> Iterator[list[bool]]:
    """Whether cycles were being collected, at each call of a recorded function; as it was before, afterwards."""
    before = gc.isenabled()
    yield []
    (gc.enable if before else gc.disable)()


def test_calls_recordings_and_replays_are_those_of_the_device_given(cuda: Cuda) -> None:
    for device in (HERE, OTHER):
        cuda.log.clear()
        graphed = Graphed(lambda _: cuda.note(), device)
        for _ in range(WARM_UP + 2):
            graphed(None)
        number = device.index
        eager, recorded, replayed = ((what, number, number) for what in ("eager", "record", "replay"))
        assert cuda.log == [*[eager] * WARM_UP, recorded, replayed, replayed]
        assert cuda.current_device() == 0


def test_a_pass_to_be_timed_is_recorded_on_the_device_given(cuda: Cuda) -> None:
    recording_of(cuda.note, OTHER)
    assert cuda.log == [("eager", 1, 1), ("record", 1, 1)]


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("enabled", [True, False])
def test_no_cycle_is_collected_while_something_is_recorded(collecting: list[bool], enabled: bool) -> None:
    """PyTorch's pull request 161037: destroying a recording while another is made spoils the latter."""
    (gc.enable if enabled else gc.disable)()

    def function(batch: Batch) -> Batch:
        collecting.append(gc.isenabled())
        return batch

    Graphed(function, HERE)._record(None)
    assert collecting == [False]
    assert gc.isenabled() == enabled


@pytest.mark.usefixtures("cuda")
def test_cycles_are_collected_again_after_a_recording_that_failed(collecting: list[bool]) -> None:
    gc.enable()

    def function(batch: Batch) -> Batch:
        collecting.append(gc.isenabled())
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        Graphed(function, HERE)._record(None)
    assert (collecting, gc.isenabled()) == ([False], True)
