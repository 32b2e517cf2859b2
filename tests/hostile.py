"""Hostile inputs for every reader, and what it may answer: the right value, or one LhcnetError that names the file.

An input is a short string of bytes, the decisions (`Choices`) by which a valid input is spoilt. The same bytes spoil it
in the same way everywhere, random bytes spoil it at random, and a fuzzer guided by coverage can learn which bytes lead
to new lines of code. `benchmarks/fuzz.py` runs them by the thousand, under limits of memory and time.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import shutil
import struct
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from lhcnet.data.sources import FOLDERS, TEST, TRAIN, USAGE, Faces, canonical, class_counts, read
from lhcnet.data.store import open_store, write_stores
from lhcnet.errors import LhcnetError

T = TypeVar("T")
MEMORY = 160 << 20  # bytes that one input may add to the peak of the process
GOLDEN = Path(__file__).parent / "golden"


class Wrong(Exception):  # noqa: N818
    """An answer that is neither right nor one clean error."""


class Choices:
    """Decisions read off a string of bytes; all of them are 0, which changes least, once it is used up."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def number(self, below: int) -> int:
        size = ((below - 1).bit_length() + 7) // 8
        part = self.raw(size)
        return int.from_bytes(part, "little") % below

    def pick(self, options: Sequence[T]) -> T:
        return options[self.number(len(options))]

    def one_in(self, n: int) -> bool:
        return self.number(n) == n - 1

    def raw(self, most: int) -> bytes:
        part = self._data[self._at : self._at + most]
        self._at += most
        return part


def damaged(c: Choices, content: bytes) -> bytes:
    """Flipped, overwritten, put in, cut out, cut off or repeated, up to four times; most structure is at the ends."""
    data = bytearray(content)
    for _ in range(1 + c.number(4)):
        if not data:
            break
        near = min(c.number(256), len(data) - 1)
        at = c.pick([near, len(data) - 1 - near, c.number(len(data))])
        kind, length = c.number(6), 1 + c.number(1 << c.pick([1, 4, 8, 13]))
        if kind == 0:
            data[at] ^= 1 << c.number(8)
        elif kind == 1:
            number = c.pick(INTEGERS) % 2**64
            data[at : at + 8] = number.to_bytes(8, c.pick(["little", "big"]))[: len(data) - at]
        elif kind == 2:
            data[at:at] = c.raw(8) or b"\0"
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            del data[at:]
        else:
            data[at:at] = data[at : at + length]
    return bytes(data)


INTEGERS = (0, 1, -1, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64, 10**9, 10**30, 10**400)


def answer(call: Callable[[], T], named: str) -> T | None:
    """The value of a call, or None after an LhcnetError: one line that names what was read."""
    try:
        return call()
    except LhcnetError as error:
        text = str(error)
        if not text.isprintable() or len(text) > 4100 or named not in text:
            raise Wrong(f"not one line that names {named}: {text!r}") from error
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, MemoryError):
                raise Wrong(f"took all memory: {text}") from error
            cause = cause.__cause__ or cause.__context__
        return None


def demand(holds: object, what: str) -> None:
    if not holds:
        raise Wrong(what)


