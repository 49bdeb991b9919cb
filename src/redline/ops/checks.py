"""Entry checks: broadcasting accidents ([B] against [B, 1]) are the commonest silent error in the field."""

from __future__ import annotations

from functools import cache

from torch import Tensor


def check_shapes(pattern: str, **tensors: Tensor) -> dict[str, int]:
    """Check that tensors have the shapes that ``pattern`` gives, axis names agreeing among them.

    Args:
      pattern: one shape per tensor, in their order, separated by ``;``. An axis is a name (equal names, equal
        lengths), a number, a name plus a number (``T+1``), or a leading ``...`` (any axes). Where there
        are fewer shapes than tensors, the last shape holds for the rest.
      tensors: the tensors, under the names the message shall use.

    Returns:
      The length of each named axis.

    Raises:
      ValueError: with the tensor's name, its shape and the shape expected.

    >>> check_shapes("T B; T+1 B", rewards=torch.zeros(3, 2), values=torch.zeros(4, 2))
    {'T': 3, 'B': 2}
    """
    shapes = _parse(pattern)
    sizes: dict[str, int] = {}
    for position, (name, tensor) in enumerate(tensors.items()):
        wanted = shapes[min(position, len(shapes) - 1)]
        if not _matches(wanted, tuple(tensor.shape), sizes):
            known = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
            where = f" where {known}" if known else ""
            raise ValueError(f"{name} has shape {list(tensor.shape)}, expected [{', '.join(wanted)}]{where}")
    return sizes


@cache
def _parse(pattern: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(part.split()) for part in pattern.split(";"))


def _matches(wanted: tuple[str, ...], shape: tuple[int, ...], sizes: dict[str, int]) -> bool:
    if wanted and wanted[0] == "...":
        wanted = wanted[1:]
        if len(shape) < len(wanted):
            return False
        shape = shape[len(shape) - len(wanted) :]
    if len(shape) != len(wanted):
        return False
    return all(_axis_matches(axis, size, sizes) for axis, size in zip(wanted, shape, strict=True))


def _axis_matches(axis: str, size: int, sizes: dict[str, int]) -> bool:
    if axis.isdigit():
        return size == int(axis)
    name, _, extra = axis.partition("+")
    length = size - int(extra or 0)
    return sizes.setdefault(name, length) == length
