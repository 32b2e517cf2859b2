"""Chapters as one self-contained HTML page: no scripts, nothing loaded from elsewhere, the same bytes every time."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lhcnet.report.formatting import Table, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDED = 12  # a table of more rows is folded
LARGEST_SVG = 300_000  # bytes; a larger figure becomes a PNG
PIXELS_PER_INCH = 160


@dataclass(frozen=True)
class Drawing:
    """A figure with its title and, if it needs one, a caption."""

    title: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Chapter:
    """A numbered section of a page: paragraphs, then tables, then figures."""

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
    """The HTML page.

    Args:
        title: of the page.
        chapters: its sections.
        lead: a sentence under the title.
        facts: name -> value, shown as tiles at the top.
        notices: sentences that a reader must not miss, shown above the tiles.

    Returns:
        HTML with all text escaped and figures as data URIs.
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
    environment.filters |= {"shown": shown, "embed": embed, "width": width}
    template = environment.get_template("page.html.j2")
    return template.render(title=title, chapters=chapters, lead=lead, facts=facts or {}, notices=notices, folded=FOLDED)


def width(figure: Figure) -> int:
    """Width of a figure in pixels of the page."""
    return round(96 * figure.get_figwidth())


def embed(figure: Figure) -> str:
    """A figure as a data URI: SVG with text as outlines, or PNG if the SVG would be large."""
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