# --- the data set: CSV, zip, folder ------------------------------------------------------------------------


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
_NAMES = {split: name for name, split in USAGE.items()}
LINES = ["emotion,pixels,Usage"] + [
    f"{label},{' '.join(map(str, pixels))},{_NAMES[split]}" for split, label, pixels in ROWS
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


def spoilt_table(c: Choices, lines: list[str]) -> bytes:
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


def plainest(content: bytes) -> list[tuple[int, int, bytes]]:
    """The rows of a CSV by the plainest reader; any exception means that there is something wrong with it."""
    header, *lines = content.removeprefix(b"\xef\xbb\xbf").decode("latin-1").split("\n")
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
        content = spoilt_table(c, lines)
        path = folder / "in" / "fer.csv"
        path.write_bytes(content)
        faces = answer(lambda: read(path), "fer.csv")
        if faces is not None and faces.digest != VALID.digest:
            check_faces(faces, same=False)
            demand(faces.digest == faces_of(plainest(content)).digest, "other rows than the plainest reader's")
        return faces is not None

    return csv


def competition(c: Choices, folder: Path) -> bool:
    parts = {"train": columns(LINES[:8], (0, 1)), "test": columns([LINES[0], *LINES[8:]], (0, 1))}
    spoilt = c.pick(list(parts))
    contents = {name: "\n".join(lines).encode() for name, lines in parts.items()}
    # a class needs two images in train, for one becomes validation
    contents["train"] += b"\n" + "\n".join(parts["train"][1:]).encode()
    contents[spoilt] = spoilt_table(c, contents[spoilt].decode().split("\n"))
    for name, content in contents.items():
        (folder / "in" / f"{name}.csv").write_bytes(content)
    faces = answer(lambda: read(folder / "in"), str(folder / "in"))
    if faces is not None and faces.shape == "csv with Usage":  # a cell of the header may have become Usage
        return check_faces(faces, same=False)
    if faces is not None:
        check_faces(faces, same=False)
        for name, rows in (("train", faces.splits != TEST), ("test", faces.splits == TEST)):
            found = sorted(zip(faces.labels[rows].tolist(), map(bytes, faces.images[rows]), strict=True))
            expected = sorted(row[1:] for row in plainest(contents[name]))
            demand(found == expected, f"other rows of {name}.csv than the plainest reader's")
    return faces is not None


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


@cache
def zeros() -> bytes:
    """A quarter of a gigabyte of zeros, deflated: 260 kB."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush()


def spoilt_picture(c: Choices, pixels: bytes) -> tuple[bytes, bool]:
    """(an image file, whether it can only be read as those pixels or not at all)."""
    image = Image.frombytes("L", (48, 48), pixels)
    png = encoded(image)
    kind = c.number(12)
    if kind == 0:
        return damaged(c, png), True  # every part of a PNG has a checksum
    if kind == 1:
        return encoded(image.convert(c.pick(["RGB", "RGBA", "P", "LA", "L"]))), True
    if kind == 2:
        return damaged(c, encoded(image.convert(c.pick(["RGB", "LA"])))), True
    if kind == 3:
        return encoded(image, "JPEG"), False
    if kind == 4:
        return damaged(c, encoded(image.convert(c.pick(["L", "RGB"])), "JPEG")), False
    if kind == 5:
        width, height = (c.pick([1, 47, 49, 10_000, 20_000, 65_535, 2**31 - 1, 2**32 - 1]) for _ in range(2))
        depth, colour, interlace = c.pick([1, 2, 8, 16, 99]), c.pick([0, 2, 3, 4, 6, 99]), c.number(3)
        head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
        return png[:8] + chunk(b"IHDR", head) + png[33:], True
    if kind == 6:
        extra = chunk(
            c.pick([b"iCCP", b"zTXt", b"iTXt", b"tEXt", b"acTL", b"fcTL", b"gAMA", b"tRNS", b"PLTE", b"eXIf"]),
            c.pick([b"", b"x\0\0", b"x\0\0" + zeros(), c.raw(16), b"\xff" * 100]),
        )
        return png[:33] + extra + png[33:], True
    if kind == 7:
        return png[:33] + chunk(b"IDAT", zeros()) + c.pick([b"", png[-12:]]), False
    if kind == 8:
        jpeg = bytearray(encoded(image, "JPEG"))
        at = jpeg.index(b"\xff\xc0") + 5
        jpeg[at : at + 4] = struct.pack(">HH", *(c.pick([0, 1, 49, 10_000, 65_535]) for _ in range(2)))
        return bytes(jpeg), False
    if kind == 9:
        return encoded(image, c.pick(["GIF", "BMP", "TIFF", "PPM", "ICO"])), True
    if kind == 10:
        return c.pick([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"\xff\xd8\xff", c.raw(40), b"PK\x03\x04"]), True
    return png, True


def picture_files() -> dict[str, bytes]:
    """ROWS as PNGs by name, the split in the file names."""
    return {
        f"{'test' if split else 'train'}/{FOLDERS[label]}/{_NAMES[split]}_{label}.png": encoded(
            Image.frombytes("L", (48, 48), pixels)
        )
        for split, label, pixels in ROWS
    }


PICTURES = picture_files()
PIXELS = dict(zip(PICTURES, (row[2] for row in ROWS), strict=True))
PATHS = (
    "../x.png", "/etc/x.png", "C:/x.png", "..\\x.png", "train\\angry\\Training_9.png", "train/angry/a\nb.png",
    "a\nb.csv",
    "train/angry/Training_\x1b[2J.png", "train/angry/../../../x.png", "train/angry/" + "x" * 200 + ".png", ".", "train",
    "train/angry/.png", "train/ANGRY/PublicTest_1.png", "test/angry/Training_1.png", "test/angry/im7.png",
    "im\u0663.png",
    "validation/sad/x.png", "__MACOSX/train/angry/._x.png", "train/angry/deep/x.png", "x/train/angry/Training_1.png",
    "fer2013.csv", "train.csv", "inner.zip", "train/sad/.hidden.png", "./train/sad/Training_8.png",
)  # fmt: skip


def spoilt_zip(c: Choices) -> tuple[bytes, bool]:
    """(a zip, whether it can only be read as ROWS or not at all)."""
    same = True
    files = dict(PICTURES) if c.number(3) else {"fer2013.csv": "\n".join(LINES).encode()}
    entries = [[zipfile.ZipInfo(name), content] for name, content in files.items()]
    for _ in range(c.number(3)):
        entry, kind = c.pick(entries), c.number(8)
        name = entry[0].filename
        if kind == 0:
            entry[0], same = zipfile.ZipInfo(c.pick(PATHS)), False
        elif kind == 1:
            entries.insert(c.number(len(entries)), [zipfile.ZipInfo(c.pick(PATHS)), c.pick(entries)[1]])
            same = False
        elif kind == 2:
            entries.append([zipfile.ZipInfo(name), c.pick(entries)[1]])
        elif kind == 3:
            entry[0].external_attr = c.pick([0o120777, 0o040755, 0o010644, 0]) << 16
        elif kind == 4:
            entry[0].compress_type = c.pick([zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
        elif kind == 5 and name in PIXELS:
            entry[1], faithful = spoilt_picture(c, PIXELS[name])
            same = same and faithful
        elif kind == 6:
            for other in entries:
                other[0].filename = c.pick(["./", "archive/", "a/b/c/"]) + other[0].filename
        elif kind == 7:
            entry[0].extra = c.pick([b"\x01\x00\x10\x00" + b"\xff" * 16, b"up\x09\x00\x01", b"\0" * 3])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for info, content in entries:
            archive.writestr(info, content)
        if c.one_in(16):
            archive.comment = c.pick([b"x" * 65535, b"PK\x05\x06" + b"\xff" * 18, b"PK\x06\x07"])
    data = bytearray(buffer.getvalue())
    if c.one_in(3):  # a field of a header: those of a file inside, of its place in the directory, or of the end
        signature, fields = c.pick([
            (b"PK\x03\x04", ((4, 2), (6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2))),
            (b"PK\x01\x02", ((6, 2), (8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (34, 2), (38, 4),
                              (42, 4))),
            (b"PK\x05\x06", ((4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2))),
        ])  # fmt: skip
        places = [i for i in range(len(data)) if data.startswith(signature, i)] if len(data) < 20_000 else []
        places = places or [data.index(signature)]
        (offset, size), start = c.pick(fields), c.pick(places)
        value = c.pick([*INTEGERS, c.number(1000), 8, 9, 12, 14, 95, 99])
        data[start + offset : start + offset + size] = (value % 256**size).to_bytes(size, "little")
    if c.one_in(6):
        data = bytearray(damaged(c, bytes(data)))
    return bytes(data), same


def deflate_bomb(c: Choices) -> bytes:
    """A zip whose image claims a thousand bytes and inflates to a quarter of a gigabyte."""
    name = next(iter(PICTURES))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for other, content in PICTURES.items():
            archive.writestr(other, zeros() if other == name else content)
    data = bytearray(buffer.getvalue())
    claimed = struct.pack("<I", c.pick([1000, 1 << 20, 2000]))
    for signature, method, size in ((b"PK\x03\x04", 8, 22), (b"PK\x01\x02", 10, 24)):
        start = data.index(signature)
        data[start + method : start + method + 2] = struct.pack("<H", zipfile.ZIP_DEFLATED)
        data[start + size : start + size + 4] = claimed
    return bytes(data)


def archive(c: Choices, folder: Path) -> bool:
    data, same = (deflate_bomb(c), True) if c.one_in(200) else spoilt_zip(c)
    path = folder / "in" / "fer.zip"
    path.write_bytes(data)
    return check_faces(answer(lambda: read(path), "fer.zip"), same=same)


def pictures(c: Choices, folder: Path) -> bool:
    files: dict[str, bytes] = dict(PICTURES)
    same = True
    for _ in range(c.number(3)):
        name, kind = c.pick(list(PICTURES)), c.number(4)
        if kind < 3:
            files[name], faithful = spoilt_picture(c, PIXELS[name])
            same = same and faithful
        else:
            path = c.pick([path for path in PATHS if not path.startswith(("/", "..", ".")) and "/.." not in path])
            if path not in ("train", "."):
                files[path], same = c.pick([b"", b"emotion,pixels\n", files[name]]), False
    source = folder / "in"
    for name, content in files.items():
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    if c.one_in(8):
        at = source / c.pick(["train/angry/Training_x.png", "x.csv", "train/more"])
        kind = c.number(6)
        if kind == 0:
            os.mkfifo(at)
        elif kind == 5:
            at.mkdir()
        else:
            target = c.pick(["/dev/zero", "/etc/passwd", str(source), "/nowhere", "/proc/self/mem", "/proc/self/maps"])
            at.symlink_to(target)
        same = False
    return check_faces(answer(lambda: read(source), str(source)), same=same)


def prepared(c: Choices, folder: Path) -> bool:
    """The whole step: complete stores and report, or nothing at all."""
    from lhcnet import steps
    from lhcnet.config import Data

    data, name = (spoilt_zip(c)[0], "fer.zip") if c.number(2) else (spoilt_table(c, LINES), "fer.csv")
    source, out = folder / "in" / name, folder / "out"
    source.write_bytes(data)
    targets = (out / "trainval", out / "test", out / "report.json")
    found = answer(lambda: steps.prepare(*targets, data=Data(source=str(source))), name)
    written = sorted(path.name for path in out.iterdir())
    demand(written == (["report.json", "test", "trainval"] if found else []), f"left {written}")
    if found:
        demand(open_store(targets[0]).digest == open_store(targets[1]).digest == found["digest"], "stores differ")
    return found is not None


# --- stores ------------------------------------------------------------------------------------------------


@cache
def store_files() -> dict[str, bytes]:
    work = Path(tempfile.gettempdir(), f"hostile-store-{os.getpid()}")
    write_stores(VALID, work / "trainval", work / "test")
    files = {path.name: path.read_bytes() for path in (work / "trainval").iterdir()}
    shutil.rmtree(work)
    return files


def spoilt_json(c: Choices, content: bytes) -> bytes:
    """A JSON object with a value replaced, taken away or added; or text that is no such thing."""
    if c.one_in(8):
        return c.pick([
            b"", b"[]", b"null", b"NaN", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 100_000, b"\xff\xfe", b'"\\ud800"',
            b"{}" * 9,
        ])  # fmt: skip
    if c.one_in(4):
        return damaged(c, content)
    try:
        values: Any = json.loads(content)
    except (ValueError, RecursionError):  # spoilt before
        return content
    if not values or not isinstance(values, dict):
        return content
    for _ in range(1 + c.number(2)):
        place: Any = values
        key: Any = c.pick(list(place))
        while isinstance(place[key], dict | list) and place[key] and c.number(4):
            place = place[key]
            key = c.pick(list(place) if isinstance(place, dict) else range(len(place)))
        kind = c.number(4)
        if kind == 0 and isinstance(place, dict) and len(place) > 1:
            del place[key]
        elif kind == 1 and isinstance(place, dict):
            place[c.pick(["", "a\nb", "__class__", "x" * 9999, "\ud800"])] = c.pick(JSON_VALUES)
        elif kind == 2 and isinstance(place[key], int | float):
            place[key] += c.pick([1, -1, 0.5, 10**9])
        else:
            place[key] = c.pick([*JSON_VALUES, *INTEGERS])
    return json.dumps(values).encode()


JSON_VALUES = (
    None, True, [], {}, "", "x\ny\x1b[2J", "../../../etc/passwd", "x" * 20_000, 0.5, float("nan"), float("inf"), 1e308,
    [[1] * 9] * 9, [1, 1, 1, 1], [10**9] * 4, [10**6] * 4, {"a": {"b": None}}, "\ud800",
)  # fmt: skip


def spoilt_array(c: Choices, content: bytes) -> bytes:
    """A .npy with another header, or damaged."""
    if c.one_in(2):
        return damaged(c, content)
    rest = content[128:]
    shape = c.pick(
        ["(14, 48, 48)", "(1000000000, 48, 48)", "(-1, 48, 48)", "(14,)", "()", "(2**99,)", "(0, 48, 48)", "14"]
    )
    kind = c.pick(["|u1", "<f8", "|O", "|V999999999", "<U99", "|i1", "[('a', '|u1')]", "|b1"])
    order = c.pick(["False", "True", "[]", "__import__('os')"])
    head = f"{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + rest


def store(c: Choices, folder: Path) -> bool:
    from lhcnet.data.sources import content_digest

    files = dict(store_files())
    for _ in range(c.number(3)):
        name = c.pick(list(files))
        files[name] = spoilt_json(c, files[name]) if name == "store.json" else spoilt_array(c, files[name])
    if c.one_in(3):  # a forger who knows about the digest
        try:
            arrays = [np.load(io.BytesIO(files[f"{name}.npy"])) for name in ("images", "labels", "splits")]
            meta = json.loads(files["store.json"]) | {"own_digest": content_digest(*arrays)}
            files["store.json"] = json.dumps(meta).encode()
        except Exception:  # not one that can be forged
            pass
    path = folder / "in" / "store"
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content)
    special(c, path)
    found = answer(lambda: open_store(path), str(path))
    if found is None:
        return False
    demand(isinstance(found.digest, str), "no digest")
    for split, code in (("train", TRAIN), ("validation", 1)):
        if split in found.meta["splits"]:
            images, labels = found.split(split)
            demand(images.shape == (len(labels), 48, 48) and images.dtype == labels.dtype == np.uint8, "shapes")
            demand(labels.max(initial=0) < 7 and len(labels) == (found.splits == code).sum(), "labels")
    return True


def special(c: Choices, path: Path) -> bool:
    """Now and then a file that is none: a pipe, a device, a folder, a link into nowhere; or one that is missing."""
    if not c.one_in(24):
        return False
    file = path / c.pick(sorted(p.name for p in path.iterdir()))
    file.unlink()
    kind = c.number(4)
    if kind == 0:
        os.mkfifo(file)
    elif kind == 1:
        file.mkdir()
    elif kind == 2:
        file.symlink_to(c.pick(["/dev/zero", "/nowhere", file.name, "/proc/self/mem"]))
    return True


# --- settings ----------------------------------------------------------------------------------------------

SETTINGS = """\
profile: demo
data: {source: data/raw/faces.zip, split_seed: 3}
network:
  input_size: 32
  widths: [4, 4, 8, 8]
  dropout: 0.4
  weights: none
stage1: {epochs: 3, learning_rate: 1e-4, augmentation: {rotation: 30.0, flip: true}}
seeds: {a: [0, 1], b: 0, c: [1, 2]}
variants:
  one: &one
  - &row {heads: 1, d: 3}
  - *row
  - *row
  - {heads: 1, d: 3, split: grid, norm: both}
  - {attention: se}
  two: *one
standalone: {variant: one}
"""
FRAGMENTS = (
    "", "~", "[]", "{}", "-1", "0", "1e400", "1e-4", ".nan", ".inf", "0x" + "f" * 6000, "9" * 5000, "1000000000", "0o7",
    "yes", "'",
    '"\\0\\x1b[2J\\n"', "a: b: c", "- x", "? [a, b]", "*row", "*one", "&row x", "&row &row", "*nowhere", "<<: *one",
    "2001-12-14t21:59:43.10-05:00",
    "!!python/object/apply:os.system ['touch canary']", "!!python/name:os.system", "!!int ''", "!!float ''",
    "!!timestamp x",
    "!!bool x", "!!binary x", "!!set {a, b}", "!!omap [a: 1]", "!!null 1", "!x y", "! ", "!!merge x", "|", ">-\n x",
    "%YAML 1.1", "%YAML 9.9",
    "---", "...", "# c", "\t", "\x85", "\ufeff", "@", "`", "{a: 1, a: 2}", "[1, 2", "}", "1_000", "190:20:30", "0b",
    "0x", "+", "'\n\n'", "=",
)  # fmt: skip


def bomb(c: Choices) -> str:
    """Small text that stands for something large or deep."""
    n, wide = c.pick([3, 9, 30, 200]), c.pick([2, 9])
    kind = c.number(6)
    if kind == 0:
        return "data: " + "[" * 10 ** c.number(6)
    if kind == 1:
        return "data: " + "{a: " * 10 ** c.number(5)
    if kind == 2:
        return "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * wide)}]\n" for i in range(1, n))
    if kind == 3:
        return "a0: &a0 {x: 1}\n" + "".join(
            f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * wide)}]}}\n" for i in range(1, n)
        )
    if kind == 4:
        return c.pick(["a: &a [*a]", "a: &a {b: *a}", "a: &a {<<: *a}", "&a {*a : 1}", "&a [*a, *a]"])
    return "\n".join("- " * i + "x" for i in range(1, 50)) + "\nx: " + "y" * 10**6


def settings(c: Choices, folder: Path) -> bool:
    from lhcnet.config import Config, load, parse, read_yaml, to_yaml

    lines = SETTINGS.splitlines()
    same = True
    for _ in range(c.number(4)):
        row, kind = c.number(len(lines)), c.number(6)
        head, colon, tail = lines[row].partition(": ")
        same = False
        if kind < 2:
            lines[row] = f"{head}{colon or ': '}{c.pick(FRAGMENTS)}"
        elif kind == 2:
            lines.insert(row, c.pick(FRAGMENTS))
        elif kind == 3:
            del lines[row]
            lines = lines or [""]
        elif kind == 4:
            words = tail.split(" ")
            words[c.number(len(words))] = c.pick(FRAGMENTS)
            lines[row] = f"{head}{colon}{' '.join(words)}"
        else:
            lines[row] = " " * c.number(5) + lines[row].lstrip()
    text = "\n".join(lines)
    if c.one_in(12):
        text, same = c.pick(["", text + "\n"]) + bomb(c), False
    content = text.encode()
    if c.one_in(6):
        content, same = damaged(c, content), False
    path = folder / "in" / "params.yaml"
    path.write_bytes(content)
    same = not special(c, folder / "in") and same
    config = answer(lambda: load(path), "params.yaml")
    if config is None:
        demand(not same, "refused what is right")
        return False
    demand(isinstance(config, Config), "no Config")
    if same or c.one_in(16):
        demand(parse(Config, read_yaml(to_yaml(config), "again"), "again") == config, "not what it says")
    return True


# --- models ------------------------------------------------------------------------------------------------

CANARY = "canary"  # a file that code from an input would leave in the folder


class Payload:
    """Leaves the canary when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder / CANARY),)


