"""Images of a request: every form of an image gives the same grey values, and what could be misread is refused."""

from __future__ import annotations

import base64
import io
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.hostile.images import chunk, encoded

from lhcnet.data.drawn_faces import draw
from lhcnet.errors import LhcnetError
from lhcnet.serving.images import read_images

FACES = draw(42, seed=0).images
GREY = FACES[0]
PNG = encoded(Image.fromarray(GREY))
TEXT = base64.b64encode(PNG).decode()
BIG = np.kron(GREY, np.ones((4, 4), np.uint8))  # 192x192


def rgba(alpha: int) -> np.ndarray:
    return np.dstack([GREY, GREY, GREY, np.full_like(GREY, alpha)])


def png_of(width: int, height: int, rows: bytes, *, interlaced: bool = False) -> bytes:
    """A grey PNG that announces a size, with these bytes as its rows and correct checksums."""
    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, interlaced)
    data = zlib.compress(rows)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


SAME: dict[str, Any] = {
    "bytes": PNG,
    "bytearray": bytearray(PNG),
    "base64": TEXT,
    "base64 with line breaks": base64.encodebytes(PNG).decode(),
    "data URL": f"data:image/png;base64,{TEXT}",
    "palette": encoded(Image.fromarray(GREY).convert("P")),
    "RGB file": encoded(Image.fromarray(GREY).convert("RGB")),
    "opaque RGBA file": encoded(Image.fromarray(rgba(255))),
    "uint8": GREY,
    "int64": GREY.astype(int),
    "whole floats": GREY.astype(float),
    "lists": GREY.tolist(),
    "list of rows": list(GREY),
    "flat": GREY.ravel(),
    "0..1": GREY / 255,
    "0..1 float32": (GREY / 255).astype(np.float32),
    "0..1 float16": (GREY / 255).astype(np.float16),
    "one channel": GREY[..., None],
    "RGB": np.dstack([GREY] * 3),
    "RGB 0..1": np.dstack([GREY] * 3) / 255,
    "opaque RGBA": rgba(255),
    "not contiguous": np.asfortranarray(GREY),
    "big-endian": GREY.astype(">i4"),
}


@pytest.mark.parametrize("value", SAME.values(), ids=SAME.keys())
def test_every_form_of_an_image_has_the_same_grey_values(value: Any) -> None:
    np.testing.assert_array_equal(read_images([value]), GREY[None])


def test_rows_of_different_forms_and_sizes_stay_in_their_order() -> None:
    values = [PNG, BIG, (255 - GREY) / 255, TEXT, np.dstack([GREY] * 3)]
    read = read_images(values)
    np.testing.assert_array_equal(read[[0, 2, 3, 4]], np.stack([GREY, 255 - GREY, GREY, GREY]))
    assert np.abs(read[1].astype(int) - GREY).mean() < 20


@pytest.mark.parametrize("side", [8, 31, 48, 49, 224, 1000])
def test_other_sizes_keep_what_is_in_the_image(side: int) -> None:
    slope = np.broadcast_to(np.linspace(0, 255, side), (side, side)).round().astype(np.uint8)
    for value in (slope, slope / 255, encoded(Image.fromarray(slope))):
        (found,) = read_images([value])
        expected = (np.arange(48) + 0.5) * side / 48 - 0.5
        expected = expected.clip(0, side - 1) * 255 / (side - 1)
        np.testing.assert_allclose(found, np.broadcast_to(expected, (48, 48)), atol=8)


def test_a_photo_that_was_taken_on_its_side_is_turned() -> None:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(BIG).save(buffer, "JPEG", exif=exif, quality=95)
    upright = np.rot90(BIG, -1)
    assert np.abs(read_images([buffer.getvalue()])[0].astype(int) - read_images([upright])[0]).mean() < 3


def test_colours_become_grey_by_their_luminance() -> None:
    green = np.zeros((48, 48, 3), np.uint8)
    green[..., 1] = 255
    assert (read_images([green]) == 150).all()


def test_black_images_of_whole_numbers_are_images() -> None:
    for black in (np.zeros((48, 48), int), np.zeros((48, 48)), encoded(Image.new("L", (48, 48)))):
        assert (read_images([black]) == 0).all()


def test_interlaced_images_of_any_size_are_read() -> None:
    """9x9: passes of 4, 2, 3, 6, 10, 20 and 36 bytes of pixels, and a byte more for each of their rows."""
    columns_and_rows = [(2, 2), (1, 2), (3, 1), (2, 3), (5, 2), (4, 5), (9, 4)]
    rows = b"".join((b"\0" + b"\x64" * columns) * count for columns, count in columns_and_rows)
    assert (read_images([png_of(9, 9, rows, interlaced=True)]) == 100).all()


