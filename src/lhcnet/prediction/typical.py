"""Which maps inside a network are typical of its training images: a picture far from them is hardly such a face.

Mean and standard deviation of each channel of the second-to-last resolution, as one vector of length 1; the distance to
the training images is Mahalanobis' (Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples
and Adversarial Attacks", NeurIPS 2018, there for each class), with a shrunk covariance (Ledoit and Wolf, 2004). The
features before the head do not serve: noise stays within their limit (`benchmarks/unlike.py --head`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lhcnet.errors import LhcnetError

FEWEST = 200  # images; with fewer the limit is nearly the largest distance that was seen
MOST = 5000  # training images that the Gaussian is fitted to
QUANTILE = 0.99  # of the distances of the validation images
_NAMES = ("mean", "whitening", "limit")


@dataclass(frozen=True)
class TypicalFeatures:
    """A Gaussian of features of length 1, and the distance that few typical images exceed.

    Attributes:
        mean: (D,).
        whitening: (D, D): centred features times this matrix have the identity as their covariance.
        limit: (1,), the distance that 1 % of the validation images exceed.
    """

    mean: NDArray[np.float32]
    whitening: NDArray[np.float32]
    limit: NDArray[np.float32]

    @classmethod
    def fit(cls, train: NDArray[np.float32], validation: NDArray[np.float32]) -> TypicalFeatures | None:
        """Fit the Gaussian to the training images, and the limit to the validation images.

        Args:
            train: features (N, D).
            validation: features (M, D).

        Returns:
            None if there are fewer than 200 images of one of them, or all features are equal.
        """
        from sklearn.covariance import LedoitWolf

        own = _unit(train)
        if min(len(train), len(validation)) < FEWEST or not np.ptp(own, axis=0).any():
            return None
        gaussian: Any = LedoitWolf().fit(own)
        values, axes = np.linalg.eigh(gaussian.covariance_)
        whitening = (axes / np.sqrt(values.clip(1e-6 * values.max()))).astype(np.float32)
        without = cls(gaussian.location_.astype(np.float32), whitening, np.ones(1, np.float32))
        limit = np.quantile(without.distances(validation), QUANTILE)
        return cls(without.mean, whitening, np.asarray([limit], np.float32))

    @classmethod
    def of(cls, content: bytes, file: Path) -> TypicalFeatures:
        """Read what `to_bytes` gave. Raises LhcnetError naming the file if it is anything else."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            arrays = load(content)
            found = cls(**{name: arrays.pop(name) for name in _NAMES})
            (d,) = found.mean.shape
            if arrays or (found.whitening.shape, found.limit.shape) != ((d, d), (1,)):
                raise ValueError(f"shapes {found.whitening.shape}, {found.limit.shape}, others {sorted(arrays)}")
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise LhcnetError(f"{file}: expected {', '.join(_NAMES)} of typical features: {error}") from None
        return found

    def to_bytes(self) -> bytes:
        """The content of a file, in the format of safetensors."""
        from safetensors.numpy import save

        content: bytes = save({name: np.ascontiguousarray(getattr(self, name)) for name in _NAMES})
        return content

    def distances(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mahalanobis distances (N,) of features (N, D), which are scaled to length 1 first."""
        found: NDArray[np.float32] = np.linalg.norm((_unit(features) - self.mean) @ self.whitening, axis=1)
        return found.astype(np.float32)

    def far(self, features: NDArray[np.float32]) -> NDArray[np.bool]:
        """Which of the features (N, D) exceed the limit."""
        found: NDArray[np.bool] = self.distances(features) > self.limit[0]
        return found


def _unit(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Rows of length 1; a row of zeros stays."""
    x = features.astype(np.float64)
    found: NDArray[np.float64] = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return found
