"""The pieces of a report beside its charts: header, figures at a glance, film, settings, where results come from."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from redline.reports.scales import NONE

_LARGEST_FILM = 32 * 2**20  # bytes; a page much larger than this is slow to open
_KINDS = {".mp4": "video/mp4", ".webm": "video/webm", ".gif": "image/gif"}


@dataclass(frozen=True)
class Bar:
    """One bar: its length is ``value``; ``low`` to ``high`` is drawn over it where given."""

    name: str
    value: float
    text: str
    color: str = "c2"
    low: float | None = None
    high: float | None = None
    remark: str = ""


def header(title: str, meta: Sequence[str]) -> str:
    """The page's head: a title and short facts (plain text) after it."""
    facts = " · ".join(escape(fact) for fact in meta if fact)
    return f'<header><p class="brand">Redline</p><h1>{escape(title)}</h1><p class="meta">{facts}</p></header>'


def tiles(figures: Iterable[tuple[str, str, str]]) -> str:
    """Figures at a glance: (name, value, remark), the first one stressed."""
    cells = [
        f'<div class="{"" if index else "main"}"><span>{escape(name)}</span><b>{escape(value)}</b>'
        f"<small>{escape(remark)}</small></div>"
        for index, (name, value, remark) in enumerate(figures)
    ]
    return f'<section class="card tiles">{"".join(cells)}</section>'


def film(path: Path | None, folder: Path) -> str:
    """The film inside the page; a sentence where it is too large; nothing where there is none."""
    if path is None:
        return ""
    caption = f"<figcaption><b>The agent</b><small>{escape(path.name)}</small></figcaption>"
    try:
        if path.stat().st_size > _LARGEST_FILM:
            where = escape(str(path.relative_to(folder)))
            note = f'<p class="empty">Too large for this page: see {where} in the run\'s folder.</p>'
            return f'<figure class="card film">{caption}{note}</figure>'
        data = base64.b64encode(path.read_bytes()).decode()
    except OSError:
        return ""
    source = f"data:{_KINDS[path.suffix]};base64,{data}"
    if path.suffix == ".gif":
        return f'<figure class="card film">{caption}<img alt="The agent playing" src="{source}"></figure>'
    video = f'<video controls loop muted autoplay playsinline src="{source}"></video>'
    return f'<figure class="card film">{caption}{video}</figure>'


def bullet_card(title: str, sentences: Sequence[str]) -> str:
    """A titled card with one sentence a line; nothing without sentences."""
    if not sentences:
        return ""
    items = "".join(f"<li>{escape(_capital(sentence))}</li>" for sentence in sentences)
    return f'<section class="card"><figcaption><b>{escape(title)}</b></figcaption><ul>{items}</ul></section>'


def fact_card(title: str, facts: Mapping[str, Any], *, code: bool = False) -> str:
    """A titled card with a table of names and values; nothing without facts."""
    if not facts:
        return ""
    rows = "".join(_fact(name, value, code) for name, value in facts.items())
    return f'<section class="card"><figcaption><b>{escape(title)}</b></figcaption><table>{rows}</table></section>'


def settings(config: Mapping[str, Any]) -> str:
    """The whole configuration, a card for each group; single values first."""
    single = {name: value for name, value in config.items() if not isinstance(value, Mapping)}
    groups = {name: value for name, value in config.items() if isinstance(value, Mapping)}
    cards = [fact_card("experiment", single, code=True)]
    cards += [fact_card(name, _flat(group), code=True) for name, group in groups.items()]
    return f'<div class="facts">{"".join(cards)}</div>'


def bars_card(title: str, rows: Sequence[Bar], note: str = "", most: float | None = None) -> str:
    """A titled card of bars lying one under another; ``most``: what fills the track (default: the largest)."""
    if not rows:
        return ""
    full = most or max(max(row.value, row.high or 0.0) for row in rows) or 1.0

    def share(value: float) -> float:
        return min(max(value / full, 0.0), 1.0)

    cells = []
    for row in rows:
        whisker = ""
        if row.low is not None and row.high is not None:
            left, right = share(row.low), share(row.high)
            whisker = f'<b style="left:{left:.2%};width:{right - left:.2%}"></b>'
        remark = f" <small>{escape(row.remark)}</small>" if row.remark else ""
        cells.append(
            f'<span>{escape(row.name)}{remark}</span><span class="track"><i class="{row.color}" '
            f'style="width:{share(row.value):.2%}"></i>{whisker}</span><span>{escape(row.text)}</span>'
        )
    about = f"<small>{escape(note)}</small>" if note else ""
    return (
        f'<section class="card"><figcaption><b>{escape(title)}</b>{about}</figcaption>'
        f'<div class="rows">{"".join(cells)}</div></section>'
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table (plain text) that scrolls sideways on a phone."""
    titles = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<section class="card wide"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></section>'


def plain(value: Any) -> str:
    """A value of the configuration as text."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(item) for item in value) or NONE
    return str(value)


def _fact(name: str, value: Any, code: bool) -> str:
    text = escape(plain(value))
    return f"<tr><th>{escape(name)}</th><td>{f'<code>{text}</code>' if code else text}</td></tr>"


def _flat(group: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in group.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = None if isinstance(value, Mapping) else value
    return flat


def _capital(sentence: str) -> str:
    word = sentence.split(" ", 1)[0]
    return sentence if any(letter.isdigit() for letter in word) else sentence[:1].upper() + sentence[1:]
