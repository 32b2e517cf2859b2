"""Drawn faces: synthetic images in FER2013's format, for demonstrations and tests (FER2013 must not be distributed).

48x48 grey faces. Brows, eyes and mouth show one of the seven expressions; person, pose, light and background are
random and do not depend on it. Class and split proportions are FER2013's. 5 % of the labels are wrong, so that no
network can reach 100 %.
"""

import io
import math
import zipfile
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lhcnet.data.fer2013 import CLASSES, FOLDERS, OFFICIAL_COUNTS, SIDE, SPLITS, USAGE, Bytes, Faces, canonical
from lhcnet.errors import LhcnetError

LABEL_NOISE = 0.05
_SCALE = 4  # drawn at 192x192, then averaged down: ImageDraw has no antialiasing
_MIN_IMAGES = 2  # of every class in every split
_MAX_IMAGES = 200_000  # in all: half a gigabyte


@dataclass(frozen=True)
class _Look:
    """Parameters of an expression. Lengths are in half face heights, upwards is positive."""

    inner: float = 0.0  # height of the brows' inner ends
    outer: float = 0.0  # height of their outer ends
    arch: float = 0.04  # height of their middle above the line between the ends
    lids: float = 1.0  # opening of the eyes, 1 = relaxed
    slant: float = 0.0  # how far the upper lids fall towards the outside
    curve: float = 0.0  # height of the mouth's corners
    gape: float = 0.0  # opening of the mouth
    width: float = 1.0  # width of the mouth, 1 = relaxed
    teeth: float = 0.0  # share of the opening that shows teeth
    folds: float = 0.0  # nose wrinkles (positive) or laughter folds (negative)


_LOOKS = {
    "anger": _Look(inner=-0.17, outer=0.10, lids=0.72, slant=-0.10, curve=-0.13, gape=0.13, width=1.05, teeth=0.9),
    "disgust": _Look(inner=-0.12, outer=-0.05, lids=0.42, curve=-0.22, gape=0.15, width=0.75, teeth=0.35, folds=1),
    "fear": _Look(inner=0.20, outer=-0.02, lids=1.55, slant=0.05, curve=-0.10, gape=0.17, width=1.30, teeth=0.45),
    "happiness": _Look(
        inner=0.03, outer=0.03, arch=0.09, lids=0.62, curve=0.27, gape=0.2, width=1.35, teeth=0.6, folds=-1
    ),
    "sadness": _Look(inner=0.17, outer=-0.11, arch=0.0, lids=0.6, slant=0.16, curve=-0.17, width=0.85),
    "surprise": _Look(inner=0.19, outer=0.15, arch=0.14, lids=1.7, gape=0.5, width=0.62),
    "neutral": _Look(),
}


def draw(n: int, seed: int) -> Faces:
    """Draw faces; the same (n, seed) gives the same bytes.

    Args:
        n: number of images.
        seed: seed of the generator.

    Returns:
        the data set, with an official validation split.

    Raises:
        LhcnetError: `n` is too small for two images of every class in every split, or too large.
    """
    counts = _apportion(n)
    rng = np.random.default_rng(seed)
    images = np.empty((n, SIDE, SIDE), np.uint8)
    labels = np.tile(np.arange(len(CLASSES)), len(SPLITS)).repeat(counts.ravel()).astype(np.uint8)
    splits = np.arange(len(SPLITS)).repeat(counts.sum(axis=1)).astype(np.uint8)
    for i, label in enumerate(labels):
        wrong = rng.random() < LABEL_NOISE
        shown = (label + rng.integers(1, len(CLASSES))) % len(CLASSES) if wrong else label
        images[i] = _draw_face(CLASSES[shown], rng)
    return Faces(*canonical(images, labels, splits), shape="drawn faces", validation="official")


def write_csv(faces: Faces, path: Path) -> None:
    """Write a data set as a CSV like fer2013.csv, with the columns emotion, pixels and Usage."""
    text = [str(value) for value in range(256)]
    usage = {split: name for name, split in USAGE.items()}
    with path.open("w", encoding="ascii", newline="\n") as file:
        file.write("emotion,pixels,Usage\n")
        for image, label, split in zip(faces.images, faces.labels, faces.splits, strict=True):
            pixels = " ".join([text[value] for value in image.tobytes()])
            file.write(f"{label},{pixels},{usage[int(split)]}\n")


def write_zip(faces: Faces, path: Path) -> None:
    """Write a data set as PNG files in a zip, `train/angry/Training_00000.png`: the split is in the file names."""
    usage = {split: name for name, split in USAGE.items()}
    numbers = [0] * len(SPLITS)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for image, label, split in zip(faces.images, faces.labels, faces.splits, strict=True):
            name = usage[int(split)]
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            folder = "train" if name == "Training" else "test"
            entry = zipfile.ZipInfo(f"{folder}/{FOLDERS[label]}/{name}_{numbers[split]:05d}.png")  # dated 1980
            archive.writestr(entry, buffer.getvalue())
            numbers[split] += 1


