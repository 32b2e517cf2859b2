"""Images in a folder for each class, without splits: data that a model is scored on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lhcnet.data.archive import ArchiveEntry, open_entries, require_unchanged
from lhcnet.data.fer2013 import TRAIN, Bytes, split_of_name
from lhcnet.data.image_files import IMAGE_ENDINGS, read_pixels
from lhcnet.data.reading import Reading
from lhcnet.errors import LhcnetError


def read_class_folders(source: Path, reading: Reading) -> tuple[Bytes, Bytes]:
    """Read `happy/photo.jpg` and so on; files outside of the class folders are not read.

    Args:
        source: a folder, zip or tar. The folder of an image names its class, whatever is above it.
        reading: names of the class folders, and whether images are resized.

    Returns:
        images (N, 48, 48) and labels (N,).

    Raises:
        LhcnetError: there is no image, a folder is no class, a class folder has other files, there are train and test,
            or an image cannot be read.
    """
    try:
        with require_unchanged(source), open_entries(source) as entries:
            found = list(_labelled(entries, reading))
    except OSError as error:
        raise LhcnetError(f"{source} cannot be read, expected readable files: {error}") from error
    if not found:
        raise LhcnetError(f"{source}: expected a store, written by `prepare`, or images in a folder for each class")
    return np.stack([image for image, _ in found]), np.array([label for _, label in found], np.uint8)


def _require_one_split(entries: list[ArchiveEntry]) -> None:
    """Refuse a data set with its splits: a score of all of it would be one of the training images too."""
    found = {(split_of_name(entry.path_parts[1]), entry.path_parts[1]) for entry in entries}
    named = sorted(name for split, name in found if split is not None)
    if len(named) > 1 or any(split == TRAIN for split, _ in found):
        raise LhcnetError(
            f"{entries[0].where}: lies in a data set with the folders {', '.join(named)}; expected the folder of the "
            "images to score alone, or a store that `prepare` made of all"
        )


def _labelled(entries: list[ArchiveEntry], reading: Reading) -> Iterator[tuple[Bytes, int]]:
    _require_one_split(entries)
    for entry in entries:
        folder = entry.path_parts[2]
        if not entry.name.lower().endswith(IMAGE_ENDINGS):
            if folder in reading.classes:
                raise LhcnetError(f"{entry.where}: expected an image file in a class folder, such as .png or .jpg")
            continue
        if folder not in reading.classes:
            raise LhcnetError(f"{entry.where}: unknown class folder {folder or '.'}, expected {reading.expected}")
        if (label := reading.classes[folder]) is not None:
            yield read_pixels(entry, reading), label
