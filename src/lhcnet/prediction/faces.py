"""Faces in pictures, by a Haar cascade of OpenCV 4, which `pip install 'lhcnet[faces]'` installs.

FER2013's own crops come from OpenCV's detector of faces (Goodfellow et al., "Challenges in Representation Learning",
2013), so its boxes need hardly any margin. The comparison with other detectors is in docs/predict.md.
Viola and Jones, "Rapid Object Detection using a Boosted Cascade of Simple Features", CVPR 2001.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lhcnet.data.fer2013 import Bytes
from lhcnet.errors import LhcnetError
from lhcnet.prediction.opencv import import_opencv
from lhcnet.prediction.predictor import Box

CASCADE = "haarcascade_frontalface_alt2.xml"
# Median box of this cascade in FER2013's images, as fractions of their side: centre x and y, width. Measured by
# benchmarks/faces.py on 300 training images.
CENTRE_X, CENTRE_Y, WIDTH = 0.487, 0.492, 0.964
LONGEST = 800  # pixels; of a larger picture a reduced copy is searched
SMALLEST_FACE = 24  # pixels of that copy: 3 % of its longer side
CROP = 100  # pixels of the longer side; up to this a picture is a crop, which is enlarged and gets a ground around it
ENLARGED = 192  # pixels of the longer side of such a crop
GROUND = 129  # mean grey value of FER2013
_STEP, _NEIGHBOURS = 1.1, 4  # ratio of the sizes that are searched; boxes that must agree

Boxes = NDArray[np.float64]


class FaceDetector:
    """Finds upright faces that look into the camera; profiles and faces that lie on their side are not found.

    One may be used by several threads; it searches one picture at a time.

    Raises:
        LhcnetError: OpenCV 4 is not installed.

    Example:
        >>> import lhcnet
        >>> from lhcnet.prediction.faces import FaceDetector
        >>> predictor = lhcnet.load("artifacts/chosen", finder=FaceDetector())  # doctest: +SKIP
    """

    def __init__(self) -> None:
        cv2 = import_opencv("faces: the detector needs", "faces")
        folder = getattr(getattr(cv2, "data", None), "haarcascades", None)
        if folder is None or not hasattr(cv2, "CascadeClassifier") or not (Path(folder) / CASCADE).is_file():
            raise LhcnetError(
                f"faces: the detector needs OpenCV 4, found {cv2.__version__} without {CASCADE}; "
                "install it with: pip install 'lhcnet[faces]'"
            )
        self._cascade = cv2.CascadeClassifier(str(Path(folder) / CASCADE))
        self._lock = threading.Lock()

    def __call__(self, picture: Image.Image) -> Sequence[Box]:
        """The faces of an upright picture (mode L or RGB), the largest first; none is an answer.

        Returns:
            Boxes with FER2013's margin. They end at the border of the picture. Of boxes with the centre of one inside
            of another, the largest is kept.
        """
        found = [_box(row, picture) for row in crops(self.detect(picture))]
        found.sort(key=lambda box: (-(box.right - box.left) * (box.bottom - box.top), box.top, box.left))
        kept: list[Box] = []
        for box in found:
            if not any(_contains(other, box) for other in kept):
                kept.append(box)
        return kept

    def detect(self, picture: Image.Image) -> Boxes:
        """Boxes of the cascade itself, (N, 4): left, top, width and height in pixels of the picture."""
        pixels, scale, offset = _searched(picture)
        with self._lock:
            found = self._cascade.detectMultiScale(pixels, _STEP, _NEIGHBOURS, minSize=(SMALLEST_FACE, SMALLEST_FACE))
        return (np.asarray(found, np.float64).reshape(-1, 4) - [*offset, 0, 0]) / scale


def crops(boxes: Boxes) -> Boxes:
    """The squares (N, 4) that boxes (N, 4) stand for: such as FER2013's images are around a box of this detector."""
    side = boxes[:, 2:].mean(axis=1, keepdims=True) / WIDTH
    corner = boxes[:, :2] + boxes[:, 2:] / 2 - side * [CENTRE_X, CENTRE_Y]
    return np.hstack([corner, side, side])


def _searched(picture: Image.Image) -> tuple[Bytes, float, tuple[int, int]]:
    """Grey values that are searched, their scale, and the place of the picture in them."""
    longest = max(picture.size)
    scale = ENLARGED / longest if longest <= CROP else min(1.0, LONGEST / longest)
    if scale < 0.5:
        picture = picture.reduce(int(1 / scale))  # at once: a copy of a huge picture in grey is not needed
    grey = picture.convert("L")
    if scale == 1:
        return np.asarray(grey), 1.0, (0, 0)
    size = tuple(max(1, round(side * scale * longest / max(grey.size))) for side in grey.size)
    grey = grey.resize((size[0], size[1]), Image.Resampling.BICUBIC)
    if scale < 1:
        return np.asarray(grey), scale, (0, 0)
    around = ENLARGED // 2
    ground = Image.new("L", (grey.width + 2 * around, grey.height + 2 * around), GROUND)
    ground.paste(grey, (around, around))
    return np.asarray(ground), scale, (around, around)


def _box(row: NDArray[np.float64], picture: Image.Image) -> Box:
    """Whole pixels inside of the picture, at least one."""
    left, top = (min(max(round(at), 0), side - 1) for at, side in zip(row[:2].tolist(), picture.size, strict=True))
    ends = (row[:2] + row[2:]).tolist()
    right, bottom = (
        min(max(round(end), start + 1), side) for end, start, side in zip(ends, (left, top), picture.size, strict=True)
    )
    return Box(left, top, right, bottom)


def _contains(outer: Box, inner: Box) -> bool:
    """Whether the centre of a box is inside of another."""
    x, y = (inner.left + inner.right) / 2, (inner.top + inner.bottom) / 2
    return outer.left <= x < outer.right and outer.top <= y < outer.bottom