def _apportion(n: int) -> NDArray[np.intp]:
    """Number of images per split and class, (3, 7): FER2013's proportions, at least two each, `n` in all."""
    if n < _MIN_IMAGES * OFFICIAL_COUNTS.size:
        least = _MIN_IMAGES * OFFICIAL_COUNTS.size
        raise LhcnetError(f"{n} faces cannot be drawn, expected at least {least}: two per class and split")
    if n > _MAX_IMAGES:
        raise LhcnetError(f"{n} faces cannot be drawn, expected at most {_MAX_IMAGES:,}")
    share = OFFICIAL_COUNTS * (n / OFFICIAL_COUNTS.sum())
    # 1e-9, so that the full size is FER2013's counts exactly
    counts: NDArray[np.intp] = np.maximum(np.floor(share + 1e-9).astype(np.intp), _MIN_IMAGES)
    while counts.sum() != n:
        if counts.sum() < n:
            counts.flat[np.argmax(share - counts)] += 1
        else:
            counts.flat[np.argmax(np.where(counts > _MIN_IMAGES, counts - share, -np.inf))] -= 1
    return counts


class _Pen:
    """Draws shapes in face coordinates: origin between eyes and mouth, y down, 1 = half the face's height."""

    def __init__(self, rng: np.random.Generator, background: int) -> None:
        size = SIDE * _SCALE
        self.image = Image.new("L", (size, size), background)
        self._draw = ImageDraw.Draw(self.image)
        self.unit = size * rng.uniform(0.36, 0.48)  # pixels
        self._x, self._y = size * (0.5 + rng.uniform(-0.08, 0.08, 2))
        angle = math.radians(rng.uniform(-15, 15))
        self._cos, self._sin = math.cos(angle) * self.unit, math.sin(angle) * self.unit

    def _to_pixels(self, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        cos, sin = self._cos, self._sin
        return [(self._x + cos * x - sin * y, self._y + sin * x + cos * y) for x, y in points]

    def patch(self, points: Sequence[tuple[float, float]], grey: float) -> None:
        self._draw.polygon(self._to_pixels(points), fill=int(min(max(grey, 0), 255)))

    def stroke(self, points: Sequence[tuple[float, float]], width: float, grey: float) -> None:
        pixels = max(round(width * self.unit), 1)
        self._draw.line(self._to_pixels(points), fill=int(min(max(grey, 0), 255)), width=pixels, joint="curve")

    def oval(self, x: float, y: float, rx: float, ry: float, grey: float) -> None:
        self.patch([(x + rx * c, y + ry * s) for c, s in _CIRCLE], grey)


_CIRCLE = [(math.cos(a), math.sin(a)) for a in np.linspace(0, 2 * math.pi, 28, endpoint=False).tolist()]


def _draw_face(expression: str, rng: np.random.Generator) -> Bytes:
    """Draw one face, (48, 48)."""
    uniform = rng.uniform
    strength = uniform(0.25, 1.1)
    look = _Look(
        *(
            neutral + strength * (full - neutral) + rng.normal(0, 0.03)
            for neutral, full in zip(astuple(_Look()), astuple(_LOOKS[expression]), strict=True)
        )
    )
    skin, background = uniform(95, 215), uniform(15, 235)
    hair = uniform(10, 80) if rng.random() < 0.75 else uniform(120, 220)
    dark = skin * uniform(0.2, 0.4)
    pen = _Pen(rng, int(background))

    wide, jaw = uniform(0.70, 0.84), uniform(0.75, 1.0)
    long_hair = rng.random() < 0.35
    if long_hair:
        pen.oval(0, -0.05, wide * 1.22, 1.12, hair)
        pen.patch([(-wide * 1.2, 0), (wide * 1.2, 0), (wide * 1.25, 1.1), (-wide * 1.25, 1.1)], hair)
    pen.oval(0, 1.0, wide * 0.55, 0.45, skin * 0.75)  # neck
    for side in (-1, 1):
        pen.oval(side * wide, 0.0, 0.10, 0.18, skin * 0.85)  # ears
    head = [(wide * c * (1 if s < 0 else jaw + (1 - jaw) * (1 - s)), s) for c, s in _CIRCLE]
    pen.patch(head, skin)
    if rng.random() < 0.9:  # otherwise bald
        line, part = uniform(-0.66, -0.5), uniform(-0.4, 0.4)
        crown = [(1.06 * wide * c, 1.07 * s) for c, s in _CIRCLE if s < -0.2]
        pen.patch([*crown, (wide * 0.8, line), (wide * part, line - 0.14), (-wide * 0.8, line)], hair)

    _draw_eyes(pen, look, rng, skin, hair, dark)
    nose, tip = uniform(0.08, 0.15), uniform(0.22, 0.30)
    pen.stroke([(nose * 0.4, -0.08), (nose, tip), (-nose, tip)], 0.045, skin * 0.7)
    if look.folds > 0.3:
        for y in (-0.10, 0.0):
            pen.stroke([(-0.10, y - 0.05), (0, y), (0.10, y - 0.05)], 0.035, skin * 0.55)
        for side in (-1, 1):
            pen.stroke([(side * 0.14, 0.18), (side * 0.27, 0.36)], 0.035, skin * 0.6)
    elif look.folds < -0.3:
        for side in (-1, 1):
            pen.stroke([(side * 0.20, 0.22), (side * 0.42, 0.42), (side * 0.44, 0.55)], 0.035, skin * 0.7)
    _draw_mouth(pen, look, rng, skin, dark)
    return _light(pen.image, rng)


def _draw_eyes(pen: _Pen, look: _Look, rng: np.random.Generator, skin: float, hair: float, dark: float) -> None:
    apart, y = rng.uniform(0.30, 0.37), rng.uniform(-0.20, -0.12)
    rx, ry = rng.uniform(0.145, 0.18), 0.085 * rng.uniform(0.9, 1.1) * max(look.lids, 0.15)
    gaze = rng.uniform(-0.05, 0.05)
    brow_y, brow_width = y - rng.uniform(0.22, 0.27), rng.uniform(0.05, 0.09)
    brow = min(hair, skin * 0.55)
    for side in (-1, 1):
        x = side * apart
        pen.oval(x, y, rx, ry, min(skin * 1.3 + 30, 250))
        iris = min(0.085, ry * 1.25)
        pen.oval(x + gaze, y, iris, iris, dark * 0.6)
        lid = [(-rx * 1.1, 0.0), (-rx * 0.5, -ry), (rx * 0.5, -ry), (rx * 1.1, 0.0)]
        falling = [(x + side * u, y + v + look.slant * (u / rx + 1) / 2 * (v < 0 or u > 0)) for u, v in lid]
        if abs(look.slant) > 0.03:
            pen.patch([*falling, (x + side * rx * 1.1, y - ry * 1.4), (x - side * rx * 1.1, y - ry * 1.4)], skin)
        pen.stroke(falling, 0.04, dark)
        ends = [(-0.20, -look.inner), (0.0, -(look.inner + look.outer) / 2 - look.arch), (0.21, -look.outer)]
        pen.stroke([(x + side * u, brow_y + v) for u, v in ends], brow_width, brow)
    if rng.random() < 0.15:  # glasses
        for side in (-1, 1):
            ring = [(side * apart + 0.24 * c, y + 0.19 * s) for c, s in _CIRCLE]
            pen.stroke([*ring, ring[0]], 0.035, 30)
            pen.stroke([(side * (apart + 0.24), y), (side * 0.75, y - 0.05)], 0.035, 30)
        pen.stroke([(-apart + 0.24, y), (apart - 0.24, y)], 0.035, 30)


def _draw_mouth(pen: _Pen, look: _Look, rng: np.random.Generator, skin: float, dark: float) -> None:
    half, y = 0.29 * look.width * rng.uniform(0.9, 1.1), rng.uniform(0.50, 0.57)
    along = [-1, -0.8, -0.5, -0.2, 0.0, 0.2, 0.5, 0.8, 1]
    tilt = 0.06 * look.folds * (look.folds > 0) * rng.choice([-1, 1])  # a disgusted lip rises on one side
    gape = max(look.gape, 0.0)
    upper = [(half * t, y - look.curve * (t * t - 0.5) - gape * 0.4 * (1 - t**4) + tilt * t) for t in along]
    lower = [(half * t, y - look.curve * (t * t - 0.5) + gape * 0.8 * (1 - t * t) ** 0.5 + tilt * t) for t in along]
    if gape > 0.05:
        pen.patch([*upper, *lower[::-1]], dark * 0.5)
        if look.teeth > 0.15:
            edge = [(x, a + look.teeth * (b - a)) for (x, a), (_, b) in zip(upper, lower, strict=True)]
            pen.patch([*upper, *edge[::-1]], min(skin * 1.25 + 40, 250))
    lip = skin * rng.uniform(0.45, 0.6)
    pen.stroke(upper, 0.05, lip if gape > 0.05 else dark)
    pen.stroke(lower, 0.05, lip if gape > 0.05 else dark)


def _light(image: Image.Image, rng: np.random.Generator) -> Bytes:
    """Average down to (48, 48), then add light from one side, contrast and noise."""
    grey = np.asarray(image.reduce(_SCALE), np.float32)
    direction, strength = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.45)
    ramp = np.linspace(-1, 1, SIDE, dtype=np.float32)
    grey *= 1 + strength * (math.cos(direction) * ramp[None, :] + math.sin(direction) * ramp[:, None])
    middle, contrast = rng.uniform(90, 150), rng.uniform(0.5, 1.1)
    noise = rng.normal(0, rng.uniform(2, 14), grey.shape)
    return (middle + contrast * (grey - 120) + noise).clip(0, 255).astype(np.uint8)
