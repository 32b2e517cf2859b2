"""Readers for the four shapes in which FER2013 is distributed; all give one canonical form.

The shapes are recognised by content, in a file, a folder or a zip (never extracted to disk):

1. and 2. a CSV with the columns emotion, pixels and Usage, in any order (fer2013.csv, icml_face_data.csv);
3. images in train/<class>/ and test/<class>/, the split in the file names or numbered im<k>;
4. the competition's train.csv and test.csv (emotion, pixels), side by side.

Everything wrong with an input is an LhcnetError that names the file, the row and what was expected.
"""

import io
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np

from lhcnet.data.archive import EXPECTED, ArchiveEntry, decoding_errors, open_entries, require_unchanged
from lhcnet.data.fer2013 import (
    CLASSES,
    SIDE,
    SPLITS,
    TEST,
    TRAIN,
    USAGE,
    VALIDATION,
    Bytes,
    Faces,
    canonical,
    class_counts,
    content_digest,
    mark_official_validation,
)
from lhcnet.data.image_files import in_class_folder, read_image_files
from lhcnet.errors import LhcnetError

_COLUMNS = ("emotion", "pixels", "usage")
_LABELS = {str(label).encode(): label for label in range(len(CLASSES))}
_VALUES = {str(value).encode() for value in range(256)}

_MAX_CSV, _MAX_LINES, _LONGEST_LINE = 2 << 30, 200_000, 1 << 16  # bytes, lines, bytes


def read(source: Path, *, validation_fraction: float = 0.125, seed: int = 0) -> Faces:
    """Recognise the shape of a FER2013 copy and read it.

    Args:
        source: a CSV, a folder or a zip; the data may lie in subfolders of it.
        validation_fraction: share of each training class that becomes validation where the input has no
            official validation split; 0 < share < 1, at least one image a class.
        seed: seed of that cut. The cut depends on the content and the seed, not on the order of files or rows.

    Returns:
        the data set in canonical order.

    Raises:
        LhcnetError: the input is missing, damaged, unsafe or not FER2013; the message names the file, the row and
            what was expected.
    """
    if not 0 < validation_fraction < 1:
        raise LhcnetError(f"validation_fraction is {validation_fraction}, expected a number between 0 and 1")
    try:
        with require_unchanged(source), open_entries(source) as entries:
            images, labels, splits, shape = _recognise(source, entries)
    except OSError as error:
        raise LhcnetError(f"{source} cannot be read, expected readable files: {error}") from error
    official = VALIDATION in splits
    images, labels, splits = canonical(images, labels, splits)
    if not official:
        _cut_validation(labels, splits, validation_fraction, seed)
        images, labels, splits = canonical(images, labels, splits)
    for split, label in np.argwhere(class_counts(labels, splits) == 0):
        raise LhcnetError(f"{source} has no image of class {CLASSES[label]} in {SPLITS[split]}, expected at least one")
    return Faces(images, labels, splits, shape, "official" if official else "cut from train")


def _cut_validation(labels: Bytes, splits: Bytes, fraction: float, seed: int) -> None:
    """Mark a share of every training class as validation, in place; one image at least stays in train."""
    rng = np.random.default_rng(seed)
    for label in range(len(CLASSES)):
        rows = np.flatnonzero((splits == TRAIN) & (labels == label))
        count = min(max(round(fraction * len(rows)), 1), max(len(rows) - 1, 0))
        splits[rng.permutation(rows)[:count]] = VALIDATION


def _recognise(source: Path, entries: list[ArchiveEntry]) -> tuple[Bytes, Bytes, Bytes, str]:
    """Images, labels, splits and the shape's name; without an official split no image is VALIDATION."""
    headers = {entry.name: _header(entry) for entry in entries if not in_class_folder(entry)}
    tables = {e.name: e for e in entries if {"emotion", "pixels"} & set(headers.get(e.name, ()))}

    complete = [tables[name] for name in tables if set(_COLUMNS) <= set(headers[name])]
    if complete:
        found = [_read_csv(entry, headers[entry.name], _COLUMNS) for entry in complete]
        if len(found) > 1 and len({content_digest(*canonical(*table)) for table in found}) > 1:
            names = ", ".join(entry.name for entry in complete)
            raise LhcnetError(f"{source} holds CSVs of different content ({names}), expected one: name it")
        return *found[0], "csv with Usage"

    for name in tables:
        root, _, file = name.rpartition("/")
        pair = (name, f"{root}/test.csv".lstrip("/"))
        if file == "train.csv" and pair[1] in tables:
            train, test = (_read_csv(tables[name], headers[name], _COLUMNS[:2]) for name in pair)
            images, labels, splits = (np.concatenate(arrays) for arrays in zip(train, test, strict=True))
            splits[len(train[1]) :] = TEST
            mark_official_validation(labels, splits)
            return images, labels, splits, "competition train.csv/test.csv"
    image_files = [e for e in entries if in_class_folder(e) or e.name.lower().endswith((".png", ".jpg", ".jpeg"))]
    if image_files:
        return read_image_files(source, image_files)
    for name in tables:
        _read_csv(tables[name], headers[name], _COLUMNS)  # raises: a column is missing
    raise LhcnetError(f"{source} is no FER2013, {EXPECTED}")


