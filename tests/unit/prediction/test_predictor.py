"""Every form of a picture becomes the same 48x48 image; labels, abstention, calibration, faces in pictures."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.grey_model import GreyModel
from support.hostile.choices import Choices, damaged
from support.hostile.images import encoded

from lhcnet.data.drawn_faces import draw
from lhcnet.data.fer2013 import CLASSES
from lhcnet.errors import LhcnetError
from lhcnet.model_record import Answered
from lhcnet.prediction.predictor import Box, Face, Predictor

FACES = draw(42, seed=0).images
GREY = FACES[0]
PICTURE = Image.fromarray(GREY)
ALPHA = np.dstack([GREY] * 3 + [np.where(GREY > 128, 0, 255).astype(np.uint8)])
DARK = np.zeros((48, 48), np.uint8)
DARK[0, 0] = 1


def exif_turned() -> bytes:
    """The picture on its side, to be turned clockwise."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(Image.fromarray(np.rot90(GREY).copy()), "PNG", exif=exif)


SAME: dict[str, Any] = {
    "uint8": GREY,
    "bytes": encoded(PICTURE),
    "picture": PICTURE,
    "palette": PICTURE.convert("P"),
    "colour": PICTURE.convert("RGB"),
    "RGBA": PICTURE.convert("RGBA"),
    "LA file": encoded(PICTURE.convert("LA")),
    "opaque RGBA": np.dstack([GREY] * 3 + [np.full_like(GREY, 255)]),
    "16 bits": GREY.astype(np.uint16) * 257,
    "16-bit file": encoded(Image.fromarray(GREY.astype(np.uint16) * 257)),
    "16-bit TIFF": encoded(Image.fromarray(GREY.astype(np.uint16) * 257), "TIFF"),
    "float TIFF": encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF"),
    "0..1": GREY / 255,
    "0..255 with fractions": GREY.astype(np.float32).clip(0, 254.6) + 0.25 * (GREY < 255) + 0.4 * (GREY == 255),
    "int64": GREY.astype(int),
    "flat": GREY.ravel(),
    "mode I": PICTURE.convert("I"),
    "mode I of 16 bits": Image.fromarray(GREY.astype(np.int32) * 257),
    "mode I;16 of 0..255": Image.fromarray(GREY.astype(np.uint16)),
    "32-bit TIFF of 0..255": encoded(PICTURE.convert("I"), "TIFF"),
    "16-bit PGM": encoded(Image.fromarray(GREY.astype(np.int32) * 257), "PPM"),
    "BMP": encoded(PICTURE, "BMP"),
    "GIF": encoded(PICTURE, "GIF"),
    "lossless WebP": encoded(PICTURE.convert("RGB"), "WEBP", lossless=True),
    "turned": exif_turned(),
}


@pytest.mark.parametrize("value", SAME.values(), ids=SAME.keys())
def test_every_form_of_a_picture_is_the_same_image(value: Any) -> None:
    model = GreyModel()
    (face,) = Predictor(model).predict(value)
    np.testing.assert_array_equal(model.images, GREY[None])
    assert face.box == Box(0, 0, 48, 48)
    assert face.picture == 0


def test_a_dark_image_stays_dark_and_transparent_pixels_are_white() -> None:
    model = GreyModel()
    Predictor(model).predict([DARK, DARK.astype(np.uint16) * 257, ALPHA * np.uint8([0, 0, 0, 1])])
    np.testing.assert_array_equal(model.images[0], DARK)  # not read as 0..1
    np.testing.assert_array_equal(model.images[1], DARK)
    np.testing.assert_array_equal(model.images[2], np.where(ALPHA[..., 3] == 0, 255, 0))


def test_an_open_file_is_one_picture(tmp_path: Path) -> None:
    (tmp_path / "face.png").write_bytes(encoded(PICTURE))
    predictor = Predictor(GreyModel())
    expected = predictor.predict(PICTURE)
    assert predictor.predict(io.BytesIO(encoded(PICTURE))) == expected
    with (tmp_path / "face.png").open("rb") as file:
        assert predictor.predict(file) == expected
    assert len(predictor.predict([io.BytesIO(encoded(PICTURE)), PICTURE])) == 2


