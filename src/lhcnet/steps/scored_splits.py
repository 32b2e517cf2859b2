"""Validation and test images that models are scored on."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lhcnet.config import Evaluation
from lhcnet.data.audit import train_duplicates
from lhcnet.data.fer2013 import Bytes
from lhcnet.data.store import open_store
from lhcnet.errors import LhcnetError
from lhcnet.protocol.confidence import fit_temperature
from lhcnet.protocol.score import Score, score
from lhcnet.protocol.view_choice import ViewChoice, choose_views

if TYPE_CHECKING:
    from lhcnet.models.slots import SlotNetwork
    from lhcnet.runtime import Device
log = logging.getLogger("lhcnet")

DISTINCT = "test excluding duplicates in train"


@dataclass
class Scored:
    """What a network was scored with, by split; with TTA the names have the suffix _tta.

    Args:
        scores: of validation, test, and test_distinct (test images without duplicates in train).
        predicted: probabilities (N, 7) of validation and test.
        choice: of the views, if they were chosen.
    """

    scores: dict[str, Score]
    predicted: dict[str, NDArray[np.float32]]
    choice: ViewChoice | None = None

    def temperatures(self, labels: Bytes) -> dict[str, float]:
        """Temperatures that fit the validation images with these labels, by their names in `ModelScores`."""
        of = {"temperature": "validation", "temperature_tta": "validation_tta"}
        return {name: fit_temperature(self.predicted[key], labels) for name, key in of.items() if key in self.predicted}


@dataclass(frozen=True)
class ScoredSplits:
    """Images and labels of validation and test, and which of the images are in train too.

    Args:
        data: digest of the data.
        splits: (images (N, 48, 48), labels (N,)) of validation and test.
        train: the images of train, (N, 48, 48).
        train_duplicate: (N,) of each split, whether the same image, byte for byte, is in train.
    """

    data: str
    splits: dict[str, tuple[Bytes, Bytes]]
    train: Bytes
    train_duplicate: dict[str, NDArray[np.bool]]

    @classmethod
    def open(cls, trainval: Path, test: Path) -> ScoredSplits:
        """Read both stores.

        Raises:
            LhcnetError: the stores are of different data.
        """
        seen, sealed = open_store(trainval), open_store(test)
        if seen.digest != sealed.digest:
            raise LhcnetError(f"{test}: is of data {sealed.digest[:12]}, but {trainval} of {seen.digest[:12]}")
        splits = {"validation": seen.split("validation"), "test": sealed.split("test")}
        train, _ = seen.split("train")
        duplicates = {name: train_duplicates(images, train) for name, (images, _) in splits.items()}
        return cls(seen.digest, splits, train, duplicates)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Labels and duplicates in train, under their names in `predictions.npz`."""
        found: dict[str, NDArray[Any]] = {f"labels/{name}": labels for name, (_, labels) in self.splits.items()}
        return found | {f"train_duplicate/{name}": rows for name, rows in self.train_duplicate.items()}

    def score(
        self, model: str, network: SlotNetwork, input_size: int, evaluation: Evaluation, device: Device, *, tta: bool
    ) -> Scored:
        """Score a network on both splits, and on the test images that are not in train.

        Args:
            model: name of the network, for errors.
            network: the network, moved to the device.
            input_size: side of its input in pixels.
            evaluation: views and rotation of TTA, batch size.
            device: where to compute.
            tta: whether to score with test-time augmentation as well.

        Returns:
            Scores and probabilities.

        Raises:
            LhcnetError: the network's outputs are not finite.
        """
        from lhcnet.inference.predict import predict, predict_each
        from lhcnet.inference.tta import family_views, plain_views, tta_views

        device.move(network)
        scored, rotation = Scored({}, {}), evaluation.tta_rotation
        settings: dict[str, Any] = {"input_size": input_size, "device": device, "batch_size": evaluation.batch_size}
        for suffix in ("", "_tta")[: 2 if tta else 1]:
            views = tta_views(rotation) if suffix else plain_views()
            for split in ("validation", "test"):  # in this order: views are chosen on validation
                images, labels = self.splits[split]
                try:
                    if suffix and evaluation.views == "helpful" and split == "validation":
                        each = predict_each(network, images, views, **settings)
                        scored.choice, p = choose_views(each, views, labels)
                        views = family_views(scored.choice.families, rotation)
                    else:
                        p = predict(network, images, views, **settings)
                except FloatingPointError as error:
                    raise LhcnetError(f"{model}: cannot be scored on {split}: {error}") from None
                scored.predicted[f"{split}{suffix}"] = p
                scored.scores[f"{split}{suffix}"] = score(p, labels, split=split, views=len(views))
            own, labels = ~self.train_duplicate["test"], self.splits["test"][1]
            scored.scores[f"test_distinct{suffix}"] = score(
                scored.predicted[f"test{suffix}"][own],
                labels[own],
                split="test excluding duplicates in train",
                views=len(views),
            )
        return scored
