"""Annotated pictures: a box around each face, with its label and probability."""

from __future__ import annotations

import io
from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import Self

from PIL import Image, ImageDraw, ImageFont

from lhcnet.io.preflight import cannot_write
from lhcnet.prediction.inputs import Clip
from lhcnet.prediction.output_folder import OutputFolder
from lhcnet.prediction.predictor import Face
from lhcnet.prediction.stream import Predicted
from lhcnet.prediction.video_file import VideoFile

SMALLEST = 320  # pixels; smaller pictures are enlarged, so that the text is legible
LARGEST = 4096  # pixels of the longer side
_SURE, _UNSURE, _TEXT = (21, 101, 192), (97, 97, 97), "white"  # contrast of 5.7 and 6.2 with white


class Annotator:
    """Writes annotated pictures into a folder, as JPEG, and the frames of a video as one video. Use it in a `with`.

    Args:
        folder: absent or empty. A picture keeps its path below the folder or archive that it comes from; of several
            with the same path, the later ones get -2, -3 and so on.
        say: called with a sentence if OpenCV cannot write videos; each frame is then a picture.

    Raises:
        LhcnetError: the folder is not empty, or cannot be written.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._folder, self._say = OutputFolder(folder, "annotated pictures"), say
        self._clip: Clip | None = None
        self._video: VideoFile | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._end_video(complete=kind is None)

    def write(self, predicted: Predicted) -> None:
        """Draw the faces of a picture. Raises LhcnetError if it cannot be written."""
        picture, clip = annotated(predicted.picture, predicted.faces), predicted.input.clip
        if clip is not self._clip:
            self._end_video(complete=True)
            self._clip = clip
            if clip is not None:
                self._video = self._new_video(clip, picture.size)
        if self._video is None:
            self._write_picture(picture, predicted.input.below)
            return
        try:
            self._video.write(picture, predicted.input.seconds or 0.0)
        except OSError as error:
            raise cannot_write(self._video.target, error) from None

    def _new_video(self, clip: Clip, size: tuple[int, int]) -> VideoFile | None:
        file = self._folder.new_file(clip.below, ".mp4")
        try:
            video = VideoFile(file, size)
        except OSError as error:
            raise cannot_write(file, error) from None
        if video.can_write():
            return video
        video.abandon()
        self._say(f"{file.name}: this OpenCV cannot write MPEG-4 videos; each frame is written as a picture")
        return None

    def _end_video(self, *, complete: bool) -> None:
        video, self._video = self._video, None
        if video is not None:
            (video.finish if complete else video.abandon)()

    def _write_picture(self, picture: Image.Image, below: str) -> None:
        file, content = self._folder.new_file(below, ".jpg"), io.BytesIO()
        picture.save(content, "JPEG", quality=90, subsampling=0)
        try:
            file.write_bytes(content.getvalue())
        except OSError as error:
            file.unlink(missing_ok=True)
            raise cannot_write(file, error) from None


def annotated(picture: Image.Image, faces: tuple[Face, ...]) -> Image.Image:
    """A copy of a picture (mode L or RGB) with the boxes of its faces and their labels; small ones are enlarged."""
    scale = display_scale(picture)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    copy = picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    draw, letters = ImageDraw.Draw(copy), max(16, copy.height // 40)
    font = ImageFont.load_default(letters)
    for face in faces:
        box, colour = face.box, _UNSURE if face.abstained else _SURE
        left, top, right, bottom = (round(side * scale) for side in (box.left, box.top, box.right, box.bottom))
        draw.rectangle(
            (left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=max(2, letters // 8)
        )
        text = _caption(face)
        width, height = (ceil(side) for side in draw.textbbox((0, 0), text, font)[2:])
        above = top - height - 6 if top > height + 6 else top  # inside, where there is no room above
        left = max(0, min(left, copy.width - width - 8))
        draw.rectangle((left, above, left + width + 8, above + height + 6), fill=colour)
        draw.text((left + 4, above + 2), text, _TEXT, font)
    return copy


def display_scale(picture: Image.Image) -> float:
    """Enlarges small pictures for the text, and makes those smaller that JPEG could not hold."""
    wanted = max(1.0, SMALLEST / min(picture.size))
    return min(wanted, LARGEST / max(picture.size))


def _caption(face: Face) -> str:
    label = face.label or f"unsure, perhaps {face.best}"
    return f"{label} {face.confidence:.2f}{f' ({face.unlike})' if face.unlike else ''}"