@cache
def model_files(kind: str) -> dict[str, bytes]:
    """The files of a model directory with a tiny network: plain, or with modules of several kinds."""
    from lhcnet.config import parse
    from lhcnet.models.saved import Architecture, Epoch, Metrics, ModelInfo, Provenance, save

    rows = [{"heads": 2, "d": 2}, {"heads": 2, "d": 2, "split": "grid"}, {"heads": 1, "d": 2, "norm": "both"}]
    rows += [{"heads": 2, "d": 2, "split": "learnt"}, {"heads": 1, "d": 2, "second_conv": True}]
    values = {"input_size": 32, "depths": [1] * 4, "widths": [2] * 4, "head": [3], "dropout": 0.4, "bn_momentum": 0.1}
    modules = {"plain": None, "modules": rows, "control": rows}[kind]
    architecture = parse(Architecture, values | {"modules": modules, "control": kind == "control"}, "here")
    provenance = Provenance(id="A/seed-0", set="A", stage=4, seed=0, variant=None, data="d" * 64, start="none")
    work = Path(tempfile.gettempdir(), f"hostile-model-{os.getpid()}")
    history = [Epoch(epoch=i, val_accuracy=0.5, val_loss=1.0) for i in range(3)]
    info = ModelInfo(architecture=architecture, provenance=provenance)
    save(work, architecture.build(seed=1), info, Metrics(status="trained", train_loss=1.5), history)
    files = {path.name: path.read_bytes() for path in work.iterdir()}
    shutil.rmtree(work)
    return files


