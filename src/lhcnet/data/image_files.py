"""FER2013 as image files in train/<class>/ and test/<class>/: split and label from the names, pixels of PNG or JPEG."""

import io
import re
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lhcnet.data.archive import ArchiveEntry, decoding_errors
from lhcnet.data.fer2013 import CLASSES, FOLDERS, SIDE, TEST, TRAIN, USAGE, Bytes, mark_official_validation
from lhcnet.errors import LhcnetError

_LABEL_OF_FOLDER = {name: label for names in (FOLDERS, CLASSES) for label, name in enumerate(names)}
_LABEL_OF_FOLDER |= {"disgusted": 1, "fearful": 2, "surprised": 5}
_MAX_IMAGE = 1 << 20  # bytes
_SPLIT_IN_NAME, _NUMBER_IN_NAME = re.compile(r"(Training|PublicTest|PrivateTest)_"), re.compile(r"im(\d{1,9})\.")

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a PNG, by its colour type
# (columns, rows) of the passes that a 48x48 PNG consists of, not interlaced and interlaced
_PASSES = ([(48, 48)], [(6, 6), (6, 6), (12, 6), (12, 12), (24, 12), (24, 24), (48, 24)])


def in_class_folder(entry: ArchiveEntry) -> bool:
    """Whether the file lies in train/<class>/ or test/<class>/."""
    _, part, folder, _ = entry.path_parts
    return part in ("train", "test") and folder in _LABEL_OF_FOLDER


def read_image_files(source: Path, entries: list[ArchiveEntry]) -> tuple[Bytes, Bytes, Bytes, str]:
    """Read all images of a source.

    Args:
        source: the folder or zip, for error messages.
        entries: the image files in it.

    Returns:
        images (N, 48, 48), labels (N,), splits (N,), and the name of the recognised shape. Without an official
        validation split no image is VALIDATION.

    Raises:
        LhcnetError: an image is misplaced, damaged, not grey or not 48x48.
    """
    located = [_locate(entry) for entry in entries]
    if len(roots := {image.root for image in located}) > 1:
        names = ", ".join(sorted(root or "." for root in roots))
        raise LhcnetError(f"{source} has several image folders ({names}), expected one: name it")
    in_test = [image for image in located if image.in_test]
    split_in_names = any(image.split_in_name for image in in_test)
    if split_in_names and (unnamed := [image for image in in_test if not image.split_in_name]):
        where = unnamed[-1].entry.where
        raise LhcnetError(f"{where} has no split in its name, expected PublicTest_ or PrivateTest_")
    numbered = all(image.number is not None for image in in_test)

    located.sort(key=lambda image: (image.split, image.label, image.number or 0, image.file))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of sizes that are refused here, and of unimportant metadata
        images = np.stack([_read_pixels(image.entry) for image in located])
    splits = np.array([image.split for image in located], np.uint8)
    labels = np.array([image.label for image in located], np.uint8)
    naming = "split in file names" if split_in_names else "re-export im<k>" if numbered else "no split in file names"
    if naming == "re-export im<k>":
        mark_official_validation(labels, splits)
    return images, labels, splits, f"image folder ({naming})"


@dataclass(frozen=True)
class _LocatedImage:
    """An image file, and what its path says about it."""

    entry: ArchiveEntry
    root: str  # the folder that contains train/ and test/
    file: str  # the file's name
    in_test: bool  # below test/
    split: int
    split_in_name: bool  # Training_, PublicTest_ or PrivateTest_
    label: int
    number: int | None  # k of im<k>


def _locate(entry: ArchiveEntry) -> _LocatedImage:
    root, part, folder, file = entry.path_parts
    if part not in ("train", "test"):
        raise LhcnetError(f"{entry.where} is misplaced, expected train/<class>/ or test/<class>/")
    if folder not in _LABEL_OF_FOLDER:
        raise LhcnetError(f"{entry.where}: unknown class folder {folder}, expected {', '.join(FOLDERS)}")
    usage, number = _SPLIT_IN_NAME.match(file), _NUMBER_IN_NAME.match(file)
    split = USAGE[usage[1]] if usage else (TRAIN if part == "train" else TEST)
    if (split == TRAIN) != (part == "train"):
        raise LhcnetError(f"{entry.where} is in {part} but is named {file}, expected them to agree")
    return _LocatedImage(
        entry=entry,
        root=root,
        file=file,
        in_test=part == "test",
        split=split,
        split_in_name=usage is not None,
        label=_LABEL_OF_FOLDER[folder],
        number=int(number[1]) if number else None,
    )


def _read_pixels(entry: ArchiveEntry) -> Bytes:
    """Grey values (48, 48) of an image file."""
    with decoding_errors(entry.where, "an undamaged PNG or JPEG image"):
        with entry.open_bounded(_MAX_IMAGE) as file:
            data = file.read(_MAX_IMAGE)
        if len(data) != entry.size:
            raise ValueError(f"{len(data):,} bytes, not {entry.size:,}: was it changed while it was read?")
        # compares all checksums of a PNG: decoding ignores those after the last row. It ends the use of what was opened
        _open_image(data).verify()
        image = _open_image(data)
        if image.size != (SIDE, SIDE):  # known before any pixel is decoded
            raise LhcnetError(f"{entry.where} is {image.width}x{image.height}, expected 48x48")
        if image.format == "PNG":
            _require_all_rows(data)
        return _grey(image, entry.where)


def _require_all_rows(png: bytes) -> None:
    """Raise ValueError if the data of a 48x48 PNG end early: Pillow would show the missing rows black."""
    depth, colour, interlaced = png[24], png[25], png[28]
    bits = depth * _CHANNELS[colour]
    expected = sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in _PASSES[interlaced])
    packed, position, kind = b"", 8, b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", png, position)
        if kind == b"IDAT":
            packed += png[position + 8 : position + 8 + length]
        position += 12 + length
    if len(zlib.decompressobj().decompress(packed, expected)) < expected:
        raise ValueError("rows are missing")


def _open_image(data: bytes) -> Image.Image:
    """An image whose header is read and whose pixels are not decoded yet."""
    return Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))


def _grey(image: Image.Image, where: str) -> Bytes:
    """The grey values (48, 48), whatever mode they are stored in."""
    if image.mode == "L":
        return np.asarray(image)
    if image.mode in ("1", "P", "LA", "RGB", "RGBA"):
        colours = np.asarray(image.convert("RGBA"))
        if (colours[..., :3] == colours[..., :1]).all() and (colours[..., 3] == 255).all():
            return colours[..., 0]
    raise LhcnetError(f"{where} is not grey (mode {image.mode}), expected 8-bit grey")
