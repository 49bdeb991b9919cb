"""An architecture as a picture: one self-contained SVG that reads on light and on dark pages alike.

Nothing is loaded from elsewhere and nothing is random: the same value gives the same bytes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from html import escape

from redline.architectures.draw import Arrow, Box, lag_sentence, picture
from redline.architectures.model import Architecture

BOX, GAP, MARGIN = 196, 226, 28  # widths in pixels: of a box, between two, around all
LINE = 17  # between lines of small text
CHARACTER = 7.0  # mean width of a small letter, on the wide side of what system fonts have
HEAD = 74  # above the boxes: name and system in one line
STACK = 7  # by which a copy stands out behind the one before

STYLE = """
  .card { fill: #ffffff; stroke: #d9dade }
  .box { fill: #eaf1fc; stroke: #3b74c4 } .learns { fill: #fdecea; stroke: #cf3a30 }
  .shared { fill: #fbf3df; stroke: #b98514; stroke-dasharray: 6 4 }
  .wire { fill: none; stroke: #55595f; stroke-width: 1.6 } .head { fill: #55595f }
  text { fill: #1c1e21; font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
  .name { font-size: 19px; font-weight: 650 } .role { font-size: 15.5px; font-weight: 650 }
  .small { font-size: 12.5px; fill: #5b5f66 } .cargo { font-size: 13.5px; font-weight: 600 }
  @media (prefers-color-scheme: dark) {
    .card { fill: #1c1e21; stroke: #34373c }
    .box { fill: #1d2a3d; stroke: #6da3f5 } .learns { fill: #3a2220; stroke: #ff7d73 }
    .shared { fill: #35301f; stroke: #dfb04f }
    .wire { stroke: #a6aab1 } .head { fill: #a6aab1 } text { fill: #ececea } .small { fill: #a6aab1 }
  }
"""


def svg(architecture: Architecture) -> str:
    """The whole document: boxes for roles (copies stacked behind), arrows with their cargo, the bound on lag."""
    boxes, arrows = picture(architecture)
    far = [arrow for arrow in arrows if abs(arrow.source - arrow.target) > 1]
    width = max(2 * MARGIN + len(boxes) * BOX + (len(boxes) - 1) * GAP, 560)
    left = (width - len(boxes) * BOX - (len(boxes) - 1) * GAP) // 2
    height = _box_height(boxes, arrows)
    system = _wrap(architecture.system, width - 2 * MARGIN)
    top = HEAD + LINE * (len(system) - 1)
    bottom = top + height
    lag = _wrap(lag_sentence(architecture), width - 2 * MARGIN)
    foot = bottom + 40 * len(far) + 38
    total = foot + LINE * (len(lag) - 1) + 22
    body = [
        f'<rect class="card" x="0.5" y="0.5" width="{width - 1}" height="{total - 1}" rx="12"/>',
        f'<text class="name" x="{MARGIN}" y="34">{escape(architecture.name)}</text>',
        _lines(system, MARGIN, 54, "small"),
    ]
    learns = {role.name for role in architecture.roles if role.runs in ("learn", "train", "combine")}
    for index, box in enumerate(boxes):
        kind = "shared" if box.shared else "learns" if box.title in learns else "box"
        body.append(_box(box, (left + index * (BOX + GAP), top), height, kind))
    for first in range(len(boxes) - 1):
        lane = [arrow for arrow in arrows if {arrow.source, arrow.target} == {first, first + 1}]
        body += _lane(lane, left + first * (BOX + GAP) + BOX, top + height // 2, boxes[first].copies)
    body += [_detour(arrow, left, bottom, 40 * (row + 1)) for row, arrow in enumerate(far)]
    body.append(_lines(lag, MARGIN, foot, "small"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" width="{width}" height="{total}" '
        f'role="img" aria-label="{escape(_spoken(architecture, arrows, boxes), quote=True)}">\n'
        f"<style>{STYLE}</style>\n" + "\n".join(body) + "\n</svg>\n"
    )


def _box_height(boxes: Sequence[Box], arrows: Sequence[Arrow]) -> int:
    """High enough for the words in every box and for the arrows between each two."""
    words = max(len(_wrap(box.says, BOX - 28)) for box in boxes) * LINE + 52
    lanes = []
    for first in range(len(boxes) - 1):
        lane = [arrow for arrow in arrows if {arrow.source, arrow.target} == {first, first + 1}]
        lanes.append(sum(_arrow_height(arrow) for arrow in lane) + 16)
    return max([words, *lanes])


def _arrow_height(arrow: Arrow) -> int:
    return 26 + LINE * len(arrow.notes) + 12


def _box(box: Box, corner: tuple[int, int], height: int, kind: str) -> str:
    left, top = corner
    behind = "".join(
        f'<rect class="{kind}" x="{left + STACK * n}" y="{top + STACK * n}" width="{BOX}" height="{height}" rx="9"/>'
        for n in range(min(box.copies, 3) - 1, 0, -1)
    )
    copies = f" \N{MULTIPLICATION SIGN} {box.copies}" if box.copies > 1 else ""
    return (
        f'{behind}<rect class="{kind}" x="{left}" y="{top}" width="{BOX}" height="{height}" rx="9"/>'
        f'<text class="role" x="{left + 14}" y="{top + 28}">{escape(box.title + copies)}</text>'
        + _lines(_wrap(box.says, BOX - 28), left + 14, top + 50, "small")
    )


def _lane(lane: Sequence[Arrow], left: int, centre: int, copies: int) -> list[str]:
    """Arrows between two neighbours, one above the other, each with its cargo above and its notes below the line."""
    drawn = []
    stack = STACK * (min(copies, 3) - 1)
    begin, end = left + stack + 8, left + GAP - 8
    y = centre - sum(map(_arrow_height, lane)) // 2
    for arrow in lane:
        middle, at = (begin + end) // 2, y + 24
        drawn.append(_wire(begin, end, at, rightward=arrow.target > arrow.source))
        drawn.append(_centred(arrow.label, middle, at - 7, "cargo"))
        drawn += [
            _centred(note, middle, at + 16 + LINE * row, "small") for row, note in enumerate(arrow.notes)
        ]
        y += _arrow_height(arrow)
    return drawn


def _wire(begin: int, end: int, y: int, *, rightward: bool) -> str:
    start, tip, back = (begin, end, -9) if rightward else (end, begin, 9)
    return (
        f'<path class="wire" d="M{start} {y}H{tip + back}"/><path class="head" d="M{tip} {y}l{back} -5v10z"/>'
    )


def _detour(arrow: Arrow, left: int, bottom: int, below: int) -> str:
    """An arrow that passes the boxes between its ends below them."""
    middles = {index: left + index * (BOX + GAP) + BOX // 2 for index in (arrow.source, arrow.target)}
    start, end, y = middles[arrow.source], middles[arrow.target], bottom + below
    tip = bottom + STACK * 2 + 3
    words = arrow.label + "".join(f"; {note}" for note in arrow.notes)
    return (
        f'<path class="wire" d="M{start} {bottom + 3}V{y}H{end}V{tip + 9}"/>'
        f'<path class="head" d="M{end} {tip}l-5 9h10z"/>'
        + _centred(words, (start + end) // 2, y - 7, "cargo")
    )


def _centred(words: str, x: int, y: int, kind: str) -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="middle">{escape(words)}</text>'


def _lines(lines: Sequence[str], x: int, y: int, kind: str) -> str:
    return "".join(
        f'<text class="{kind}" x="{x}" y="{y + LINE * row}">{escape(line)}</text>'
        for row, line in enumerate(lines)
    )


def _wrap(words: str, width: int) -> list[str]:
    return textwrap.wrap(words, max(int(width / CHARACTER), 8))


def _spoken(architecture: Architecture, arrows: Sequence[Arrow], boxes: Sequence[Box]) -> str:
    """The picture for those who listen."""
    ways = [
        f"{arrow.label} from {boxes[arrow.source].title} to {boxes[arrow.target].title}" for arrow in arrows
    ]
    return "; ".join([architecture.system, *ways])