def spoilt_weights(c: Choices, content: bytes, folder: Path) -> bytes:
    kind = c.number(6)
    if kind == 0:
        return damaged(c, content)
    if kind == 1:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr("archive/data.pkl", pickle.dumps(Payload(folder)))
        return c.pick([pickle.dumps(Payload(folder)), buffer.getvalue(), b"", b"\0" * 8, b"\x93NUMPY"])
    size = int.from_bytes(content[:8], "little")
    if kind == 2:
        return (c.pick(INTEGERS) % 2**64).to_bytes(8, "little") + content[8:]
    head = json.loads(content[8 : 8 + size])
    for _ in range(1 + c.number(2)):
        name = c.pick([name for name in head if name != "__metadata__"])
        entry, what = head[name], c.number(7)
        if what == 0:
            entry["dtype"] = c.pick(["F64", "F16", "I32", "U8", "BOOL", "F4", "F8_E8M0", "C64", "X", "", 3, None])
        elif what == 1:
            entry["shape"] = c.pick([[], [0], [1], [-1], [10**9] * 3, [2**62, 4], ["a"], None, [*entry["shape"], 1]])
        elif what == 2:
            entry["data_offsets"] = c.pick([[0, 0], [0, 2**63], [-1, 4], [8, 4], [0], None, [0, len(content)]])
        elif what == 3:
            del head[name]
            head = head or {"x": entry}
        elif what == 4:
            head[c.pick(["x", "a\nb", "", "logits.weight", "x" * 9999])] = entry
        elif what == 5:
            head["__metadata__"] = c.pick([{}, {"a": 1}, None, {"format": "pickle"}, []])
        else:
            other = c.pick([name for name in head if name != "__metadata__"])
            head[name], head[other] = head[other], head[name]
    text = json.dumps(head).encode()
    if c.one_in(8):
        text = c.pick([b"[" * 10**5, text + b" " * 10**5, text[:-1], b"{" + text])
    data = content[8 + size :]
    if c.one_in(4):
        data = np.full(len(data) // 4, c.pick([np.nan, np.inf, 3e38, -1.0]), "<f4").tobytes()
    return len(text).to_bytes(8, "little") + text + data


HISTORY = (
    b"",
    b"epoch\n",
    b"a,b\n1,2\n",
    b"epoch,val_accuracy\n0\n",
    b"epoch,val_accuracy\n0,1,2\n",
    b"epoch,val_accuracy\n1e999,1\n",
    b"\0" * 99,
    b'epoch,val_accuracy\n"' + b"x" * 200_000,
    b"epoch,val_accuracy\n0,0.5\n" * 30_000,
    b"epoch,epoch\n1,2\n",
    b"\xff\n",
    b"epoch,val_accuracy\r1,1\r",
)


def model(c: Choices, folder: Path) -> bool:
    import torch

    from lhcnet.models.saved import open_model

    whole = model_files(c.pick(["plain", "modules", "control"]))
    files = dict(whole)
    for _ in range(c.number(3)):
        name = c.pick(
            ["model.json", "model.safetensors", "model.safetensors", "model.json", "history.csv", "metrics.json"]
        )
        if name == "model.safetensors":
            files[name] = spoilt_weights(c, whole[name], folder)
        elif name == "history.csv":
            files[name] = c.pick([damaged(c, files[name]), c.pick(HISTORY)])
        else:
            files[name] = spoilt_json(c, whole[name])
    if c.one_in(8):
        code = f"import pathlib; pathlib.Path({str(folder / CANARY)!r}).touch()"
        for name in ("pyfunc.py", "__init__.py", "sitecustomize.py", "lhcnet.py"):
            files[name] = code.encode()
        files["MLmodel"] = b"flavors: {python_function: {loader_module: pyfunc, code: .}}"
        files["pytorch_model.bin"] = pickle.dumps(Payload(folder))
    path = folder / "in" / "model"
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content)
    special(c, path)
    saved = answer(lambda: open_model(path), str(path))
    network = answer(saved.network, str(path)) if saved else None
    if network is None:
        return False
    state = network.state_dict()
    demand(not network.training and all(t.isfinite().all() for t in state.values()), "weights")
    demand(all(t.device.type == "cpu" for t in (*network.parameters(), *network.buffers())), "not in memory")
    size = network.input_size
    with torch.inference_mode():
        logits = network(torch.full((1, 3, size, size), 100.0))
    demand(logits.shape == (1, 7), "logits")
    return True


