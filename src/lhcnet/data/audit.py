"""Audit of a data set: duplicates, leaks between splits, contradicting labels, blank images."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from lhcnet.data.fer2013 import CLASSES, SIDE, SPLITS, TEST, TRAIN, VALIDATION, Bytes, Faces, class_counts
from lhcnet.versioned import Versioned

BLANK_RANGE = 3  # grey values: an image with less contrast shows nothing
Number = Annotated[int, Field(ge=0, lt=2**53)]  # of images


class DataReport(Versioned):
    """`data_report.json`: properties of a data set that matter for reading scores.

    Attributes:
        shape: the shape that the data were read from, in words; validation: where the validation split comes from.
        digest: of images, labels and splits.
        images: all images; counts: images per split and class.
        distinct: images that differ from each other in at least one pixel; repeats: the rest.
        in_several_splits: distinct images that occur in more than one split.
        train_duplicates: images of validation and test that also occur in train, byte for byte.
        with_several_labels: distinct images that occur with more than one label.
        constant: images per split that have one grey value.
        blank: images per split whose grey values differ by 3 at most (FER2013 has one more of these).
        mean_grey: mean grey value per split, 0..255.
        excluded: images that the setting `data.exclude` left out of train before all this was counted, by kind.
    """

    shape: str
    validation: str
    digest: str
    images: Number
    counts: dict[str, dict[str, Number]]
    distinct: Number
    repeats: Number
    in_several_splits: Number
    train_duplicates: dict[str, Number]
    with_several_labels: Number
    constant: dict[str, Number]
    blank: dict[str, Number]
    mean_grey: dict[str, Annotated[float, Field(ge=0, le=255)]]
    excluded: dict[str, Number] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _names_every_split_and_class(self) -> DataReport:
        by_split: dict[str, Collection[str]] = {
            name: getattr(self, name) for name in ("counts", "constant", "blank", "mean_grey")
        }
        for name, found in by_split.items():
            if set(found) != set(SPLITS):
                raise ValueError(f"{name}: expected {', '.join(SPLITS)}, not {', '.join(found)}")
        if set(self.train_duplicates) != {SPLITS[VALIDATION], SPLITS[TEST]}:
            raise ValueError(f"train_duplicates: expected validation and test, not {', '.join(self.train_duplicates)}")
        for split, counts in self.counts.items():
            if set(counts) != set(CLASSES):
                raise ValueError(f"counts.{split}: expected {', '.join(CLASSES)}, not {', '.join(counts)}")
        if sum(sum(counts.values()) for counts in self.counts.values()) != self.images:
            raise ValueError(f"counts: expected {self.images} images in all")
        return self


def audit(faces: Faces) -> DataReport:
    """Count images, duplicates, contradicting labels and blank images of a data set."""
    flat = faces.images.reshape(len(faces.images), SIDE * SIDE)
    # number of each distinct image; five times as fast as np.unique, which sorts them
    number_of: dict[bytes, int] = {}
    numbers = np.array([number_of.setdefault(image.tobytes(), len(number_of)) for image in flat])
    in_split = np.zeros((len(number_of), len(SPLITS)), bool)
    in_split[numbers, faces.splits] = True
    has_label = np.zeros((len(number_of), len(CLASSES)), bool)
    has_label[numbers, faces.labels] = True

    counts = class_counts(faces.labels, faces.splits)
    grey_range = _grey_range(faces.images)
    in_train = in_split[numbers, TRAIN]
    of_split = {name: faces.splits == split for split, name in enumerate(SPLITS)}
    return DataReport(
        shape=faces.shape,
        validation=faces.validation,
        digest=faces.digest,
        images=len(flat),
        counts={name: dict(zip(CLASSES, counts[s].tolist(), strict=True)) for s, name in enumerate(SPLITS)},
        distinct=len(number_of),
        repeats=len(flat) - len(number_of),
        in_several_splits=int((in_split.sum(axis=1) > 1).sum()),
        train_duplicates={SPLITS[s]: int(in_train[faces.splits == s].sum()) for s in (VALIDATION, TEST)},
        with_several_labels=int((has_label.sum(axis=1) > 1).sum()),
        constant={name: int((grey_range[rows] == 0).sum()) for name, rows in of_split.items()},
        blank={name: int((grey_range[rows] <= BLANK_RANGE).sum()) for name, rows in of_split.items()},
        mean_grey={name: float(flat[rows].mean()) for name, rows in of_split.items()},
    )


def is_blank(images: Bytes) -> NDArray[np.bool]:
    """Whether the grey values of each image (n, 48, 48) differ by 3 at most, (n,)."""
    return _grey_range(images) <= BLANK_RANGE


def _grey_range(images: Bytes) -> Bytes:
    """Largest minus smallest grey value of each image, (n,)."""
    flat = images.reshape(len(images), SIDE * SIDE)
    return np.asarray(flat.max(axis=1) - flat.min(axis=1), np.uint8)


def train_duplicates(images: Bytes, train: Bytes) -> NDArray[np.bool]:
    """Find images that also occur in the training split.

    Args:
        images: (n, 48, 48) uint8, of another split.
        train: (m, 48, 48) uint8, all training images.

    Returns:
        (n,): True where an image is byte for byte equal to a training image.
    """
    return np.isin(_keys(images), _keys(train))


def _keys(images: Bytes) -> NDArray[np.void]:
    """One comparable value per image, (n,)."""
    flat = images.reshape(len(images), SIDE * SIDE)
    return np.ascontiguousarray(flat).view(np.dtype((np.void, SIDE * SIDE))).ravel()
