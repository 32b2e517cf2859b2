"""FER2013 in the four shapes in which it reaches users, read into one canonical form.

The shapes are recognised by content, in a file, a folder or a zip (never extracted to disk):

1. and 2. a CSV with the columns emotion, pixels and Usage, in any order (fer2013.csv, icml_face_data.csv);
3. images in train/<class>/ and test/<class>/, the split in the file names or numbered im<k>;
4. the competition's train.csv and test.csv (emotion, pixels), side by side.

Everything wrong with an input is an LhcnetError that names the file, the row and what was expected.
"""

import hashlib
import io
import os
import re
import stat
import warnings
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import IO, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lhcnet.errors import LhcnetError

Bytes = NDArray[np.uint8]
_T = TypeVar("_T")
_U = TypeVar("_U")

CLASSES = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
SPLITS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)
SIDE = 48

# Images per split (rows) and class (columns) of the complete data set.
OFFICIAL_COUNTS = np.array([
    [3995, 436, 4097, 7215, 4830, 3171, 4965],
    [467, 56, 496, 895, 653, 415, 607],
    [491, 55, 528, 879, 594, 416, 626],
])  # fmt: skip

USAGE = {"Training": TRAIN, "PublicTest": VALIDATION, "PrivateTest": TEST}
FOLDERS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")  # in the order of CLASSES
_FOLDERS = {name: label for names in (FOLDERS, CLASSES) for label, name in enumerate(names)}
_FOLDERS |= {"disgusted": 1, "fearful": 2, "surprised": 5}
_COLUMNS = ("emotion", "pixels", "usage")
_LABELS = {str(label).encode(): label for label in range(len(CLASSES))}
_VALUES = {str(value).encode() for value in range(256)}

_MAX_CSV, _MAX_IMAGE, _MAX_LINE = 2 << 30, 1 << 20, 1 << 16  # bytes; the first also of all that a zip holds
_MAX_MEMBERS = 200_000  # files, and lines of a CSV
_BLOCK, _AHEAD = 256, 3  # images decoded at once, such blocks waiting
_EXPECTED = "expected FER2013 as CSV, train.csv with test.csv, or train/<class>/ and test/<class>/ (folder or zip)"