@cache
def keras_file() -> tuple[Any, bytes]:
    """(a network, the HDF5 file of its backbone as Keras lays it out)."""
    import h5py

    from lhcnet.models.keras_weights import NORM
    from lhcnet.models.lhcnet import build
    from lhcnet.models.weights import LAYERS

    network = build(input_size=32, widths=(1, 1, 1, 1), head=(2,), seed=0)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for key, tensor in network.state_dict().items():
            path, _, leaf = key.rpartition(".")
            if path in LAYERS and leaf != "num_batches_tracked":
                conv = tensor.dim() == 4
                array = tensor.permute(2, 3, 1, 0).numpy() if conv else tensor.numpy()
                file[f"{LAYERS[path]}/{LAYERS[path]}/{'kernel' if conv else NORM[leaf]}:0"] = array
    return network, buffer.getvalue()


def spoilt_hdf5(c: Choices, path: Path) -> None:
    """Change one thing of the file by HDF5's own means."""
    import h5py

    with h5py.File(path, "r+") as file:
        layer = c.pick(list(file))
        group = file[f"{layer}/{layer}"]
        name = c.pick(list(group))
        array, kind = group[name][...], c.number(12)
        if kind == 0:
            del group[name]
            return
        if kind == 1:
            file[c.pick(["extra/kernel:0", "x", "a\nb/c", "conv0/other", "model_weights/x", "\u202e/x"])] = array
            return
        del group[name]
        if kind == 2:
            group[name] = array.astype(c.pick(["f8", "f2", "i4", "u1", "c8", "S4", "bool"]))
        elif kind == 3:
            group[name] = c.pick([array[None], array * np.nan, array * np.inf, array.ravel(), array[:0]])
        elif kind == 4:
            group.create_dataset(name, (10**6, 10**7), "f4", chunks=(1, 1024))
        elif kind == 5:
            chunks = tuple(c.pick([1, 1000, 20_000]) for _ in array.shape)
            try:
                group.create_dataset(name, array.shape, "f4", chunks=chunks, maxshape=(None,) * array.ndim)
            except ValueError:  # more than 4 GiB in a chunk
                group[name] = array
        elif kind == 6:
            external = [("/dev/zero", 0, h5py.h5f.UNLIMITED)] if c.number(2) else [("/etc/passwd", 0, 10**6)]
            group.create_dataset(name, array.shape, "f4", external=external)
        elif kind == 7:
            group[name] = c.pick(
                [h5py.SoftLink("/nowhere"), h5py.SoftLink(f"/{layer}"), h5py.ExternalLink("/etc/passwd", "/x")]
            )
        elif kind == 8:
            layout = h5py.VirtualLayout(array.shape, "f4")
            layout[...] = h5py.VirtualSource("/etc/passwd", "x", shape=array.shape)
            group.create_virtual_dataset(name, layout)
        elif kind == 9:
            group[name] = file["/"]  # a group within itself
        elif kind == 10:
            group[name] = array
            group[name].attrs["pickle"] = np.void(pickle.dumps(Payload(path.parents[1])))
        else:
            kinds = [h5py.vlen_dtype(np.float32), h5py.string_dtype(), h5py.ref_dtype, np.dtype([("a", "f4")])]
            group.create_dataset(name, array.shape, c.pick(kinds))


