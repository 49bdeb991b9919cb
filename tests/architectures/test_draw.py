"""Drawings say what the value says: every role, edge and number, and a bound on lag whose arithmetic is right."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ElementTree

import pytest

from redline.architectures.catalogue import ARCHITECTURES, IMPALA, SEED
from redline.architectures.draw import ASCII, diagram, edge_row, lag_sentence, picture, text
from redline.architectures.model import Architecture, Edge, Role, lag_bound
from redline.architectures.svg import svg

SIZED = [
    each.sized(copies, queue) for each in ARCHITECTURES.values() for copies in (1, 4) for queue in (0, 2)
]
SVG = "{http://www.w3.org/2000/svg}"


def name(architecture: Architecture) -> str:
    return f"{architecture.name}-{architecture.acting.copies}-{lag_bound(architecture)}"


@pytest.mark.parametrize("architecture", SIZED, ids=name)
def test_text_says_every_role_and_edge(architecture: Architecture) -> None:
    shown = text(architecture)
    assert shown == text(architecture)
    assert max(map(len, shown.splitlines())) <= 122
    assert all(line == line.rstrip() for line in shown.splitlines())
    assert shown.translate(ASCII).isascii()
    assert architecture.system in shown
    for role in architecture.roles:
        assert re.search(rf"^{role.name} +\S.* {role.copies}$", shown, re.M)
        assert f"│ {role.name}{f' x {role.copies}' if role.copies > 1 else ''} " in shown
    for edge in architecture.edges:
        row = edge_row(architecture, edge)
        assert any(re.split(" {2,}", line) == list(row) for line in shown.splitlines())
    _, arrows = picture(architecture)
    drawn = diagram(architecture)
    assert drawn.count("▶") + drawn.count("◀") + drawn.count("▲") == len(arrows)
    for arrow in arrows:
        assert f" {arrow.label} ─" in drawn


@pytest.mark.parametrize("base", [IMPALA, SEED], ids=lambda each: each.name)
def test_the_sentence_on_lag_is_arithmetic_that_holds(base: Architecture) -> None:
    for copies, queue, take in itertools.product((1, 2, 3, 5), (0, 1, 3), (None, 1, 2)):
        architecture = base.sized(copies, queue, take)
        bound, sentence = lag_bound(architecture), lag_sentence(architecture)
        if bound == 0:
            assert sentence.startswith("Lag is 0: each ")
            continue
        flying, by, turns = map(int, re.findall(r"ceil\((\d+) / (\d+)\) - 1 = (\d+)", sentence)[0])
        assert -(-flying // by) - 1 == turns
        assert flying == copies * (1 + queue)
        assert turns + ("and 1 more" in sentence) == bound
        assert sentence.startswith(f"Lag is at most {bound} batch")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("Lag is 0: one loop", "synchronous"),
        ("drawn from replay", "apex"),
        ("the other 3 go on updating; parallel.max_staleness", "gorila"),
        ("the other 3 go on updating.", "a3c"),
        ("Lag is 0: nobody goes on before", "accel_sync"),
    ],
)
def test_other_sentences_on_lag(words: str, name: str) -> None:
    assert words in lag_sentence(ARCHITECTURES[name].sized(4))


def test_a_stated_bound_is_told() -> None:
    roles = (Role("actor", "collect", 2), Role("learner", "learn"))
    stated = Architecture("x", "", roles, (Edge("actor", "learner", "unroll", max_lag=7),))
    assert lag_sentence(stated) == "Lag is at most 7: unrolls older than that are refused."
    roles = (Role("bundle", "train", 2), Role("server", "combine"))
    rejects = Architecture("x", "", roles, (Edge("bundle", "server", "gradient", max_lag=3),))
    assert lag_sentence(rejects) == "Lag is at most 3 updates: gradients of older weights are rejected."


@pytest.mark.parametrize("architecture", SIZED, ids=name)
def test_svg_is_whole_and_needs_nothing_else(architecture: Architecture) -> None:
    drawn = svg(architecture)
    assert drawn == svg(architecture)
    assert not re.search(r"url\(|@import|href|<image|<script", drawn)
    root = ElementTree.fromstring(drawn)
    width, height = int(root.attrib["width"]), int(root.attrib["height"])
    boxes, arrows = picture(architecture)
    words = [element.text for element in root.iter(f"{SVG}text")]
    for box in boxes:
        copies = f" \N{MULTIPLICATION SIGN} {box.copies}" if box.copies > 1 else ""
        assert box.title + copies in words
    for arrow in arrows:
        assert any(word and word.startswith(arrow.label) for word in words)
        assert all(any(word and note in word for word in words) for note in arrow.notes)
    rects = [element for element in root.iter(f"{SVG}rect") if element.attrib["class"] != "card"]
    assert len(rects) == sum(min(box.copies, 3) for box in boxes)
    heads = [element for element in root.iter(f"{SVG}path") if element.attrib["class"] == "head"]
    assert len(heads) == len(arrows)
    for element in root.iter(f"{SVG}text"):
        x, y, wide = int(element.attrib["x"]), int(element.attrib["y"]), 6.0 * len(element.text or "")
        left = x - wide / 2 if element.attrib.get("text-anchor") == "middle" else x
        assert left >= 0, element.text
        assert left + wide <= width, element.text
        assert 0 < y < height - 8, element.text
    for element in rects:
        assert int(element.attrib["x"]) + int(element.attrib["width"]) < width
        assert int(element.attrib["y"]) + int(element.attrib["height"]) < height


def test_words_stay_inside_their_boxes_and_gaps() -> None:
    """By the mean width of a letter: no line runs from one box into the next."""
    for architecture in SIZED:
        root = ElementTree.fromstring(svg(architecture))
        rects = list(root.iter(f"{SVG}rect"))[1:]  # the first is the card around all
        boxes = [(int(each.attrib["x"]), int(each.attrib["width"])) for each in rects]
        for element in root.iter(f"{SVG}text"):
            if element.attrib.get("text-anchor") == "middle" and ";" not in (element.text or ""):
                x, half = int(element.attrib["x"]), 3.3 * len(element.text or "")
                assert not any(left < x + half and x - half < left + wide for left, wide in boxes), (
                    element.text
                )
