"""An architecture in words: boxes and arrows, tables of roles and edges, and the bound on lag as a sentence.

``picture`` is what both drawings show: ``text`` here, ``svg`` beside it. The same value gives the same text, always.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from redline.architectures.model import Architecture, Edge, Role, held, lag_bound

RUNS = {
    "train": "steps environments and learns, all in one loop",
    "collect": "steps environments with its own copy of the policy",
    "step": "steps environments with the actions it is sent",
    "infer": "answers many observations at once with actions",
    "learn": "turns batches into updates, publishes weights",
    "replay": "keeps experience, draws batches from it",
    "combine": "applies gradients to the parameters that all read",
}
DIFFERENTIATES = "steps environments, computes gradients from what it collects"
DRAWS = "steps environments, computes gradients from what it draws"
SHARED = {  # what copies meet at that send gradients to each other: name, and what happens there
    "race": ("shared parameters", "in place, coordinate by coordinate; no lock"),
    "lock": ("central parameters", "in chunks, each behind a lock of its own"),
    "barrier": ("average", "of all gradients; everyone waits for everyone"),
}
WHEN_FULL = {
    "block": "the sender waits",
    "replace": "the newest replaces it",
    "race": "overwritten in place, no lock",
    "barrier": "all wait for all",
    "lock": "a lock for each chunk",
}
BOX, GAP = 24, 22  # columns of a box, and between two
ASCII = str.maketrans("┌┐└┘│─▶◀▲", "++++|-><^")  # for outputs that know no more


@dataclass(frozen=True)
class Box:
    """A role, or what roles share."""

    title: str
    copies: int
    says: str
    shared: bool = False  # not a loop of its own: memory that others meet at


@dataclass(frozen=True)
class Arrow:
    """An edge between two boxes, by their places from the left."""

    source: int
    target: int
    label: str
    notes: tuple[str, ...] = ()


def picture(architecture: Architecture) -> tuple[list[Box], list[Arrow]]:
    """Boxes from left to right and the arrows between them.

    Copies of one role that share gradients are drawn with what they share beside them: gradients go there and weights
    (or, behind a barrier, the average) come back.
    """
    boxes = [Box(role.name, role.copies, does(architecture, role)) for role in architecture.roles]
    place = {role.name: index for index, role in enumerate(architecture.roles)}
    arrows = []
    for edge in architecture.edges:
        if edge.source != edge.target:
            notes = _notes(architecture, edge)
            arrows.append(Arrow(place[edge.source], place[edge.target], edge.carries, notes))
            continue
        title, says = SHARED[edge.when_full]
        boxes.append(Box(title, 1, says, shared=True))
        here, there = place[edge.source], len(boxes) - 1
        arrows.append(Arrow(here, there, edge.carries, _notes(architecture, edge)))
        arrows.append(Arrow(there, here, "average" if edge.when_full == "barrier" else "weights"))
    return boxes, arrows


def text(architecture: Architecture) -> str:
    """The whole description: diagram, roles, edges, lag. Lines of at most 118 columns, none of them padded."""
    roles = [("role", "runs", "copies")]
    roles += [(role.name, does(architecture, role), _copies(role)) for role in architecture.roles]
    parts = [f"{architecture.name}: {architecture.system}", diagram(architecture), table(roles)]
    if architecture.edges:
        head = ("edge", "carries", "may wait", "when full", "taken at a turn", "lag it allows")
        parts.append(table([head, *(edge_row(architecture, edge) for edge in architecture.edges)]))
    parts.append("\n".join(textwrap.wrap(lag_sentence(architecture), 100)))
    return "\n\n".join(parts) + "\n"


def does(architecture: Architecture, role: Role) -> str:
    """What a role does, in words."""
    if role.runs != "train" or not architecture.shares_gradients:
        return RUNS[role.runs]
    return DRAWS if architecture.has_replay else DIFFERENTIATES


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as columns of equal width, two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def edge_row(architecture: Architecture, edge: Edge) -> tuple[str, ...]:
    """An edge in six cells: ends, cargo, room, what happens when full, what is taken at a turn, lag it allows."""
    ends = f"{edge.source} -> {edge.target}"
    return (
        ends,
        edge.carries,
        room(edge),
        WHEN_FULL[edge.when_full],
        taken(architecture, edge),
        lag(architecture, edge),
    )


def room(edge: Edge) -> str:
    """How many may wait, in words."""
    if edge.when_full == "replace":
        return "the newest"
    if edge.when_full in SHARED or edge.capacity == 0:
        return "none"
    per = edge.per or edge.source
    return f"{edge.capacity} for each {per}"


def taken(architecture: Architecture, edge: Edge) -> str:
    """What the receiver takes at a turn, in words."""
    if edge.carries == "weights":
        return "the newest"
    if edge.when_full in ("race", "lock"):
        return "1"
    copies = architecture.senders(edge)
    count = edge.take or copies
    return f"{count} (one of each)" if edge.take == 0 and copies > 1 else str(count)


def lag(architecture: Architecture, edge: Edge) -> str:
    """How old what the edge carries may be when it is used, in words; of weights it is the receiver's affair."""
    if edge.carries in ("observation", "action"):
        return "0: the sender waits for it"
    if edge.carries in ("weights", "priority"):
        return "-"
    bound = lag_bound(architecture)
    if bound is None:
        return "no bound"
    return f"at most {bound} batch{'' if bound == 1 else 'es'}" if bound else "0"


