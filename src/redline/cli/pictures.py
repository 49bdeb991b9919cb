"""Somewhere to show an agent: a window where there is a display and pygame, else the terminal, else nowhere."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Any, Protocol, TextIO

import numpy as np

from redline.types import RunError


class Screen(Protocol):
    """Somewhere to show pictures."""

    def show(self, picture: np.ndarray) -> None:
        """Show u8[H, W, 3]. Raises KeyboardInterrupt where the user has closed the screen."""

    def tell(self, text: str) -> None:
        """Show a line of text."""

    def close(self) -> None:
        """Give back what was taken."""


class Window:
    """A pygame window."""

    def __init__(self, title: str) -> None:
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        import pygame

        self._pygame: Any = pygame
        self._title = title
        self._surface: Any = None
        pygame.display.init()

    def show(self, picture: np.ndarray) -> None:
        """Draw the picture, enlarged to a comfortable size."""
        pygame = self._pygame
        if self._surface is None:
            scale = max(1, 600 // picture.shape[0])
            self._surface = pygame.display.set_mode((picture.shape[1] * scale, picture.shape[0] * scale))
            pygame.display.set_caption(self._title)
        drawn = pygame.surfarray.make_surface(picture.swapaxes(0, 1))
        pygame.transform.scale(drawn, self._surface.get_size(), self._surface)
        pygame.display.flip()
        if any(event.type == pygame.QUIT for event in pygame.event.get()):
            raise KeyboardInterrupt

    def tell(self, text: str) -> None:
        """Print the line."""
        print(text, flush=True)

    def close(self) -> None:
        """Close the window."""
        self._pygame.display.quit()


class TerminalPictures:
    """Two pixels to a character, in colour: works over any connection."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines = 0  # above the cursor that the next picture is drawn over
        self._told: list[str] = []  # lines under the picture
        stream.write("\x1b[?25l")  # hide the cursor

    def show(self, picture: np.ndarray) -> None:
        """Draw the picture over the one before."""
        columns, rows = shutil.get_terminal_size()
        self._told = self._told[-(rows // 3) :]
        below = "".join(f"{line[: columns - 1]}\x1b[K\n" for line in self._told)
        text = half_blocks(picture, columns, max(rows - 1 - len(self._told), 2)) + below
        up = f"\x1b[{self._lines}A" if self._lines else ""
        self._stream.write(up + text)
        self._stream.flush()
        self._lines = text.count("\n")

    def tell(self, text: str) -> None:
        """Write the line under the picture, where it stays."""
        self._told.append(text)
        self._stream.write(f"{text}\n")
        self._lines += 1

    def close(self) -> None:
        """Show the cursor again."""
        self._stream.write("\x1b[?25h\x1b[0m")
        self._stream.flush()


class Nothing:
    """For outputs that cannot show pictures."""

    def show(self, picture: np.ndarray) -> None:
        """Nothing."""

    def tell(self, text: str) -> None:
        """Print the line."""
        print(text, flush=True)

    def close(self) -> None:
        """Nothing."""


def open_screen(title: str) -> Screen:
    """The best screen there is."""
    display = sys.platform in ("win32", "darwin") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
    if display:
        try:
            return Window(title)
        except Exception:  # no pygame, or a display that refuses: the terminal will do
            pass
    if sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return TerminalPictures(sys.stdout)
    return Nothing()


def half_blocks(picture: np.ndarray, columns: int, rows: int) -> str:
    """u8[H, W, 3] as lines of at most ``columns`` characters: each shows an upper and a lower pixel."""
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise RunError(f"a picture is u8[height, width, 3], not {list(picture.shape)}")
    height, width = picture.shape[:2]
    scale = min(columns / width, 2 * rows / height, 1.0)
    across, down = max(int(width * scale), 1), max(int(height * scale) // 2 * 2, 2)
    # Means of the pixels under each cell keep thin things, such as a ball, in sight.
    small = _mean_under(_mean_under(picture.astype(np.float32), down, 0), across, 1).round().astype(np.uint8)
    lines: list[str] = []
    for upper, lower in zip(small[::2], small[1::2], strict=True):
        line, before = [], None
        for top, bottom in zip(upper.tolist(), lower.tolist(), strict=True):
            if (top, bottom) != before:
                line.append("\x1b[38;2;{};{};{}m\x1b[48;2;{};{};{}m".format(*top, *bottom))
                before = (top, bottom)
            line.append("▀")
        lines.append("".join(line) + "\x1b[0m\x1b[K\n")
    return "".join(lines)


def _mean_under(picture: np.ndarray, cells: int, axis: int) -> np.ndarray:
    edges = np.linspace(0, picture.shape[axis], cells, endpoint=False).astype(int)
    sizes = np.diff(np.append(edges, picture.shape[axis]))
    shape = [1, 1, 1]
    shape[axis] = -1
    return np.add.reduceat(picture, edges, axis=axis) / sizes.reshape(shape)
