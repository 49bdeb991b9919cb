"""Policies' distributions over actions, chosen by the action space.

A distribution says how to read the network's policy output [..., P]. Its functions cost few kernels and never
wait for the device; torch.distributions costs six times as much at the batch sizes of acting.
Masks are bool, True is legal. An illegal action has probability exactly 0 and is never sampled.
"""

from __future__ import annotations

import difflib
import math
from typing import Any, Protocol

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from redline.types import UserError

# Probability exp(-1e9) is exactly 0 in any floating type, and unlike with -inf, 0 times it is 0, not NaN.
ILLEGAL = -1e9
LOG_2PI = math.log(2 * math.pi)


class Distribution(Protocol):
    """How to read policy outputs [..., P] as a distribution over actions [..., *action_shape]."""

    parameters: int  # P
    action_shape: tuple[int, ...]  # of one action as a tensor: () for Discrete, (K,) otherwise
    action_dtype: torch.dtype

    def sample(
        self, parameters: Tensor, generator: torch.Generator | None, mask: Tensor | None = None
    ) -> Tensor:
        """One action per row, drawn with ``generator`` (which lives on the parameters' device)."""

    def mode(self, parameters: Tensor, mask: Tensor | None = None) -> Tensor:
        """The most probable action per row."""

    def log_prob(self, parameters: Tensor, action: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log probability (density) f32[...] of actions [..., *action_shape]."""

    def entropy(self, parameters: Tensor, mask: Tensor | None = None) -> Tensor:
        """Entropy f32[...] in nats, over legal actions."""

    def log_prob_entropy(
        self, parameters: Tensor, action: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Both at once, sharing their work."""

    def sample_log_prob(
        self, parameters: Tensor, generator: torch.Generator | None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """``sample``, and the ``log_prob`` of what was drawn."""

    def to_environment(self, action: Tensor) -> np.ndarray:
        """Actions [B, *action_shape] as the action space spells them (offset, clipped to bounds, shaped)."""


def make(space: gymnasium.Space[Any]) -> Distribution:
    """The distribution over actions of ``space``: Discrete, MultiDiscrete, MultiBinary or a Box of floats.

    Raises:
      UserError: for any other space.
    """
    if isinstance(space, spaces.Discrete):
        return Categorical(int(space.n), int(space.start))
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return MultiCategorical(space.nvec, space.start)
    if isinstance(space, spaces.MultiBinary) and len(space.shape) == 1:
        return MultiCategorical(np.full(space.shape, 2), np.zeros(space.shape, np.int64))
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return DiagonalGaussian(space)
    raise UserError(_refusal(space))


class Categorical:
    """One of A actions; P = A logits. Sampled by the Gumbel trick: argmax of logits - log E, E ~ Exp(1)."""

    def __init__(self, actions: int, start: int = 0) -> None:
        self.parameters = actions
        self.start = start  # the environment's name for action 0
        self.action_shape: tuple[int, ...] = ()
        self.action_dtype = torch.int64

    def sample(
        self, parameters: Tensor, generator: torch.Generator | None, mask: Tensor | None = None
    ) -> Tensor:
        return _gumbel_argmax(parameters, generator, mask)

    def mode(self, parameters: Tensor, mask: Tensor | None = None) -> Tensor:
        return _masked(parameters, mask).argmax(-1)

    def log_prob(self, parameters: Tensor, action: Tensor, mask: Tensor | None = None) -> Tensor:
        return _gather(_log_softmax(parameters, mask), action)

    def entropy(self, parameters: Tensor, mask: Tensor | None = None) -> Tensor:
        return _entropy(_log_softmax(parameters, mask))

    def log_prob_entropy(
        self, parameters: Tensor, action: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return _log_prob_entropy(_log_softmax(parameters, mask), action)

    def sample_log_prob(
        self, parameters: Tensor, generator: torch.Generator | None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if parameters.dim() != 2 or parameters.device.type != "cpu" or mask is not None:
            action = self.sample(parameters, generator, mask)
            return action, self.log_prob(parameters, action, mask)
        from redline.ops import compiled  # late: Numba takes half a second to import

        logits = parameters.detach().float()
        noise = torch.empty_like(logits).exponential_(generator=generator)
        action, log_prob = torch.empty(len(logits), dtype=torch.int64), torch.empty(len(logits))
        compiled.categorical_sample(logits.numpy(), noise.numpy(), action.numpy(), log_prob.numpy())
        return action, log_prob

    def to_environment(self, action: Tensor) -> np.ndarray:
        chosen = action.cpu().numpy()
        return chosen + self.start if self.start else chosen


class MultiCategorical:
    """K independent choices of n_1 .. n_K; P = sum n_k logits (and so the masks), choice after choice.

    The logits are spread to [..., K, max n], padded with illegal ones: K choices cost the kernels of one.
    """

    def __init__(self, choices: np.ndarray, start: np.ndarray) -> None:
        self.choices = [int(n) for n in choices]
        self.parameters = sum(self.choices)
        self.start = np.asarray(start, np.int64)
        self.action_shape: tuple[int, ...] = (len(self.choices),)
        self.action_dtype = torch.int64
        widest = max(self.choices)
        offsets = np.cumsum([0, *self.choices[:-1]])
        column = np.arange(widest)
        real = column < np.array(self.choices)[:, None]  # [K, widest]
        self._index = torch.from_numpy(np.where(real, offsets[:, None] + column, 0))
        self._real = None if real.all() else torch.from_numpy(real)

    def _spread(self, parameters: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """[..., P] -> [..., K, max n], and the mask with padding made illegal."""
        if self._index.device != parameters.device:
            self._index = self._index.to(parameters.device)
            self._real = None if self._real is None else self._real.to(parameters.device)
        logits = parameters[..., self._index]
        if mask is None:
            return logits, self._real
        legal = mask[..., self._index]
        return logits, legal if self._real is None else legal & self._real

    def sample(
        self, parameters: Tensor, generator: torch.Generator | None, mask: Tensor | None = None
    ) -> Tensor:
        logits, legal = self._spread(parameters, mask)
        return _gumbel_argmax(logits, generator, legal)

    def mode(self, parameters: Tensor, mask: Tensor | None = None) -> Tensor:
        return _masked(*self._spread(parameters, mask)).argmax(-1)

    def log_prob(self, parameters: Tensor, action: Tensor, mask: Tensor | None = None) -> Tensor:
        return _gather(_log_softmax(*self._spread(parameters, mask)), action).sum(-1)

    def entropy(self, parameters: Tensor, mask: Tensor | None = None) -> Tensor:
        return _entropy(_log_softmax(*self._spread(parameters, mask))).sum(-1)

    def log_prob_entropy(
        self, parameters: Tensor, action: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        log_prob, entropy = _log_prob_entropy(_log_softmax(*self._spread(parameters, mask)), action)
        return log_prob.sum(-1), entropy.sum(-1)

    def sample_log_prob(
        self, parameters: Tensor, generator: torch.Generator | None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        action = self.sample(parameters, generator, mask)
        return action, self.log_prob(parameters, action, mask)

    def to_environment(self, action: Tensor) -> np.ndarray:
        return action.cpu().numpy() + self.start


class DiagonalGaussian:
    """Independent normals over a Box's K numbers; P = 2K: means, then log standard deviations.

    Not squashed: actions are unbounded for the algorithm, and clipped to the Box for the environment.
    """

    def __init__(self, space: spaces.Box) -> None:
        self.size = int(np.prod(space.shape))
        self.parameters = 2 * self.size
        self.action_shape: tuple[int, ...] = (self.size,)
        self.action_dtype = torch.float32
        self.low, self.high, self.dtype = space.low, space.high, space.dtype

    def sample(
        self, parameters: Tensor, generator: torch.Generator | None, mask: Tensor | None = None
    ) -> Tensor:
        mean, log_std = self._split(parameters, mask)
        noise = torch.empty_like(mean).normal_(generator=generator)
        return torch.addcmul(mean, noise, log_std.exp())

    def mode(self, parameters: Tensor, mask: Tensor | None = None) -> Tensor:
        return self._split(parameters, mask)[0]

    def log_prob(self, parameters: Tensor, action: Tensor, mask: Tensor | None = None) -> Tensor:
        mean, log_std = self._split(parameters, mask)
        standard = (action - mean) * (-log_std).exp()
        return -(0.5 * standard.square() + log_std).sum(-1) - 0.5 * LOG_2PI * self.size

    def entropy(self, parameters: Tensor, mask: Tensor | None = None) -> Tensor:
        return self._split(parameters, mask)[1].sum(-1) + 0.5 * (1 + LOG_2PI) * self.size

    def log_prob_entropy(
        self, parameters: Tensor, action: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return self.log_prob(parameters, action, mask), self.entropy(parameters, mask)

    def sample_log_prob(
        self, parameters: Tensor, generator: torch.Generator | None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        action = self.sample(parameters, generator, mask)
        return action, self.log_prob(parameters, action, mask)

    def to_environment(self, action: Tensor) -> np.ndarray:
        shaped = action.cpu().numpy().reshape(-1, *self.low.shape)
        return np.clip(shaped, self.low, self.high).astype(self.dtype, copy=False)

    def _split(self, parameters: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        if mask is not None:
            raise ValueError("a continuous action space has no action mask")
        mean, log_std = parameters.float().split(self.size, -1)
        return mean, log_std


def _masked(logits: Tensor, mask: Tensor | None, illegal: float = ILLEGAL) -> Tensor:
    logits = logits.float()
    if mask is None:
        return logits
    if mask.shape[-1] != logits.shape[-1]:
        raise ValueError(f"mask has shape {list(mask.shape)}, expected [..., {logits.shape[-1]}]")
    return logits.masked_fill(~mask, illegal)


def _log_softmax(logits: Tensor, mask: Tensor | None) -> Tensor:
    return _masked(logits, mask).log_softmax(-1)


def _gumbel_argmax(logits: Tensor, generator: torch.Generator | None, mask: Tensor | None) -> Tensor:
    noise = torch.empty_like(logits, dtype=torch.float32).exponential_(generator=generator).log_()
    # Masked after the noise, so that no draw of it, however rare, can lift an illegal action.
    return _masked(logits - noise, mask, -torch.inf).argmax(-1)


def _gather(log_probs: Tensor, action: Tensor) -> Tensor:
    if log_probs.shape[:-1] != action.shape:
        raise ValueError(f"action has shape {list(action.shape)}, expected {list(log_probs.shape[:-1])}")
    return log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)


def _entropy(log_probs: Tensor) -> Tensor:
    return -(log_probs.exp() * log_probs).sum(-1)


def _log_prob_entropy(log_probs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    return _gather(log_probs, action), _entropy(log_probs)


def _refusal(space: gymnasium.Space[Any]) -> str:
    known = ["Discrete", "MultiDiscrete", "MultiBinary", "Box"]
    name = type(space).__name__
    if name == "Box":
        return (
            f"action space Box of shape {space.shape} holds integers ({space.dtype}); "
            f"nearest supported: MultiDiscrete, or a Box of float32"
        )
    if name in known:
        return (
            f"action space {name} of shape {space.shape} has several axes; nearest supported: a flat {name}"
        )
    nearest = difflib.get_close_matches(name, known, 1, 0.0)[0]
    hint = "MultiDiscrete" if name in ("Tuple", "Dict") else nearest
    return f"action space {name} is not supported; nearest supported: {hint} (choose from {', '.join(known)})"
