"""Figures, made from saved results."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import ConfusionMatrixDisplay


def confusion_matrix(counts: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """Rows (true class) in per cent of the row, from a (7, 7) matrix of counts."""
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    display = ConfusionMatrixDisplay(share, display_labels=list(classes))
    display.plot(ax=axes, cmap="Blues", values_format=".0f", xticks_rotation=45, colorbar=False)
    axes.set_title(f"Test split, n = {counts.sum()}: per cent of each true class")
    return figure
