"""Readers for the shapes in which FER2013 is distributed; all give one canonical form.

The shapes are recognised by content, in a file, a folder, a zip or a tar (never extracted under their names):

1. a CSV with the columns emotion, pixels and Usage, in any order (fer2013.csv, icml_face_data.csv), or several such
   tables of different Usages;
2. train.csv and test.csv (emotion, pixels) with or without val.csv, side by side: the file names say the split;
3. images in train/<class>/, test/<class>/ and, where there is one, validation/<class>/; the split is in the names of
   the folders or files, or the files are numbered im<k>;
4. Parquet files with the columns image and label, as data sets on Hugging Face have them;
5. RAF-DB's list of labels with its images;
6. AffectNet's lists or annotations with its images.

Everything wrong with an input is an LhcnetError that names the file, the row and what was expected. An input with more
labelled images than are used is wrong as well.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from lhcnet.data.affectnet import find_annotations, find_lists, read_annotations, read_lists
from lhcnet.data.archive import EXPECTED, ArchiveEntry, open_entries, require_unchanged
from lhcnet.data.fer2013 import (
    CLASSES,
    SPLITS,
    TEST,
    TRAIN,
    USAGE,
    VALIDATION,
    Bytes,
    Faces,
    class_counts,
    mark_official_validation,
    split_of_name,
)
from lhcnet.data.ferplus import is_ferplus, relabel
from lhcnet.data.image_files import IMAGE_ENDINGS, in_class_folder, read_image_files
from lhcnet.data.parquet import ENDING as PARQUET
from lhcnet.data.parquet import read_parquet
from lhcnet.data.rafdb import find_list, read_rafdb
from lhcnet.data.reading import Reading
from lhcnet.data.tables import Arrays, Table, open_table, row_counts
from lhcnet.errors import LhcnetError

FER2013 = Reading()
_OF_DATA = (".csv", ".tsv", ".parquet", ".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")  # ends of names


def read(source: Path, *, validation_fraction: float = 0.125, seed: int = 0, reading: Reading = FER2013) -> Faces:
    """Recognise the shape of a FER2013 copy and read it.

    Args:
        source: a CSV, a folder, a zip or a tar; the data may lie in subfolders of it.
        validation_fraction: share of each training class that becomes validation where the input has no
            official validation split; 0 < share < 1, at least one image a class.
        seed: seed of that cut. The cut depends on the content and the seed, not on the order of files or rows.
        reading: names of the classes, sizes of the images, whose labels.

    Returns:
        the data set in canonical order.

    Raises:
        LhcnetError: the input is missing, damaged, unsafe or not FER2013, or holds labelled images that would not be
            used; the message names the file, the row and what was expected.
    """
    if not 0 < validation_fraction < 1:
        raise LhcnetError(f"validation_fraction is {validation_fraction}, expected a number between 0 and 1")
    try:
        with require_unchanged(source), open_entries(source) as entries:
            faces = _recognise(source, entries, reading)
    except OSError as error:
        raise LhcnetError(f"{source} cannot be read, expected readable files: {error}") from error
    _require_train_and_test(source, faces.splits)
    faces = faces.in_order()
    if VALIDATION in faces.splits:
        faces = replace(faces, validation="official")
    else:
        _cut_validation(faces.labels, faces.splits, validation_fraction, seed)
        faces = replace(faces.in_order(), validation="cut from train")
    for split, label in np.argwhere(class_counts(faces.labels, faces.splits) == 0):
        raise LhcnetError(f"{source} has no image of class {CLASSES[label]} in {SPLITS[split]}, expected at least one")
    return faces


def _require_train_and_test(source: Path, splits: Bytes) -> None:
    found = [SPLITS[split] for split in np.unique(splits)]
    if found and (missing := sorted({"train", "test"} - set(found))):
        raise LhcnetError(
            f"{source} has images of {' and '.join(found)}, but none of {' and '.join(missing)}, expected train and "
            "test: name the folder that holds all tables, or rename validation to test if it is the only other one "
            "(a validation split is then cut from train)"
        )


def _cut_validation(labels: Bytes, splits: Bytes, fraction: float, seed: int) -> None:
    """Mark a share of every training class as validation, in place; one image at least stays in train."""
    rng = np.random.default_rng(seed)
    for label in range(len(CLASSES)):
        rows = np.flatnonzero((splits == TRAIN) & (labels == label))
        count = min(max(round(fraction * len(rows)), 1), max(len(rows) - 1, 0))
        splits[rng.permutation(rows)[:count]] = VALIDATION


def _recognise(source: Path, entries: list[ArchiveEntry], reading: Reading) -> Faces:
    """The data set in the order of the source; without an official split no image is VALIDATION."""
    if reading.ferplus:
        opened = [open_table(entry) for entry in entries if not in_class_folder(entry, reading)]
        with_usage, votes = [t for t in opened if t.has_usage], [t for t in opened if is_ferplus(t)]
        return relabel(source, with_usage, votes, distribution=reading.distribution)
    (images, labels, splits), shape = _read_labelled(source, entries, reading)
    return Faces(images, labels, splits, shape, "")


def _read_labelled(source: Path, entries: list[ArchiveEntry], reading: Reading) -> tuple[Arrays, str]:
    """Images, labels and splits, and the shape's name."""
    if listed := find_list(entries):
        return read_rafdb(source, listed, entries, reading)
    if lists := find_lists(entries):
        return read_lists(source, lists, entries, reading)
    if annotations := find_annotations(entries):
        return read_annotations(source, annotations, entries, reading)
    opened = [open_table(entry) for entry in entries if not in_class_folder(entry, reading)]
    tables = [table for table in opened if table.has_pixels_or_labels]
    names = {table.entry.name for table in tables}
    images = [
        e
        for e in entries
        if e.name not in names and (in_class_folder(e, reading) or e.name.lower().endswith(IMAGE_ENDINGS))
    ]

    if parquet := [entry for entry in entries if entry.name.lower().endswith(PARQUET)]:
        if beside := [*(table.entry for table in tables), *images]:
            raise LhcnetError(
                f"{source} holds {parquet[0].name} and {beside[0].name}, expected one of both: take the other out"
            )
        *parts, shape = read_parquet(source, parquet, reading)
        return (parts[0], parts[1], parts[2]), shape
    with_usage, others = ([t for t in tables if t.has_usage is wanted] for wanted in (True, False))
    if with_usage:
        _refuse_images_beside(source, with_usage[0].entry.name, images, reading)
        arrays = _join_by_usage(source, with_usage, others)
        _refuse_left_out(entries, names, arrays[2])
        return arrays, "csv with Usage"
    if roles := _tables_by_split(source, others):
        _refuse_images_beside(source, others[0].entry.name, images, reading)
        arrays, shape = _join_by_name(source, roles)
        _refuse_left_out(entries, names, arrays[2])
        return arrays, shape
    labelled = [table for table in others if table.may_be_labelled]
    if images:
        if labelled:
            raise LhcnetError(
                f"{labelled[0].entry.where} is a table with labelled images beside image files such as "
                f"{images[0].name}, expected one of both: name it, or take the other out of {source}"
            )
        *parts, shape = read_image_files(source, images, reading)
        _refuse_left_out(entries, names, parts[2])
        return (parts[0], parts[1], parts[2]), shape
    for table in labelled + others:
        table.read()  # raises: a column is missing
    found = ", ".join(entry.name for entry in entries[:3]) or "nothing"
    more = f" and {len(entries) - 3:,} more" if len(entries) > 3 else ""
    raise LhcnetError(f"{source} is no FER2013 (it holds {found}{more}), {EXPECTED}")


