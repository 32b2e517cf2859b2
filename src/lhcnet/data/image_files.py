"""FER2013 as image files in train/<class>/, test/<class>/: split and label from the names, pixels of PNG or JPEG."""

import re
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lhcnet.data.archive import ArchiveEntry, decoding_errors
from lhcnet.data.fer2013 import (
    SIDE,
    SPLITS,
    TEST,
    TRAIN,
    USAGE,
    VALIDATION,
    Bytes,
    mark_official_validation,
    split_of_name,
)
from lhcnet.data.pictures import Rules, grey, open_image, read_picture, require_all_rows
from lhcnet.data.reading import Reading
from lhcnet.errors import LhcnetError

IMAGE_ENDINGS = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp"),
    *(".pbm", ".pgm", ".pnm", ".ppm"),
)
_MAX_IMAGE, _MAX_RESIZED = 1 << 20, 10 << 20  # bytes of a file: of 48x48 pixels, and of another size
_RESIZED = Rules(formats=("PNG", "JPEG"), largest_file=_MAX_RESIZED, largest_image=1 << 24, exact=True)
_UNDAMAGED = "an undamaged PNG or JPEG image"
_SPLIT_IN_NAME, _NUMBER_IN_NAME = re.compile(r"(Training|PublicTest|PrivateTest)_"), re.compile(r"im(\d{1,9})\.")


def in_class_folder(entry: ArchiveEntry, reading: Reading) -> bool:
    """Whether the file lies in <split>/<class>/, for example train/happy/."""
    _, part, folder, _ = entry.path_parts
    return split_of_name(part) is not None and folder in reading.classes


def read_image_files(source: Path, entries: list[ArchiveEntry], reading: Reading) -> tuple[Bytes, Bytes, Bytes, str]:
    """Read all images of a source.

    Args:
        source: the folder or zip, for error messages.
        entries: the image files in it.
        reading: names of the class folders, and whether images are resized.

    Returns:
        images (N, 48, 48), labels (N,), splits (N,), and the name of the recognised shape. Without an official
        validation split no image is VALIDATION.

    Raises:
        LhcnetError: an image is misplaced or damaged, or not grey or not 48x48 and shall not be resized.
    """
    located = [_locate(entry, reading) for entry in entries if not _is_left_out(entry, reading)]
    dropped = Counter(entry.path_parts[2] for entry in entries if _is_left_out(entry, reading))
    if not located:
        raise LhcnetError(f"{source} has images of classes that are left out alone, expected some of others")
    if len(roots := {image.root for image in located}) > 1:
        names = ", ".join(sorted(root or "." for root in roots))
        raise LhcnetError(f"{source} has several image folders ({names}), expected one: name it")
    three_way = {VALIDATION, TEST} <= {image.folder_split for image in located}
    for image in located:
        if image.split != image.folder_split and (three_way or TRAIN in (image.split, image.folder_split)):
            where, folder = image.entry.where, SPLITS[image.folder_split]
            raise LhcnetError(f"{where} is in {folder} but is named {image.file}, expected them to agree")
    held_out = [image for image in located if image.folder_split != TRAIN]
    split_in_names = not three_way and any(image.split_in_name for image in held_out)
    if split_in_names and (unnamed := [image for image in held_out if not image.split_in_name]):
        where = unnamed[-1].entry.where
        raise LhcnetError(
            f"{where} has no split in its name, expected PublicTest_ or PrivateTest_ as in other names, or the folders "
            "train, validation and test"
        )
    numbered = not three_way and all(image.number is not None for image in held_out)

    located.sort(key=lambda image: (image.split, image.label, image.number or 0, image.file))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of sizes that are refused here, and of unimportant metadata
        images = np.stack([read_pixels(image.entry, reading) for image in located])
    splits = np.array([image.split for image in located], np.uint8)
    labels = np.array([image.label for image in located], np.uint8)
    naming = "split in file names" if split_in_names else "re-export im<k>" if numbered else "no split in file names"
    naming = "train, validation and test" if three_way else naming
    if naming == "re-export im<k>":
        mark_official_validation(labels, splits)
    return images, labels, splits, f"image folder ({naming}){left_out(dropped)}"