def _cells(line: bytes) -> list[bytes]:
    return [cell.strip(b' \t\r\n"') for cell in line.split(b",")]


def _header(entry: ArchiveEntry) -> list[str]:
    """The lower-case cells of the first line."""
    with decoding_errors(entry.where, "an undamaged file"), entry.open() as file:
        line = file.read(4096).removeprefix(b"\xef\xbb\xbf").split(b"\n")[0]
    return [cell.decode("ascii", "replace").lower() for cell in _cells(line)]


def _read_csv(entry: ArchiveEntry, header: Sequence[str], columns: Sequence[str]) -> tuple[Bytes, Bytes, Bytes]:
    """Images, labels and splits in row order; without the column usage all splits are TRAIN."""
    if missing := [name for name in columns if name not in header]:
        raise LhcnetError(
            f"{entry.where}, line 1: no column {', '.join(missing)}, expected emotion, pixels and Usage "
            "(or emotion and pixels in train.csv and test.csv side by side)"
        )
    if twice := [name for name in columns if header.count(name) > 1]:
        raise LhcnetError(f"{entry.where}, line 1: column {', '.join(twice)} stands twice, expected it once")
    with (
        require_unchanged(entry.path),
        decoding_errors(entry.where, "an undamaged CSV"),
        entry.open_bounded(_MAX_CSV) as raw,
    ):
        file = io.BufferedReader(cast(io.RawIOBase, raw), 1 << 20)
        file.readline(_LONGEST_LINE)
        lines = enumerate(iter(partial(file.readline, _LONGEST_LINE), b""), start=2)
        images, labels, splits = _parse_lines(entry.where, header, columns, islice(lines, _MAX_LINES))
        if next(lines, None) is not None:
            raise LhcnetError(f"{entry.where} has more than {_MAX_LINES:,} lines, expected a row for each image")
    return images.reshape(-1, SIDE, SIDE), labels, splits


def _parse_lines(
    file: str, header: Sequence[str], columns: Sequence[str], lines: Iterable[tuple[int, bytes]]
) -> list[Bytes]:
    """Pixels, labels and splits, one after the other, of numbered lines.

    Args:
        file: its path, for error messages.
        header: names of all columns in their order.
        columns: names of emotion, pixels and, where the file has it, usage.
        lines: (line number, line) of every row.
    """
    emotion, pixels, *usage = (header.index(name) for name in columns)
    images, labels, splits = bytearray(), bytearray(), bytearray()
    for number, line in lines:
        cells = _cells(line)
        if cells == [b""]:
            continue
        where = f"{file}, line {number}"
        if len(line) == _LONGEST_LINE:
            raise LhcnetError(f"{where} is longer than {_LONGEST_LINE:,} bytes, expected 2,304 pixels a row")
        if len(cells) != len(header):
            raise LhcnetError(f"{where}: {len(cells)} cells, expected {len(header)}: {', '.join(header)}")
        if cells[emotion] not in _LABELS:
            raise LhcnetError(f"{where}: emotion {_shown(cells[emotion])}, expected a whole number 0..6")
        split = _shown(cells[usage[0]]) if usage else "Training"
        if split not in USAGE:
            raise LhcnetError(f"{where}: Usage {split}, expected {', '.join(USAGE)}")
        images += _parse_pixels(cells[pixels], where)
        labels.append(_LABELS[cells[emotion]])
        splits.append(USAGE[split])
    return [np.frombuffer(part, np.uint8) for part in (images, labels, splits)]


def _shown(cell: bytes) -> str:
    """A cell as an error message quotes it."""
    return repr(cell[:20])[2:-1] or "(nothing)"


def _parse_pixels(cell: bytes, where: str) -> bytes:
    # Only digits and blanks go to numpy, which would read "1+2" as two numbers; int64 saturates, never wraps.
    if cell and not cell.translate(None, b"0123456789 "):
        values = np.fromstring(cell, np.int64, sep=" ")
        if len(values) == SIDE * SIDE and values.max() <= 255:
            return values.astype(np.uint8).tobytes()
    tokens = cell.split()
    if len(tokens) != SIDE * SIDE:
        raise LhcnetError(f"{where}: {len(tokens):,} pixels, expected 2,304 (48x48)")
    wrong = next((token for token in tokens if token not in _VALUES), cell)
    raise LhcnetError(f"{where}: pixel value {_shown(wrong)}, expected whole numbers 0..255 between blanks")