def test_files_are_read_by_their_path(tmp_path: Path) -> None:
    (tmp_path / "face.png").write_bytes(encoded(PICTURE))
    predictor = Predictor(GreyModel())
    expected = predictor.predict(PICTURE)
    assert predictor.predict(tmp_path / "face.png") == predictor.predict(str(tmp_path / "face.png")) == expected
    with pytest.raises(LhcnetError, match=r"gone\.png: expected an image file: No such file"):
        predictor.predict([tmp_path / "face.png", tmp_path / "gone.png"])


@pytest.mark.parametrize(
    ("values", "number"),
    [
        (FACES[:3], 3),
        (np.stack([FACES[:3]] * 3, axis=-1), 3),
        (list(FACES[:3].reshape(3, -1)), 3),
        (np.resize(GREY, (50, 2304)), 1),  # a wide picture, not 50 rows of FER2013's CSV
        (list(FACES[:2]), 2),
        ([PICTURE, encoded(PICTURE), GREY / 255], 3),
        (iter([PICTURE]), 1),
        (np.stack([GREY] * 3, axis=-1), 1),
        (GREY[..., None], 1),
    ],
)
def test_one_or_many(values: Any, number: int) -> None:
    faces = Predictor(GreyModel()).predict(values)
    assert [face.picture for face in faces] == list(range(number))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([], "expected at least one"),
        (7, "expected a picture or several, got int"),
        ([PICTURE, None], "picture 1: expected numbers, an image file or a picture, got nothing"),
        (GREY > 99, "truth values"),
        (GREY / 127.5 - 1, "scaled to -1..1"),
        (GREY[:7, :7], "picture: has 7 rows"),
        (b"text", "expected an undamaged PNG, JPEG, BMP, GIF, TIFF, WEBP or PPM image"),
        (encoded(PICTURE)[:-30], "cannot be read"),
        (encoded(PICTURE, "JPEG")[:-300], "cannot be read"),
        (np.zeros((48, 48, 2, 1, 1)), "got an array of shape"),
        (GREY / GREY.max() * 1.02, "from 0.* to 1.02: a little above 1; clip them to 0..1"),
        (torch.eye(48).to_sparse(), "picture: expected a dense tensor of numbers"),
        (torch.zeros(48, 48, device="meta"), "picture: expected a dense tensor of numbers"),
        (io.StringIO("text"), "picture: expected numbers, an image file or a picture"),
    ],
)
def test_what_is_no_picture_is_one_sentence(value: Any, says: str) -> None:
    with pytest.raises(LhcnetError, match=says) as error:
        Predictor(GreyModel()).predict(value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM"])
def test_a_damaged_file_is_answered_or_refused_in_one_line(format: str) -> None:
    predictor, drawn = Predictor(GreyModel()), random.Random(format)
    refused: list[bool] = []
    for number in range(12):
        image = Image.fromarray(FACES[number]).convert(("L", "RGB")[number % 2])
        content = damaged(Choices(drawn.randbytes(24)), encoded(image, format))
        try:
            assert len(predictor.predict(content)) == 1
        except LhcnetError as error:
            said = str(error)
            refused.append(said.isprintable() and len(said) < 600)
    assert refused
    assert all(refused)


def test_a_temperature_scales_probabilities_and_keeps_labels() -> None:
    plain, hot = (Predictor(GreyModel(fitted)).predict(FACES) for fitted in (None, 2.0))
    assert [face.label for face in plain] == [face.label for face in hot]
    assert not any(face.calibrated for face in plain)
    assert all(face.calibrated for face in hot)
    odds = hot[0].confidence / min(hot[0].probabilities.values())
    assert odds == pytest.approx((0.52 / 0.08) ** 0.5, rel=1e-5)
    assert sum(hot[0].probabilities.values()) == pytest.approx(1)


def test_faces_below_the_threshold_get_no_label() -> None:
    predictor = Predictor(GreyModel())
    (kept,), (left_out,) = (predictor.predict(PICTURE, abstain_below=below) for below in (0.5, 0.6))
    assert (kept.label, kept.abstained) == (kept.best, False)
    assert (left_out.label, left_out.abstained, left_out.best) == (None, True, kept.best)
    assert left_out.probabilities == kept.probabilities
    with pytest.raises(LhcnetError, match=r"abstain_below: expected a probability of 0\.\.1, not 60"):
        predictor.predict(PICTURE, abstain_below=60)


def test_a_threshold_has_what_it_did_on_validation() -> None:
    rows = tuple(Answered(threshold=at, answered=90, right=80, n=100) for at in (0.2, 0.5, 0.6))
    predictor = Predictor(GreyModel(1.5, rows))
    assert [predictor.on_validation(below) for below in (0.1, 0.2, 0.55, 1.0)] == [None, rows[0], rows[1], rows[2]]
    assert predictor.on_validation(0.5, tta=True) is None
    assert Predictor(GreyModel()).on_validation(0.5) is None


def test_blank_images_are_said_to_be_blank() -> None:
    faint, visible = np.full((2, 48, 48), 100, np.uint8)
    faint[5, 5], visible[5, 5] = 103, 104
    assert [face.unlike for face in Predictor(GreyModel()).predict([faint, visible])] == ["blank", ""]


def test_a_finder_gives_the_faces_of_a_picture() -> None:
    scene = np.full((60, 200), 255, np.uint8)
    scene[5:53, 10:58], scene[5:53, 100:148] = FACES[0], FACES[1]
    boxes = [Box(10, 5, 58, 53), Box(100, 5, 148, 53)]
    model = GreyModel()
    predictor = Predictor(model, lambda picture: boxes if picture.width == 200 else [])
    empty = PICTURE.resize((60, 60))
    faces = predictor.predict([empty, Image.fromarray(scene)])
    assert [(face.picture, face.box, face.unlike) for face in faces] == [(1, boxes[0], ""), (1, boxes[1], "")]
    np.testing.assert_array_equal(model.images, FACES[:2])
    assert predictor.predict(empty) == []
    assert predictor.embed(scene).shape == (2, 48)
    with pytest.raises(LhcnetError, match="no face was found"):
        predictor.embed(empty)


def test_a_crop_is_one_face_with_a_finder_too_and_its_doubt_is_said() -> None:
    model = GreyModel()
    whole = Box(0, 0, 48, 48)
    for boxes, unlike in (([], "no face found"), ([Box(3, 3, 40, 40)], "")):
        (face,) = Predictor(model, lambda _, boxes=boxes: boxes).predict(PICTURE)  # type: ignore[misc]
        assert (face.box, face.unlike) == (whole, unlike)
    np.testing.assert_array_equal(model.images, np.stack([GREY, GREY]))
    (face,) = Predictor(model, lambda _: []).predict(np.full((48, 48), 100, np.uint8))
    assert face.unlike == "blank"


def test_crops_are_scaled_to_a_mean_grey_if_asked() -> None:
    model = GreyModel()
    predictor = Predictor(model, mean_grey=129)
    shadow = GREY // 8 + np.uint8(40)
    first, black = predictor.predict([shadow, np.zeros((48, 48), np.uint8)])
    assert (first.unlike, black.unlike) == ("", "blank")
    assert model.images[0].mean() == pytest.approx(129, abs=1)
    assert np.corrcoef(model.images[0].ravel(), shadow.ravel())[0, 1] > 0.99
    assert not model.images[1].any()
    assert predictor.embed(shadow).mean() == pytest.approx(129, abs=1)
    with pytest.raises(LhcnetError, match="mean_grey: expected a grey value"):
        Predictor(model, mean_grey=0)


def test_a_face_names_its_best_class() -> None:
    probabilities = dict.fromkeys(CLASSES, 0.1) | {"fear": 0.4}
    face = Face(0, None, probabilities, Box(0, 0, 48, 48), True)
    assert (face.best, face.confidence) == ("fear", 0.4)


def test_a_damaged_picture_of_pillow_fails_when_its_pixels_are_decoded() -> None:
    damaged = Image.open(io.BytesIO(encoded(PICTURE.resize((400, 400)), "JPEG")[:-2000]))
    with pytest.raises(LhcnetError, match="picture cannot be read, expected an undamaged picture"):
        Predictor(GreyModel()).predict(damaged)