@dataclass(frozen=True, eq=False)
class Faces:
    """A data set in memory, in canonical order: sorted by (split, label, pixel bytes).

    The order depends on the content alone, so the CSV and the image form of the same pixels are equal.
    """

    images: Bytes  # (N, 48, 48), grey 0..255
    labels: Bytes  # (N,), index into CLASSES
    splits: Bytes  # (N,), TRAIN, VALIDATION or TEST
    shape: str  # which of the shapes was recognised, for people
    validation: str  # "official" or "cut from train"

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of images, labels and splits."""
        return content_digest(self.images, self.labels, self.splits)


def content_digest(images: Bytes, labels: Bytes, splits: Bytes) -> str:
    """SHA-256 (hex) over the bytes of images (N, 48, 48), labels (N,) and splits (N,), in this order."""
    sha = hashlib.sha256()
    for array in (images, labels, splits):
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()


def class_counts(labels: Bytes, splits: Bytes) -> NDArray[np.intp]:
    """Images per split and class, (3, 7)."""
    return np.bincount(splits * len(CLASSES) + labels, minlength=21).reshape(len(SPLITS), len(CLASSES))


def canonical(images: Bytes, labels: Bytes, splits: Bytes) -> tuple[Bytes, Bytes, Bytes]:
    """Sort images (N, 48, 48), labels (N,) and splits (N,) by (split, label, pixel bytes)."""
    keys = [bytes((s, c)) + image.tobytes() for image, c, s in zip(images, labels, splits, strict=True)]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return images[order], labels[order], splits[order]


def read(source: Path, *, validation_fraction: float = 0.125, seed: int = 0) -> Faces:
    """Recognise and read FER2013.

    Args:
        source: a CSV, a folder or a zip; what is wanted may lie below enclosing folders.
        validation_fraction: share of each training class that becomes validation where the input has no
            official validation split; 0 < share < 1, at least one image a class.
        seed: of that cut. The cut depends on the content and the seed, not on the order of files or rows.

    Raises:
        LhcnetError: the input is missing, damaged, unsafe or no FER2013; the message says where and why.
    """
    if not 0 < validation_fraction < 1:
        raise LhcnetError(f"validation_fraction is {validation_fraction}, expected a number between 0 and 1")
    try:
        with _unchanged(source), _members(source) as members:
            images, labels, splits, shape = _recognise(source, members)
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


@contextmanager
def _unchanged(path: Path) -> Iterator[None]:
    """Raise if a file is written to or replaced while the block reads it, or files are moved in or out of a folder."""

    def state() -> tuple[int, ...]:
        status = path.stat()
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    before = state() if path.exists() else ()
    yield
    if state() != before:
        raise LhcnetError(f"{path} was changed while it was read, expected it to stay as it is")


def _cut_validation(labels: Bytes, splits: Bytes, fraction: float, seed: int) -> None:
    """Mark a share of every training class as validation, in place; one image at least stays in train."""
    rng = np.random.default_rng(seed)
    for label in range(len(CLASSES)):
        rows = np.flatnonzero((splits == TRAIN) & (labels == label))
        count = min(max(round(fraction * len(rows)), 1), max(len(rows) - 1, 0))
        splits[rng.permutation(rows)[:count]] = VALIDATION


@dataclass(frozen=True)
class _Member:
    """One file of the source, wherever it lies."""

    name: str  # below the source, "/" between folders
    where: str  # the same for error messages
    size: int  # bytes, as declared
    path: Path  # the file on the disk: it, or the zip
    open: Callable[[], IO[bytes]]

    def limited(self, limit: int) -> IO[bytes]:
        """Open, unless larger than `limit` bytes. zipfile never yields more than the declared size, if asked for it:
        told to read all, it inflates all in memory and then cuts.
        """
        if self.size > limit:
            raise LhcnetError(f"{self.where} claims {self.size:,} bytes, expected at most {limit:,}")
        return self.open()

    @cached_property
    def place(self) -> tuple[str, str, str, str]:
        """(root, "train", "happy", file name) of root/train/happy/file name; empty where there is less."""
        root, part, folder, file = ("///" + self.name).rsplit("/", 3)
        return root.strip("/"), part.lower(), folder.lower(), file

    def in_class_folder(self) -> bool:
        _, part, folder, _ = self.place
        return part in ("train", "test") and folder in _FOLDERS


@contextmanager
def _decoding(where: str, expected: str) -> Iterator[None]:
    """Turn whatever zipfile or Pillow raise on damaged bytes into an LhcnetError."""
    try:
        yield
    except LhcnetError:
        raise
    except Exception as error:  # a dozen unrelated types: BadZipFile, zlib.error, struct.error, SyntaxError...
        raise LhcnetError(f"{where} cannot be read, expected {expected}: {error!r}") from error


@contextmanager
def _members(source: Path) -> Iterator[list[_Member]]:
    """The visible files of a source, sorted by name; a zip stays open until the context ends."""
    if source.is_dir():
        yield _folder_members(source)
        return
    if not source.is_file():
        raise LhcnetError(f"{source} does not exist or is no file or folder, {_EXPECTED}")
    with source.open("rb") as file:
        magic = file.read(2)
    if not magic:
        raise LhcnetError(f"{source} is empty, {_EXPECTED}")
    if magic != b"PK":
        yield [_Member(source.name, str(source), source.stat().st_size, source, partial(io.FileIO, source))]
        return
    with _decoding(str(source), "a complete zip"):
        archive = zipfile.ZipFile(source)
    with archive:
        yield _zip_members(source, archive)


def _folder_members(source: Path) -> list[_Member]:
    def fail(error: OSError) -> None:
        raise error

    members: list[_Member] = []
    # Links are followed: data versioning tools place files and folders as links into their caches.
    for folder, _, files in os.walk(source, onerror=fail, followlinks=True):
        for path in (Path(folder, file) for file in files):
            name = path.relative_to(source).as_posix()
            if not _ignored(name) and stat.S_ISREG((status := path.stat()).st_mode):
                members.append(_Member(name, str(path), status.st_size, path, partial(io.FileIO, path)))
        if len(members) > _MAX_MEMBERS:  # a home directory, or a link that leads back up
            raise LhcnetError(f"{source} holds more than {_MAX_MEMBERS:,} files, {_EXPECTED}")
    return sorted(members, key=lambda member: member.name)


def _zip_members(source: Path, archive: zipfile.ZipFile) -> list[_Member]:
    members: dict[str, _Member] = {}
    if len(archive.filelist) > _MAX_MEMBERS:
        raise LhcnetError(f"{source} holds more than {_MAX_MEMBERS:,} files, {_EXPECTED}")
    for info in archive.filelist:
        name = info.filename.replace("\\", "/").removeprefix("./")  # some Windows tools write backslashes
        where = f"{source}/{name}"
        if name.startswith("/") or name[1:2] == ":" or ".." in name.split("/"):
            raise LhcnetError(f"{source} has the unsafe entry {info.filename!r}, expected relative paths")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise LhcnetError(f"{where} is a symbolic link, expected plain files in the zip")
        if name in members:
            raise LhcnetError(f"{where} stands twice in the zip, expected every path once")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others inflate without a limit
            raise LhcnetError(f"{where} is packed by method {info.compress_type}, expected it stored or deflated")
        if not name.endswith("/") and not _ignored(name):
            members[name] = _Member(name, where, info.file_size, source, partial(archive.open, info))
    if (size := sum(member.size for member in members.values())) > _MAX_CSV:
        raise LhcnetError(f"{source} claims {size:,} bytes unpacked, expected at most {_MAX_CSV:,}")
    return [members[name] for name in sorted(members)]


def _ignored(name: str) -> bool:
    """Hidden files and folders, and what macOS and Windows leave in every folder."""
    path = f"/{name.lower()}"
    return "/." in path or "/__macosx/" in path or path.endswith(("/thumbs.db", "/desktop.ini"))


def _recognise(source: Path, members: list[_Member]) -> tuple[Bytes, Bytes, Bytes, str]:
    """Images, labels, splits and the shape's name; without an official split no image is validation."""
    headers = {member.name: _header(member) for member in members if not member.in_class_folder()}
    tables = {m.name: m for m in members if {"emotion", "pixels"} & set(headers.get(m.name, ()))}

    complete = [tables[name] for name in tables if set(_COLUMNS) <= set(headers[name])]
    if complete:
        found = [_read_csv(member, headers[member.name], _COLUMNS) for member in complete]
        if len(found) > 1 and len({content_digest(*canonical(*table)) for table in found}) > 1:
            names = ", ".join(member.name for member in complete)
            raise LhcnetError(f"{source} holds CSVs of different content ({names}), expected one: name it")
        return *found[0], "csv with Usage"

    for name in tables:
        root, _, file = name.rpartition("/")
        pair = (name, f"{root}/test.csv".lstrip("/"))
        if file == "train.csv" and pair[1] in tables:
            train, test = (_read_csv(tables[name], headers[name], _COLUMNS[:2]) for name in pair)
            images, labels, splits = (np.concatenate(arrays) for arrays in zip(train, test, strict=True))
            splits[len(train[1]) :] = TEST
            _mark_official_validation(labels, splits)
            return images, labels, splits, "competition train.csv/test.csv"
    pictures = [m for m in members if m.in_class_folder() or m.name.lower().endswith((".png", ".jpg", ".jpeg"))]
    if pictures:
        return _read_pictures(source, pictures)
    for name in tables:
        _read_csv(tables[name], headers[name], _COLUMNS)  # raises: a column is missing
    raise LhcnetError(f"{source} is no FER2013, {_EXPECTED}")


