"""Frames of videos and cameras, by OpenCV, which `pip install 'lhcnet[video]'` installs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from lhcnet.data.pictures import read_picture
from lhcnet.errors import LhcnetError
from lhcnet.prediction.opencv import import_opencv

_COMPLETE = 0.95  # of the frames that a file says it has; some count them by duration and rate
VIDEO_ENDINGS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")


def camera_number(name: str) -> int:
    """The number in `camera:0`."""
    number = name.partition(":")[2]
    if not (number.isascii() and number.isdigit() and len(number) < 4):
        raise LhcnetError(f"{name}: expected the number of a camera, for example camera:0")
    return int(number)


def frames(source: Path | int, name: str, every: int = 1) -> Iterator[tuple[int, float, Image.Image]]:
    """Frames of a video, one after the other; a camera has no last one.

    Args:
        source: the file, or the number of a camera.
        name: for error messages.
        every: each n-th frame.

    Yields:
        Number of the frame from 0, its time in seconds, and the picture (mode RGB).

    Raises:
        LhcnetError: OpenCV is not installed, it cannot read this video or camera, or the video breaks off.
    """
    cv2 = import_opencv(f"{name}: videos need", "video")
    with _capture(cv2, source, name) as capture:
        number = 0
        while capture.grab():
            if number % every == 0:
                seconds = max(0.0, float(capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000)
                good, pixels = capture.retrieve()
                if not good:
                    raise LhcnetError(f"{name}: frame {number} cannot be decoded, expected an undamaged video")
                yield number, seconds, read_picture(pixels[..., ::-1], f"{name} frame {number}")  # from BGR
            number += 1
        if number == 0:
            raise LhcnetError(f"{name}: has no frames, expected a video or a camera that OpenCV can read")
        said = 0 if isinstance(source, int) else int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        if number < _COMPLETE * said:
            raise LhcnetError(f"{name}: breaks off after {number:,} of {said:,} frames, expected an undamaged video")


def count_frames(file: Path) -> int:
    """Number of frames as the file says it, or 0."""
    cv2 = import_opencv(f"{file}: videos need", "video")
    with _capture(cv2, file, str(file)) as capture:
        return max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))


@contextmanager
def _capture(cv2: Any, source: Path | int, name: str) -> Iterator[Any]:
    capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
    try:
        if not capture.isOpened():
            raise LhcnetError(f"{name}: cannot be opened, expected a video or a camera that OpenCV can read")
        yield capture
    finally:
        capture.release()
