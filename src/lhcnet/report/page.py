"""Chapters to one self-contained HTML page: no scripts, nothing loaded from elsewhere, the same bytes every time."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lhcnet.report.formatting import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Drawing = tuple[str, str, "Figure"]  # title, caption, figure

NUMBER = re.compile(r"[<+-]?\s?\d[\d,.]*(e[+-]?\d+)?(-\d[\d.]*)?")
MARKED = {"beyond noise": "beyond", "within noise": "within", "differs": "differs"}
LONG = 40  # characters; a column with longer words than that breaks its lines, no other does
LARGEST_SVG = 300_000  # bytes; a figure of more strokes than that is smaller as pixels
PIXELS_PER_INCH = 160


@dataclass(frozen=True)
class Chapter:
    """A numbered section of a page: words, then tables, then figures. Whatever is empty says so."""

    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Drawing] = ()


def page(
    title: str,
    chapters: Sequence[Chapter],
    *,
    lead: str = "",
    facts: Mapping[str, str] | None = None,
    notices: Sequence[str] = (),
) -> str:
    """HTML of `chapters` under a head: a lead sentence, facts as name and value, notices that must not be missed.

    All text is escaped; figures become data URIs.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("lhcnet", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": cell, "kind": kind, "columns": columns, "embed": embed, "width": width}
    template = environment.get_template("page.html.j2")
    return template.render(title=title, chapters=chapters, lead=lead, facts=facts or {}, notices=notices)


def cell(value: object) -> str:
    """What a table shows of a value: the analyses bring numbers as they are."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def kind(value: object) -> str:
    """The style of a cell: verdicts are seen at a glance."""
    return next((style for start, style in MARKED.items() if cell(value).startswith(start)), "")


def columns(rows: Sequence[Mapping[str, object]]) -> dict[str, str]:
    """The style of each column: numbers (dashes aside) stand under each other, long words break their lines."""
    styles = {}
    for name in rows[0]:
        texts = [text for row in rows if (text := cell(row.get(name))) != "-"]
        long = any(len(text) > LONG and " " in text for text in texts)
        styles[name] = "number" if texts and all(map(NUMBER.fullmatch, texts)) else "words" if long else ""
    return styles


def width(figure: Figure) -> int:
    """In pixels of the page."""
    return round(96 * figure.get_figwidth())


def embed(figure: Figure) -> str:
    """The figure as a data URI: SVG with outlined text, looking alike everywhere, or PNG where that is smaller."""
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "lhcnet", "svg.fonttype": "path"}):
        out = io.BytesIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(out, format="svg", metadata=nothing)
    if out.tell() <= LARGEST_SVG:
        return _uri("image/svg+xml", out.getvalue())
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=PIXELS_PER_INCH, metadata={"Software": None})
    return _uri("image/png", out.getvalue())


def _uri(mime: str, content: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"
