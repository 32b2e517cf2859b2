"""The detector of faces: a photograph that Matplotlib ships, turned, cut, small, huge; and what it must not find."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images
from support.grey_model import GreyModel
from typer.testing import CliRunner

from lhcnet.cli import app
from lhcnet.data.pictures import read_picture
from lhcnet.errors import LhcnetError
from lhcnet.prediction import loading
from lhcnet.prediction.faces import FaceDetector, crops
from lhcnet.prediction.predictor import Box, FaceFinder, Predictor

HOPPER = Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg").reduce(2)  # 256x300
FACE = Box(71, 49, 194, 172)


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector()


def close(found: Box, expected: Box, pixels: int) -> bool:
    sides = ("left", "top", "right", "bottom")
    return all(abs(getattr(found, side) - getattr(expected, side)) <= pixels for side in sides)


def test_a_face_is_found_with_the_crop_of_fer2013(detector: FaceDetector) -> None:
    (box,) = detector(HOPPER.convert("L"))
    assert close(box, FACE, 12)
    assert abs((box.right - box.left) - (box.bottom - box.top)) <= 1


def test_the_largest_face_is_the_first_and_boxes_end_at_the_border(detector: FaceDetector) -> None:
    scene = Image.new("RGB", (420, 200), "white")
    scene.paste(HOPPER.crop((50, 30, 210, 190)).resize((100, 100)), (20, 50))
    scene.paste(HOPPER.crop((50, 30, 210, 190)), (200, 20))
    scene = scene.crop((0, 0, 350, 200))  # cuts through the margin of the larger one
    large, small = detector(scene)
    assert large.left > 200 > small.right
    assert large.right <= 350
    assert detector(scene) == [large, small]


def test_huge_and_tiny_pictures_give_boxes_in_their_own_pixels(detector: FaceDetector) -> None:
    huge = HOPPER.convert("L").resize((256 * 7, 300 * 7), Image.Resampling.NEAREST)
    (box,) = detector(huge)
    assert close(box, Box(*(7 * side for side in (FACE.left, FACE.top, FACE.right, FACE.bottom))), 84)
    crop = HOPPER.crop((FACE.left, FACE.top, FACE.right, FACE.bottom)).resize((48, 48))
    (box,) = detector(crop)
    assert close(box, Box(0, 0, 48, 48), 6)


def test_pictures_without_a_face_have_none(detector: FaceDetector) -> None:
    for pixels in (*load_sample_images().images, np.random.default_rng(0).integers(0, 256, (200, 300), np.uint8)):
        assert detector(Image.fromarray(pixels).reduce(2)) == []
    assert detector(Image.new("L", (8, 3000))) == []


def test_of_nested_boxes_the_largest_is_kept(detector: FaceDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = np.array([[40, 40, 20, 20], [20, 20, 60, 60], [95, 95, 50, 50]], float)
    monkeypatch.setattr(detector, "detect", lambda _: raw)
    inner, outer, at_border = detector(Image.new("L", (110, 110))), *crops(raw[1:])
    assert len(inner) == 2
    assert (inner[0].right - inner[0].left) == pytest.approx(outer[2], abs=1)
    assert (inner[1].right, inner[1].bottom) == (110, 110)
    assert at_border[2] > 50


def test_the_command_answers_turned_pictures_and_pictures_without_a_face(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(_: str, *, finder: FaceFinder, mean_grey: float, **__: object) -> Predictor:
        return Predictor(GreyModel(), finder, mean_grey=mean_grey)

    monkeypatch.setattr(loading, "load", load)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = io.BytesIO()
    HOPPER.transpose(Image.Transpose.ROTATE_90).save(turned, "JPEG", exif=exif, quality=95)
    (tmp_path / "a.jpg").write_bytes(turned.getvalue())
    transparent = HOPPER.convert("RGBA")
    transparent.paste((0, 0, 0, 0), (0, 0, 256, 20))
    transparent.save(tmp_path / "b.png")
    deep = np.asarray(HOPPER.convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "c.png")
    Image.new("L", (120, 90), 60).save(tmp_path / "d.png")
    done = CliRunner().invoke(
        app, ["predict", "m", str(tmp_path), "--faces", "--mean-grey", "129", "--format", "jsonl"]
    )
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["face"] for row in rows] == [0, 0, 0, None]
    assert all(close(Box(*row["box"]), FACE, 12) for row in rows[:3])
    assert rows[0]["label"] == "happiness"  # by its mean of 129
    assert read_picture(turned.getvalue(), "a").size == HOPPER.size


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (None, "faces: the detector needs OpenCV; install it with: pip install 'lhcnet[faces]'"),
        (SimpleNamespace(__version__="5.0.0"), "needs OpenCV 4, found 5.0.0 without haarcascade_frontalface_alt2.xml"),
    ],
)
def test_a_missing_detector_is_one_sentence(module: object, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", module)
    with pytest.raises(LhcnetError) as error:
        FaceDetector()
    assert says in str(error.value)
