"""Scores of one model on a store or on class folders, in all and by class: for images that it was not made for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lhcnet.config import Compute, Data
from lhcnet.data.class_folders import read_class_folders
from lhcnet.data.fer2013 import CLASSES, Bytes
from lhcnet.data.reading import Reading
from lhcnet.data.store import MARKER, open_store
from lhcnet.errors import LhcnetError
from lhcnet.protocol.score import Score, score
from lhcnet.protocol.statistics import wilson
from lhcnet.runtime import memory_errors, open_device

if TYPE_CHECKING:
    from lhcnet.report.formatting import Table


FER2013 = Data()


@dataclass(frozen=True)
class StoreScores:
    """What a model reaches on n images.

    Attributes:
        scores: plain, and with TTA.
        correct: which images each of them classifies correctly, (n,).
        labels: true classes, (n,).
    """

    scores: list[Score]
    correct: list[NDArray[np.bool]]
    labels: Bytes

    def by_class(self) -> Table:
        """Recall of each class with Wilson's interval, a row for each score and class."""
        from lhcnet.report.formatting import Table, frame

        rows = []
        for one, correct in zip(self.scores, self.correct, strict=True):
            for label, name in enumerate(CLASSES):
                hits, n = int(correct[self.labels == label].sum()), int((self.labels == label).sum())
                low, high = wilson(hits, n) if n else (None, None)
                row = {"views": one.views, "class": name, "recall": hits / n if n else None}
                rows.append(row | {"recall_ci95_low": low, "recall_ci95_high": high, "n": n})
        return Table("Classes", "", frame(rows))


def score_store(
    model: str,
    store: Path,
    *,
    split: str,
    batch_size: int,
    compute: Compute,
    tta: bool = True,
    data: Data = FER2013,
) -> StoreScores:
    """Score a trained model. Records nothing.

    Args:
        model: as in `lhcnet.load`; an exported file is run as it is: plain, or with its views.
        store: any store; its images need not be of the data that the model was trained on. Or a folder or archive with
            images in a folder for each class; all of them are test.
        split: the split of the store.
        batch_size: number of images that a network sees at once.
        compute: device, precision, threads; an exported file takes the threads alone, and runs on the CPU.
        tta: whether it is scored with test-time augmentation as well, if it has views that help.
        data: of class folders, their names, and whether the images are resized.

    Raises:
        LhcnetError: the model or the images cannot be read, there is no such split, or the outputs are not finite.
    """
    images, labels = _images(store, split, data)
    with memory_errors("evaluation"):
        if model.lower().endswith(".onnx"):
            of_views = _exported(Path(model), images, batch_size, compute)
        else:
            of_views = _network(model, images, batch_size, compute, tta=tta)
    scores = [score(p, labels, split=split, views=views) for views, p in of_views]
    return StoreScores(scores, [p.argmax(1) == labels for _, p in of_views], labels)


def _images(store: Path, split: str, data: Data) -> tuple[Bytes, Bytes]:
    if (store / MARKER).exists() or not store.exists():
        return open_store(store).split(split)
    if split != "test":
        raise LhcnetError(f"{store}: is no store, so it has no split {split}; expected a store, or the split test")
    return read_class_folders(store, Reading.of(data))


Predictions = Sequence[tuple[int, NDArray[np.float32]]]
"""Number of views, and probabilities (n, 7) with them."""


def _exported(model: Path, images: Bytes, batch_size: int, compute: Compute) -> Predictions:
    from lhcnet.export.onnx_model import open_onnx

    opened = open_onnx(model, threads=compute.threads, batch_size=batch_size)
    views = opened.record.views
    return [(views, opened.probabilities(images, tta=views > 1))]


def _network(model: str, images: Bytes, batch_size: int, compute: Compute, *, tta: bool) -> Predictions:
    from lhcnet.prediction.loading import opened
    from lhcnet.prediction.network import NetworkModel

    with opened(model) as saved:
        network = NetworkModel.of(saved, open_device(compute), batch_size)
    found = [(1, network.probabilities(images))]
    if tta and len(network.views) > 1:
        found.append((len(network.views), network.probabilities(images, tta=True)))
    return found