def lag_sentence(architecture: Architecture) -> str:
    """The bound on lag, and what it follows from."""
    bound, edge, gradient = (
        lag_bound(architecture),
        architecture.edge("unroll"),
        architecture.edge("gradient"),
    )
    if gradient is not None:
        return _gradient_sentence(architecture, gradient, bound)
    if edge is None:
        return "Lag is 0: one loop collects, then learns."
    if architecture.has_replay:
        return "Lag has no bound: experience is drawn from replay until newer experience has taken its place."
    if edge.max_lag is not None:
        return f"Lag is at most {bound}: unrolls older than that are refused."
    per, copies = edge.per or edge.source, architecture.senders(edge)
    assert bound is not None  # what has neither gradients nor replay is bounded
    if bound == 0:
        return (
            f"Lag is 0: each {per} waits until the {edge.target} has learned from its unroll and published; "
            "parameters equal those of one loop, bit for bit."
        )
    flying, take = copies * (1 + edge.capacity), edge.take or copies
    turns = -(-flying // take) - 1
    sentence = (
        f"Lag is at most {_batches(bound)}: {copies} {per}{'s' if copies > 1 else ''} with 1 unroll being made and "
        f"{edge.capacity} waiting are {flying} on their way, {take} learned from at a turn, oldest first: "
        f"ceil({flying} / {take}) - 1 = {turns}"
    )
    return sentence + (
        "."
        if held(architecture)
        else ", and 1 more, since slots go back before the update that used them is done."
    )


def _gradient_sentence(architecture: Architecture, edge: Edge, bound: int | None) -> str:
    if edge.when_full == "barrier":
        return "Lag is 0: nobody goes on before the gradients of all are averaged; every copy takes the same step."
    if bound is not None:
        return f"Lag is at most {bound} updates: gradients of older weights are rejected."
    mend = (
        ""
        if edge.source == edge.target
        else "; parallel.max_staleness rejects those older than so many updates"
    )
    return (
        f"Lag has no bound: while one {edge.source} computes its gradient the other "
        f"{max(architecture.acting.copies - 1, 0)} go on updating{mend}."
    )


def _batches(count: int) -> str:
    return f"{count} batch{'' if count == 1 else 'es'}"


def _copies(role: Role) -> str:
    return str(role.copies) if role.copies else "planned"


def _notes(architecture: Architecture, edge: Edge) -> tuple[str, ...]:
    """What is worth telling beside an arrow, a short line each."""
    if edge.carries == "weights":
        return ("only the newest",)
    if edge.when_full in SHARED:
        return (WHEN_FULL[edge.when_full],)
    if edge.capacity == 0:
        waits = ("the sender waits for it",) if edge.carries in ("observation", "action") else ()
        return waits or ("none waits: the sender does", f"takes {taken(architecture, edge)}")
    notes = [f"{room(edge)} may wait", f"takes {taken(architecture, edge)}"]
    if edge.carries in ("unroll", "gradient"):
        bound = lag(architecture, edge)
        notes.append(f"lag: {bound}")
    return tuple(notes)


def diagram(architecture: Architecture) -> str:
    """Boxes and arrows as text."""
    boxes, arrows = picture(architecture)
    near = [arrow for arrow in arrows if abs(arrow.source - arrow.target) == 1]
    far = [arrow for arrow in arrows if abs(arrow.source - arrow.target) > 1]
    bodies = [[_title(box), *textwrap.wrap(box.says, BOX - 4)] for box in boxes]
    lanes = [
        [arrow for arrow in near if min(arrow.source, arrow.target) == left] for left in range(len(boxes) - 1)
    ]
    height = max(*map(len, bodies), *(2 * len(lane) - 1 for lane in lanes), 1)
    step = BOX + GAP
    canvas = [[" "] * (step * len(boxes)) for _ in range(height + 2 + 2 * len(far))]
    for index, body in enumerate(bodies):
        _draw_box(canvas, index * step, body, height)
    for left, lane in enumerate(lanes):
        for row, arrow in enumerate(lane):
            line = _arrow(arrow.label, GAP - 2, rightward=arrow.target > arrow.source)
            _put(canvas, left * step + BOX + 1, 1 + 2 * row, line)
    for row, arrow in enumerate(far):
        _draw_detour(canvas, arrow, height + 2 + 2 * row, height + 1)
    return "\n".join("".join(line).rstrip() for line in canvas).rstrip()


def _title(box: Box) -> str:
    return f"{box.title} x {box.copies}" if box.copies > 1 else box.title


def _put(canvas: list[list[str]], column: int, row: int, line: str) -> None:
    canvas[row][column : column + len(line)] = line


def _draw_box(canvas: list[list[str]], left: int, body: list[str], height: int) -> None:
    _put(canvas, left, 0, "┌" + "─" * (BOX - 2) + "┐")
    for row in range(height):
        words = body[row] if row < len(body) else ""
        _put(canvas, left, 1 + row, f"│ {words:{BOX - 4}} │")
    _put(canvas, left, height + 1, "└" + "─" * (BOX - 2) + "┘")


def _arrow(label: str, width: int, *, rightward: bool) -> str:
    line = f" {label} ".center(width - 1, "─")
    return f"{line}▶" if rightward else f"◀{line}"


def _draw_detour(canvas: list[list[str]], arrow: Arrow, row: int, bottom: int) -> None:
    """An arrow that passes other boxes below them."""
    step = BOX + GAP
    ends = {
        index: index * step + BOX // 2 + (1 if index == arrow.source else -1)
        for index in (arrow.source, arrow.target)
    }
    left, right = sorted(ends.values())
    for above, column in itertools.product(range(bottom + 1, row), ends.values()):
        canvas[above][column] = "│"
    if row == bottom + 1:
        row += 1
        for column in ends.values():
            canvas[row - 1][column] = "│"
    _put(canvas, left, row, "└" + f" {arrow.label} ".center(right - left - 1, "─") + "┘")
    canvas[bottom + 1][ends[arrow.target]] = "▲"
