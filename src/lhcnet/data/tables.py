"""FER2013 as tables: CSVs with the columns emotion, pixels and, where the file has it, Usage; read line by line."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import IO, cast

import numpy as np

from lhcnet.data.archive import ArchiveEntry, decoding_errors, require_unchanged
from lhcnet.data.fer2013 import CLASSES, SIDE, USAGE, Bytes
from lhcnet.errors import LhcnetError

COLUMNS = ("emotion", "pixels", "usage")

_LABELS = {str(label).encode(): label for label in range(len(CLASSES))}
_VALUES = {str(value).encode() for value in range(256)}
_MAX_CSV, _MAX_LINES, _LONGEST_LINE = 2 << 30, 200_000, 1 << 16  # bytes, lines, bytes
_HEADER_BYTES = 4096
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}  # byte order marks
_SEPARATORS = (b",", b";", b"\t")

Arrays = tuple[Bytes, Bytes, Bytes]
"""Images (N, 48, 48), labels (N,) and splits (N,) in row order."""


@dataclass(frozen=True)
class Table:
    """A file, and how it is written if it is a table. For any other file `columns` are meaningless."""

    entry: ArchiveEntry
    columns: tuple[str, ...]  # lower-case cells of the first line
    separator: bytes
    encoding: str
    newline: str

    @property
    def has_pixels_or_labels(self) -> bool:
        return bool({"emotion", "pixels"} & set(self.columns))

    @property
    def is_labelled(self) -> bool:
        return {"emotion", "pixels"} <= set(self.columns)

    @property
    def may_be_labelled(self) -> bool:
        """Whether it holds images and something else, such as labels under another name."""
        return "pixels" in self.columns and len(self.columns) > 1

    @property
    def has_usage(self) -> bool:
        return set(COLUMNS) <= set(self.columns)

    @property
    def stem(self) -> str:
        """The file's name without folders and endings."""
        return self.entry.name.rpartition("/")[2].partition(".")[0]

    def read(self, *, usage: bool = True) -> Arrays:
        """Images, labels and splits in row order.

        Args:
            usage: whether the column Usage says the split; without it all splits are TRAIN.

        Raises:
            LhcnetError: a column is missing, or a row is wrong; the message names the file and the line.
        """
        columns, where = COLUMNS if usage else COLUMNS[:2], self.entry.where
        if missing := [name for name in columns if name not in self.columns]:
            raise LhcnetError(
                f"{where}, line 1: no column {', '.join(missing)}, expected emotion, pixels and Usage "
                "(or emotion and pixels in train.csv and test.csv side by side; then name their folder)"
            )
        if twice := [name for name in columns if self.columns.count(name) > 1]:
            raise LhcnetError(f"{where}, line 1: column {', '.join(twice)} occurs twice, expected it once")
        with decoding_errors(where, "an undamaged CSV"):
            images, labels, splits = self._parse(columns)
        return images.reshape(-1, SIDE, SIDE), labels, splits

    def rows(self, limit: int) -> Iterator[tuple[str, list[bytes]]]:
        """Where a row is ("FILE, line 2"), and its cells, one for each column; empty lines are left out.

        Raises:
            LhcnetError: there are more than `limit` lines, one is too long or has another number of cells, or the file
                is damaged or is changed meanwhile.
        """
        file = self.entry.where
        with (
            require_unchanged(self.entry.path),
            decoding_errors(file, "an undamaged CSV"),
            self.entry.open_bounded(_MAX_CSV) as raw,
        ):
            for number, line in islice(enumerate(self._lines(raw), start=1), 1, None):
                if number > limit + 1:
                    raise LhcnetError(f"{file} has more than {limit:,} lines, expected a row for each image")
                cells, where = self._cells(line), f"{file}, line {number}"
                if cells == [b""]:
                    continue
                if len(line) == _LONGEST_LINE:
                    raise LhcnetError(f"{where} is longer than {_LONGEST_LINE:,} bytes, expected a row for one image")
                if len(cells) != len(self.columns):
                    listed = ", ".join(self.columns)
                    raise LhcnetError(f"{where}: {len(cells)} cells, expected {len(self.columns)}: {listed}")
                yield where, cells

    def _lines(self, raw: IO[bytes]) -> Iterator[bytes]:
        """The lines as bytes, each at most `_LONGEST_LINE` long."""
        encoding = self.encoding if self.encoding.startswith("utf-16") else "latin-1"
        with io.BufferedReader(cast(io.RawIOBase, raw), 1 << 20) as file:
            if encoding == "latin-1" and self.newline == "\n":
                yield from iter(partial(file.readline, _LONGEST_LINE), b"")
                return
            with io.TextIOWrapper(file, encoding, newline=self.newline) as text:
                for line in iter(partial(text.readline, _LONGEST_LINE), ""):
                    yield line.encode("latin-1", "replace")

    def _cells(self, line: bytes) -> list[bytes]:
        return _cells(line, self.separator)

    def _parse(self, columns: Iterable[str]) -> list[Bytes]:
        """Pixels, labels and splits of all rows, one after the other."""
        emotion, pixels, *usage = (self.columns.index(name) for name in columns)
        images, labels, splits = bytearray(), bytearray(), bytearray()
        for where, cells in self.rows(_MAX_LINES):
            if cells[emotion] not in _LABELS:
                raise LhcnetError(f"{where}: emotion {_shown(cells[emotion])}, expected a whole number 0..6")
            split = _shown(cells[usage[0]]) if usage else "Training"
            if split not in USAGE:
                raise LhcnetError(f"{where}: Usage {split}, expected {', '.join(USAGE)}")
            images += _parse_pixels(cells[pixels], where)
            labels.append(_LABELS[cells[emotion]])
            splits.append(USAGE[split])
        return [np.frombuffer(part, np.uint8) for part in (images, labels, splits)]


def open_table(entry: ArchiveEntry) -> Table:
    """Read the first line of a file: its columns, separator (comma, semicolon, tab), encoding and line ends."""
    with decoding_errors(entry.where, "an undamaged file"), entry.open() as file:
        head = file.read(_HEADER_BYTES)
    encoding = next((name for mark, name in _MARKS.items() if head.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in head[:2]:  # UTF-16 without a byte order mark
        encoding = "utf-16-be" if head[:1] == b"\0" else "utf-16-le"
    if encoding.startswith("utf-16"):
        head = head[: len(head) // 2 * 2].decode(encoding, "replace").encode("latin-1", "replace")
    head = head.removeprefix(b"\xef\xbb\xbf")
    line = head.split(b"\n")[0].rstrip(b"\r")
    newline = "\r" if b"\r" in line else "\n"  # as old Macs and some exports of Excel write
    line = line.split(b"\r")[0]
    options = {separator: _cells(line, separator) for separator in _SEPARATORS}
    # the first separator that yields a column we know; a comma where none does
    separator = next((s for s in _SEPARATORS if {b"emotion", b"pixels"} & {c.lower() for c in options[s]}), b",")
    columns = tuple(cell.decode("ascii", "replace").lower() for cell in options[separator])
    return Table(entry, columns, separator, encoding, newline)


def row_counts(arrays: Arrays, *, splits: bool = True) -> Counter[bytes]:
    """How often each row occurs: a digest of (split, label, pixels), or of (label, pixels) without `splits`."""
    return Counter(
        hashlib.blake2b(bytes((split if splits else 0, label)) + image.tobytes(), digest_size=16).digest()
        for image, label, split in zip(*arrays, strict=True)
    )


def _cells(line: bytes, separator: bytes) -> list[bytes]:
    return [cell.strip(b' \t\r\n"') for cell in line.split(separator)]


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