def _refuse_left_out(entries: list[ArchiveEntry], tables: set[str], splits: Bytes) -> None:
    """Refuse a file whose name says a split that no image has: val.csv.gz beside train.csv and test.csv.

    Args:
        entries: all files.
        tables: names of those that were read.
        splits: of the images that were read.
    """
    for entry in entries:
        name = entry.name.rpartition("/")[2]
        if entry.name in tables or not name.lower().endswith(_OF_DATA) or not entry.size:
            continue
        split = split_of_name(name.split(".")[0])
        if split is not None and split not in splits:
            raise LhcnetError(
                f"{entry.where} was not read, expected a CSV with emotion and pixels in line 1: unpack it, write it as "
                "the others are, or take it out"
            )


def _refuse_images_beside(source: Path, table: str, images: list[ArchiveEntry], reading: Reading) -> None:
    if beside := [entry for entry in images if in_class_folder(entry, reading)]:
        raise LhcnetError(
            f"{source} holds {table} and {len(beside):,} files in class folders such as "
            f"{beside[0].name}, expected one of both: name it, or take the other out of the folder"
        )


def _join_by_usage(source: Path, tables: list[Table], others: list[Table]) -> Arrays:
    """Join tables whose Usages are disjoint; a table that repeats a part of another one adds nothing.

    Args:
        source: for error messages.
        tables: those with the column Usage, at least one.
        others: tables without it: their labelled images have to be among those of `tables`.
    """
    found = sorted(((table, table.read()) for table in tables), key=lambda one: -len(np.unique(one[1][2])))
    joined: list[tuple[Table, Arrays]] = []
    for table, arrays in found:
        usages = set(np.unique(arrays[2]))
        overlapping = [other for _, other in joined if usages & set(np.unique(other[2]))]
        if (not usages and joined) or any(_repeats(arrays, other) for other in overlapping):
            continue
        if overlapping:
            listed = "; ".join(f"{table.entry.name}: {_usages(arrays)}" for table, arrays in found)
            raise LhcnetError(
                f"{source} has CSVs of different content with the same Usage ({listed}), expected one, or one for each "
                "Usage: name it, or take the others out of the folder"
            )
        joined.append((table, arrays))
    images, labels, splits = (np.concatenate(parts) for parts in zip(*(arrays for _, arrays in joined), strict=True))
    rows = row_counts((images, labels, splits), splits=False) if any(t.is_labelled for t in others) else None
    for table in others:
        if table.may_be_labelled and not table.is_labelled:
            table.read()  # raises: its labels have another name
        if rows is not None and table.is_labelled and not row_counts(table.read(usage=False), splits=False) <= rows:
            known = ", ".join(table.entry.name for table, _ in joined)
            raise LhcnetError(
                f"{table.entry.where} has labelled images that {known} lacks, expected a column Usage in it, or one "
                "table alone: name it, or take the other out of the folder"
            )
    return images, labels, splits


