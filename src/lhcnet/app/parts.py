"""What the page can use if it is installed: a face detector, explanations."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from lhcnet.errors import LhcnetError
from lhcnet.explain import Method, available, captum_is_installed
from lhcnet.prediction.faces import FaceDetector
from lhcnet.prediction.predictor import FaceFinder, Predictor

METHODS: Mapping[Method, str] = {"cam": "class activation", "occlusion": "occlusion", "attention": "attention"}


@dataclass(frozen=True)
class Parts:
    """What the page offers beyond the prediction.

    Attributes:
        finder: finds faces, if there is a detector.
        why_no_finder: a sentence for people, where there is none.
        methods: of explanation, with their names for people.
    """

    finder: FaceFinder | None = None
    why_no_finder: str = "There is no face detector here."
    methods: Mapping[Method, str] = field(default_factory=dict)


def installed_parts(predictor: Predictor) -> Parts:
    """The parts that this installation has for a model."""
    methods: dict[Method, str] = {}
    with suppress(LhcnetError):  # an exported file cannot be explained
        usable = [name for name in available(predictor) if name == "attention" or captum_is_installed()]
        methods = {name: METHODS[name] for name in usable}
    try:
        return Parts(FaceDetector(), "", methods)
    except LhcnetError as error:
        return Parts(why_no_finder=str(error), methods=methods)
