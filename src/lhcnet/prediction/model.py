"""What a predictor asks of a model: a network in PyTorch answers it, and so do exported files, without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lhcnet.data.fer2013 import Bytes
from lhcnet.protocol.confidence import scaled

if TYPE_CHECKING:
    from lhcnet.model_record import Answered


class ProbabilityModel(Protocol):
    """A model of grey 48x48 images, whatever computes it."""

    @property
    def name(self) -> str:
        """Its name in error messages."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the probabilities."""
        ...

    @property
    def tta_choices(self) -> tuple[bool, ...]:
        """Values of `tta` that `probabilities` takes: False, True, or both."""
        ...

    def probabilities(self, images: Bytes, *, tta: bool = False) -> NDArray[np.float32]:
        """Class probabilities as `evaluate` computes them, before any temperature.

        Args:
            images: (N, 48, 48), N >= 1.
            tta: the mean over the views of test-time augmentation.

        Returns:
            (N, classes), each row sums to 1.

        Raises:
            LhcnetError: the outputs are not finite, or the model cannot do this.
        """
        ...

    def observed(self, images: Bytes, *, tta: bool = False) -> tuple[NDArray[np.float32], NDArray[np.bool]]:
        """`probabilities`, and (N,) which images are far from the training images: none if that is not stored."""
        ...

    def embeddings(self, images: Bytes) -> NDArray[np.float32]:
        """Features before the head, (N, D). Raises `LhcnetError` if the model does not give them."""
        ...

    def temperature(self, *, tta: bool = False) -> float | None:
        """Temperature that was fitted on validation, or None if none is stored with the model."""
        ...

    def thresholds(self, *, tta: bool = False) -> Sequence[Answered]:
        """What thresholds of the confidence did on validation, the lowest first; none if they are not stored."""
        ...


def calibrated(model: ProbabilityModel, images: Bytes, *, tta: bool = False) -> tuple[NDArray[np.floating[Any]], bool]:
    """`with_temperature` of what `ProbabilityModel.probabilities` gives for images (N, 48, 48)."""
    return with_temperature(model, model.probabilities(images, tta=tta), tta=tta)


def with_temperature(
    model: ProbabilityModel, plain: NDArray[np.float32], *, tta: bool = False
) -> tuple[NDArray[np.floating[Any]], bool]:
    """Probabilities (N, classes) with the temperature that is stored with a model, and whether there is one.

    Args:
        model: has the temperature, or none.
        plain: its probabilities before scaling, which are returned as they are if it has none.
        tta: whether they are of test-time augmentation.
    """
    temperature = model.temperature(tta=tta)
    return (plain, False) if temperature is None else (scaled(plain, temperature), True)