def _repeats(part: Arrays, whole: Arrays) -> bool:
    """Whether two tables hold the same rows, or the first holds fewer Usages and only rows of the second."""
    few, many = row_counts(part), row_counts(whole)
    return few == many or (set(np.unique(part[2])) < set(np.unique(whole[2])) and few <= many)


def _usages(arrays: Arrays) -> str:
    return ", ".join(f"{(arrays[2] == split).sum():,} {name}" for name, split in USAGE.items() if split in arrays[2])


def _tables_by_split(source: Path, tables: list[Table]) -> dict[int, list[Table]]:
    """Tables by the split that their names say; none if train or a second split is not among them."""
    by_split: dict[int, list[Table]] = {}
    for table in tables:
        if (split := split_of_name(table.stem)) is not None:
            by_split.setdefault(split, []).append(table)
    if TRAIN not in by_split or len(by_split) == 1:
        return {}
    private = [table for table in by_split.get(TEST, []) if "private" in table.stem.lower()]
    public = [table for table in by_split.get(TEST, []) if table not in private]
    if private and public and VALIDATION not in by_split:  # test.csv was the competition's PublicTest
        by_split |= {VALIDATION: public, TEST: private}
    unused = [t for t in tables if t.may_be_labelled and not any(t in listed for listed in by_split.values())]
    if unused:
        raise LhcnetError(
            f"{unused[0].entry.where} has images, but its name says no split, expected train.csv, test.csv "
            f"and, where there is one, val.csv: rename it, or take it out of {source}"
        )
    if TEST not in by_split:
        listed = ", ".join(table.entry.name for tables in by_split.values() for table in tables)
        raise LhcnetError(
            f"{source} holds {listed}, but no test.csv, expected train.csv, test.csv and, where there is one, val.csv: "
            "rename val.csv to test.csv if it is the only other one (a validation split is then cut from train)"
        )
    return by_split


def _join_by_name(source: Path, by_split: dict[int, list[Table]]) -> tuple[Arrays, str]:
    parts: list[Arrays] = []
    for split, tables in sorted(by_split.items()):
        (images, labels, _), *others = (table.read(usage=False) for table in tables)
        first = row_counts((images, labels, labels), splits=False)
        if any(row_counts(other, splits=False) != first for other in others):
            listed = ", ".join(table.entry.name for table in tables)
            raise LhcnetError(
                f"{source} has several tables for {SPLITS[split]} ({listed}), expected train.csv, test.csv and, where "
                "there is one, val.csv: rename them (test.csv is PrivateTest, val.csv is PublicTest), or join them"
            )
        parts.append((images, labels, np.full_like(labels, split)))
    images, labels, splits = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    if VALIDATION in by_split:
        return (images, labels, splits), "tables of train, validation and test"
    mark_official_validation(labels, splits)
    return (images, labels, splits), "competition train.csv/test.csv"
