"""Loss of a batch: cross-entropy with label smoothing, class weights and mixed labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lhcnet.config import Stage
from lhcnet.model_record import CLASSES
from lhcnet.training.mixing import Mix, partner


def class_weights(labels: Tensor, stage: Stage) -> Tensor | None:
    """Weight of each class in the loss: N / (classes * images of the class), as scikit-learn's `balanced`.

    Args:
        labels: (N,) int64, of all training images.
        stage: settings of the training.

    Returns:
        (classes,) float32, 0 for a class without images; None if all classes weigh the same.
    """
    if stage.class_weights == "none":
        return None
    counts = torch.bincount(labels, minlength=len(CLASSES)).double()
    weights = torch.where(counts > 0, len(labels) / (len(counts) * counts), 0.0)
    return weights.float()


def batch_loss(
    logits: Tensor,
    labels: Tensor,
    stage: Stage,
    weights: Tensor | None,
    mix: Mix | None,
    targets: Tensor | None = None,
) -> Tensor:
    """Mean loss of a batch.

    The weight of an image is that of its label. torch's `weight` would weigh the smoothed part of a label by class as
    well: with balanced weights, it moves every label towards the rare classes.

    Args:
        logits: (B, classes) float32.
        labels: (B,) int64.
        stage: `label_smoothing`.
        weights: of the classes, or None.
        mix: how the images were combined; the loss is combined alike.
        targets: (B, classes) float32, distributions that replace the labels; None for none.

    Returns:
        A scalar.
    """

    def loss(label: Tensor, target: Tensor) -> Tensor:
        if weights is None:
            return F.cross_entropy(logits, target, label_smoothing=stage.label_smoothing)
        losses = F.cross_entropy(logits, target, label_smoothing=stage.label_smoothing, reduction="none")
        weight = weights[label]
        return (losses * weight).sum() / weight.sum()

    given = labels if targets is None else targets
    if mix is None:
        return loss(labels, given)
    return mix.share * loss(labels, given) + (1 - mix.share) * loss(partner(labels), partner(given))


def dominant(labels: Tensor, mix: Mix | None) -> Tensor:
    """The label with the larger share in each image."""
    return labels if mix is None or mix.share >= 0.5 else partner(labels)
