"""AffectNet in its two layouts: lists of file names with labels, and a folder of annotations beside the images.

1. `training.csv` and `validation.csv` with the columns subDirectory_filePath, face_x, face_y, face_width, face_height
   and expression, beside the pictures, out of which the faces are cut;
2. `train_set/images/ID.jpg` with `train_set/annotations/ID_exp.npy`, and `val_set/` alike: faces of 224x224 pixels.

Expressions are numbers 0..10, among them contempt (7), none (8), uncertain (9) and no face (10). `data.classes` says
what becomes of each. AffectNet's test images are not published: papers report its validation images, which become test
here unless there are others. Mollahosseini et al., "AffectNet: A Database for Facial Expression, Valence, and Arousal
Computing in the Wild", IEEE Transactions on Affective Computing, 2019.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lhcnet.data.archive import ArchiveEntry, decoding_errors
from lhcnet.data.fer2013 import SIDE, TEST, VALIDATION, Bytes, split_of_name
from lhcnet.data.image_files import IMAGE_ENDINGS, left_out, read_content
from lhcnet.data.pictures import ANY, grey, read_picture
from lhcnet.data.reading import Reading
from lhcnet.data.tables import Arrays, Table, open_table
from lhcnet.errors import LhcnetError

ANNOTATION = "_exp.npy"
_COLUMNS = ("subdirectory_filepath", "expression")
_BOX = ("face_x", "face_y", "face_width", "face_height")
_MOST_ROWS = 1_000_000  # of a list
_LARGEST = 4096  # bytes of an annotation
_NO_BOX = "images without a box"
Box = tuple[int, int, int, int]  # left, top, right, bottom


@dataclass(frozen=True)
class _Labelled:
    """An image with what its annotation says."""

    where: str  # the annotation, for error messages
    expression: str
    split: int
    image: ArchiveEntry | None
    box: Box | None = None  # None: the whole image


def find_lists(entries: list[ArchiveEntry]) -> list[Table]:
    """The lists of AffectNet among the files of a source."""
    tables = [open_table(entry) for entry in entries if entry.name.lower().endswith(".csv")]
    return [table for table in tables if set(_COLUMNS) <= set(table.columns)]


def find_annotations(entries: list[ArchiveEntry]) -> list[ArchiveEntry]:
    """The annotations of AffectNet among the files of a source."""
    return [entry for entry in entries if entry.name.endswith(ANNOTATION)]


def read_lists(source: Path, lists: list[Table], entries: list[ArchiveEntry], reading: Reading) -> tuple[Arrays, str]:
    """Read the images that lists name, and cut out their faces.

    A row without a box is left out and counted: AffectNet has a few.

    Args:
        source: the folder or archive, for error messages.
        lists: from `find_lists`; the name of each says its split.
        entries: all files of the source.
        reading: what the numbers mean; images have to be resized.

    Returns:
        Images, labels and splits, and the name of the shape.

    Raises:
        LhcnetError: `data.classes` or `data.resize` is missing, a list or row is wrong, or an image is missing or
            cannot be read.
    """
    images: dict[str, ArchiveEntry] = {}
    for entry in entries:
        if entry.name.lower().endswith(IMAGE_ENDINGS):
            key = _last_two(entry.name)
            if (other := images.setdefault(key, entry)) is not entry:
                raise LhcnetError(f"{entry.where}: {other.where} has the same path, expected every image once")
    rows = (row for table in lists for row in _rows(source, table, images))
    return _read(source, rows, reading, f"AffectNet ({len(lists)} lists)")


def read_annotations(
    source: Path, annotations: list[ArchiveEntry], entries: list[ArchiveEntry], reading: Reading
) -> tuple[Arrays, str]:
    """Read images with an annotation each; arguments and errors are those of `read_lists`."""
    images = {entry.name.rpartition(".")[0]: entry for entry in entries if entry.name.lower().endswith(IMAGE_ENDINGS)}

    def labelled() -> Iterator[_Labelled]:
        for entry in annotations:
            _, part, folder, file = entry.path_parts
            split = split_of_name(part)
            if split is None or folder != "annotations":
                raise LhcnetError(
                    f"{entry.where}: is misplaced, expected train_set/annotations/ or val_set/annotations/"
                )
            base = entry.name.rsplit("/", 2)[0]
            image = images.get(f"{base}/images/{file.removesuffix(ANNOTATION)}")
            yield _Labelled(entry.where, _expression(entry), split, image)

    return _read(source, labelled(), reading, "AffectNet (annotations)")


def _read(source: Path, found: Iterable[_Labelled], reading: Reading, shape: str) -> tuple[Arrays, str]:
    if not reading.has_own_classes or not reading.resize:
        raise LhcnetError(
            f"{source} holds AffectNet: expected data.resize: 48 and data.classes with AffectNet's numbers, because "
            "they are not FER2013's (docs/data.md lists them)"
        )
    kept: list[tuple[_Labelled, int]] = []
    dropped: Counter[str] = Counter()
    for one in found:
        if one.expression not in reading.classes:
            raise LhcnetError(
                f"{one.where}: unknown expression {one.expression}, expected {reading.expected}; left_out in "
                "data.classes names those that are not read"
            )
        if (label := reading.classes[one.expression]) is None:
            dropped[one.expression] += 1
        elif one.box == (0, 0, 0, 0):
            dropped[_NO_BOX] += 1
        else:
            kept.append((one, label))
    pixels = np.empty((len(kept), SIDE, SIDE), np.uint8)
    for row, (one, _) in enumerate(kept):
        pixels[row] = _face(one, source)
    splits = np.array([one.split for one, _ in kept], np.uint8)
    if TEST not in splits:
        splits[splits == VALIDATION] = TEST
    return (pixels, np.array([label for _, label in kept], np.uint8), splits), f"{shape}{left_out(dropped)}"


def _face(one: _Labelled, source: Path) -> Bytes:
    """Grey values (48, 48) of the face."""
    if one.image is None:
        raise LhcnetError(f"{one.where}: its image is not in {source}, expected every image")
    picture = read_picture(read_content(one.image, ANY.largest_file), one.image.where)
    if one.box:
        left, top, right, bottom = one.box
        box = max(0, left), max(0, top), min(picture.width, right), min(picture.height, bottom)
        if box[0] >= box[2] or box[1] >= box[3]:
            raise LhcnetError(f"{one.where}: the box lies outside of {one.image.where}, expected a face in it")
        picture = picture.crop(box)
    return grey(picture)


def _rows(source: Path, table: Table, images: dict[str, ArchiveEntry]) -> Iterator[_Labelled]:
    """The rows of a list."""
    if (split := split_of_name(table.stem)) is None:
        raise LhcnetError(
            f"{table.entry.where}: its name says no split, expected training.csv or validation.csv: rename it, or take "
            f"it out of {source}"
        )
    path, expression = (table.columns.index(name) for name in _COLUMNS)
    sides = [table.columns.index(name) for name in _BOX if name in table.columns]
    if sides and len(sides) < len(_BOX):
        raise LhcnetError(f"{table.entry.where}, line 1: expected all or none of the columns {', '.join(_BOX)}")
    for where, cells in table.rows(_MOST_ROWS):
        name = cells[path].decode("utf-8", "replace")
        box = _box([cells[side] for side in sides], where) if sides else None
        yield _Labelled(where, cells[expression].decode("ascii", "replace"), split, images.get(_last_two(name)), box)


def _box(cells: list[bytes], where: str) -> Box:
    """The box in pixels, or four zeros if the list has none for this image (NULL, or a negative size)."""
    if any(cell.upper() in (b"NULL", b"NAN", b"") for cell in cells):
        return 0, 0, 0, 0
    try:
        left, top, width, height = (int(cell) for cell in cells)
    except ValueError:
        raise LhcnetError(f"{where}: expected {', '.join(_BOX)} as whole numbers of pixels, or NULL") from None
    return (left, top, left + width, top + height) if width > 0 and height > 0 else (0, 0, 0, 0)


def _expression(entry: ArchiveEntry) -> str:
    """The number in an annotation, which is stored as text or as a number."""
    with decoding_errors(entry.where, "a NumPy file with a number 0..10"), entry.open_bounded(_LARGEST) as file:
        value = np.load(io.BytesIO(file.read(_LARGEST)), allow_pickle=False)
        return str(value.reshape(()))  # raises unless it has one element


def _last_two(name: str) -> str:
    """Folder and file name of a path."""
    return "/".join(name.replace("\\", "/").split("/")[-2:])
