"""A score is never a bare float: accuracy, its 95 % interval, n, split and views."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lhcnet.config import FrozenModel
from lhcnet.protocol.statistics import wilson

LABELS = list(range(7))


class Score(FrozenModel):
    """Accuracy (0..1) with its Wilson 95 % interval over n images of a split, seen under a number of views."""

    accuracy: float
    ci95: tuple[float, float]
    macro_f1: float
    n: int
    split: str
    views: int


def score(probabilities: NDArray[np.float32], labels: NDArray[np.uint8], *, split: str, views: int) -> Score:
    """Score (N, 7) probabilities against (N,) labels 0..6."""
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
    """(7, 7) counts, rows the true class, columns the predicted one."""
    from sklearn.metrics import confusion_matrix

    matrix: NDArray[np.int64] = confusion_matrix(labels, probabilities.argmax(1), labels=LABELS)
    return matrix
