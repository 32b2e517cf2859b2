"""RAF-DB as it is distributed: a list of file names with labels beside the images.

`basic/EmoLabel/list_patition_label.txt` (so spelt) has lines such as `train_00001.jpg 5`; the image is
`basic/Image/aligned/train_00001_aligned.jpg`, 100x100 pixels in colour. Li et al., "Reliable Crowdsourcing and Deep
Locality-Preserving Learning for Expression Recognition in the Wild", CVPR 2017.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from lhcnet.data.archive import ArchiveEntry, decoding_errors
from lhcnet.data.fer2013 import TEST, TRAIN
from lhcnet.data.image_files import IMAGE_ENDINGS, read_pixels
from lhcnet.data.reading import Reading
from lhcnet.data.tables import Arrays
from lhcnet.errors import LhcnetError

LABELS = {"1": 5, "2": 2, "3": 1, "4": 3, "5": 4, "6": 0, "7": 6}  # surprise, fear, disgust, happiness, ... of RAF-DB
_LISTS = ("list_patition_label.txt", "list_partition_label.txt")
_LINE = re.compile(r"((train|test)_\w+)\.jpg\s+([1-7])")
_LARGEST = 16 << 20  # bytes; the list has 300 kB


def find_list(entries: list[ArchiveEntry]) -> ArchiveEntry | None:
    """The list of RAF-DB's labels among the files of a source."""
    return next((entry for entry in entries if _name(entry) in _LISTS), None)


def read_rafdb(source: Path, listed: ArchiveEntry, entries: list[ArchiveEntry], reading: Reading) -> tuple[Arrays, str]:
    """Read the images that the list names: aligned ones if there are any, else the original ones.

    Args:
        source: the folder or archive, for error messages.
        listed: from `find_list`.
        entries: all files of the source.
        reading: whether images are resized.

    Returns:
        Images, labels and splits; none is VALIDATION. And the name of the shape.

    Raises:
        LhcnetError: a line of the list is wrong, an image is missing or not in the list, or cannot be read.
    """
    images = [entry for entry in entries if _name(entry).endswith(IMAGE_ENDINGS)]
    ending = "_aligned" if any(Path(entry.name).stem.endswith("_aligned") for entry in images) else ""
    by_stem: dict[str, ArchiveEntry] = {}
    for entry in images:
        if (stem := Path(entry.name).stem).endswith(ending) and by_stem.setdefault(stem, entry) is not entry:
            raise LhcnetError(f"{entry.where}: {by_stem[stem].where} has the same name, expected every image once")
    pixels, labels, splits = [], [], []
    for number, line in enumerate(_lines(listed), start=1):
        if not (found := _LINE.fullmatch(line)):
            raise LhcnetError(
                f"{listed.where}, line {number}: expected a file name and a label 1..7, as in train_00001.jpg 5"
            )
        stem = found[1] + ending
        if stem not in by_stem:
            raise LhcnetError(f"{listed.where}, line {number}: {source} has no image {stem}, expected each image once")
        pixels.append(read_pixels(by_stem.pop(stem), reading))
        labels.append(LABELS[found[3]])
        splits.append(TRAIN if found[2] == "train" else TEST)
    if by_stem or not pixels:
        unlisted = next(iter(by_stem.values()), listed).where
        raise LhcnetError(f"{unlisted}: is not in {listed.where}, expected a label for every image")
    arrays = np.stack(pixels), np.array(labels, np.uint8), np.array(splits, np.uint8)
    return arrays, f"RAF-DB ({'aligned' if ending else 'original'} images)"


def _name(entry: ArchiveEntry) -> str:
    return entry.name.rpartition("/")[2].lower()


def _lines(entry: ArchiveEntry) -> list[str]:
    with decoding_errors(entry.where, "a text file"), entry.open_bounded(_LARGEST) as file:
        lines = file.read(_LARGEST).decode("ascii").splitlines()
    return [stripped for line in lines if (stripped := line.strip())]
