"""Observation spaces by parts: what each leaf of a (nested) dict is, and how it becomes a vector or an image."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from redline.types import Tree, UserError

COLORS = (1, 3, 4)  # lengths by which a last axis is known to be colour channels


@dataclass(frozen=True)
class Part:
    """One leaf of the observation space."""

    path: tuple[str, ...]  # keys from the root; empty when the observation is no dict
    space: gymnasium.Space[Any]
    image: bool  # u8[C, H, W] for a convolution, else a vector
    shape: tuple[int, ...]  # after ``prepare``: (C, H, W) or (features,)
    continuous: bool  # floats, which normalisation concerns

    @property
    def name(self) -> str:
        """Its path as users write it."""
        return ".".join(self.path) or "observation"

    def of(self, tree: Tree) -> Tensor:
        """This part of an observation tree."""
        for key in self.path:
            tree = tree[key]
        return tree

    def prepare(self, x: Tensor) -> Tensor:
        """[N, *space.shape] -> u8[N, C, H, W] of an image, else f32[N, features] (bytes as shares of 255)."""
        if self.image:
            return _as_image(x)
        if isinstance(self.space, spaces.Discrete):
            choices = torch.arange(self.shape[0], device=x.device) + int(self.space.start)
            return (x.unsqueeze(-1) == choices).float()
        flat = x if x.dim() == 2 else x.reshape(len(x), -1)
        return flat.float() / 255 if flat.dtype == torch.uint8 else flat.float()


def parts(space: gymnasium.Space[Any], *, flat: bool = False) -> list[Part]:
    """The leaves of an observation space, in the space's order; with ``flat`` images count as vectors.

    Raises:
      UserError: for a leaf that is not Box, Discrete or MultiBinary, or a dict without leaves.
    """
    found = list(_walk(space, (), flat))
    if not found:
        raise UserError(
            "observation space Dict has no parts; give it at least one Box, Discrete or MultiBinary"
        )
    return found


def _walk(space: gymnasium.Space[Any], path: tuple[str, ...], flat: bool) -> Iterator[Part]:
    if isinstance(space, spaces.Dict):
        for key, inner in space.spaces.items():
            yield from _walk(inner, (*path, str(key)), flat)
    elif isinstance(space, spaces.Discrete):
        yield Part(path, space, False, (int(space.n),), False)
    elif isinstance(space, spaces.MultiBinary):
        yield Part(path, space, False, (int(np.prod(space.shape)),), False)
    elif isinstance(space, spaces.Box) and space.dtype != np.dtype(bool):
        if space.dtype == np.uint8 and len(space.shape) in (2, 3, 4) and not flat:
            yield Part(path, space, True, _image_shape(space.shape), False)
        else:
            continuous = bool(np.issubdtype(space.dtype, np.floating))
            yield Part(path, space, False, (int(np.prod(space.shape)),), continuous)
    else:
        raise UserError(_refusal(space, path))


def _channels_last(shape: tuple[int, ...]) -> bool:
    """Whether [..., H, W, C] rather than [..., C, H, W]; a tie goes to channels first, where frame stacks are."""
    return shape[-1] in COLORS and shape[-1] < shape[-3]


def _image_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of one u8 image as [C, H, W]: from [H, W], [C, H, W], [H, W, C], or a stack [S, ...] of the latter."""
    if len(shape) == 2:
        return (1, *shape)
    if _channels_last(shape):
        height, width, channels = shape[-3:]
    else:
        channels, height, width = shape[-3:]
    return (channels * (shape[0] if len(shape) == 4 else 1), height, width)


def _as_image(x: Tensor) -> Tensor:
    shape = tuple(x.shape[1:])
    if len(shape) == 2:
        return x.unsqueeze(1)
    if _channels_last(shape):
        x = x.movedim(-1, -3)
    return x.flatten(1, 2) if len(shape) == 4 else x


def _refusal(space: gymnasium.Space[Any], path: tuple[str, ...]) -> str:
    where = f"observation part {'.'.join(path)!r}" if path else "observation space"
    name = type(space).__name__
    if name == "Box":
        return f"{where}: Box of bool is not supported; nearest supported: MultiBinary"
    hints = {"MultiDiscrete": "Dict of Discrete", "Tuple": "Dict"}
    known = ["Box", "Discrete", "MultiBinary", "Dict"]
    hint = hints.get(name) or difflib.get_close_matches(name, known, 1, 0.0)[0]
    return f"{where}: {name} is not supported; nearest supported: {hint} (choose from {', '.join(known)})"