def _mark_official_validation(labels: Bytes, splits: Bytes) -> None:
    """In a test part of the official size and order, the first images of each class are PublicTest."""
    if np.array_equal(class_counts(labels, splits)[TEST], OFFICIAL_COUNTS[[VALIDATION, TEST]].sum(axis=0)):
        for label, count in enumerate(OFFICIAL_COUNTS[VALIDATION]):
            splits[np.flatnonzero((splits == TEST) & (labels == label))[:count]] = VALIDATION


def _ahead(compute: Callable[[list[_T]], _U], items: Iterable[_T]) -> Iterator[_U]:
    """compute(block) of block after block of the items, in order, by threads while further items are read.

    numpy and Pillow let other threads run while they parse and decode.
    """
    waiting: deque[Future[_U]] = deque()
    with ThreadPoolExecutor(2) as pool:
        remaining = iter(items)
        while block := list(islice(remaining, _BLOCK)):
            waiting.append(pool.submit(compute, block))
            if len(waiting) > _AHEAD:  # else all lines of a CSV would wait in memory
                yield waiting.popleft().result()
        for result in waiting:
            yield result.result()


def _cells(line: bytes) -> list[bytes]:
    return [cell.strip(b' \t\r\n"') for cell in line.split(b",")]


def _header(member: _Member) -> list[str]:
    """The lower-case cells of the first line."""
    with _decoding(member.where, "an undamaged file"), member.open() as file:
        line = file.read(4096).removeprefix(b"\xef\xbb\xbf").split(b"\n")[0]
    return [cell.decode("ascii", "replace").lower() for cell in _cells(line)]


