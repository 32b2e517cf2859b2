"""Images that are left out of training: duplicates of validation and test images, and blank images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lhcnet.config_base import Exclusion
from lhcnet.data.audit import is_blank
from lhcnet.data.fer2013 import TRAIN, Faces
from lhcnet.data.near_duplicates import near_duplicates


def without(faces: Faces, kinds: Sequence[Exclusion]) -> tuple[Faces, dict[str, int]]:
    """Drop images from train; validation and test stay as they are.

    Args:
        faces: the data set.
        kinds: `leaks`: training images that an image of validation or test repeats, exactly or nearly. `blanks`:
            training images whose grey values differ by 3 at most.

    Returns:
        The data set that is left, and the number of images that each kind dropped (one that is both counts for both).
    """
    in_train = faces.splits == TRAIN
    dropped = np.zeros(len(in_train), bool)
    counts: dict[str, int] = {}
    for kind in kinds:
        if kind == "blanks":
            found = is_blank(faces.images)
        else:
            pairs = near_duplicates(faces.images)
            across = in_train[pairs.first] != in_train[pairs.second]
            found = np.zeros(len(in_train), bool)
            found[pairs.first[across]] = found[pairs.second[across]] = True
        counts[kind] = int((found & in_train).sum())
        dropped |= found & in_train
    return faces.take(~dropped), counts
