"""FER+: labels of FER2013's images by ten persons, in `fer2013new.csv`, whose rows are those of `fer2013.csv`.

Barsoum et al., "Training Deep Networks for Facial Expression Recognition with Crowd-Sourced Label Distribution", ICMI
2016. The majority is that of the authors' code (`ferplus.py`, mode `majority`): single votes do not count, and a class
needs more than half of the others. Images without one, and those whose majority is contempt, unknown or no face (NF),
are left out.

With the distribution, the same images are trained on the shares of their votes: those for the seven classes, without
single votes. (The authors' mode `crossentropy` differs: it also trains on images without a majority, and leaves out the
rarest votes of an image.) Validation and test are scored against the majority, as theirs are.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from pathlib import Path

import numpy as np

from lhcnet.data.archive import ArchiveEntry, decoding_errors
from lhcnet.data.fer2013 import CLASSES, USAGE, Faces
from lhcnet.data.tables import Table
from lhcnet.errors import LhcnetError

VOTES = (  # columns of fer2013new.csv
    *("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear"),
    *("contempt", "unknown", "nf"),
)
NO_MAJORITY = "no majority"
_COUNT = re.compile(r"[0-9]{1,2}")  # votes for a class; the file has ten in all
_LARGEST = 64 << 20  # bytes; the file has 2 MB


def is_ferplus(table: Table) -> bool:
    """Whether a file has the columns of fer2013new.csv."""
    return {"usage", *VOTES} <= set(table.columns)


def relabel(source: Path, tables: list[Table], votes: list[Table], *, distribution: bool) -> Faces:
    """Read fer2013.csv with the labels of FER+.

    Args:
        source: for error messages.
        tables: those with emotion, pixels and Usage.
        votes: those with the columns of fer2013new.csv.
        distribution: whether the votes are kept, to train on.

    Returns:
        The images that have a label, in the order of the rows; `shape` has the number of the others.

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
    found = [(split, counts, majority(counts)) for split, counts in _read(votes[0].entry)]
    where = votes[0].entry.where
    if len(found) != len(images):
        raise LhcnetError(
            f"{where}: has {len(found):,} rows, but {tables[0].entry.where} {len(images):,}: expected one for an image"
        )
    for number, ((split, _, _), of_image) in enumerate(zip(found, splits, strict=True), start=2):
        if split != of_image:
            raise LhcnetError(
                f"{where}, row {number}: its Usage is not that of {tables[0].entry.where}: expected the rows of "
                "both in the same order"
            )
    kept = np.array([label in CLASSES for *_, label in found])
    labels = np.array([CLASSES.index(label) for *_, label in found if label in CLASSES], np.uint8)
    dropped = Counter(label for *_, label in found if label not in CLASSES)
    listed = ", ".join(f"{count:,} {label}" for label, count in dropped.most_common())
    shape = f"csv with Usage, {'votes' if distribution else 'labels'} of FER+ (left out: {listed or 'none'})"
    given = np.array([_of_classes(counts) for _, counts, label in found if label in CLASSES], np.uint8)
    return Faces(images[kept], labels, splits[kept], shape, "", given if distribution else None)


def _read(entry: ArchiveEntry) -> list[tuple[int, list[int]]]:
    """Split and votes of each row."""
    with decoding_errors(entry.where, "an undamaged CSV"), entry.open_bounded(_LARGEST) as file:
        rows = csv.DictReader(io.StringIO(file.read(_LARGEST).decode("utf-8-sig"), newline=""))
        rows.fieldnames = [name.strip().lower() for name in rows.fieldnames or ()]
        found = []
        for row in rows:
            counts = [row[name] or "" for name in VOTES]
            if row["usage"] not in USAGE or not all(_COUNT.fullmatch(count.strip()) for count in counts):
                raise LhcnetError(f"{entry.where}, row {rows.line_num}: expected Usage and ten whole numbers of votes")
            found.append((USAGE[row["usage"]], [int(count) for count in counts]))
    return found


def _counted(votes: list[int]) -> list[int]:
    """The votes that count: single ones do not."""
    return [0 if n == 1 else n for n in votes]


def _of_classes(votes: list[int]) -> list[int]:
    """The votes that count for each of FER2013's classes."""
    counted = dict(zip(VOTES, _counted(votes), strict=True))
    return [counted[name] for name in CLASSES]


def majority(votes: list[int]) -> str:
    """The class with more than half of the votes that are not single ones, in the order of `VOTES`."""
    counted = _counted(votes)
    most = max(counted)
    return VOTES[counted.index(most)] if most > sum(counted) / 2 else NO_MAJORITY
