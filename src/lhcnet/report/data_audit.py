"""The page of a data audit: figures, and pictures of what was found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lhcnet.data.fer2013 import CLASSES, SPLITS, TEST, VALIDATION
from lhcnet.data.inspection import Inspection
from lhcnet.data.near_duplicates import CORRELATION, HASH_DISTANCE
from lhcnet.report.formatting import Table, frame, percent
from lhcnet.report.page import Chapter, Drawing, page

_SHOWN = 12  # pictures in a row
_ROWS = 3


def data_audit_page(found: Inspection, source: str) -> str:
    """The HTML page of an inspection.

    Args:
        found: the inspection.
        source: the data, for the title.
    """
    figures = found.figures()
    counts = {name: int((found.faces.splits == split).sum()) for split, name in enumerate(SPLITS)}
    near = figures["near_duplicates_in_train"]
    shifted = found.shifts[found.shifts["differs"]]
    notices = [
        f"{near[name]} of {counts[name]} images of {name} ({percent(near[name] / counts[name])} %) show a photograph "
        "that is in train too: a network can remember their labels."
        for name in (SPLITS[VALIDATION], SPLITS[TEST])
        if near[name]
    ]
    notices += [
        f"{row.measure} of {row.split} differs from train (distance {row.distance:.2f}): was this copy blurred, "
        "stretched or mixed?"
        for row in shifted.itertuples()
    ]
    facts = {
        "images": f"{figures['images']:,}",
        "groups of near duplicates": f"{figures['groups']:,} with {figures['images_in_groups']:,} images",
        "groups with several labels": f"{figures['groups_with_several_labels']:,}",
        "blank": f"{sum(figures['blank'].values())}",
        "damaged": f"{sum(figures['damaged'].values())}",
        "digest": figures["digest"][:12],
    }
    chapters = [_duplicates(found), _labels(found), _images(found), _splits(found)]
    return page(f"Data audit of {source}", chapters, facts=facts, notices=notices)


def _duplicates(found: Inspection) -> Chapter:
    figures, splits = found.figures(), found.faces.splits
    rows = [
        {
            "split": SPLITS[split],
            "images": int((splits == split).sum()),
            "exact duplicate in train": figures["exact_duplicates_in_train"][SPLITS[split]],
            "near duplicate in train": figures["near_duplicates_in_train"][SPLITS[split]],
        }
        for split in (VALIDATION, TEST)
    ]
    across = np.flatnonzero((splits[found.pairs.first] != splits[found.pairs.second]) & (found.pairs.correlation < 1))
    across = across[np.argsort(found.pairs.correlation[across])]
    chosen = (
        across[np.linspace(0, len(across) - 1, min(len(across), _SHOWN * _ROWS)).astype(int)] if len(across) else []
    )
    pairs = [(found.pairs.first[k], found.pairs.second[k]) for k in chosen]
    titles = [f"{SPLITS[splits[i]]} / {SPLITS[splits[j]]}" for i, j in pairs]
    return Chapter(
        "Duplicates between splits",
        [
            f"Two images are near duplicates if their perceptual hashes differ in {HASH_DISTANCE} of 64 bits at most, "
            f"and their pixels correlate with {CORRELATION} at least. Exact duplicates are among them.",
            "Setting data.exclude: [leaks] leaves the training images of these pairs out.",
        ],
        [Table("Images of validation and test that train repeats", "", frame(rows))],
        _pictures(found, "Near duplicates in two splits, the least alike first", pairs, titles),
    )


def _labels(found: Inspection) -> Chapter:
    groups = found.contradicting[:: max(1, len(found.contradicting) // (_SHOWN * _ROWS))][: _SHOWN * _ROWS]
    pairs, titles = [], []
    for number in groups:
        members = np.flatnonzero(found.group == number)
        other = members[found.faces.labels[members] != found.faces.labels[members[0]]][0]
        pairs.append((members[0], other))
        titles.append(" / ".join(CLASSES[found.faces.labels[i]] for i in (members[0], other)))
    text = f"{len(found.contradicting)} groups of near duplicates have images with different labels."
    return Chapter("Contradicting labels", [text], [], _pictures(found, "One photograph, two labels", pairs, titles))


def _images(found: Inspection) -> Chapter:
    figures = found.figures()
    rows = [
        {"what": kind, **{f"in {split}": number for split, number in figures[kind].items()}}
        for kind in ("blank", "damaged")
    ]
    bad = np.flatnonzero(found.blank | found.damaged)[: _SHOWN * _ROWS]
    pairs = [(i,) for i in bad]
    titles = [f"{SPLITS[found.faces.splits[i]]}, {CLASSES[found.faces.labels[i]]}" for i in bad]
    return Chapter(
        "Blank and damaged images",
        [
            "Blank: the grey values differ by 3 at most. Damaged: three quarters of the pixels have one grey value. "
            "Setting data.exclude: [blanks] leaves the blank ones out of training."
        ],
        [Table("Images that show no face", "", frame(rows))],
        _pictures(found, "Blank and damaged images", pairs, titles),
    )


def _splits(found: Inspection) -> Chapter:
    columns = {"other": "median of the split", "train": "median of train", "distance": "distance 0..1"}
    table = found.shifts.rename(columns=columns)
    return Chapter(
        "Differences between splits",
        [
            "Brightness is the mean grey value, contrast its standard deviation, sharpness the variance of the "
            "Laplacian. The distance is Kolmogorov-Smirnov's (Cramér's V for the classes); from 0.1 on, with p below "
            "0.001, the splits differ visibly. With thousands of images a small distance has a small p already."
        ],
        [Table("Validation and test against train", "", pd.DataFrame(table))],
    )


def _pictures(
    found: Inspection, title: str, rows: Sequence[tuple[int | NDArray[np.intp], ...]], titles: Sequence[str]
) -> list[Drawing]:
    """Columns of images below each other, with titles; nothing if there are none."""
    if not len(rows):
        return []
    height = len(rows[0])
    lines = -(-len(rows) // _SHOWN)
    figure = Figure(figsize=(12, lines * (height + 0.35)), layout="constrained")
    panels = figure.subplots(lines * height, _SHOWN, squeeze=False)
    for panel in panels.flat:
        panel.set_axis_off()
    for place, (numbers, text) in enumerate(zip(rows, titles, strict=True)):
        line, column = divmod(place, _SHOWN)
        for k, number in enumerate(numbers):
            panel = panels[line * height + k][column]
            panel.imshow(found.faces.images[number], cmap="gray", vmin=0, vmax=255)
            if k == 0:
                panel.set_title(text, fontsize=6)
    return [Drawing(title, "", figure)]
