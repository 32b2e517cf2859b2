"""FER2013: its classes, splits and official image counts, and a data set in memory."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

CLASSES = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
SPLITS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)
SIDE = 48

# Images per split (rows) and class (columns) of the complete data set.
OFFICIAL_COUNTS = np.array([
    [3995, 436, 4097, 7215, 4830, 3171, 4965],
    [467, 56, 496, 895, 653, 415, 607],
    [491, 55, 528, 879, 594, 416, 626],
])  # fmt: skip

USAGE = {"Training": TRAIN, "PublicTest": VALIDATION, "PrivateTest": TEST}
_SPLIT_OF_WORD = (
    dict.fromkeys(("train", "training", "trainset"), TRAIN)
    | dict.fromkeys(("val", "valid", "validation", "valset", "dev", "publictest", "testpublic", "public"), VALIDATION)
    | dict.fromkeys(("test", "testing", "testset", "privatetest", "testprivate", "private"), TEST)
)
FOLDERS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")  # in the order of CLASSES


def split_of_name(name: str) -> int | None:
    """The split that the name of a folder or table says (train, val, PublicTest, FER2013Valid...), or None."""
    words = re.sub(r"[^a-z]", "", re.sub(r"^fer[ _-]?(2013)?", "", name.lower()))
    return _SPLIT_OF_WORD.get(words)


@dataclass(frozen=True, eq=False)
class Faces:
    """A data set in memory, in canonical order: sorted by (split, label, pixel bytes).

    The order depends on the content alone: the CSV and the image files of the same pixels give equal arrays.
    """

    images: Bytes  # (N, 48, 48), grey 0..255
    labels: Bytes  # (N,), index into CLASSES
    splits: Bytes  # (N,), TRAIN, VALIDATION or TEST
    shape: str  # the recognised shape of the source, for the data report
    validation: str  # "official" or "cut from train"
    votes: Bytes | None = None  # (N, 7), for each class: what is trained on instead of the labels, if anything

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of images, labels, splits and votes."""
        return content_digest(self.images, self.labels, self.splits, self.votes)

    def in_order(self) -> Faces:
        """The same images in canonical order."""
        return self.take(canonical_order(self.images, self.labels, self.splits, self.votes))

    def take(self, rows: NDArray[np.bool] | list[int]) -> Faces:
        """The images of these rows: a mask (N,), or row numbers in an order."""
        votes = None if self.votes is None else self.votes[rows]
        return replace(self, images=self.images[rows], labels=self.labels[rows], splits=self.splits[rows], votes=votes)


def content_digest(images: Bytes, labels: Bytes, splits: Bytes, votes: Bytes | None = None) -> str:
    """SHA-256 (hex) of the bytes of images (N, 48, 48), labels (N,), splits (N,) and votes (N, 7), in this order."""
    sha = hashlib.sha256()
    for array in (images, labels, splits) if votes is None else (images, labels, splits, votes):
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()


def class_counts(labels: Bytes, splits: Bytes) -> NDArray[np.intp]:
    """Number of images per split and class, (3, 7), from labels (N,) and splits (N,)."""
    return np.bincount(splits * len(CLASSES) + labels, minlength=21).reshape(len(SPLITS), len(CLASSES))


def canonical(images: Bytes, labels: Bytes, splits: Bytes) -> tuple[Bytes, Bytes, Bytes]:
    """Sort images (N, 48, 48), labels (N,) and splits (N,) by (split, label, pixel bytes)."""
    order = canonical_order(images, labels, splits)
    return images[order], labels[order], splits[order]


def canonical_order(images: Bytes, labels: Bytes, splits: Bytes, votes: Bytes | None = None) -> list[int]:
    """Row numbers by (split, label, pixel bytes, votes)."""
    keys = [bytes((s, c)) + image.tobytes() for image, c, s in zip(images, labels, splits, strict=True)]
    if votes is not None:
        keys = [key + row.tobytes() for key, row in zip(keys, votes, strict=True)]
    return sorted(range(len(keys)), key=keys.__getitem__)


def mark_official_validation(labels: Bytes, splits: Bytes) -> None:
    """Mark the official validation images, in place, in a test part that holds validation and test together.

    Nothing is marked unless the number of TEST images per class is that of FER2013's PublicTest and PrivateTest
    together. Then the first images of each class are PublicTest, as in the competition's files.

    Args:
        labels: (N,), in the order of the source.
        splits: (N,), TRAIN or TEST; becomes VALIDATION where an image is one of PublicTest.
    """
    if np.array_equal(class_counts(labels, splits)[TEST], OFFICIAL_COUNTS[[VALIDATION, TEST]].sum(axis=0)):
        for label, count in enumerate(OFFICIAL_COUNTS[VALIDATION]):
            splits[np.flatnonzero((splits == TEST) & (labels == label))[:count]] = VALIDATION