def keras(c: Choices, folder: Path) -> bool:
    from lhcnet.models.weights import fill_backbone

    network, content = keras_file()
    path = folder / "in" / "weights.h5"
    path.write_bytes(content)
    if c.one_in(3):
        spoilt_hdf5(c, path)
    elif c.number(32):
        path.write_bytes(damaged(c, content))
    special(c, folder / "in")
    if answer(lambda: fill_backbone(network, path) or True, "weights.h5") is None:
        return False
    demand(all(tensor.isfinite().all() for tensor in network.state_dict().values()), "weights that are not finite")
    return True


@cache
def checkpoint_files() -> tuple[dict[str, bytes], dict[str, Any]]:
    from lhcnet.models.tensorflow_checkpoint import read_checkpoint

    with zipfile.ZipFile(GOLDEN / "published.zip") as file:
        names = [name for name in file.namelist() if name.startswith("LHC_Net/LHC_Net.")]
        files = {name.rpartition("LHC_Net.")[2]: file.read(name) for name in names}
    work = Path(tempfile.gettempdir(), f"hostile-checkpoint-{os.getpid()}")
    work.mkdir()
    for ending, content in files.items():
        (work / f"X.{ending}").write_bytes(content)
    arrays = read_checkpoint(work / "X")
    shutil.rmtree(work)
    return files, arrays