def _read_csv(member: _Member, header: Sequence[str], columns: Sequence[str]) -> tuple[Bytes, Bytes, Bytes]:
    """Images, labels and splits in row order; without the column usage all splits are TRAIN."""
    if missing := [name for name in columns if name not in header]:
        raise LhcnetError(
            f"{member.where}, line 1: no column {', '.join(missing)}, expected emotion, pixels and Usage "
            "(or emotion and pixels in train.csv and test.csv side by side)"
        )
    if twice := [name for name in columns if header.count(name) > 1]:
        raise LhcnetError(f"{member.where}, line 1: column {', '.join(twice)} stands twice, expected it once")
    emotion, pixels, *usage = (header.index(name) for name in columns)
    parse = partial(_parse_lines, member.where, header, emotion, pixels, usage[0] if usage else None)
    with (
        _unchanged(member.path),
        _decoding(member.where, "an undamaged CSV"),
        member.limited(_MAX_CSV) as raw,
    ):
        file = io.BufferedReader(cast(io.RawIOBase, raw), 1 << 20)
        file.readline(_MAX_LINE)
        lines = enumerate(iter(partial(file.readline, _MAX_LINE), b""), start=2)
        parsed = list(_ahead(parse, islice(lines, _MAX_MEMBERS)))
        if next(lines, None) is not None:
            raise LhcnetError(f"{member.where} has more than {_MAX_MEMBERS:,} lines, expected a row for each image")
    images, labels, splits = (np.frombuffer(b"".join(part[i] for part in parsed), np.uint8) for i in range(3))
    return images.reshape(-1, SIDE, SIDE), labels, splits


def _parse_lines(
    file: str, header: Sequence[str], emotion: int, pixels: int, usage: int | None, lines: list[tuple[int, bytes]]
) -> tuple[bytearray, bytearray, bytearray]:
    """Images, labels and splits of numbered lines of a file whose columns stand at these places."""
    images, labels, splits = bytearray(), bytearray(), bytearray()
    for number, line in lines:
        cells = _cells(line)
        if cells == [b""]:
            continue
        where = f"{file}, line {number}"
        if len(line) == _MAX_LINE:
            raise LhcnetError(f"{where} is longer than {_MAX_LINE:,} bytes, expected 2,304 pixels a row")
        if len(cells) != len(header):
            raise LhcnetError(f"{where}: {len(cells)} cells, expected {len(header)}: {', '.join(header)}")
        if cells[emotion] not in _LABELS:
            raise LhcnetError(f"{where}: emotion {_shown(cells[emotion])}, expected a whole number 0..6")
        split = "Training" if usage is None else _shown(cells[usage])
        if split not in USAGE:
            raise LhcnetError(f"{where}: Usage {split}, expected {', '.join(USAGE)}")
        images += _parse_pixels(cells[pixels], where)
        labels.append(_LABELS[cells[emotion]])
        splits.append(USAGE[split])
    return images, labels, splits


def _shown(cell: bytes) -> str:
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


