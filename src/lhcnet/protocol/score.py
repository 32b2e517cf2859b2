"""A score: accuracy with its 95 % confidence interval, the number of images, the split and the number of views."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lhcnet.config import Count, FrozenModel
from lhcnet.protocol.statistics import wilson

LABELS = list(range(7))
Proportion = Annotated[float, Field(ge=0, le=1)]
Bound = Annotated[float, Field(ge=-1e-9, le=1 + 1e-9)]  # of an interval, as it is rounded


class Score(FrozenModel):
    """Accuracy and macro F1 (0..1) on n images of a split; `ci95` is Wilson's interval, `views` those of TTA or 1."""

    accuracy: Proportion
    ci95: tuple[Bound, Bound]
    macro_f1: Proportion
    n: Count
    split: str
    views: Count


def score(probabilities: NDArray[np.float32], labels: NDArray[np.uint8], *, split: str, views: int) -> Score:
    """Score predictions.

    Args:
        probabilities: (n, 7) of the classes.
        labels: (n,) true classes 0..6.
        split: name of the images, for the reader.
        views: how many views of an image the probabilities are the mean of.
    """
    from sklearn.metrics import f1_score  # takes a second to load, and most steps never score

    predicted = probabilities.argmax(1)
    hits, n = int((predicted == labels).sum()), len(labels)
    return Score(
        accuracy=hits / n,
        ci95=wilson(hits, n),
        macro_f1=float(f1_score(labels, predicted, labels=LABELS, average="macro", zero_division=0.0)),
        n=n,
        split=split,
        views=views,
    )


def confusion(probabilities: NDArray[np.float32], labels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(7, 7) counts of (n, 7) probabilities and (n,) labels: rows are true classes, columns predicted ones."""
    from sklearn.metrics import confusion_matrix

    matrix: NDArray[np.int64] = confusion_matrix(labels, probabilities.argmax(1), labels=LABELS)
    return matrix