def _is_left_out(entry: ArchiveEntry, reading: Reading) -> bool:
    return in_class_folder(entry, reading) and reading.classes[entry.path_parts[2]] is None


def left_out(dropped: Counter[str]) -> str:
    """What a shape says of images whose classes are left out."""
    return "".join(f", left out: {count:,} of {name}" for name, count in sorted(dropped.items()))


@dataclass(frozen=True)
class _LocatedImage:
    """An image file, and what its path says about it."""

    entry: ArchiveEntry
    root: str  # the folder that contains train/ and test/
    file: str  # the file's name
    folder_split: int  # what the folder says
    split: int
    split_in_name: bool  # Training_, PublicTest_ or PrivateTest_
    label: int
    number: int | None  # k of im<k>


def _locate(entry: ArchiveEntry, reading: Reading) -> _LocatedImage:
    root, part, folder, file = entry.path_parts
    folder_split = split_of_name(part)
    if folder_split is None:
        raise LhcnetError(
            f"{entry.where} is misplaced, expected train/<class>/, test/<class>/ and, where there is one, "
            "validation/<class>/"
        )
    if (label := reading.classes.get(folder)) is None:
        raise LhcnetError(f"{entry.where}: unknown class folder {folder}, expected {reading.expected}")
    above, _, last = root.rpartition("/")
    if split_of_name(last) == folder_split:  # train/train and test/test, as some tools unpack
        root = above
    usage, number = _SPLIT_IN_NAME.match(file), _NUMBER_IN_NAME.match(file)
    return _LocatedImage(
        entry=entry,
        root=root,
        file=file,
        folder_split=folder_split,
        split=USAGE[usage[1]] if usage else folder_split,
        split_in_name=usage is not None,
        label=label,
        number=int(number[1]) if number else None,
    )


def read_pixels(entry: ArchiveEntry, reading: Reading) -> Bytes:
    """Grey values (48, 48) of an image file."""
    return pixels_of(read_content(entry, _MAX_RESIZED if reading.resize else _MAX_IMAGE), entry.where, reading)


def read_content(entry: ArchiveEntry, limit: int) -> bytes:
    """The content of an image file; raises `LhcnetError` if it is cut off or has more than `limit` bytes."""
    with decoding_errors(entry.where, _UNDAMAGED):
        with entry.open_bounded(limit) as file:
            data = file.read(limit)
        if len(data) != entry.size:
            raise ValueError(f"{len(data):,} bytes, not {entry.size:,}: was it changed while it was read?")
    return data


def pixels_of(data: bytes, where: str, reading: Reading) -> Bytes:
    """Grey values (48, 48) of the content of an image file.

    Where images are resized, they are read as the registered model reads the images of a request.

    Raises:
        LhcnetError: it is damaged or too large, or not grey or not 48x48 and shall not be resized.
    """
    if reading.resize:
        return grey(read_picture(data, where, _RESIZED))
    with decoding_errors(where, _UNDAMAGED):
        # compares all checksums of a PNG: decoding ignores those after the last row. It ends the use of what was opened
        open_image(data).verify()
        image = open_image(data)
        if image.size != (SIDE, SIDE):  # known before any pixel is decoded
            raise LhcnetError(
                f"{where} is {image.width}x{image.height}, expected 48x48; data.resize: 48 resizes other sizes"
            )
        if image.format == "PNG":
            require_all_rows(data)
        return _grey(image, where)


def _grey(image: Image.Image, where: str) -> Bytes:
    """The grey values (48, 48), whatever mode they are stored in."""
    if image.mode == "L":
        return np.asarray(image)
    if image.mode in ("1", "P", "LA", "RGB", "RGBA"):
        colours = np.asarray(image.convert("RGBA"))
        if (colours[..., :3] == colours[..., :1]).all() and (colours[..., 3] == 255).all():
            return colours[..., 0]
    raise LhcnetError(f"{where} is not grey (mode {image.mode}), expected 8-bit grey")
