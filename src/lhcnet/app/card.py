"""A model with its model card, which `register` stores beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from markdown_it import MarkdownIt

from lhcnet.errors import LhcnetError
from lhcnet.io.files import read_text
from lhcnet.prediction.loading import load, opened
from lhcnet.prediction.predictor import Predictor

_LARGEST = 1 << 20  # bytes of a card


def load_with_card(model: str, device: Literal["cpu", "cuda"]) -> tuple[Predictor, str | None]:
    """A predictor, and the Markdown of the model's card if there is one in the model's folder or beside it.

    Args:
        model, device: as in `lhcnet.load`.

    Raises:
        LhcnetError: as in `lhcnet.load`; or the card cannot be read.
    """
    if model.lower().endswith(".onnx"):
        return load(model, device=device), None
    with opened(model) as saved:
        return load(saved.path, device=device), _card(saved.path)


def _card(folder: Path) -> str | None:
    from lhcnet.tracking.registry import CARD

    for file in (folder / CARD, folder.parent / CARD):
        if file.is_file():
            try:
                return read_text(file, _LARGEST)
            except (OSError, ValueError) as error:
                raise LhcnetError(f"{file}: expected a model card in UTF-8: {error}") from None
    return None


def as_html(card: str) -> str:
    """The card as HTML. HTML in the Markdown is shown, not interpreted: a registry may be anybody's."""
    shown: str = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image").render(card)
    return shown
