"""Maps of one face: how much each place matters to a model's answer, by three methods with different meanings.

docs/explain.md says what each map shows and what it does not show.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lhcnet.data.fer2013 import SIDE, Bytes
from lhcnet.errors import LhcnetError

if TYPE_CHECKING:
    from lhcnet.prediction.network import NetworkModel
    from lhcnet.prediction.predictor import Predictor

Method = Literal["cam", "occlusion", "attention"]
METHODS: tuple[Method, ...] = get_args(Method)
Heat = NDArray[np.float32]


@dataclass(frozen=True)
class Explanation:
    """A map of one face.

    Attributes:
        method: how it was made.
        label: the class that it is about; None for attention, which is the same for all classes.
        values: (48, 48). `cam`: activations weighted with the mean gradient of the class's logit. `occlusion`: fall of
            the class's probability when the place is covered, -1 to 1. `attention`: sum over heads and modules of
            `parts`.
        parts: of attention, by slot: (heads, H, W) at the resolution of the slot's feature maps, see
            `lhcnet.explain.attention`.
        places: of `cam`: rows and columns of the feature maps, which the 48x48 values are interpolated from.
    """

    method: Method
    label: str | None
    values: Heat
    parts: dict[str, Heat] = field(default_factory=dict)
    places: tuple[int, int] | None = None

    @property
    def heat(self) -> Heat:
        """(48, 48) from 0 to 1: values above zero, divided by the largest. All zero if none is above zero.

        The largest is 1 however small it was: look at `largest` too.
        """
        above = np.maximum(self.values, 0)
        return above / above.max() if above.any() else above

    @property
    def largest(self) -> float:
        """The largest of the values."""
        return float(self.values.max())


def explain(predictor: Predictor, crop: Bytes, method: Method, label: str | None = None) -> Heat:
    """The heat of `explained`: (48, 48) from 0 to 1."""
    return explained(predictor, crop, method, label).heat


def explained(predictor: Predictor, crop: Bytes, method: Method, label: str | None = None) -> Explanation:
    """Explain a model's answer for one face. Not for two threads at once: hooks are set on the network.

    Args:
        predictor: opened by `lhcnet.load`, not from an exported file.
        crop: the face, (48, 48) grey values, as `lhcnet.data.pictures.grey` makes it.
        method: `cam`, `occlusion` or `attention`.
        label: the class to explain; None: the most probable one.

    Raises:
        LhcnetError: the model is an exported file, has no such class, has no LHC modules (`attention`), or captum is
            not installed (`cam`, `occlusion`).
    """
    model = _network(predictor)
    if crop.shape != (SIDE, SIDE) or crop.dtype != np.uint8:
        raise LhcnetError(f"crop: expected grey values ({SIDE}, {SIDE}) of uint8, not {crop.shape} of {crop.dtype}")
    if method == "attention":
        from lhcnet.explain.attention import head_maps, summed

        parts = head_maps(model, crop)
        return Explanation(method, None, summed(parts), parts)
    if not captum_is_installed():
        raise LhcnetError(f"{method}: needs captum, not installed here: pip install 'lhcnet[explain]'")
    if label is None:
        label = model.classes[int(model.probabilities(crop[None]).argmax())]
    require_class(predictor, label)
    index = model.classes.index(label)
    if method == "cam":
        from lhcnet.explain.cam import class_activation

        values, places = class_activation(model, crop, index)
        return Explanation(method, label, values, places=places)
    from lhcnet.explain.occlusion import fall_when_covered

    return Explanation(method, label, fall_when_covered(model, crop, index))


def require_class(predictor: Predictor, label: str) -> None:
    """Raise LhcnetError if the model has no such class."""
    if label not in predictor.classes:
        raise LhcnetError(f"label: expected one of {', '.join(predictor.classes)}, not {label}")


def captum_is_installed() -> bool:
    """Whether there is what `cam` and `occlusion` need."""
    return find_spec("captum") is not None


def available(predictor: Predictor) -> tuple[Method, ...]:
    """The methods that can explain this model: `attention` needs LHC modules.

    Raises:
        LhcnetError: the model is an exported file, which nothing can explain.
    """
    from lhcnet.explain.attention import has_lhc

    return METHODS if has_lhc(_network(predictor).network) else ("cam", "occlusion")


def _network(predictor: Predictor) -> NetworkModel:
    from lhcnet.prediction.network import NetworkModel

    if not isinstance(predictor.model, NetworkModel):
        raise LhcnetError(
            f"{predictor.model.name}: an exported file cannot be explained; expected a model directory or a "
            "registered model"
        )
    return predictor.model
