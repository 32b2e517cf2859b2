"""Which features are typical of the data of a model, so that pictures far from them are not taken for faces like those.

A Gaussian with a low-rank covariance (probabilistic PCA, Tipping and Bishop, 1999) is fitted to the features before the
head; the distance is Mahalanobis' (Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples
and Adversarial Attacks", NeurIPS 2018, there for each class).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lhcnet.errors import LhcnetError

COMPONENTS = 64
FEWEST = 200  # images; with fewer the limit is nearly the largest distance that was seen
QUANTILE = 0.99  # of the distances of images that the Gaussian was not fitted to
_NAMES = ("mean", "axes", "variances", "noise", "limit")


@dataclass(frozen=True)
class TypicalFeatures:
    """A Gaussian of features, and the distance that few typical images exceed.

    Attributes:
        mean: (D,).
        axes: (K, D), orthonormal: the principal components.
        variances: (K,) along the axes.
        noise: (1,), variance along every other direction.
        limit: (1,), the distance that 1 % of the validation images exceed.
    """

    mean: NDArray[np.float32]
    axes: NDArray[np.float32]
    variances: NDArray[np.float32]
    noise: NDArray[np.float32]
    limit: NDArray[np.float32]

    @classmethod
    def fit(cls, features: NDArray[np.float32]) -> TypicalFeatures | None:
        """Fit the Gaussian to every other row, and the limit to the others.

        Args:
            features: (N, D) of images of every class, sorted by class.

        Returns:
            None if there are fewer than 200 images, or all of them have equal features.
        """
        from sklearn.decomposition import PCA

        own, other = features[::2].astype(np.float64), features[1::2]
        if len(features) < FEWEST or features.shape[1] < 2 or not np.ptp(own, axis=0).any():
            return None
        pca: Any = PCA(min(COMPONENTS, own.shape[1] - 1, len(own) - 2), svd_solver="full").fit(own)
        least = 1e-6 * own.var(axis=0).mean()
        found = [pca.mean_, pca.components_, pca.explained_variance_.clip(least), [max(pca.noise_variance_, least)]]
        mean, axes, variances, noise = (np.asarray(values, np.float32) for values in found)
        without = cls(mean, axes, variances, noise, np.ones(1, np.float32))
        limit = np.quantile(without.distances(other), QUANTILE)
        return cls(mean, axes, variances, noise, np.asarray([limit], np.float32))

    @classmethod
    def of(cls, content: bytes, file: Path) -> TypicalFeatures:
        """Read what `to_bytes` gave. Raises LhcnetError naming the file if it is anything else."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            arrays = load(content)
            found = cls(**{name: arrays.pop(name) for name in _NAMES})
            (d,), k = found.mean.shape, len(found.axes)
            shapes = (found.axes.shape, found.variances.shape, found.noise.shape, found.limit.shape)
            if arrays or shapes != ((k, d), (k,), (1,), (1,)):
                raise ValueError(f"shapes {shapes}, others {sorted(arrays)}")
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise LhcnetError(f"{file}: expected {', '.join(_NAMES)} of typical features: {error}") from None
        return found

    def to_bytes(self) -> bytes:
        """The content of a file, in the format of safetensors."""
        from safetensors.numpy import save

        content: bytes = save({name: np.ascontiguousarray(getattr(self, name)) for name in _NAMES})
        return content

    def distances(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mahalanobis distances (N,) of features (N, D)."""
        centred = features.astype(np.float64) - self.mean
        along = centred @ self.axes.T  # (N, K)
        rest = ((centred - along @ self.axes) ** 2).sum(axis=1)
        found = np.sqrt((along**2 / self.variances).sum(axis=1) + rest / self.noise[0])
        return found.astype(np.float32)

    def far(self, features: NDArray[np.float32]) -> NDArray[np.bool]:
        """Which of the features (N, D) exceed the limit."""
        return self.distances(features) > self.limit[0]