_MARK, _NUMBER = re.compile(r"(Training|PublicTest|PrivateTest)_"), re.compile(r"im(\d{1,9})\.")
_PNG_HEAD = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x000\0\0\x000\x08\0\0\0\0ri\xa6["  # 48x48, 8-bit grey
_PNG_TAIL = b"\0\0\0\0IEND\xaeB`\x82"
_LAST_FILTER = 4  # Paeth


def _read_pictures(source: Path, pictures: list[_Member]) -> tuple[Bytes, Bytes, Bytes, str]:
    placed: list[tuple[int, int, int, str, _Member]] = []  # split, label, number k, file name
    roots = set()
    marked, unmarked, numbered = 0, "", True  # test images named for a split, one that is not, all im<k>
    for member in pictures:
        root, part, folder, file = member.place
        if part not in ("train", "test"):
            raise LhcnetError(f"{member.where} is misplaced, expected train/<class>/ or test/<class>/")
        if folder not in _FOLDERS:
            raise LhcnetError(f"{member.where}: unknown class folder {folder}, expected {', '.join(FOLDERS)}")
        mark, number = _MARK.match(file), _NUMBER.match(file)
        split = USAGE[mark[1]] if mark else (TRAIN if part == "train" else TEST)
        if (split == TRAIN) != (part == "train"):
            raise LhcnetError(f"{member.where} lies in {part} but is named {file}, expected them to agree")
        roots.add(root)
        placed.append((split, _FOLDERS[folder], int(number[1]) if number else 0, file, member))
        if part == "test":
            marked += mark is not None
            unmarked = unmarked if mark else member.where
            numbered = numbered and number is not None
    if len(roots) > 1:
        names = ", ".join(sorted(root or "." for root in roots))
        raise LhcnetError(f"{source} holds several image folders ({names}), expected one: name it")
    if marked and unmarked:
        raise LhcnetError(f"{unmarked} has no split in its name, expected PublicTest_ or PrivateTest_")

    placed.sort(key=lambda place: place[:4])
    images = np.concatenate(list(_ahead(_unfiltered, (_rows(place[4]) for place in placed))))
    splits, labels = np.array([place[:2] for place in placed], np.uint8).T.copy()
    naming = "split in file names" if marked else "re-export im<k>" if numbered else "no split in file names"
    if naming == "re-export im<k>":
        _mark_official_validation(labels, splits)
    return images, labels, splits, f"image folder ({naming})"


def _unfiltered(images: list[bytes]) -> Bytes:
    """The pixels (n, 48, 48) of images whose 48 rows are filtered as in a PNG, each led by its filter's number.

    Pillow decodes them as one tall image: a call for each takes 2.5 times as long. A black row before every image makes
    its first row see what a PNG's first row sees.
    """
    black = bytes(1 + SIDE)
    rows = zlib.compress(b"".join(black + image for image in images), 0)
    tall = Image.frombytes("L", (SIDE, (1 + SIDE) * len(images)), rows, "zip", "L")
    return np.asarray(tall).reshape(len(images), 1 + SIDE, SIDE)[:, 1:]


def _plain_png(data: bytes) -> bytes | None:
    """The filtered rows of a 48x48 grey PNG that holds nothing else, or None. Image.open takes 2.6 times as long."""
    end = len(data) - len(_PNG_TAIL) - 4
    plain = data.startswith(_PNG_HEAD) and data.endswith(_PNG_TAIL) and data[37:41] == b"IDAT"
    sizes = int.from_bytes(data[33:37]), zlib.crc32(data[37:end])
    if plain and sizes == (end - 41, int.from_bytes(data[end : end + 4])):
        rows = zlib.decompressobj().decompress(data[41:end], 2 * SIDE * SIDE)
        if len(rows) != SIDE * (1 + SIDE) or max(rows[:: 1 + SIDE]) > _LAST_FILTER:
            raise ValueError(f"{len(rows):,} bytes of rows, or an unknown filter")
        return rows
    return None


def _rows(member: _Member) -> bytes:
    """The 48 rows of an image file as `_unfiltered` takes them."""
    with _decoding(member.where, "an undamaged PNG or JPEG image"):
        with member.limited(_MAX_IMAGE) as file:
            data = file.read(_MAX_IMAGE)
        if len(data) != member.size:
            raise ValueError(f"{len(data):,} bytes, not {member.size:,}: was it changed while it was read?")
        if (rows := _plain_png(data)) is not None:
            return rows
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes that are refused here, and of what does not touch the pixels
            # checksums first: decoding looks at none of them once it has all rows
            Image.open(io.BytesIO(data), formats=("PNG", "JPEG")).verify()
            image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
        if image.size != (SIDE, SIDE):  # known before any pixel is decoded
            raise LhcnetError(f"{member.where} is {image.width}x{image.height}, expected 48x48")
        return np.insert(_grey(image, member.where), 0, 0, axis=1).tobytes()  # 0: not filtered


def _grey(image: Image.Image, where: str) -> Bytes:
    """The grey values (48, 48), whatever mode they are stored in."""
    if image.mode == "L":
        return np.asarray(image)
    if image.mode in ("1", "P", "LA", "RGB", "RGBA"):
        colours = np.asarray(image.convert("RGBA"))
        if (colours[..., :3] == colours[..., :1]).all() and (colours[..., 3] == 255).all():
            return colours[..., 0]
    raise LhcnetError(f"{where} is not grey (mode {image.mode}), expected 8-bit grey")
