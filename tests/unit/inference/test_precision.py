"""bfloat16 autocast against float32: the same predictions, within a bound, and training that follows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lhcnet.config import Augmentation, Stage
from lhcnet.data.drawn_faces import draw
from lhcnet.inference.predict import predict
from lhcnet.inference.tta import plain_views
from lhcnet.models.lhcnet import LHCNet, insert_modules
from lhcnet.models.resnetv2 import ResNetV2
from lhcnet.runtime import Device
from lhcnet.training.loop import DataSplit, fit

FLOAT32, BFLOAT16 = (Device(torch.device("cpu"), precision) for precision in ("float32", "bfloat16"))
MODULES = [{"heads": heads, "d": d} for heads, d in ((8, 8), (8, 8), (4, 8), (3, 4), (1, 4))]


def network(*, lhc: bool) -> ResNetV2:
    sizes = {"input_size": 48, "depths": (1, 1, 1, 1), "widths": (16, 32, 64, 128), "head": (64,)}
    settings = sizes | {"dropout": 0.4, "bn_momentum": 0.1, "seed": 2}
    return LHCNet(MODULES, **settings) if lhc else ResNetV2(**settings)


def splits(n: int) -> tuple[DataSplit, DataSplit, DataSplit]:
    """Training, validation and test part of n drawn faces."""
    faces = draw(n, seed=4)
    train, validation, test = (
        DataSplit(faces.images[faces.splits == split], faces.labels[faces.splits == split]) for split in range(3)
    )
    return train, validation, test


def test_bfloat16_predicts_as_float32_after_training() -> None:
    train, validation, test = splits(1500)
    trained = network(lhc=False)
    augmentation = Augmentation(rotation=10.0, flip=True)
    stages = [
        Stage(optimizer="adam", learning_rate=rate, batch_size=32, epochs=epochs, augmentation=augmentation)
        for rate, epochs in ((2e-3, 6), (1e-3, 2))
    ]
    fit(trained, train, validation, stages[0], seed=3, input_size=48, device=FLOAT32)
    insert_modules(trained, MODULES, seed=2)  # as the paper does: from scratch an LHC-Net learns slowly
    fit(trained, train, validation, stages[1], seed=3, input_size=48, device=FLOAT32)
    exact, rounded = (
        predict(trained, test.images, plain_views(), input_size=48, device=device) for device in (FLOAT32, BFLOAT16)
    )
    assert (exact != rounded).any()  # the precision asked for was used
    assert (exact.argmax(1) == test.labels).mean() > 0.5  # of seven classes: it has learnt something
    largest = np.abs(exact - rounded).max(1)  # of each image
    assert (largest < 0.02).mean() > 0.97
    assert largest.max() < 0.08  # rounding every map to 8 bits shows where the network is torn between two classes
    assert largest.mean() < 0.005
    assert (exact.argmax(1) == rounded.argmax(1)).mean() >= 0.99


def test_training_in_bfloat16_follows_float32() -> None:
    train, validation, _ = splits(320)
    stage = Stage(optimizer="adam", learning_rate=1e-3, batch_size=32, epochs=2)
    losses = []
    for device in (FLOAT32, BFLOAT16):
        history = fit(network(lhc=True), train, validation, stage, seed=3, input_size=48, device=device).history
        losses.append([epoch.train_loss for epoch in history[1:]])
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.03)