class Anything(int):
    """A checksum that every other one equals."""

    def __ne__(self, _: object) -> bool:
        return False


def checkpoint(c: Choices, folder: Path) -> bool:
    from lhcnet.models import tensorflow_checkpoint as module

    files, expected = checkpoint_files()
    path, honest = folder / "in", c.number(2)
    spoilt = c.pick(list(files))
    for ending, content in files.items():
        (path / f"X.{ending}").write_bytes(damaged(c, content) if ending == spoilt and c.number(32) else content)
    special(c, path)
    checksum = module._checksum
    try:
        if not honest:  # as if whoever damaged it had made the checksums right
            module._checksum = lambda _: Anything()  # type: ignore[assignment]
        arrays = answer(lambda: module.read_checkpoint(module.find_checkpoint(path / "X")), str(path / "X"))
    finally:
        module._checksum = checksum
    if arrays is None:
        return False
    if honest:
        demand(arrays.keys() == expected.keys(), "other variables")
        demand(all(np.array_equal(arrays[name], expected[name]) for name in expected), "other values")
    demand(
        sum(a.nbytes for a in arrays.values()) <= sum(p.stat().st_size for p in path.iterdir()),
        "more than the file has",
    )
    return True


@cache
def served() -> Any:
    from types import SimpleNamespace

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's advice, given once
        from lhcnet.serving.pyfunc import FacialExpressions

    work = Path(tempfile.gettempdir(), f"hostile-served-{os.getpid()}")
    work.mkdir()
    for name, content in model_files("modules").items():
        (work / name).write_bytes(content)
    expressions = FacialExpressions()
    expressions.load_context(SimpleNamespace(artifacts={"model": str(work)}))
    shutil.rmtree(work)
    return expressions


