"""What the page can use if it is installed: a face detector, explanations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from lhcnet import explain
from lhcnet.data.fer2013 import Bytes
from lhcnet.errors import LhcnetError
from lhcnet.prediction.faces import FaceDetector
from lhcnet.prediction.predictor import FaceFinder, Predictor

METHODS = {"cam": "class activation", "occlusion": "occlusion", "attention": "attention"}
Explain = Callable[[Predictor, Bytes, str, str | None], NDArray[Any]]
Overlay = Callable[[Image.Image, NDArray[Any]], Image.Image]


@dataclass(frozen=True)
class Parts:
    """What the page offers beyond the prediction.

    Attributes:
        finder: finds faces, if there is a detector.
        why_no_finder: a sentence for people, where there is none.
        explain, overlay: `lhcnet.explain`, if it is there.
        methods: of explanation, with their names for people.
    """

    finder: FaceFinder | None = None
    why_no_finder: str = "There is no face detector here."
    explain: Explain | None = None
    overlay: Overlay | None = None
    methods: Mapping[str, str] = field(default_factory=dict)


def installed_parts(predictor: Predictor) -> Parts:
    """The parts that this installation has for a model."""
    explanation: dict[str, Any] = {}
    with suppress(LhcnetError):  # an exported file cannot be explained
        methods = {name: METHODS[name] for name in explain.available(predictor)}
        explanation = {"explain": explain.explain, "overlay": explain.overlay, "methods": methods}
    try:
        finder = FaceDetector()
    except LhcnetError as error:
        return Parts(why_no_finder=str(error), **explanation)
    return Parts(finder, "", **explanation)
