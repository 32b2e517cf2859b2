"""Which test images the report shows: of each class some that the chosen model has right, and some wrong ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lhcnet.protocol.score import LABELS

EACH = 4  # images of a class that are right, and as many that are wrong
ROWS, IMAGES = "examples/rows", "examples/images"  # names in `predictions.npz`


def example_rows(p: NDArray[np.float32], labels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Draw examples, the same ones for the same predictions: not the surest ones, which would flatter or shame.

    Args:
        p: (n, 7) probabilities of the images.
        labels: (n,) their classes.

    Returns:
        (k,) row numbers, class by class; of each class at most `EACH` right ones and `EACH` wrong ones.
    """
    order = np.random.default_rng(0).permutation(len(labels))
    right = p.argmax(1) == labels
    parts = [
        order[(labels[order] == c) & (right[order] == is_right)][:EACH] for c in LABELS for is_right in (True, False)
    ]
    return np.concatenate(parts)
