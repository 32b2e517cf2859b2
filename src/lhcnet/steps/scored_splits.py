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
from lhcnet.protocol.score import Score, score

if TYPE_CHECKING:
    from lhcnet.models.slots import SlotNetwork
    from lhcnet.runtime import Device
log = logging.getLogger("lhcnet")

DISTINCT = "test excluding duplicates in train"


@dataclass(frozen=True)
class ScoredSplits:
    """Images and labels of validation and test, and which of the images are in train too.

    Args:
        data: digest of the data.
        splits: (images (N, 48, 48), labels (N,)) of validation and test.
        train_duplicate: (N,) of each split, whether the same image, byte for byte, is in train.
    """

    data: str
    splits: dict[str, tuple[Bytes, Bytes]]
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
        return cls(seen.digest, splits, {name: train_duplicates(images, train) for name, (images, _) in splits.items()})

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Labels and duplicates in train, under their names in `predictions.npz`."""
        found: dict[str, NDArray[Any]] = {f"labels/{name}": labels for name, (_, labels) in self.splits.items()}
        return found | {f"train_duplicate/{name}": rows for name, rows in self.train_duplicate.items()}

    def score(
        self, model: str, network: SlotNetwork, input_size: int, evaluation: Evaluation, device: Device, *, tta: bool
    ) -> tuple[dict[str, Score], dict[str, NDArray[np.float32]]]:
        """Score a network on both splits, and on the test images that are not in train.

        Args:
            model: name of the network, for errors.
            network: the network, moved to the device.
            input_size: side of its input in pixels.
            evaluation: rotation of TTA, batch size.
            device: where to compute.
            tta: whether to score with test-time augmentation as well.

        Returns:
            Scores and probabilities (N, 7) by split; those with TTA have the suffix _tta.

        Raises:
            LhcnetError: the network's outputs are not finite.
        """
        from lhcnet.inference.predict import predict
        from lhcnet.inference.tta import plain_views, tta_views

        device.move(network)
        scores, predicted = {}, {}
        for views in (plain_views(), tta_views(evaluation.tta_rotation))[: 2 if tta else 1]:
            suffix = "_tta" if len(views) > 1 else ""
            for split, (images, labels) in self.splits.items():
                try:
                    p = predict(
                        network, images, views, input_size=input_size, device=device, batch_size=evaluation.batch_size
                    )
                except FloatingPointError as error:
                    raise LhcnetError(f"{model}: cannot be scored on {split}: {error}") from None
                predicted[f"{split}{suffix}"] = p
                scores[f"{split}{suffix}"] = score(p, labels, split=split, views=len(views))
            own, labels = ~self.train_duplicate["test"], self.splits["test"][1]
            scores[f"test_distinct{suffix}"] = score(
                predicted[f"test{suffix}"][own],
                labels[own],
                split="test excluding duplicates in train",
                views=len(views),
            )
        return scores, predicted
