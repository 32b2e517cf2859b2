"""What a predictor asks of a model: a network in PyTorch answers it, and so do exported files, without PyTorch."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lhcnet.data.fer2013 import Bytes
from lhcnet.protocol.confidence import scaled


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

    def embeddings(self, images: Bytes) -> NDArray[np.float32]:
        """Features before the head, (N, D). Raises `LhcnetError` if the model does not give them."""
        ...

    def temperature(self, *, tta: bool = False) -> float | None:
        """Temperature that was fitted on validation, or None if none is stored with the model."""
        ...


@runtime_checkable
class ObservedModel(Protocol):
    """A model that gives its features in the pass that gives the probabilities."""

    def observed(self, images: Bytes, *, tta: bool = False) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """`probabilities` and `embeddings` of `ProbabilityModel`; the features are those of the images as they are."""
        ...


def calibrated(model: ProbabilityModel, images: Bytes, *, tta: bool = False) -> tuple[NDArray[np.floating[Any]], bool]:
    """Probabilities (N, classes) with the temperature that is stored with a model, and whether there is one.

    Args:
        model: gives the probabilities before scaling, which are returned as they are if it has no temperature.
        images, tta: as in `ProbabilityModel.probabilities`.

    Raises:
        LhcnetError: as in `ProbabilityModel.probabilities`.
    """
    return with_temperature(model, model.probabilities(images, tta=tta), tta=tta)


def with_temperature(
    model: ProbabilityModel, plain: NDArray[np.float32], *, tta: bool
) -> tuple[NDArray[np.floating[Any]], bool]:
    """Probabilities (N, classes) of the model, scaled as in `calibrated`."""
    temperature = model.temperature(tta=tta)
    return (plain, False) if temperature is None else (scaled(plain, temperature), True)
