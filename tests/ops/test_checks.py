"""check_shapes refuses what would broadcast silently, and says what it saw."""

from __future__ import annotations

import pytest
import torch

from redline.ops.checks import check_shapes


def test_returns_the_axes() -> None:
    sizes = check_shapes("T B; T+1 B; B", a=torch.zeros(3, 2), b=torch.zeros(4, 2), c=torch.zeros(2))
    assert sizes == {"T": 3, "B": 2}


def test_the_last_shape_holds_for_the_rest_and_dots_for_any_axes() -> None:
    check_shapes("... A", a=torch.zeros(5, 4, 3), b=torch.zeros(3), c=torch.zeros(1, 3))
    check_shapes("N 2", a=torch.zeros(7, 2), b=torch.zeros(7, 2))


@pytest.mark.parametrize(
    ("pattern", "first", "second", "said"),
    [
        ("T B", (3, 2), (3, 1), "second has shape [3, 1], expected [T, B] where T=3, B=2"),
        ("T B; B", (3, 2), (2, 1), "second has shape [2, 1], expected [B]"),
        ("T B; T+1 B", (3, 2), (3, 2), "second has shape [3, 2], expected [T+1, B]"),
        ("T B; T 4", (3, 2), (3, 2), "second has shape [3, 2], expected [T, 4]"),
        ("T B; ... B", (3, 2), (2, 3), "second has shape [2, 3], expected [..., B]"),
        ("T B; ... A B", (3, 2), (2,), "second has shape [2], expected [..., A, B]"),
    ],
)
def test_refuses(pattern: str, first: tuple[int, ...], second: tuple[int, ...], said: str) -> None:
    with pytest.raises(ValueError, match="second") as refusal:
        check_shapes(pattern, first=torch.zeros(first), second=torch.zeros(second))
    assert said in str(refusal.value)
