"""CUDA graphs: a sequence of kernels recorded once and launched as one, where launching costs more than computing.

A recorded graph reads and writes the same memory each time. So inputs are copied into static tensors, and outputs are
cloned before the next replay overwrites them. One graph is kept per signature (shapes and dtypes) of the input.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from redline.types import ActInput, Output, Tree, tree_leaves, tree_map

_RECORDING = threading.Lock()  # one recording at a time in a process: each begins by waiting for the device
WARM_UP = 3  # eager calls before recording: lazy initialisation must not end up inside the graph

Function = Callable[[Any], Any]  # a mapped object (anything with ``map``) or a tree in, a tree of tensors out


def signature(batch: Any) -> tuple[Any, ...]:
    """Shapes and dtypes of every tensor of a batch, in order: what a graph was recorded for."""
    found: list[Any] = []
    transform(batch, lambda x: found.append((tuple(x.shape), x.dtype)) or x)  # type: ignore[func-returns-value]
    return tuple(found)


def transform(batch: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """``function`` on every tensor of a batch: a dataclass with ``map``, or a tree."""
    return batch.map(function) if hasattr(batch, "map") else tree_map(function, batch)


def copy_into(static: Any, fresh: Any) -> None:
    """Copy every tensor of ``fresh`` over its counterpart in ``static``."""
    targets: list[Tensor] = []
    transform(static, lambda x: targets.append(x) or x)  # type: ignore[func-returns-value]
    remaining = iter(targets)
    transform(fresh, lambda x: next(remaining).copy_(x, non_blocking=True))


class Graphed:
    """A function of one batch, recorded after ``WARM_UP`` eager calls for each new signature. Every call does its work
    exactly once: the eager calls are real ones, and recording is followed by a replay. Threads may share it.
    """

    def __init__(
        self, function: Function, device: torch.device, generator: torch.Generator | None = None
    ) -> None:
        """device: where ``function`` computes; batches are brought there.   generator: what it draws from."""
        self.function, self.device, self.generator = function, device, generator
        self._lock = threading.Lock()  # the static tensors are one caller's from copying to cloning
        self._calls: dict[tuple[Any, ...], int] = {}
        self._graphs: dict[tuple[Any, ...], tuple[Any, Any, Any]] = {}

    def __call__(self, batch: Any) -> Any:
        """The function's result for ``batch``; tensors of it are the caller's own."""
        key = signature(batch)
        with self._lock, torch.cuda.device(self.device):
            if key not in self._graphs:
                self._calls[key] = self._calls.get(key, 0) + 1
                if self._calls[key] <= WARM_UP:
                    return self._eagerly(batch)
                self._graphs[key] = self._record(batch)
            graph, static, result = self._graphs[key]
            copy_into(static, batch)
            graph.replay()
            return tree_map(Tensor.clone, result)

    def _eagerly(self, batch: Any) -> Any:
        """On a side stream, as recording demands of the calls before it."""
        stream = _stream(torch.cuda.current_device(), "eager")
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            result = self.function(transform(batch, lambda x: x.to(self.device)))
        torch.cuda.current_stream().wait_stream(stream)
        return result

    def _record(self, batch: Any) -> tuple[Any, Any, Any]:
        static = transform(batch, lambda x: x.to(self.device, copy=True))
        graph = torch.cuda.CUDAGraph()
        if self.generator is not None:
            graph.register_generator_state(self.generator)
        # PyTorch's own choice is one stream for the whole process, and a stream belongs to one device.
        stream = _stream(torch.cuda.current_device(), "recording")
        # What other threads do with the device meanwhile is none of the recording's business.
        recording = torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local")
        with _RECORDING, _no_collection(), recording:
            result = self.function(static)
        return graph, static, result


@contextmanager
def _no_collection() -> Iterator[None]:
    """The collector of cycles at rest: were it to destroy another recording meanwhile, it would spoil this one."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@cache
def _stream(device: int, use: Literal["eager", "recording"]) -> torch.cuda.Stream:
    """A device's stream for calls before recording, or for recording. One for all of them: PyTorch hands 32 out in
    turn, and the next could be the one that another thread is recording on."""
    return torch.cuda.Stream(device)


def recording_of(call: Callable[[], Any], device: torch.device) -> Callable[[], None]:
    """A recording of ``call``, which takes nothing and gives nothing back: to time what a recorded pass costs."""
    graphed = Graphed(lambda _: call(), device)
    with torch.cuda.device(device):
        graphed._eagerly(None)
        graph, _, _ = graphed._record(None)
    replay: Callable[[], None] = graph.replay
    return replay


def can_be_recorded(network: nn.Module) -> bool:
    """Whether its passes are the same kernels each time: recurrent cores look at resets on the host."""
    return not any(isinstance(module, nn.RNNBase) for module in network.modules())


class GraphedActing(nn.Module):
    """A feed-forward network's inference through a graph; recurrent networks and odd shapes go through eagerly."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._forward = Graphed(self._compute, next(network.parameters()).device)

    def _compute(self, inputs: dict[str, Any]) -> dict[str, Tensor]:
        output, _ = self.network(inputs["observation"], None, inputs["reset"])
        return {"policy": output.policy, "value": output.value}

    def initial_state(self, batch: int) -> Tree:
        """As the network's."""
        return self.network.initial_state(batch)  # type: ignore[operator]

    def forward(self, observation: Tree, state: Tree, reset: Tensor) -> tuple[Output, Tree]:
        """As the network's; the outputs are the caller's own."""
        if state is not None or not next(tree_leaves(observation)).is_cuda:
            return self.network(observation, state, reset)
        result = self._forward({"observation": observation, "reset": reset})
        return Output(result["policy"], result["value"]), None

    def whole_act(
        self, algorithm: Any, generator: torch.Generator
    ) -> Callable[[ActInput], dict[str, Tensor]]:
        """An algorithm's act through one graph, the drawing too: inputs from the host, and the record on the host.

        For algorithms whose ``act`` reads nothing but tensors (``recordable``), exploring, by ``generator`` of the
        network's device.
        """

        def act(batch: dict[str, Any]) -> dict[str, Tensor]:
            first = next(tree_leaves(batch["observation"]))
            never = torch.zeros(len(first), dtype=torch.bool, device=first.device)  # nothing here reads it
            x = ActInput(batch["observation"], None, never, batch["mask"], generator, 0)
            record: dict[str, Tensor] = algorithm.act(self.network, x)[0]
            return record

        recorded = Graphed(act, generator.device, generator)

        def whole(x: ActInput) -> dict[str, Tensor]:
            record = recorded({"observation": x.observation, "mask": x.action_mask})
            return {name: leaf.cpu() for name, leaf in record.items()}

        return whole
