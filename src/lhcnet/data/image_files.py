"""FER2013 as image files in train/<class>/ and test/<class>/: split and label off the names, pixels of PNG or JPEG."""

import io
import re
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from lhcnet.data.archive import Member, ahead, decoding
from lhcnet.data.fer2013 import CLASSES, FOLDERS, SIDE, TEST, TRAIN, USAGE, Bytes, mark_official_validation
from lhcnet.errors import LhcnetError

_FOLDERS = {name: label for names in (FOLDERS, CLASSES) for label, name in enumerate(names)}
_FOLDERS |= {"disgusted": 1, "fearful": 2, "surprised": 5}
_MAX_IMAGE = 1 << 20  # bytes
_MARK, _NUMBER = re.compile(r"(Training|PublicTest|PrivateTest)_"), re.compile(r"im(\d{1,9})\.")
_PNG_HEAD = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x000\0\0\x000\x08\0\0\0\0ri\xa6["  # 48x48, 8-bit grey
_PNG_TAIL = b"\0\0\0\0IEND\xaeB`\x82"
_LAST_FILTER = 4  # Paeth


def in_class_folder(member: Member) -> bool:
    """Whether it lies in train/<class>/ or test/<class>/."""
    _, part, folder, _ = member.place
    return part in ("train", "test") and folder in _FOLDERS


def read_pictures(source: Path, pictures: list[Member]) -> tuple[Bytes, Bytes, Bytes, str]:
    """Images, labels, splits and the shape's name; without an official split no image is validation.

    Raises:
        LhcnetError: a picture is misplaced, damaged, not grey or not 48x48.
    """
    placed: list[tuple[int, int, int, str, Member]] = []  # split, label, number k, file name
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
    images = np.concatenate(list(ahead(_unfiltered, (_rows(place[4]) for place in placed))))
    splits, labels = np.array([place[:2] for place in placed], np.uint8).T.copy()
    naming = "split in file names" if marked else "re-export im<k>" if numbered else "no split in file names"
    if naming == "re-export im<k>":
        mark_official_validation(labels, splits)
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


def _rows(member: Member) -> bytes:
    """The 48 rows of an image file as `_unfiltered` takes them."""
    with decoding(member.where, "an undamaged PNG or JPEG image"):
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
