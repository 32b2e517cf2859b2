"""The data set as image files, in a zip and in a folder."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from lhcnet.data.fer2013 import FOLDERS
from lhcnet.data.sources import read
from support.hostile.choices import INTEGERS, Choices, answer, damaged
from support.hostile.tables import LINES, NAMES, ROWS, check_faces


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


def spoilt_image(c: Choices, pixels: bytes) -> tuple[bytes, bool]:
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


def image_files() -> dict[str, bytes]:
    """ROWS as PNGs by name, the split in the file names."""
    return {
        f"{'test' if split else 'train'}/{FOLDERS[label]}/{NAMES[split]}_{label}.png": encoded(
            Image.frombytes("L", (48, 48), pixels)
        )
        for split, label, pixels in ROWS
    }


IMAGE_FILES = image_files()
PIXELS = dict(zip(IMAGE_FILES, (row[2] for row in ROWS), strict=True))
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
    files = dict(IMAGE_FILES) if c.number(3) else {"fer2013.csv": "\n".join(LINES).encode()}
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
            entry[1], faithful = spoilt_image(c, PIXELS[name])
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
    name = next(iter(IMAGE_FILES))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for other, content in IMAGE_FILES.items():
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


def image_folder(c: Choices, folder: Path) -> bool:
    files: dict[str, bytes] = dict(IMAGE_FILES)
    same = True
    for _ in range(c.number(3)):
        name, kind = c.pick(list(IMAGE_FILES)), c.number(4)
        if kind < 3:
            files[name], faithful = spoilt_image(c, PIXELS[name])
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