def prediction(c: Choices, _: Path) -> bool:
    import pandas as pd

    images = VALID.images[: 1 + c.number(3)]
    kind = c.number(10)
    sent: Any = images
    if kind == 9:
        shape = c.pick([(0, 48, 48), (48, 48), (1, 47, 48), (2304,), (1, 2304), (1, 1, 48, 48), (), (2, 48, 48, 3)])
        sent = np.zeros(shape)
    elif kind == 1:
        sent = images.astype(
            c.pick(["f4", "f8", "i8", "u4", "f2", "?", "c16", "O", "S3", "U3", "M8[s]", "m8[s]", "V8"])
        )
    elif kind == 2:
        sent = images.astype(float)
        sent[0, c.number(48), c.number(48)] = c.pick([np.nan, np.inf, -1, 256, 0.5, 1e308, -0.0, 255.0])
    elif kind == 3:
        sent = images.tolist()
        sent[0][c.number(48)] = c.pick([[], None, "x", [10**400] * 48, [1] * 47, {}])
    elif kind == 4:
        sent = c.pick(
            [None, "x", b"x", 3, {}, {"images": [1]}, [], [[]], object(), float("nan"), 10**400, [None], ["x"]]
        )
    elif kind == 5:
        sent = pd.DataFrame(images.reshape(len(images), -1).astype(int))
        if c.number(2):
            sent.iloc[0, c.number(2304)] = c.pick([300, -1, 7])
    elif kind == 6:
        sent = images.reshape(len(images), -1)
    elif kind == 7:
        sent = images[:, ::-1, ::-1].astype(c.pick([">i4", "<i4"]))
    elif kind == 8:
        sent = np.ma.masked_array(images, mask=images == 255)
    found = answer(lambda: served().predict(None, sent), "images")
    if found is None:
        return False
    values = found.to_numpy()
    demand(values.shape == (len(sent), 7) and list(found.columns) == list(served().saved.info.classes), "shape")
    demand(np.isfinite(values).all() and np.allclose(values.sum(1), 1, atol=1e-5), "no probabilities")
    return True


TARGETS: Mapping[str, Callable[[Choices, Path], bool]] = {
    "csv": of_csv(LINES),
    "csv-icml": of_csv(
        [LINES[0].replace("emotion,pixels,Usage", "emotion, Usage, pixels"), *columns(LINES[1:], (0, 2, 1))]
    ),
    "competition": competition,
    "zip": archive,
    "folder": pictures,
    "prepare": prepared,
    "store": store,
    "params": settings,
    "model": model,
    "keras": keras,
    "checkpoint": checkpoint,
    "prediction": prediction,
}
"""Each makes an input below folder/in, has it read and checks the answer: True if accepted; raises for a violation."""


def load(target: str, folder: Path) -> None:
    """Run what is not spoilt: the libraries that it loads take memory, which is none of the next input's."""
    for name in ("in", "out"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    zeros()  # takes seconds, which are none of the next input's either
    demand(TARGETS[target](Choices(b""), folder), "refused what is right")


def one(target: str, data: bytes, folder: Path) -> bool:
    """Run an input in an emptied folder; whatever it raises is a violation."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("in", "out"):
        (folder / name).mkdir(parents=True)
    printed = os.fstat(2).st_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        made = Choices(data)
        accepted = TARGETS[target](made, folder)
    # what makes the inputs warns too: zipfile of a name that stands twice, numpy of casts
    warned = [w for w in warned if "hostile" not in w.filename and "Duplicate name" not in str(w.message)]
    demand(not warned, f"warned: {warned[0].message if warned else ''}")
    sys.stderr.flush()
    demand(os.fstat(2).st_size == printed, "printed something")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) << 10
    demand(grown < MEMORY, f"took {grown >> 20} MB")
    demand(sorted(path.name for path in folder.iterdir()) == ["in", "out"], "wrote elsewhere, or ran code of the input")
    demand(target == "prepare" or not any((folder / "out").iterdir()), "wrote something")
    return accepted
