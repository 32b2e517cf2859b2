"""Inputs of `lhcnet predict`: each kind gives its pictures lazily, and what cannot be read is one sentence."""

from __future__ import annotations

import io
import os
import struct
import sys
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.grey_model import GreyModel
from support.hostile.images import chunk, encoded

from lhcnet.data.drawn_faces import draw
from lhcnet.errors import LhcnetError
from lhcnet.prediction import inputs, stream
from lhcnet.prediction.inputs import Input, Unreadable, count_inputs, read_inputs, require_no_input
from lhcnet.prediction.predictor import Predictor
from lhcnet.prediction.stream import predict_stream

FACES = draw(42, seed=0).images
PNG = encoded(Image.fromarray(FACES[0]))
NO_IMAGE = "expected an undamaged PNG, JPEG, BMP, GIF, TIFF, WEBP or PPM image: it is none of them"


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims a size and has one row."""
    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(width + 1))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def answers(*arguments: str, every: int = 1) -> tuple[list[str], list[str]]:
    """Names of the pictures that are read, and the sentences about the others."""
    read, failed = [], []
    for one in read_inputs(arguments, every):
        try:
            if isinstance(one, Unreadable):
                raise LhcnetError(one.why)
            assert one.read().mode in ("L", "RGB")
            read.append(one.name)
        except LhcnetError as error:
            failed.append(str(error))
    assert all(sentence.isprintable() and len(sentence) < 400 for sentence in failed)
    return read, failed


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with pictures in `in/` and `in/sub/`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name in ("b.png", "a.PNG", "sub/c.png", ".hidden.png"):
        (tmp_path / "in" / name).write_bytes(PNG)
    (tmp_path / "in" / "labels.csv").write_text("a,b")
    return tmp_path


def test_folders_patterns_and_files_in_a_fixed_order(folder: Path) -> None:
    everything = ["in/a.PNG", "in/b.png", "in/sub/c.png"]
    assert answers("in") == (everything, [])
    assert answers("in/*.png", "in/a.PNG") == (["in/b.png", "in/a.PNG"], [])
    assert answers("in/**/*.png")[0] == ["in/b.png", "in/sub/c.png"]
    assert answers(f"{folder}/in/**/*.png")[0] == [f"{folder}/in/b.png", f"{folder}/in/sub/c.png"]
    assert answers("in/s*") == (["in/sub/c.png"], [])
    assert answers("in/.*.png")[0] == ["in/.hidden.png"]
    assert count_inputs(["in", "in/*.png", "in/b.png", "-"]) == 6


def test_a_pattern_of_folders_alone_reads_what_is_in_them(folder: Path) -> None:
    assert answers("in/**/s*b") == (["in/sub/c.png"], [])
    assert answers("i*/**") == (["in/a.PNG", "in/b.png", "in/sub/c.png"], ["in/labels.csv cannot be read, " + NO_IMAGE])
    (folder / "none" / "below").mkdir(parents=True)
    assert len(answers("none/**")[1]) == 1


def test_an_empty_argument_is_not_the_working_directory(folder: Path) -> None:
    assert answers("") == ([], ["input: is empty, expected a path, a pattern, or - for standard input"])


def test_the_folder_of_the_output_is_no_input(folder: Path) -> None:
    for arguments in (["in"], ["in/*"], [f"{folder}/in/sub", "in"], ["in/**/*.png"]):
        named = [one.name for one in read_inputs(arguments, skip=folder / "in" / "sub") if isinstance(one, Input)]
        assert not [name for name in named if "sub" in name] or arguments == ["in/**/*.png"]  # found before it began


@pytest.mark.parametrize("out", ["in/b.png", "x.JPEG", "faces.zip", "clip.mp4", "m.onnx", "in/labels.csv"])
def test_a_file_of_rows_is_no_input(out: str, folder: Path) -> None:
    with pytest.raises(LhcnetError, match="is an input, or named like one; expected another file for the rows"):
        require_no_input(Path(out), ["model", "in", "in/b.png", "", "in/labels.csv"])
    require_no_input(Path("in/other.csv"), ["model", "in", "in/labels.csv"])


def test_what_a_picture_is_called_below_its_folder(folder: Path) -> None:
    assert [one.below for one in read_inputs(["in", "in/b.png"]) if isinstance(one, Input)] == [
        "a.PNG",
        "b.png",
        "sub/c.png",
        "b.png",
    ]


def test_archives(folder: Path) -> None:
    with zipfile.ZipFile("faces.zip", "w") as file:
        file.writestr("x/1.png", PNG)
        file.writestr("x/2.png", PNG[:-40])
        file.writestr("notes.txt", "x")
    read, failed = answers("faces.zip", "in/b.png")
    assert read == ["faces.zip/x/1.png", "in/b.png"]
    assert len(failed) == 1
    assert "faces.zip/x/2.png" in failed[0]
    with zipfile.ZipFile("evil.zip", "w") as file:
        file.writestr("../x.png", PNG)
    Path("text.zip").write_text("no zip")
    read, failed = answers("evil.zip", "text.zip")
    assert not read
    assert ["unsafe entry" in failed[0], "text.zip" in failed[1]] == [True, True]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(PNG)))
    assert answers("-") == (["stdin"], [])
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"")))
    (sentence,) = answers("-")[1]
    assert "stdin: is empty" in sentence
    monkeypatch.setattr(sys, "stdin", None)  # `<&-`
    assert answers("-")[1] == ["stdin: is closed, expected an image file"]


def test_each_hostile_file_is_one_sentence_and_the_others_go_on(folder: Path) -> None:
    files = {"bomb.png": bomb(200_000, 200_000), "wide.png": bomb(12_000, 9_000), "short.png": PNG[:99]}
    files |= {"text.png": b"hello", "small.png": encoded(Image.new("L", (3, 3))), "empty.jpg": b""}
    for name, content in files.items():
        (folder / "in" / name).write_bytes(content)
    (folder / "in" / "sub" / "up").symlink_to(folder / "in")  # a circle
    (folder / "in" / "lost.png").symlink_to("/nowhere")
    os.mkfifo(folder / "in" / "pipe.png")
    (folder / "in" / os.fsdecode(b"\xff\x1b[2J.png")).write_bytes(PNG)  # not UTF-8, and clears a terminal
    read, failed = answers("in", "in/pipe.png", "/dev/null", "gone.png", "gone*.png", "a\0b")
    assert read == ["in/a.PNG", "in/b.png", "in/sub/c.png", "in/\\xff\\x1b[2J.png"]
    named = [*files, "up", "lost.png", "pipe.png", "pipe.png", "/dev/null", "gone.png", "gone*.png", "b: "]
    assert len(failed) == len(named)
    assert all(any(name in sentence for sentence in failed) for name in named)
    assert sum("circle" in sentence for sentence in failed) == 1
    assert answers("in/**/*.png")[0] == ["in/b.png", "in/sub/c.png", "in/\\xff\\x1b[2J.png"]  # links are not followed


def test_an_empty_folder_is_said_to_be_empty(folder: Path) -> None:
    (folder / "none").mkdir()
    (sentence,) = answers("none")[1]
    assert "none: has no image files" in sentence


def test_pictures_are_read_a_batch_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What bounds the memory for a folder of any size."""
    for number in range(40):
        (folder / "in" / f"{number:03d}.png").write_bytes(PNG)
    read: list[Path] = []
    real = inputs.read_bytes_bounded

    def counted(path: Path, limit: int | None) -> bytes:
        read.append(path)
        return real(path, limit)

    monkeypatch.setattr(inputs, "read_bytes_bounded", counted)
    model = GreyModel()
    predicted = predict_stream(Predictor(model), read_inputs(["in"]), pytest.fail, batch_size=4)
    assert not read
    for number in range(9):
        assert next(predicted).input.name == f"in/{number:03d}.png"
        assert len(read) == 4 * (number // 4 + 1)
    monkeypatch.setattr(stream, "MOST_PIXELS", 48 * 48 * 2)  # large pictures: two fill a batch
    next(predicted), next(predicted), next(predicted), next(predicted)
    assert len(read) == 14
    assert max(map(len, model.given)) == 4


def test_a_picture_that_fails_is_reported_and_the_others_keep_their_order() -> None:
    def fail() -> Image.Image:
        raise LhcnetError("x: damaged")

    good = [Input(str(i), str(i), lambda i=i: Image.fromarray(FACES[i])) for i in range(3)]  # type: ignore[misc]
    reported: list[str] = []
    both = [good[0], Input("x", "x", fail), Unreadable("y: gone"), good[1], good[2]]
    predicted = list(predict_stream(Predictor(GreyModel()), both, reported.append, batch_size=2))
    assert [one.input.name for one in predicted] == ["0", "1", "2"]
    assert reported == ["x: damaged", "y: gone"]
    np.testing.assert_array_equal(np.asarray(predicted[2].picture), FACES[2])
    assert [len(one.faces) for one in predicted] == [1, 1, 1]


class Capture:
    """A video of OpenCV with five frames; `bad.mp4` cannot be opened."""

    def __init__(self, source: str | int) -> None:
        self.source, self.at, self.released = source, -1, False

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return self.source != "bad.mp4"

    def grab(self) -> bool:
        self.at += 1
        return self.at < 5

    def retrieve(self) -> tuple[bool, Any]:
        blue = np.zeros((48, 48, 3), np.uint8)
        blue[..., 0] = 255
        return True, blue

    def get(self, what: str) -> float:
        return {"ms": 40.0 * self.at, "frames": 5.0}[what]

    def release(self) -> None:
        self.released = True


def test_videos_and_cameras(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opencv = SimpleNamespace(VideoCapture=Capture, CAP_PROP_POS_MSEC="ms", CAP_PROP_FRAME_COUNT="frames")
    monkeypatch.setitem(sys.modules, "cv2", opencv)
    for name in ("clip.mp4", "bad.mp4"):
        (folder / name).touch()
    found = [one for one in read_inputs(["clip.mp4", "camera:0"], every=2) if isinstance(one, Input)]
    assert [one.name for one in found] == [f"{name}#{n}" for name in ("clip.mp4", "camera:0") for n in (0, 2, 4)]
    assert [one.seconds for one in found[:3]] == [0.0, 0.08, 0.16]
    assert found[0].read().getpixel((0, 0)) == (0, 0, 255)  # blue: OpenCV's channels are turned round
    assert count_inputs(["clip.mp4", "in", "c*.mp4"], every=2) == 9
    assert count_inputs(["camera:0"]) is None
    assert "bad.mp4: cannot be opened" in answers("bad.mp4")[1][0]
    assert "expected the number of a camera" in answers("camera:x")[1][0]


def test_a_video_without_opencv_says_how_to_install_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    (folder / "clip.mp4").touch()
    read, failed = answers("clip.mp4", "in/b.png")
    assert read == ["in/b.png"]
    assert failed == ["clip.mp4: videos need OpenCV; install it with: pip install 'lhcnet[video]'"]
    assert count_inputs(["clip.mp4"]) == 0
