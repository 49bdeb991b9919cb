"""Recurrent cores over [T, B] with episode ends inside the window."""

from __future__ import annotations

import copy
import math
import warnings
from typing import cast

import torch
from torch import Tensor, nn

from redline.networks.packed import Widened

# Weights lie in the learner's flat buffer, and cuDNN brings them into its own order at every pass.
warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous chunk")


class Core(nn.Module):
    """An LSTM or GRU whose state is zeroed wherever an episode starts. It computes in f32, whatever its weights are.

    ``features`` is the size of the output. The state is a dict of f32[B, features]: ``hidden``, and for the LSTM
    ``cell``.
    """

    def __init__(self, kind: str, inputs: int, size: int, *, orthogonal: bool = False) -> None:
        super().__init__()
        self.features = size
        self.names = ("hidden", "cell") if kind == "lstm" else ("hidden",)
        self.rnn: nn.RNNBase = nn.LSTM(inputs, size) if kind == "lstm" else nn.GRU(inputs, size)
        self.widened = Widened()
        if orthogonal:
            for name, parameter in self.rnn.named_parameters():
                nn.init.zeros_(parameter) if "bias" in name else nn.init.orthogonal_(parameter, math.sqrt(1))

    def initial_state(self, batch: int) -> dict[str, Tensor]:
        """Zeros f32[B, features] on the parameters' device."""
        device = next(self.parameters()).device
        return {name: torch.zeros(batch, self.features, device=device) for name in self.names}

    def forward(
        self, x: Tensor, state: dict[str, Tensor] | None, reset: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """x [T, B, inputs], state, reset bool[T, B] -> outputs [T, B, features], state after the last step.

        One call of the whole window where no episode starts inside it, else one per piece between such rows. Finding
        them waits for the device (not when T is 1).
        """
        state = self.initial_state(x.shape[1]) if state is None else state
        with torch.autocast(x.device.type, enabled=False):  # a state in bf16 loses what is small beside it
            x, rnn = x.float(), self._f32()
            hidden = [state[name].float()[None] for name in self.names]
            outputs = []
            cuts = _cuts(reset)
            for start, stop in zip(cuts, [*cuts[1:], len(reset)], strict=True):
                alive = (~reset[start])[:, None].float()
                output, hidden = self._run(rnn, x[start:stop], [part * alive for part in hidden])
                outputs.append(output)
        whole = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return whole, {name: part[0] for name, part in zip(self.names, hidden, strict=True)}

    def _f32(self) -> nn.RNNBase:
        """The layer, or one that computes with f32 copies of its weights."""
        weights = self.rnn.all_weights[0]
        if weights[0].dtype == torch.float32:
            return self.rnn
        kept = not (torch.is_grad_enabled() or weights[0].is_cuda)  # as in ``layers.Head``
        widened = self.widened.of(*weights) if kept else [weight.float() for weight in weights]
        # Another object, since threads share the layer: ``functional_call`` would lend it the weights meanwhile. And a
        # layer, not ``torch.lstm``: torch.compile leaves layers alone, but fails on what they call.
        made = copy.copy(self.rnn)
        made._flat_weights = list(widened)
        return made

    def _run(self, rnn: nn.RNNBase, x: Tensor, hidden: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        if len(self.names) == 1:
            output, last = rnn(x, hidden[0])
            return output, [last]
        output, pair = rnn(x, tuple(hidden))
        return output, list(cast(tuple[Tensor, Tensor], pair))


def _cuts(reset: Tensor) -> list[int]:
    """Row 0 and every later row in which some episode starts."""
    if len(reset) == 1:
        return [0]
    return [0, *(row for row, cut in enumerate(reset.any(1).tolist()) if cut and row)]
