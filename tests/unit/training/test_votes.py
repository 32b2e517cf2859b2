"""Training on shares of votes instead of labels: from fer2013new.csv to the loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.source_files import FACES, csv_lines, folder, text

from lhcnet.config import Data, Stage, parse
from lhcnet.data.fer2013 import CLASSES
from lhcnet.data.ferplus import VOTES
from lhcnet.data.reading import Reading
from lhcnet.data.sources import read
from lhcnet.data.store import open_store, write_stores
from lhcnet.errors import LhcnetError
from lhcnet.models.resnetv2 import ResNetV2
from lhcnet.runtime import Device
from lhcnet.training.loop import DataSplit, fit
from lhcnet.training.loss import batch_loss, class_weights
from lhcnet.training.mixing import Mix

CPU = Device(torch.device("cpu"), "float32")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """fer2013.csv with votes: six for its label, two for fear, and single ones that do not count."""
    rows = ["Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"]
    for line in csv_lines()[1:]:
        emotion, _, usage = line.split(",")
        votes = dict.fromkeys(VOTES, 0) | {"unknown": 1, "neutral": 1, "fear": 2, CLASSES[int(emotion)]: 6}
        rows.append(",".join([usage, "fer.png", *(str(votes[name]) for name in VOTES)]))
    return folder(tmp_path / "in", {"fer2013.csv": text(csv_lines()), "fer2013new.csv": text(rows)})


def test_the_store_of_training_has_the_shares_of_the_votes(source: Path, tmp_path: Path) -> None:
    majority, distribution = (
        read(source, reading=Reading.of(parse(Data, {"labels": labels}, "data")))
        for labels in ("ferplus", "ferplus_distribution")
    )
    assert majority.digest == FACES.digest
    assert distribution.digest != FACES.digest  # models of both are not mixed
    write_stores(distribution, tmp_path / "trainval", tmp_path / "test")
    trainval, test = open_store(tmp_path / "trainval"), open_store(tmp_path / "test")
    assert trainval.digest == test.digest == distribution.digest
    assert (test.targets("test"), test.meta["format"], trainval.meta["format"]) == (None, 1, 2)
    shares, labels = trainval.targets("train"), trainval.split("train")[1]
    assert shares is not None
    fear = CLASSES.index("fear")
    expected = np.where(np.arange(7) == labels[:, None], 0.75, 0.0)
    expected[:, fear] = np.where(labels == fear, 1.0, 0.25)
    np.testing.assert_allclose(shares, expected, atol=1e-7)
    votes = np.load(tmp_path / "trainval" / "votes.npy")
    np.save(tmp_path / "trainval" / "votes.npy", np.roll(votes, 1, axis=1))
    with pytest.raises(LhcnetError, match="is a damaged store"):
        open_store(tmp_path / "trainval")


def test_the_loss_is_that_of_the_shares() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(6, 7, generator=generator), torch.tensor([0, 1, 2, 3, 4, 4])
    shares, stage, mix = torch.rand(6, 7, generator=generator).softmax(1), Stage(label_smoothing=0.1), Mix(0.3)
    losses = F.cross_entropy(logits, shares, label_smoothing=0.1, reduction="none")
    torch.testing.assert_close(batch_loss(logits, labels, stage, None, None, shares), losses.mean())
    mixed = F.cross_entropy(logits, 0.3 * shares + 0.7 * shares.roll(1, 0), label_smoothing=0.1)
    torch.testing.assert_close(batch_loss(logits, labels, stage, None, mix, shares), mixed)
    weights = class_weights(labels, Stage(class_weights="balanced"))
    assert weights is not None
    of_images = weights[labels]  # an image weighs as its majority
    expected = (losses * of_images).sum() / of_images.sum()
    torch.testing.assert_close(batch_loss(logits, labels, stage, weights, None, shares), expected)


def test_a_training_follows_the_shares() -> None:
    """All shares on the label train as the label does, all on another class do not."""
    train = FACES.splits == 0
    images, labels = FACES.images[train][::6], FACES.labels[train][::6]
    validation = DataSplit(images[:4], labels[:4])
    stage = Stage(optimizer="adam", learning_rate=0.01, batch_size=8, epochs=2)
    losses = []
    for shift in (None, 0, 1):
        network = ResNetV2(
            depths=(1,) * 4, widths=(4,) * 4, head=(8,), dropout=0.0, bn_momentum=0.1, input_size=32, seed=1
        )
        given = None if shift is None else np.eye(7, dtype=np.float32)[(labels + shift) % 7]
        split = DataSplit(images, labels, given)
        found = fit(network, split, validation, stage, seed=0, input_size=32, device=CPU)
        losses.append([row.train_loss for row in found.history[1:]])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0] != pytest.approx(losses[2], rel=1e-2)
