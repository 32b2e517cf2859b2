"""Annotated pictures: a box around each face, with its label and probability."""

from __future__ import annotations

import io
import re
from math import ceil
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from lhcnet.data.image_files import IMAGE_ENDINGS
from lhcnet.errors import LhcnetError
from lhcnet.io.preflight import cannot_write, shared_folder
from lhcnet.prediction.predictor import Face
from lhcnet.prediction.stream import Predicted

SMALLEST = 320  # pixels; smaller pictures are enlarged, so that the text is legible
LARGEST = 4096  # pixels of the longer side
_SURE, _UNSURE, _TEXT = (21, 101, 192), (97, 97, 97), "white"  # contrast of 5.7 and 6.2 with white


class Annotator:
    """Writes annotated pictures into a folder, as JPEG.

    Args:
        folder: absent or empty. A picture keeps its path below the folder or archive that it comes from; of several
            with the same path, the later ones get -2, -3 and so on.

    Raises:
        LhcnetError: the folder is not empty, or cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        try:
            if folder.exists() and any(folder.iterdir()):
                raise LhcnetError(f"{folder}: is not empty, expected a new or empty folder for annotated pictures")
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(folder, error) from None
        shared_folder(folder)
        self._folder = folder

    def write(self, predicted: Predicted) -> Path:
        """Draw the faces of a picture; returns the file. Raises LhcnetError if it cannot be written."""
        *folders, name = predicted.input.below.split("/")
        stem = self._folder.joinpath(*map(_safe, folders), _safe(_without_ending(name)))
        content, number = io.BytesIO(), 1
        annotated(predicted.picture, predicted.faces).save(content, "JPEG", quality=90, subsampling=0)
        try:
            stem.parent.mkdir(parents=True, exist_ok=True)
            while True:
                file = stem.with_name(f"{stem.name}{f'-{number}' if number > 1 else ''}.jpg")
                try:
                    with file.open("xb") as out:
                        out.write(content.getvalue())
                    return file
                except FileExistsError:
                    number += 1
        except OSError as error:
            raise cannot_write(stem, error) from None


def annotated(picture: Image.Image, faces: tuple[Face, ...]) -> Image.Image:
    """A copy of a picture (mode L or RGB) with the boxes of its faces and their labels; small ones are enlarged."""
    scale = _scale(picture)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    copy = picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    draw, letters = ImageDraw.Draw(copy), max(16, copy.height // 40)
    font = ImageFont.load_default(letters)
    for face in faces:
        box, colour = face.box, _UNSURE if face.abstained else _SURE
        left, top, right, bottom = (round(side * scale) for side in (box.left, box.top, box.right, box.bottom))
        draw.rectangle(
            (left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=max(2, letters // 8)
        )
        text = _caption(face)
        width, height = (ceil(side) for side in draw.textbbox((0, 0), text, font)[2:])
        above = top - height - 6 if top > height + 6 else top  # inside, where there is no room above
        left = max(0, min(left, copy.width - width - 8))
        draw.rectangle((left, above, left + width + 8, above + height + 6), fill=colour)
        draw.text((left + 4, above + 2), text, _TEXT, font)
    return copy


def _scale(picture: Image.Image) -> float:
    """Enlarges small pictures for the text, and makes those smaller that JPEG could not hold."""
    wanted = max(1.0, SMALLEST / min(picture.size))
    return min(wanted, LARGEST / max(picture.size))


def _caption(face: Face) -> str:
    label = face.label or f"unsure, perhaps {face.best}"
    return f"{label} {face.confidence:.2f}{f' ({face.unlike})' if face.unlike else ''}"


def _without_ending(name: str) -> str:
    stem, dot, ending = name.rpartition(".")
    return stem if dot + ending.lower() in IMAGE_ENDINGS else name


def _safe(part: str) -> str:
    """A name that every file system takes."""
    return re.sub(r"[^\w.-]", "_", part, flags=re.ASCII)[:100].lstrip(".") or "_"
