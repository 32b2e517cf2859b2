"""Images of a request: image files and arrays of any size become grey values (N, 48, 48), or one sentence is raised.

Values that are scaled to 0..1 are recognised. Whatever could be read in two ways is refused: an image must never be
read as black because its values were scaled.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from lhcnet.data.archive import decoding_errors
from lhcnet.data.fer2013 import SIDE, Bytes
from lhcnet.data.image_files import open_image, require_all_rows
from lhcnet.errors import LhcnetError

LARGEST_FILE = 10 << 20  # bytes of an image file
LARGEST_IMAGE = 1 << 24  # pixels, 4096x4096: 50 MB while an image is decoded
SMALLEST_SIDE = (
    8  # pixels; a colour image without a list around it would otherwise be read as many images, 3 pixels wide
)

_DATA_URL = re.compile(r"data:image/\w+;base64,")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # of Pillow, with 8 bits a channel or fewer


def read_images(values: Iterable[object]) -> Bytes:
    """Read the images of a request.

    Args:
        values: one an image: a PNG or JPEG file, as bytes or as text in base64; or an array (H, W), (H, W, 1),
            (H, W, 3) or (H, W, 4), or (2304,) as in FER2013's CSV. An array has whole values of 0..255 of any numeric
            type, or floats of 0..1.

    Returns:
        grey values (N, 48, 48). Colours become grey by ITU-R 601; other sizes are resized, each side by itself.

    Raises:
        LhcnetError: there is no image, or one is none of these; the message names its row.
    """
    rows = list(values)
    if not rows:
        raise LhcnetError("images: expected at least one, got none")
    return np.stack([_grey(_read(value, f"image {row}")) for row, value in enumerate(rows)])


def _read(value: object, where: str) -> Image.Image:
    if isinstance(value, str):
        value = _decode(value, where)
    if isinstance(value, bytes | bytearray | memoryview):
        return _image_of_file(bytes(value), where)
    return _image_of_array(value, where)


def _grey(image: Image.Image) -> Bytes:
    grey = image if image.mode == "L" else image.convert("RGB").convert("L")
    if grey.size != (SIDE, SIDE):
        grey = grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR)  # smooths where it makes an image smaller
    return np.asarray(grey)


def _decode(text: str, where: str) -> bytes:
    """The image file that a text in base64 holds; line breaks in it and the beginning of a data URL are left out."""
    if len(text) > 2 * LARGEST_FILE:
        raise LhcnetError(f"{where}: has {len(text):,} characters, expected an image file of 10 MB at most")
    if match := _DATA_URL.match(text):
        text = text[match.end() :]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise LhcnetError(f"{where}: expected a PNG or JPEG file in base64, got other text ({error})") from None


def _image_of_file(content: bytes, where: str) -> Image.Image:
    if not content:
        raise LhcnetError(f"{where}: is empty, expected a PNG or JPEG file")
    if len(content) > LARGEST_FILE:
        raise LhcnetError(f"{where}: has {len(content):,} bytes, expected an image file of 10 MB at most")
    with decoding_errors(where, "an undamaged PNG or JPEG image"):
        open_image(content).verify()  # compares the checksums of a PNG, and ends the use of what was opened
        image = open_image(content)
        _require_size(image.height, image.width, where)  # known before any pixel is decoded
        if image.mode not in _MODES:
            raise LhcnetError(f"{where}: has the mode {image.mode}, expected 8 bits a channel")
        if image.format == "PNG":
            require_all_rows(content)
        return _without_alpha(ImageOps.exif_transpose(image), where)


def _without_alpha(image: Image.Image, where: str) -> Image.Image:
    if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
        raise LhcnetError(f"{where}: has transparent pixels, expected an image without; put it on a background")
    return image


def _image_of_array(value: object, where: str) -> Image.Image:
    try:
        values = np.asarray(value)
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise LhcnetError(f"{where}: its rows have different lengths, expected rows x columns") from None
    if values.dtype.kind not in "uif":
        raise LhcnetError(
            f"{where}: expected numbers, or a PNG or JPEG file in base64, got {_kind(value, values.dtype)}"
        )
    if values.shape == (SIDE * SIDE,):
        values = values.reshape(SIDE, SIDE)
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (1, 3, 4)):
        raise LhcnetError(
            f"{where}: expected rows x columns, or rows x columns x 3 channels, got an array of shape {values.shape}"
            f"{'; a single image needs a list around it' if values.ndim == 1 else ''}"
        )
    _require_size(values.shape[0], values.shape[1], where)
    pixels = _whole_grey_values(values, where)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    return _without_alpha(Image.fromarray(np.ascontiguousarray(pixels)), where)


def _kind(value: object, dtype: np.dtype[np.generic]) -> str:
    return "nothing" if value is None else "truth values" if dtype.kind == "b" else f"values of type {dtype}"


def _require_size(rows: int, columns: int, where: str) -> None:
    if min(rows, columns) < SMALLEST_SIDE or rows * columns > LARGEST_IMAGE:
        raise LhcnetError(
            f"{where}: has {rows:,} rows and {columns:,} columns, expected {SMALLEST_SIDE} or more of both, and "
            f"{LARGEST_IMAGE:,} pixels at most"
        )


def _whole_grey_values(values: NDArray[np.generic], where: str) -> Bytes:
    """The values of an array as 0..255; values of 0..1 are multiplied by 255."""
    numbers = values.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise LhcnetError(f"{where}: has values that are not finite, expected 0..255")
    low, high = float(numbers.min()), float(numbers.max())
    expected = (
        f"{where}: expected whole values of 0..255 or floats of 0..1, got {values.dtype} from {low:g} to {high:g}"
    )
    if low < 0 or high > 255:
        if low >= -1 and high <= 1:
            raise LhcnetError(f"{expected}: they look scaled to -1..1; send (x + 1) / 2")
        looks = ": they look standardised; undo that" if max(-low, high) <= 8 else ""
        raise LhcnetError(f"{expected}{looks}")
    whole = bool((numbers == np.floor(numbers)).all())
    if whole and high == 1:
        raise LhcnetError(f"{expected}, no other values than 0 and 1; send 255 for white")
    if not whole and high > 1:
        raise LhcnetError(f"{expected} with fractions; round them, or divide by 255")
    return np.rint(numbers if whole else numbers * 255).astype(np.uint8)
