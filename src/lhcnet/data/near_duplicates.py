"""Near duplicates: images of one photograph that differ by compression, a watermark, contrast or a few pixels.

Two images are compared if their perceptual hashes are close, and are near duplicates if their pixels correlate. On
FER2013 nearly all pairs above the threshold show one photograph; below a correlation of 0.88 some show two persons.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lhcnet.data.audit import is_blank
from lhcnet.data.fer2013 import Bytes

HASH_DISTANCE = 10  # bits of 64 in which the hashes may differ
CORRELATION = 0.9  # of the pixels, at least
_COEFFICIENTS = 9  # low frequencies in each direction; the first, the mean grey, is left out
_BLOCK = 256  # images that are compared at once


@dataclass(frozen=True)
class Pairs:
    """Pairs of near duplicates.

    Attributes:
        first, second: (p,) numbers of the images, first < second.
        correlation: (p,) of their pixels; 1 for exact duplicates.
    """

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    correlation: NDArray[np.float32]


def perceptual_hashes(images: Bytes) -> NDArray[np.uint64]:
    """64 bits an image: which of its low frequencies (discrete cosine transform) are above their median.

    Args:
        images: (n, 48, 48) grey values.

    Returns:
        (n,) hashes; similar images differ in few bits.
    """
    spectrum = dctn(images.astype(np.float32), axes=(1, 2), norm="ortho")[:, :_COEFFICIENTS, :_COEFFICIENTS]
    low = spectrum.reshape(len(images), -1)[:, 1:65]
    bits = low > np.median(low, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint64).ravel()


def near_duplicates(images: Bytes) -> Pairs:
    """All pairs of near duplicates, exact ones among them; blank images have none.

    Args:
        images: (n, 48, 48) grey values.
    """
    known = np.flatnonzero(~is_blank(images))
    hashes, flat = perceptual_hashes(images[known]), images[known].reshape(len(known), -1)
    first, second, correlation = [], [], []
    for start in range(0, len(known), _BLOCK):
        differing = np.bitwise_count(hashes[start : start + _BLOCK, None] ^ hashes[None, start:])
        row, column = np.nonzero(differing <= HASH_DISTANCE)
        i, j = row[column > row] + start, column[column > row] + start
        found = _correlation(flat[i], flat[j])
        kept = found >= CORRELATION
        first.append(known[i[kept]])
        second.append(known[j[kept]])
        correlation.append(found[kept])
    empty = np.zeros(0, np.intp)
    return Pairs(
        np.concatenate([empty, *first]),
        np.concatenate([empty, *second]),
        np.concatenate([np.zeros(0, np.float32), *correlation]),
    )


def _correlation(one: Bytes, other: Bytes) -> NDArray[np.float32]:
    """Pearson's correlation of each row of two arrays (p, pixels)."""
    standard = []
    for rows in (one, other):
        values = rows.astype(np.float32)
        values -= values.mean(axis=1, keepdims=True)
        standard.append(values / np.linalg.norm(values, axis=1, keepdims=True))
    return np.asarray(np.einsum("ij,ij->i", *standard), np.float32)


def groups(images: int, pairs: Pairs) -> NDArray[np.intp]:
    """Number of the group of each image, (n,): images that a chain of pairs connects are one group."""
    edges = coo_array((np.ones(len(pairs.first)), (pairs.first, pairs.second)), shape=(images, images))
    return np.asarray(connected_components(edges, directed=False)[1], np.intp)
