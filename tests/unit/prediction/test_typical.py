"""Pictures far from the training images are said to be so; the model directory keeps what is typical."""

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
from lhcnet.models.resnetv2 import ResNetV2
from lhcnet.prediction.network import NetworkModel
from lhcnet.prediction.predictor import BLANK, FAR
from lhcnet.prediction.typical import TypicalFeatures
from lhcnet.saved import CLASSES, FEATURES, FILES, open_model

FACES = draw(42, seed=0).images
FITTED = Fitted(temperature=2.0, tta_rotation=0.15)


def drawn(n: int, seed: int) -> np.ndarray:
    """Features (n, 30) around (4, 4, ...): three large variances, and one that is zero."""
    found = np.random.default_rng(seed).normal(size=(n, 30)) * ([0.9, 0.5, 0.3] + [0.05] * 26 + [0.0])
    return (found + 4).astype(np.float32)


def test_one_in_a_hundred_is_far_and_so_is_what_never_varied() -> None:
    typical = TypicalFeatures.fit(drawn(2000, 0), drawn(2000, 1))
    assert typical
    new = drawn(2000, 2)
    assert 0.003 < typical.far(new).mean() < 0.025
    np.testing.assert_allclose((typical.distances(new) ** 2).mean(), 28, rtol=0.05)  # 30 less the length, the constant
    assert typical.distances(3 * new) == pytest.approx(typical.distances(new), rel=1e-4)  # contrast does not matter
    along, across, constant = new.copy(), new.copy(), new.copy()
    along[:, 0] += 0.5
    across[:, 10] += 0.5  # ten deviations
    constant[:, 29] += 0.5
    assert typical.far(along).mean() < 0.1
    assert typical.far(across).all()
    assert typical.far(constant).all()
    again = TypicalFeatures.of(typical.to_bytes(), Path("f"))
    np.testing.assert_array_equal(again.distances(new), typical.distances(new))


def test_few_or_equal_features_are_not_fitted() -> None:
    assert TypicalFeatures.fit(drawn(199, 0), drawn(300, 1)) is None
    assert TypicalFeatures.fit(drawn(300, 0), drawn(199, 1)) is None
    assert TypicalFeatures.fit(np.ones((300, 5), np.float32), np.ones((300, 5), np.float32)) is None


def test_stripes_are_far_from_faces() -> None:
    """In a network with random weights, too: the maps of its middle differ."""
    network = NetworkModel(ResNetV2(input_size=48, depths=[1] * 4, widths=[16] * 4, head=(), seed=0), "random", CLASSES)
    own, new = (network.middle(draw(n, seed=seed).images) for seed, n in ((1, 700), (2, 280)))
    typical = TypicalFeatures.fit(own, new)
    assert typical
    columns = np.tile(np.arange(48), (48, 1))
    stripes = np.stack([255 * (columns // width % 2) for width in range(1, 9)]).astype(np.uint8)
    assert typical.far(network.middle(stripes)).all()
    assert typical.far(network.middle(FACES)).mean() < 0.1


def test_a_model_keeps_what_is_typical_and_says_what_is_far(model: Path, tmp_path: Path) -> None:
    network = lhcnet.load(model).model
    assert isinstance(network, NetworkModel)
    own = network.middle(np.tile(FACES, (5, 1, 1)))
    typical = TypicalFeatures.fit(own, own)
    assert typical
    pictures = [*FACES[:4], np.zeros((48, 48), np.uint8)]
    distances = typical.distances(network.middle(np.stack(pictures)))
    limit = np.sort(distances[:4])[1:2] + 1e-3
    expected = [*np.where(distances[:4] > limit, FAR, "").tolist(), BLANK]
    assert expected.count(FAR) == 2
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
        assert [face.unlike for face in plain.predict(pictures, tta=tta)] == ["", "", "", "", BLANK]
    for face, other in zip(predictor.predict(pictures), plain.predict(pictures), strict=True):
        assert face.best == other.best
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


def test_what_is_no_file_of_typical_features_is_one_sentence() -> None:
    for content in (b"", b"garbage" * 9):
        with pytest.raises(LhcnetError, match="f: expected mean, whitening"):
            TypicalFeatures.of(content, Path("f"))
