"""Annotated videos, written by OpenCV: MPEG-4, complete or absent."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lhcnet.errors import LhcnetError
from lhcnet.io.hidden import hidden_path
from lhcnet.prediction.opencv import import_opencv

_RATE = 25.0  # frames a second, where their times do not say it
_SLOWEST, _FASTEST = 0.1, 120.0


class VideoFile:
    """Writes frames into a hidden folder beside the file, which gets its name at the end.

    The frame rate is the one of the first two frames.

    Args:
        target: the file, whose name ends in .mp4. Its folder exists.
        size: width and height of the first frame; later ones are resized to it.

    Raises:
        LhcnetError: OpenCV is not installed.
        OSError: the folder cannot be written.
    """

    def __init__(self, target: Path, size: tuple[int, int]) -> None:
        self._cv2 = import_opencv(f"{target}: annotated videos need", "video")
        self.target = target
        self._size = (size[0] // 2 * 2, size[1] // 2 * 2)  # the codec halves the resolution of colours
        self._first: tuple[Image.Image, float] | None = None
        self._writer: Any = None
        self._open_folder = ExitStack()
        self._file = self._open_folder.enter_context(hidden_path(target, folder=True)) / target.name

    def can_write(self) -> bool:
        """Whether this OpenCV has the codec."""
        writer = self._new_writer(_RATE)
        found = bool(writer.isOpened())
        writer.release()
        return found

    def write(self, picture: Image.Image, seconds: float) -> None:
        """Add a frame (mode RGB) with its time."""
        if self._writer is None:
            if self._first is None:
                self._first = picture, seconds
                return
            self._start(seconds - self._first[1])
        self._add(picture)

    def finish(self) -> None:
        """End the video and give it its name. Raises LhcnetError if OpenCV has not written it."""
        with self._open_folder:
            if self._writer is None and self._first is not None:
                self._start(0)
            if self._writer is not None:
                self._writer.release()
            if not self._file.is_file() or not self._file.stat().st_size:
                raise LhcnetError(f"{self.target}: OpenCV could not write it, expected free space and its codec MPEG-4")
            self._file.replace(self.target)

    def abandon(self) -> None:
        """End without a video."""
        with self._open_folder:
            if self._writer is not None:
                self._writer.release()

    def _start(self, step: float) -> None:
        assert self._first is not None
        self._writer = self._new_writer(min(max(1 / step, _SLOWEST), _FASTEST) if step > 0 else _RATE)
        self._add(self._first[0])

    def _new_writer(self, rate: float) -> Any:
        return self._cv2.VideoWriter(str(self._file), self._cv2.VideoWriter_fourcc(*"mp4v"), rate, self._size)

    def _add(self, picture: Image.Image) -> None:
        fitting = picture if picture.size == self._size else picture.resize(self._size)
        self._writer.write(np.ascontiguousarray(np.asarray(fitting)[..., ::-1]))  # OpenCV's order is BGR
