"""Pictures far from the features of the validation images are said to be so; the model directory keeps these."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lhcnet
from lhcnet.data.drawn_faces import draw
from lhcnet.errors import LhcnetError
from lhcnet.model_record import Fitted
from lhcnet.prediction.typical import TypicalFeatures
from lhcnet.saved import FEATURES, FILES, open_model

FACES = draw(42, seed=0).images
FITTED = Fitted(temperature=2.0, tta_rotation=0.15)


def drawn(n: int, seed: int) -> np.ndarray:
    """Features (n, 30) with three large variances, and one that is constant."""
    found = np.random.default_rng(seed).normal(size=(n, 30)) * ([9.0, 5.0, 3.0] + [0.5] * 26 + [0.0])
    return (found + 4).astype(np.float32)


def test_the_distance_is_that_of_mahalanobis_and_one_in_a_hundred_is_far() -> None:
    typical = TypicalFeatures.fit(drawn(2000, 0))
    assert typical
    assert typical.axes.shape == (29, 30)
    new = drawn(2000, 1)
    assert 0.003 < typical.far(new).mean() < 0.025
    exact = np.sqrt((((new - 4) / ([9.0, 5.0, 3.0] + [0.5] * 26 + [1.0])) ** 2).sum(axis=1))
    np.testing.assert_allclose(typical.distances(new), exact, rtol=0.15)
    moved = new.copy()
    moved[:, 10] += 5  # ten deviations along a small axis, less than one along the largest
    assert typical.far(moved).all()
    moved = new.copy()
    moved[:, 29] += 1  # what never varied
    assert typical.far(moved).all()
    again = TypicalFeatures.of(typical.to_bytes(), Path("f"))
    np.testing.assert_array_equal(again.distances(new), typical.distances(new))


def test_few_or_equal_features_are_not_fitted() -> None:
    assert TypicalFeatures.fit(drawn(199, 0)) is None
    assert TypicalFeatures.fit(np.ones((300, 5), np.float32)) is None


def test_a_model_keeps_its_typical_features_and_says_what_is_far(model: Path, tmp_path: Path) -> None:
    own = lhcnet.load(model).model.embeddings(np.tile(FACES, (5, 1, 1)))
    typical = TypicalFeatures.fit(own)
    assert typical
    pictures = [*FACES[:4], np.zeros((48, 48), np.uint8)]
    distances = typical.distances(lhcnet.load(model).model.embeddings(np.stack(pictures)))
    limit = np.sort(distances[:4])[1:2] + 1e-3
    expected = [*np.where(distances[:4] > limit, "far", "").tolist(), "blank"]
    assert expected.count("far") == 2
    typical = replace(typical, limit=limit)
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    open_model(model).copy(one, fitted=FITTED, features=typical.to_bytes())
    open_model(one).copy(two, fitted=FITTED)  # as `register` does: what it fitted knows nothing of the features
    fitted = open_model(two).info.fitted
    assert fitted
    assert fitted.features == hashlib.sha256((two / FEATURES).read_bytes()).hexdigest()
    predictor, plain = lhcnet.load(two), lhcnet.load(model)
    for tta in (False, True):
        assert [face.unlike for face in predictor.predict(pictures, tta=tta)] == expected
        assert [face.unlike for face in plain.predict(pictures, tta=tta)] == ["", "", "", "", "blank"]
    for face, other in zip(predictor.predict(pictures), plain.predict(pictures), strict=True):
        assert face.best == other.best
    assert replace(face, unlike="", calibrated=False, probabilities=other.probabilities) == replace(other, unlike="")
    (two / FEATURES).write_bytes(b"other")
    with pytest.raises(LhcnetError, match=r"features\.safetensors: its SHA-256 is .*; run evaluate again"):
        lhcnet.load(two)
    (two / FEATURES).unlink()
    with pytest.raises(LhcnetError, match=r"features\.safetensors: expected the typical features of"):
        lhcnet.load(two)


def test_a_model_without_typical_features_is_as_before(model: Path, tmp_path: Path) -> None:
    open_model(model).copy(tmp_path, fitted=FITTED)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    assert "features" not in (tmp_path / "model.json").read_text().replace("features_", "")
    assert lhcnet.load(tmp_path).typical is None


def test_what_is_no_file_of_typical_features_is_one_sentence() -> None:
    for content in (b"", b"garbage" * 9):
        with pytest.raises(LhcnetError, match="f: expected mean, axes"):
            TypicalFeatures.of(content, Path("f"))