def spoilt(value: object) -> list[list[Any]]:
    rows = GREY.tolist()
    rows[3][4] = value
    return rows


REFUSED: dict[str, tuple[Any, str]] = {
    "-1..1": (GREY / 127.5 - 1, "they look scaled to -1..1"),
    "standardised": ((GREY - GREY.mean()) / GREY.std(), "they look standardised"),
    "0..1 and a little more": (GREY / GREY.max() * 1.05, "with fractions"),
    "fractions": (GREY * 0.9 + 0.3, "with fractions"),
    "only 0 and 1": ((GREY > 100) * 1.0, "no other values than 0 and 1"),
    "only 0 and 1, whole": ((GREY > 100) * 1, "no other values than 0 and 1"),
    "300": (GREY.astype(int) + 300, "whole values of 0..255"),
    "negative": (-GREY.astype(int), "whole values of 0..255"),
    "16 bits": (GREY.astype(np.uint16) * 257, "whole values of 0..255"),
    "truth values": (GREY > 100, "truth values"),
    "numbers as text": (GREY.astype(str), "expected numbers"),
    "complex": (GREY.astype(complex), "expected numbers"),
    "NaN": (spoilt(float("nan")), "not finite"),
    "infinite": (spoilt(float("inf")), "not finite"),
    "huge": (spoilt(10**400), "expected numbers"),
    "None in it": (spoilt(None), "expected numbers"),
    "None": (None, "got nothing"),
    "ragged": ([[1] * 48] * 47 + [[1] * 47], "rows have different lengths"),
    "empty": (np.zeros((0, 48)), "has 0 rows"),
    "empty list": ([], r"shape \(0,\)"),
    "number": (7, r"shape \(\)"),
    "one row": (GREY[0], "needs a list around it"),
    "a batch": (FACES[:2].astype(int), "has 2 rows|shape"),
    "channels first": (np.stack([GREY] * 3), "shape"),
    "a colour image without a list": (np.dstack([GREY] * 3)[0], "has 48 rows and 3 columns"),
    "small": (GREY[:7, :7], "has 7 rows and 7 columns"),
    "too many pixels": (np.zeros((4097, 4097), np.uint8), "16,777,216 pixels at most"),
    "transparent": (rgba(128), "transparent"),
    "transparent file": (encoded(Image.fromarray(rgba(0))), "transparent"),
    "16-bit file": (encoded(Image.fromarray(GREY.astype(np.uint16) * 257)), "expected 8 bits"),
    "no bytes": (b"", "is empty"),
    "no text": ("", "is empty"),
    "other text": ("image.png", "base64"),
    "text in base64": (base64.b64encode(b"hello").decode(), "PNG or JPEG"),
    "truncated base64": (TEXT[:-3], "base64"),
    "truncated PNG": (TEXT[: len(TEXT) // 8 * 4], "cannot be read"),
    "truncated JPEG": (encoded(Image.fromarray(GREY), "JPEG")[:-200], "cannot be read"),
    "rows are missing": (png_of(48, 48, bytes(49 * 30)), "PNG or JPEG image: rows are missing"),
    "rows of a larger image are missing": (png_of(50, 61, bytes(51 * 60)), "rows are missing"),
    "rows are missing, interlaced": (png_of(9, 9, bytes(91), interlaced=True), "rows are missing"),
    "GIF": (encoded(Image.fromarray(GREY), "GIF"), "PNG or JPEG"),
    "bomb": (png_of(20_000, 20_000, bytes(1 << 20)), "cannot be read|pixels at most"),
    "bomb below Pillow's limit": (png_of(9_000, 9_000, bytes(1 << 20)), "pixels at most"),
    "long file": (PNG + bytes(11 << 20), "10 MB at most"),
    "long text": ("A" * (22 << 20), "10 MB at most"),
    "object": ({"image": 1}, "expected numbers"),
}


@pytest.mark.parametrize(("value", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_what_could_be_misread_is_refused_in_one_line_that_names_the_row(value: Any, says: str) -> None:
    tracemalloc.start()
    with pytest.raises(LhcnetError, match=f"^image 1.*({says})") as error:
        read_images([PNG, value])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
    assert peak < 200e6


def test_no_image_is_refused() -> None:
    with pytest.raises(LhcnetError, match="expected at least one"):
        read_images([])
