"""What the page is told about a picture: faces, probabilities, and small images of what the network saw."""

from __future__ import annotations

import base64
import io
from copy import copy
from time import perf_counter
from typing import Any

from PIL import Image

from lhcnet.app.parts import Parts
from lhcnet.data.pictures import Rules, grey, read_picture
from lhcnet.errors import LhcnetError
from lhcnet.explain import explain, overlay, require_class
from lhcnet.prediction.output import on_validation
from lhcnet.prediction.predictor import Box, Face, Predictor, whole_picture

RULES = Rules(largest_file=20 << 20)
WHERE = "the picture"
THRESHOLDS = tuple(step / 20 for step in range(20))  # of the page's slider: 0, 0.05 ... 0.95
_PREVIEW, _CROP = 1200, 240  # pixels of the longer side, of the shorter side


class Answers:
    """Answers with what JSON can hold. Nothing is written to a disk.

    Args:
        predictor: the model; its finder is replaced by that of the parts.
        parts: what the page offers beyond the prediction.
        card: the model card as Markdown, if there is one.
    """

    def __init__(self, predictor: Predictor, parts: Parts, card: str | None = None) -> None:
        self._whole, self._finding = copy(predictor), copy(predictor)
        self._whole.finder, self._finding.finder = whole_picture, parts.finder or whole_picture
        self._parts, self.card = parts, card

    def model(self) -> dict[str, Any]:
        """What the page shows before the first picture."""
        return {
            "name": self._whole.model.name,
            "classes": self._whole.classes,
            "largest_file": RULES.largest_file,
            "formats": RULES.expected,
            "finds_faces": self._parts.finder is not None,
            "why_no_finder": self._parts.why_no_finder,
            "tta": self._whole.model.tta_choices,
            "methods": dict(self._parts.methods),
            "card": self.card is not None,
            "validation": {
                name: [on_validation(self._whole.on_validation(one, tta=tta)) for one in THRESHOLDS]
                for name, tta in (("plain", False), ("tta", True))
            },
        }

    def predict(self, content: bytes, *, tta: bool, find: bool) -> dict[str, Any]:
        """The faces of an image file.

        Args:
            content: the file.
            tta: average over the views of test-time augmentation.
            find: search faces, if there is a detector; otherwise the whole picture is one.

        Raises:
            LhcnetError: the file cannot be read, or the model cannot do this.
        """
        begin = perf_counter()
        picture = read_picture(content, WHERE, RULES)
        read = perf_counter()
        faces = (self._finding if find else self._whole).predict_read([picture], tta=tta)
        done = perf_counter()
        preview = picture.copy()
        preview.thumbnail((_PREVIEW, _PREVIEW))
        return {
            "width": picture.width,
            "height": picture.height,
            "preview": _jpeg(preview),
            "faces": [_face(face, picture) for face in faces],
            "tta": tta,
            "found": find and self._parts.finder is not None,
            "milliseconds": {"read": 1000 * (read - begin), "predict": 1000 * (done - read)},
        }

    def explain(self, content: bytes, box: Box, method: str, label: str) -> dict[str, Any]:
        """What in a face speaks for a class: an image of the face below a map of colours.

        Args:
            content: the image file.
            box: the face, in pixels of the upright picture.
            method: one of the methods that `model` names.
            label: the class.

        Raises:
            LhcnetError: the file cannot be read, there is no such method, class or box, or the model cannot do this.
        """
        known = next((one for one in self._parts.methods if one == method), None)
        if known is None:
            raise LhcnetError(f"method: expected one of {', '.join(self._parts.methods) or 'none'}, not {method}")
        require_class(self._whole, label)
        picture = read_picture(content, WHERE, RULES)
        sides = (box.left, box.top, box.right, box.bottom)
        if not (0 <= box.left < box.right <= picture.width and 0 <= box.top < box.bottom <= picture.height):
            raise LhcnetError(f"box: expected a rectangle in {picture.width}x{picture.height} pixels, not {sides}")
        crop = picture.crop(sides)
        begin = perf_counter()
        heat = explain(self._whole, grey(crop), known, label)
        took = perf_counter() - begin
        return {"overlay": _jpeg(overlay(_shown(crop), heat)), "milliseconds": 1000 * took}


def _face(face: Face, picture: Image.Image) -> dict[str, Any]:
    box = face.box
    sides = (box.left, box.top, box.right, box.bottom)
    return {
        "box": sides,
        "best": face.best,
        "confidence": face.confidence,
        "probabilities": face.probabilities,
        "calibrated": face.calibrated,
        "unlike": face.unlike,
        "crop": _jpeg(_shown(picture.crop(sides))),
    }


def _shown(crop: Image.Image) -> Image.Image:
    """A face at the size in which the page shows it."""
    scale = _CROP / min(crop.size)
    size = [min(4 * _CROP, max(1, round(side * scale))) for side in crop.size]
    return crop.convert("RGB").resize((size[0], size[1]), Image.Resampling.BICUBIC)


def _jpeg(picture: Image.Image) -> str:
    """A picture as a data URL."""
    content = io.BytesIO()
    picture.convert("RGB").save(content, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
