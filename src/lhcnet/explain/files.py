"""Explanations as files: a picture with all maps side by side, and their values as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lhcnet.data.pictures import grey
from lhcnet.explain.attention import on_picture
from lhcnet.explain.maps import Explanation, Method, explained
from lhcnet.explain.overlay import overlay
from lhcnet.io.atomic import atomic_file
from lhcnet.prediction.output_folder import OutputFolder
from lhcnet.prediction.predictor import Face, Predictor
from lhcnet.prediction.stream import Predicted

PANEL, SMALL, MARGIN, LETTERS = 288, 96, 8, 15  # pixels: of the maps, of those of single heads, around them, of text


class ExplanationFolder:
    """Writes explanations into a folder: of each face a PNG and an `.npz`, each complete or absent.

    The array file has `crop`, the (48, 48) grey values that the network saw; the `values` of each method under its
    name; and for attention `attention/LHC1` and so on, (heads, H, W).

    Args:
        folder: absent or empty.
        predictor: opened by `lhcnet.load`.
        methods: what to explain with.
        label: the class to explain; None: the most probable one of each face.

    Raises:
        LhcnetError: the folder is not empty, or cannot be written.
    """

    def __init__(self, folder: Path, predictor: Predictor, methods: Sequence[Method], label: str | None) -> None:
        self._folder = OutputFolder(folder, "explanations")
        self._predictor, self._methods, self._label = predictor, methods, label

    def write(self, predicted: Predicted) -> list[str]:
        """Explain the faces of a picture; returns a line for each, with its file and the largest values."""
        return [self._write(predicted, face) for face in predicted.faces]

    def _write(self, predicted: Predicted, face: Face) -> str:
        box = face.box
        part = predicted.picture.crop((box.left, box.top, box.right, box.bottom))
        crop = grey(part)
        found = [explained(self._predictor, crop, method, self._label or face.best) for method in self._methods]
        picture = self._folder.new_file(predicted.input.below, ".png")
        with atomic_file(picture) as path, path.open("wb") as file:
            sheet(part, face, found).save(file, "PNG")
        arrays = {"crop": crop} | {one.method: one.values for one in found}
        arrays |= {f"{one.method}/{slot}": maps for one in found for slot, maps in one.parts.items()}
        with atomic_file(picture.with_suffix(".npz")) as path, path.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        return "; ".join([f"{predicted.input.name}: {_answer(face)}", *map(caption, found), str(picture)])


def caption(found: Explanation) -> str:
    """A map in one line: its method, the class and the largest value."""
    if found.method == "attention":
        return "attention, all heads"
    if found.largest <= 0:
        return f"{found.method}: nothing speaks for {found.label}"
    if found.places:
        return f"{found.method} of {found.label}, {found.places[0]}x{found.places[1]} places"
    return f"{found.method} of {found.label}, -{found.largest:.2f} at most"


def sheet(picture: Image.Image, face: Face, found: Sequence[Explanation]) -> Image.Image:
    """The face, its maps, and below them the attention of single heads, a row for each module.

    The heads share one scale: the largest value of any head is the brightest.

    Args:
        picture: the face (mode L or RGB).
        face: its prediction.
        found: its explanations.
    """
    plain = np.zeros((1, 1), np.float32)
    rows: list[list[tuple[str, NDArray[np.float32], int]]] = [
        [(_answer(face), plain, PANEL), *((caption(one), one.heat, PANEL) for one in found)]
    ]
    for one in found:
        most = max((float(maps.max()) for maps in one.parts.values()), default=0.0) or 1.0
        for slot, maps in one.parts.items():
            heads = ((f"{slot}, head {head + 1}", on_picture(values) / most) for head, values in enumerate(maps))
            rows.append([(text, heat, SMALL) for text, heat in heads])
    width = max(sum(side + MARGIN for _, _, side in row) for row in rows) + MARGIN
    height = sum(row[0][2] + LETTERS + 2 * MARGIN for row in rows) + MARGIN
    page = Image.new("RGB", (width, height), "white")
    draw, top = ImageDraw.Draw(page), MARGIN
    for row in rows:
        left = MARGIN
        for text, heat, side in row:
            draw.text((left, top), text, "black", ImageFont.load_default(LETTERS if side == PANEL else LETTERS - 4))
            panel = overlay(picture, heat).resize((side, side), Image.Resampling.LANCZOS)
            page.paste(panel, (left, top + LETTERS + MARGIN))
            left += side + MARGIN
        top += row[0][2] + LETTERS + 2 * MARGIN
    return page


def _answer(face: Face) -> str:
    return f"{face.best} {face.confidence:.2f}"
