"""FER+: labels of FER2013's images by ten persons, in `fer2013new.csv`, whose rows are those of `fer2013.csv`.

Barsoum et al., "Training Deep Networks for Facial Expression Recognition with Crowd-Sourced Label Distribution", ICMI
2016. The majority is that of the authors' code (`ferplus.py`, mode `majority`): single votes do not count, and a class
needs more than half of the others. Images without one, and those whose majority is contempt, unknown or no face (NF),
are left out.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from pathlib import Path

import numpy as np

from lhcnet.data.archive import ArchiveEntry, decoding_errors
from lhcnet.data.fer2013 import CLASSES, USAGE
from lhcnet.data.tables import Arrays, Table
from lhcnet.errors import LhcnetError

VOTES = (  # columns of fer2013new.csv
    *("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear"),
    *("contempt", "unknown", "nf"),
)
NO_MAJORITY = "no majority"
_LARGEST = 64 << 20  # bytes; the file has 2 MB


def is_ferplus(table: Table) -> bool:
    """Whether a file has the columns of fer2013new.csv."""
    return {"usage", *VOTES} <= set(table.columns)


def relabel(source: Path, tables: list[Table], votes: list[Table]) -> tuple[Arrays, str]:
    """Read fer2013.csv with the labels of FER+.

    Args:
        source: for error messages.
        tables: those with emotion, pixels and Usage.
        votes: those with the columns of fer2013new.csv.

    Returns:
        Images, labels and splits of the images that have a label, and the shape with the number of the others.

    Raises:
        LhcnetError: there are not one of each, or their rows do not belong together.
    """
    if len(tables) != 1 or len(votes) != 1:
        raise LhcnetError(
            f"{source}: data.labels: ferplus: expected fer2013.csv (emotion, pixels, Usage) with fer2013new.csv beside "
            f"it, whose rows are in the same order, and no folders of images; found {len(tables)} of the one and "
            f"{len(votes)} of the other"
        )
    images, _, splits = tables[0].read()
    found = _read(votes[0].entry)
    where = votes[0].entry.where
    if len(found) != len(images):
        raise LhcnetError(
            f"{where}: has {len(found):,} rows, but {tables[0].entry.where} {len(images):,}: expected one for an image"
        )
    for number, ((split, _), of_image) in enumerate(zip(found, splits, strict=True), start=2):
        if split != of_image:
            raise LhcnetError(
                f"{where}, row {number}: its Usage is not that of {tables[0].entry.where}: expected the rows of "
                "both in the same order"
            )
    kept = np.array([label in CLASSES for _, label in found])
    labels = np.array([CLASSES.index(label) for _, label in found if label in CLASSES], np.uint8)
    dropped = Counter(label for _, label in found if label not in CLASSES)
    listed = ", ".join(f"{count:,} {label}" for label, count in dropped.most_common())
    return (images[kept], labels, splits[kept]), f"csv with Usage, labels of FER+ (left out: {listed or 'none'})"


def _read(entry: ArchiveEntry) -> list[tuple[int, str]]:
    """Split and majority of each row."""
    with decoding_errors(entry.where, "an undamaged CSV"), entry.open_bounded(_LARGEST) as file:
        rows = csv.DictReader(io.StringIO(file.read(_LARGEST).decode("utf-8-sig"), newline=""))
        rows.fieldnames = [name.strip().lower() for name in rows.fieldnames or ()]
        found = []
        for number, row in enumerate(rows, start=2):
            counts = [row[name] or "" for name in VOTES]
            if row["usage"] not in USAGE or not all(count.strip().isdecimal() for count in counts):
                raise LhcnetError(f"{entry.where}, row {number}: expected Usage and ten whole numbers of votes")
            found.append((USAGE[row["usage"]], majority([int(count) for count in counts])))
    return found


def majority(votes: list[int]) -> str:
    """The class with more than half of the votes that are not single ones, in the order of `VOTES`."""
    counted = [0 if n == 1 else n for n in votes]
    most = max(counted)
    return VOTES[counted.index(most)] if most > sum(counted) / 2 else NO_MAJORITY
