"""A model without a network: the darker an image is, the nearer to 0 is its class. It keeps the images it was given."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lhcnet.data.fer2013 import CLASSES, Bytes
from lhcnet.model_record import Answered


class GreyModel:
    """Answers as `lhcnet.prediction.model.ProbabilityModel`, for tests of everything around it."""

    name, classes, tta_choices = "grey", CLASSES, (False, True)

    def __init__(self, fitted: float | None = None, rows: tuple[Answered, ...] = ()) -> None:
        self.fitted, self.rows, self.given = fitted, rows, [np.zeros((0, 48, 48), np.uint8)]

    def probabilities(self, images: Bytes, *, tta: bool = False) -> NDArray[np.float32]:
        assert images.dtype == np.uint8
        assert images.shape[1:] == (48, 48)
        self.given.append(images)
        best = np.minimum(images.mean(axis=(1, 2)) // 37, 6).astype(int)
        found = np.full((len(images), 7), 0.08, np.float32)
        found[np.arange(len(images)), best] = 0.52
        return found

    def observed(self, images: Bytes, *, tta: bool = False) -> tuple[NDArray[np.float32], NDArray[np.bool]]:
        return self.probabilities(images, tta=tta), np.zeros(len(images), np.bool)

    def embeddings(self, images: Bytes) -> NDArray[np.float32]:
        return images.mean(axis=2, dtype=np.float32)

    def temperature(self, *, tta: bool = False) -> float | None:
        return self.fitted

    def thresholds(self, *, tta: bool = False) -> tuple[Answered, ...]:
        return () if tta else self.rows

    @property
    def images(self) -> Bytes:
        """All images so far, (N, 48, 48)."""
        return np.concatenate(self.given)
