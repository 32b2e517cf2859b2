"""The data set that all inputs hold before they are altered, and its CSVs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from lhcnet.data.fer2013 import TEST, USAGE, Faces, canonical, class_counts
from lhcnet.data.sources import read
from support.hostile.choices import Choices, answer, damaged, demand


def faces_of(images: Sequence[tuple[int, int, bytes]]) -> Faces:
    """Of (split, label, pixels)."""
    splits, labels = (np.array([row[i] for row in images], np.uint8) for i in range(2))
    pixels = np.frombuffer(b"".join(row[2] for row in images), np.uint8).reshape(-1, 48, 48)
    return Faces(*canonical(pixels, labels, splits), "made here", "official")


# an image of every class in every split: whatever loses one is noticed
ROWS = [
    (split, label, bytes([label * 30, split * 99, 255, 100]).ljust(48 * 48, b"\0"))
    for split in range(3)
    for label in range(7)
]
VALID = faces_of(ROWS)
NAMES = {split: name for name, split in USAGE.items()}
LINES = ["emotion,pixels,Usage"] + [
    f"{label},{' '.join(map(str, pixels))},{NAMES[split]}" for split, label, pixels in ROWS
]
CELLS = (
    "",
    " ",
    '"',
    "7",
    "-1",
    "3.0",
    "nan",
    "1e3",
    "256",
    "\u0661",
    "\0",
    "0x1",
    "9" * 5000,
    "Training",
    "a\tb",
    "\x1b[2J",
)


def columns(lines: list[str], order: Sequence[int]) -> list[str]:
    return [",".join([line.split(",")[i] for i in order]) for line in lines]


def altered_table(c: Choices, lines: list[str]) -> bytes:
    """A CSV with some cells, rows or columns changed, or bytes damaged; now and then an endless one."""
    lines = list(lines)
    for _ in range(c.number(4)):
        row, kind = c.number(len(lines)), c.number(9)
        cells = lines[row].split(",")
        at = c.number(len(cells))
        if kind == 0:
            cells[at] = c.pick(CELLS)
        elif kind == 1:
            del cells[at]
        elif kind == 2:
            cells.insert(c.number(len(cells) + 1), cells[at])
        elif kind == 3:
            cells[at] = f' "{cells[at]}"\t'
        elif kind == 4:
            values = cells[at].split(" ")
            values[c.number(len(values))] = c.pick(CELLS)
            cells[at] = " ".join(values)
        lines[row] = ",".join(cells)
        if kind == 5:
            lines.insert(row, c.pick(["", "  ", '""', lines[row]]))
        elif kind == 6:
            lines[1:] = lines[:0:-1]
        elif kind == 7 and len({line.count(",") for line in lines}) == 1:
            width = lines[0].count(",") + 1
            shift = c.number(width)
            lines = columns(lines, [(i + shift) % width for i in range(width)])
    content = c.pick(["", "\ufeff"]).encode() + c.pick(["\n", "\r\n", "\n", "\r"]).join(lines).encode()
    if c.one_in(4):
        content = damaged(c, content)
    if c.one_in(256):
        content = c.pick([content + b"\n" * 10**6, b"emotion," * 10**5 + content, content + b"\n0," + b"0 " * 10**6])
    return content


def reference_rows(content: bytes) -> list[tuple[int, int, bytes]]:
    """The rows of a CSV by a simple reference reader; any exception means that there is something wrong with it."""
    written = content.removeprefix(b"\xef\xbb\xbf").decode("latin-1")
    newline = "\r" if "\r" in written.split("\n")[0].rstrip("\r") else "\n"
    header, *lines = written.split(newline)
    names = [cell.strip(' \t\r\n"').lower() for cell in header.split(",")]
    rows = []
    for line in lines:
        if line.strip(' \t\r\n"'):
            cells = list(zip(names, (cell.strip(' \t\r\n"') for cell in line.split(",")), strict=True))
            row = dict(cells)
            if any((name, cell) in cells and row[name] != cell for name, cell in cells):
                raise ValueError("two cells for one column")
            pixels = bytes(map(int, row["pixels"].split()))
            if len(pixels) != 48 * 48:
                raise ValueError("not 48x48")
            rows.append((USAGE[row.get("usage", "Training")], int(row["emotion"]), pixels))
    return rows


def check_faces(faces: Faces | None, *, same: bool) -> bool:
    """Whether there are any; if so they are a data set, and that of ROWS where nothing else was said."""
    if faces is None:
        return False
    n = len(faces.labels)
    demand(faces.images.shape == (n, 48, 48) and faces.splits.shape == (n,), "shapes")
    demand(all(a.dtype == np.uint8 for a in (faces.images, faces.labels, faces.splits)), "dtypes")
    demand(faces.labels.max() < 7 and (class_counts(faces.labels, faces.splits) > 0).all(), "classes")
    demand(not same or faces.digest == VALID.digest, "accepted as something else than it is")
    return True


def of_csv(lines: list[str]) -> Callable[[Choices, Path], bool]:
    def csv(c: Choices, folder: Path) -> bool:
        content = altered_table(c, lines)
        path = folder / "in" / "fer.csv"
        path.write_bytes(content)
        faces = answer(lambda: read(path), "fer.csv")
        if faces is not None and faces.digest != VALID.digest:
            check_faces(faces, same=False)
            demand(faces.digest == faces_of(reference_rows(content)).digest, "other rows than the reference reader's")
        return faces is not None

    return csv


def competition(c: Choices, folder: Path) -> bool:
    parts = {"train": columns(LINES[:8], (0, 1)), "test": columns([LINES[0], *LINES[8:]], (0, 1))}
    altered = c.pick(list(parts))
    contents = {name: "\n".join(lines).encode() for name, lines in parts.items()}
    # a class needs two images in train, for one becomes validation
    contents["train"] += b"\n" + "\n".join(parts["train"][1:]).encode()
    contents[altered] = altered_table(c, contents[altered].decode().split("\n"))
    for name, content in contents.items():
        (folder / "in" / f"{name}.csv").write_bytes(content)
    faces = answer(lambda: read(folder / "in"), str(folder / "in"))
    if faces is not None and faces.shape == "csv with Usage":  # a cell of the header may have become Usage
        return check_faces(faces, same=False)
    if faces is not None:
        check_faces(faces, same=False)
        for name, rows in (("train", faces.splits != TEST), ("test", faces.splits == TEST)):
            found = sorted(zip(faces.labels[rows].tolist(), map(bytes, faces.images[rows]), strict=True))
            expected = sorted(row[1:] for row in reference_rows(contents[name]))
            demand(found == expected, f"other rows of {name}.csv than the reference reader's")
    return faces is not None
