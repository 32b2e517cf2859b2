"""The detector of faces: a photograph that Matplotlib ships, turned, cut, small, huge; and what it must not find."""

from __future__ import annotations

import io
import json
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import cv2
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
from lhcnet.prediction.annotate import Annotator
from lhcnet.prediction.faces import FaceDetector, crops
from lhcnet.prediction.inputs import Input, Unreadable, read_inputs
from lhcnet.prediction.predictor import Box, FaceFinder, Predictor
from lhcnet.prediction.stream import predict_stream
from lhcnet.prediction.video import frames
from lhcnet.prediction.video_file import VideoFile

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


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A video of four frames of 162x120, 10 a second."""
    file = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (162, 120))
    for number in range(4):
        writer.write(np.full((120, 162, 3), 60 * number, np.uint8))
    writer.release()
    return file


def annotate(folder: Path, *inputs: Path) -> list[str]:
    """Sentences of an annotation of these inputs."""
    said: list[str] = []
    with Annotator(folder, said.append) as annotator:
        for one in predict_stream(Predictor(GreyModel()), read_inputs([str(path) for path in inputs]), said.append):
            annotator.write(one)
    return said


def test_a_video_that_breaks_off_gives_its_frames_and_a_sentence(clip: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.avi"
    cut.write_bytes(clip.read_bytes()[: clip.stat().st_size * 9 // 10])  # within the third frame
    found = list(read_inputs([str(cut)]))
    assert 0 < sum(isinstance(one, Input) for one in found) < 4
    assert isinstance(found[-1], Unreadable)
    assert "breaks off after" in found[-1].why
    assert "of 4 frames, expected an undamaged video" in found[-1].why


def test_an_annotated_video_is_one_video_and_complete_or_absent(clip: Path, tmp_path: Path) -> None:
    HOPPER.save(tmp_path / "a.png")
    assert not annotate(tmp_path / "seen", clip, tmp_path / "a.png", clip)
    assert sorted(path.name for path in (tmp_path / "seen").iterdir()) == ["a.jpg", "clip-2.mp4", "clip.mp4"]
    for name in ("clip.mp4", "clip-2.mp4"):
        found = list(frames(tmp_path / "seen" / name, name))
        assert [round(seconds, 2) for _, seconds, _ in found] == [0.0, 0.1, 0.2, 0.3]
        assert found[0][2].size == (432, 320)
    brightness = [np.asarray(picture.convert("L"))[200:].mean() for *_, picture in found]
    assert brightness == pytest.approx([0, 60, 120, 180], abs=12)

    (one, two, *_) = predict_stream(Predictor(GreyModel()), read_inputs([str(clip)]), print)
    with suppress(KeyboardInterrupt), Annotator(tmp_path / "stopped", print) as annotator:
        annotator.write(one)
        annotator.write(two)
        raise KeyboardInterrupt
    assert list((tmp_path / "stopped").iterdir()) == []


def test_without_the_codec_frames_are_pictures_and_it_is_said(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VideoFile, "can_write", lambda _: False)
    assert annotate(tmp_path / "seen", clip) == [
        "clip.mp4: this OpenCV cannot write MPEG-4 videos; each frame is written as a picture"
    ]
    assert sorted(path.name for path in (tmp_path / "seen").iterdir()) == [f"clip.avi-00000{n}.jpg" for n in range(4)]
