"""Inspection of a data set: near duplicates, contradicting labels, damaged images, differences between the splits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import laplace
from scipy.stats import chi2_contingency, ks_2samp

from lhcnet.data.audit import DataReport, audit, is_blank
from lhcnet.data.fer2013 import CLASSES, SPLITS, TEST, TRAIN, VALIDATION, Bytes, Faces, class_counts
from lhcnet.data.near_duplicates import Pairs, groups, near_duplicates

ONE_VALUE = 0.75  # share of the pixels that have one grey value in a damaged image
MEASURES = ("brightness", "contrast", "sharpness")
SHIFTED = 0.1  # Kolmogorov-Smirnov distance, or Cramér's V, from which two splits differ visibly, if p is below
SIGNIFICANT = 0.001


@dataclass(frozen=True, eq=False)
class Inspection:
    """What was found in a data set.

    Attributes:
        faces: the data set.
        report: counts, and exact duplicates.
        pairs: near duplicates, exact ones among them.
        group: (n,) number of the group of each image; near duplicates have the same.
        twin_in_train: (n,) whether an image of validation or test has a near duplicate in train.
        contradicting: numbers of the groups whose images have different labels.
        blank, damaged: (n,) grey values that differ by 3 at most; three quarters of the pixels of one grey value.
        shifts: a row for each measure and split: its median in train and in the split, the distance of both
            distributions, the p value, and whether they differ visibly.
    """

    faces: Faces
    report: DataReport
    pairs: Pairs
    group: NDArray[np.intp]
    twin_in_train: NDArray[np.bool]
    contradicting: NDArray[np.intp]
    blank: NDArray[np.bool]
    damaged: NDArray[np.bool]
    shifts: pd.DataFrame

    def figures(self) -> dict[str, Any]:
        """All figures, as JSON takes them."""
        sizes = np.bincount(self.group)
        in_groups = np.isin(self.group, self.contradicting)
        splits = self.faces.splits
        return {
            "digest": self.faces.digest,
            "images": len(splits),
            "exact_duplicates_in_train": self.report.train_duplicates,
            "near_duplicates_in_train": {
                SPLITS[s]: int(self.twin_in_train[splits == s].sum()) for s in (VALIDATION, TEST)
            },
            "groups": int((sizes > 1).sum()),
            "images_in_groups": int(sizes[sizes > 1].sum()),
            "largest_group": int(sizes.max(initial=0)),
            "groups_with_several_labels": len(self.contradicting),
            "images_in_groups_with_several_labels": int(in_groups.sum()),
            "blank": {name: int(self.blank[splits == s].sum()) for s, name in enumerate(SPLITS)},
            "damaged": {name: int(self.damaged[splits == s].sum()) for s, name in enumerate(SPLITS)},
            "shifts": self.shifts.to_dict("records"),
        }


def inspect(faces: Faces) -> Inspection:
    """Inspect a data set; the images are compared pair by pair, so time grows with the square of their number."""
    pairs = near_duplicates(faces.images)
    group = groups(len(faces.images), pairs)
    twins = np.zeros(len(group), bool)
    for one, other in ((pairs.first, pairs.second), (pairs.second, pairs.first)):
        twins[one[(faces.splits[one] != TRAIN) & (faces.splits[other] == TRAIN)]] = True
    labels = pd.Series(faces.labels).groupby(group).nunique()
    blank = is_blank(faces.images)
    return Inspection(
        faces=faces,
        report=audit(faces),
        pairs=pairs,
        group=group,
        twin_in_train=twins,
        contradicting=labels[labels > 1].index.to_numpy(np.intp),
        blank=blank,
        damaged=~blank & (_share_of_one_value(faces.images) >= ONE_VALUE),
        shifts=_shifts(faces),
    )


def _share_of_one_value(images: Bytes) -> NDArray[np.float64]:
    """Share of the pixels of each image that have its most frequent grey value, (n,)."""
    return np.array([np.bincount(image.ravel()).max() / image.size for image in images])


def measures(images: Bytes) -> pd.DataFrame:
    """Mean and standard deviation of the grey values of each image, and the variance of its Laplacian: sharpness."""
    values = images.astype(np.float32)
    edges = laplace(values, axes=(1, 2))
    return pd.DataFrame({
        "brightness": values.mean(axis=(1, 2)),
        "contrast": values.std(axis=(1, 2)),
        "sharpness": edges.var(axis=(1, 2)),
    })  # fmt: skip


def _shifts(faces: Faces) -> pd.DataFrame:
    """Compare validation and test with train: Kolmogorov-Smirnov for the measures, chi-squared for the classes."""
    rows = []
    found, counts = measures(faces.images), class_counts(faces.labels, faces.splits)
    for split in (VALIDATION, TEST):
        for name in MEASURES:
            train, other = (found[name][faces.splits == s] for s in (TRAIN, split))
            tested = ks_2samp(train, other)
            medians = {"train": float(train.median()), "other": float(other.median())}
            rows.append(_row(name, split, medians, float(tested.statistic), float(tested.pvalue)))
        table = counts[[TRAIN, split]]
        table = table[:, table.any(axis=0)]
        chi2, p = chi2_contingency(table)[:2]
        shares = table[:, 0] / table.sum(axis=1)
        medians = {"train": float(shares[0]), "other": float(shares[1])}
        rows.append(
            _row(f"classes (share of {CLASSES[0]})", split, medians, float(np.sqrt(chi2 / table.sum())), float(p))
        )
    return pd.DataFrame(rows)


def _row(measure: str, split: int, medians: dict[str, float], distance: float, p: float) -> dict[str, Any]:
    return {"measure": measure, "split": SPLITS[split], **medians, "distance": distance, "p": p} | {
        "differs": distance >= SHIFTED and p < SIGNIFICANT
    }
