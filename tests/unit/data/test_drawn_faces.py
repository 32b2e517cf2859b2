"""Drawn faces: reproducible, in FER2013's proportions, and learnable, but not by a linear model alone."""

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lhcnet.data.drawn_faces import _apportion, draw, write_csv, write_zip
from lhcnet.data.fer2013 import OFFICIAL_COUNTS, TRAIN, class_counts
from lhcnet.data.sources import read
from lhcnet.errors import LhcnetError

FACES = draw(600, seed=0)


def test_reproducible() -> None:
    assert draw(60, seed=4).digest == draw(60, seed=4).digest
    assert draw(60, seed=4).digest != draw(60, seed=5).digest


def test_arrays() -> None:
    assert FACES.images.shape == (600, 48, 48)
    assert FACES.images.dtype == FACES.labels.dtype == FACES.splits.dtype == np.uint8
    assert FACES.validation == "official"
    assert (np.diff(FACES.splits.astype(int)) >= 0).all()
    assert len(np.unique(FACES.images.reshape(600, -1), axis=0)) == 600


@pytest.mark.parametrize("n", [42, 43, 100, 600, 3000, 35_887, 100_001])
def test_proportions(n: int) -> None:
    counts = _apportion(n)
    assert counts.sum() == n
    assert counts.min() >= 2


@pytest.mark.parametrize("n", [3000, 35_887, 100_001])
def test_large_sets_have_the_official_proportions(n: int) -> None:
    assert np.abs(_apportion(n) - OFFICIAL_COUNTS * (n / 35_887)).max() < 1


def test_the_full_size_has_the_official_counts() -> None:
    assert (_apportion(35_887) == OFFICIAL_COUNTS).all()


def test_counts_of_drawn() -> None:
    assert (class_counts(FACES.labels, FACES.splits) == _apportion(600)).all()


@pytest.mark.parametrize("n", [-1, 0, 41])
def test_too_few(n: int) -> None:
    with pytest.raises(LhcnetError, match="expected at least 42"):
        draw(n, seed=0)


def test_written_and_read(tmp_path: Path) -> None:
    faces = draw(60, seed=4)
    write_csv(faces, tmp_path / "faces.csv")
    write_zip(faces, tmp_path / "faces.zip")
    assert read(tmp_path / "faces.csv").digest == read(tmp_path / "faces.zip").digest == faces.digest
    with zipfile.ZipFile(tmp_path / "faces.zip") as archive:
        assert archive.namelist()[0] == "train/angry/Training_00000.png"
    first = hashlib.sha256((tmp_path / "faces.zip").read_bytes()).hexdigest()
    write_zip(faces, tmp_path / "faces.zip")
    assert hashlib.sha256((tmp_path / "faces.zip").read_bytes()).hexdigest() == first


def test_not_linear() -> None:
    """Least squares on the pixels does better than the largest class, and far from well."""
    faces = draw(1200, seed=1)
    pixels = faces.images.reshape(len(faces.images), -1) / 128.0 - 1
    train = faces.splits == TRAIN
    targets = np.eye(7)[faces.labels[train]]
    ridge = pixels[train] @ pixels[train].T + 300 * np.eye(train.sum())
    scores = pixels[~train] @ (pixels[train].T @ np.linalg.solve(ridge, targets))
    accuracy = (scores.argmax(axis=1) == faces.labels[~train]).mean()
    assert 0.26 < accuracy < 0.6
