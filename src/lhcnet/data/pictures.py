"""Pictures of any size, depth and form become upright 8-bit pictures, and those the grey 48x48 images of the networks.

The one way from a picture to a network's input: for the served model (`lhcnet.serving.images`) and for data of any size
(`data.resize`), which refuse whatever could be read in two ways, and for `lhcnet.load` and `lhcnet predict`, which also
read other depths and transparency.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from lhcnet.data.archive import decoding_errors
from lhcnet.data.fer2013 import SIDE, Bytes
from lhcnet.errors import LhcnetError

SMALLEST_SIDE = (
    8  # pixels; a colour image without a list around it would otherwise be read as many images, 3 pixels wide
)
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # of Pillow, with 8 bits a channel or fewer

_OF_16_BITS = ("PNG", "PPM")  # formats that Pillow opens in mode I

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a PNG, by its colour type
# first column and row, and their distances, of the passes that a PNG consists of: not interlaced, and interlaced
_PASSES = (
    [(0, 0, 1, 1)],
    [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)],
)


@dataclass(frozen=True)
class Rules:
    """Which pictures are read.

    Attributes:
        formats: of image files, by Pillow's names.
        largest_file: bytes of an image file.
        largest_image: pixels, known before any is decoded.
        exact: refuse what needs a decision: 16 bits, transparency, fractions in 0..255, a `uint8` array of 0 and 1
            alone. Otherwise 16 bits are divided by 257, transparent pixels show white, and fractions are rounded.
    """

    formats: tuple[str, ...] = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
    largest_file: int = 100 << 20
    largest_image: int = 1 << 26
    exact: bool = False

    @property
    def expected(self) -> str:
        """The formats in words."""
        return f"{', '.join(self.formats[:-1])} or {self.formats[-1]}"


ANY = Rules()


def read_picture(value: object, where: str, rules: Rules = ANY) -> Image.Image:
    """Read one picture.

    Args:
        value: an image file as bytes, whose EXIF rotation is applied, and whose first image is taken where it has
            several; a picture of Pillow; or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), or (2304,) as in
            FER2013's CSV. An array has values of 0..255, floats of 0..1, or 16 bits (`uint16` with a value above 255).
        where: its name, for error messages.
        rules: which pictures are read.

    Returns:
        An opaque, upright picture of mode L or RGB.

    Raises:
        LhcnetError: it is none of these, damaged, or too large.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of sizes that are refused here, and of unimportant metadata
        if isinstance(value, bytes | bytearray | memoryview):
            return _of_file(bytes(value), where, rules)
        if isinstance(value, Image.Image):
            with decoding_errors(where, "an undamaged picture"):
                return _of_pillow(value, where, rules)
        return _of_array(value, where, rules)


def grey(picture: Image.Image) -> Bytes:
    """Grey values (48, 48) of a picture of mode L or RGB.

    Colours become grey by ITU-R 601; other sizes are resized, each side by itself.
    """
    found = picture if picture.mode == "L" else picture.convert("RGB").convert("L")
    if found.size != (SIDE, SIDE):
        found = found.resize((SIDE, SIDE), Image.Resampling.BILINEAR)  # smooths where it makes an image smaller
    return np.asarray(found)


def _of_file(content: bytes, where: str, rules: Rules) -> Image.Image:
    if not content:
        raise LhcnetError(f"{where}: is empty, expected a {rules.expected} file")
    if len(content) > rules.largest_file:
        raise LhcnetError(
            f"{where}: has {len(content):,} bytes, expected an image file of {rules.largest_file >> 20} MB at most"
        )
    with decoding_errors(where, f"an undamaged {rules.expected} image"):
        open_image(content, rules.formats).verify()  # compares the checksums of a PNG, and ends its use
        image = open_image(content, rules.formats)
        _require_size(image.height, image.width, where, rules)  # known before any pixel is decoded
        if rules.exact and image.mode not in _MODES:
            raise LhcnetError(f"{where}: has the mode {image.mode}, expected 8 bits a channel")
        if image.format == "PNG":
            require_all_rows(content)
        return _of_pillow(image, where, rules)


def _of_pillow(image: Image.Image, where: str, rules: Rules) -> Image.Image:
    _require_size(image.height, image.width, where, rules)
    upright = ImageOps.exif_transpose(image)
    if upright.mode in _MODES:
        return _opaque(upright, where, rules)
    if upright.mode.startswith("I") or upright.mode == "F":
        values = np.asarray(upright)
        fits = values.dtype.kind in "iu" and values.min() >= 0 and values.max() < 1 << 16
        if fits and (_has_16_bits(image) or values.max() > 255):
            return Image.fromarray(_of_16_bits(values.astype(np.uint16)))
        return _of_array(values, where, rules)
    return _opaque(upright.convert("RGB"), where, rules)  # HSV, LAB


def _has_16_bits(image: Image.Image) -> bool:
    """Whether a file says so, in which case a dark picture is dark. Mode I alone has 32 bits, and may hold 0..255."""
    return image.format in _OF_16_BITS if image.mode == "I" else image.format is not None


def _opaque(image: Image.Image, where: str, rules: Rules) -> Image.Image:
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        if np.asarray(colours)[..., 3].min() < 255:
            if rules.exact:
                raise LhcnetError(f"{where}: has transparent pixels, expected an image without; put it on a background")
            image = Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
    return image if image.mode == "L" else image.convert("RGB")


def _of_array(value: object, where: str, rules: Rules) -> Image.Image:
    try:
        values = np.asarray(value)
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise LhcnetError(f"{where}: its rows have different lengths, expected rows x columns") from None
    if values.dtype.kind not in "uif":
        raise LhcnetError(
            f"{where}: expected numbers, or a PNG or JPEG file in base64, got {_kind(value, values.dtype)}"
            if rules.exact
            else f"{where}: expected numbers, an image file or a picture, got {_kind(value, values.dtype)}"
        )
    if values.shape == (SIDE * SIDE,):
        values = values.reshape(SIDE, SIDE)
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (1, 3, 4)):
        raise LhcnetError(
            f"{where}: expected rows x columns, or rows x columns x 3 channels, got an array of shape {values.shape}"
            f"{'; a single image needs a list around it' if values.ndim == 1 and rules.exact else ''}"
        )
    _require_size(values.shape[0], values.shape[1], where, rules)
    pixels = _eight_bits(values, where, rules)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    return _opaque(Image.fromarray(np.ascontiguousarray(pixels)), where, rules)


def _kind(value: object, dtype: np.dtype[np.generic]) -> str:
    return "nothing" if value is None else "truth values" if dtype.kind == "b" else f"values of type {dtype}"


def _require_size(rows: int, columns: int, where: str, rules: Rules) -> None:
    if min(rows, columns) < SMALLEST_SIDE or rows * columns > rules.largest_image:
        raise LhcnetError(
            f"{where}: has {rows:,} rows and {columns:,} columns, expected {SMALLEST_SIDE} or more of both, and "
            f"{rules.largest_image:,} pixels at most"
        )


def _of_16_bits(values: NDArray[np.uint16]) -> Bytes:
    """Values 0..65535 divided by 257, rounded; without wider numbers, which would take several times the memory."""
    return ((values - (values >> 8) + 128) >> 8).astype(np.uint8)


def _eight_bits(values: NDArray[np.generic], where: str, rules: Rules) -> Bytes:
    """The values of an array as 0..255; values of 0..1 are multiplied by 255."""
    if values.dtype == np.uint8 and not rules.exact:
        return values.astype(np.uint8)
    numbers = values.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise LhcnetError(f"{where}: has values that are not finite, expected 0..255")
    low, high = float(numbers.min()), float(numbers.max())
    if not rules.exact and values.dtype.kind == "u" and values.dtype.itemsize == 2 and high > 255:
        return _of_16_bits(values.astype(np.uint16))
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
    if not whole and 1 < high <= 2 and not rules.exact:  # resized by a cubic, brightened: nearly black as 0..255
        raise LhcnetError(f"{expected}: a little above 1; clip them to 0..1")
    if not whole and high > 1 and rules.exact:
        raise LhcnetError(f"{expected} with fractions; round them, or divide by 255")
    return np.rint(numbers if whole or high > 1 else numbers * 255).astype(np.uint8)


def require_all_rows(png: bytes) -> None:
    """Raise ValueError if the data of a PNG end early: Pillow would show the missing rows black."""
    width, height, depth, colour, interlaced = struct.unpack_from(">IIBBxxB", png, 16)
    bits = depth * _CHANNELS[colour]
    expected = 0
    for left, top, right, down in _PASSES[interlaced]:
        columns, rows = len(range(left, width, right)), len(range(top, height, down))
        if columns:
            expected += rows * (1 + (columns * bits + 7) // 8)
    unpacker, found, position, kind = zlib.decompressobj(), 0, 8, b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", png, position)
        if kind == b"IDAT" and found < expected:
            found += len(unpacker.decompress(png[position + 8 : position + 8 + length], expected - found))
        position += 12 + length
    if found < expected:
        raise ValueError("rows are missing")


def open_image(data: bytes, formats: tuple[str, ...] = ("PNG", "JPEG")) -> Image.Image:
    """An image of one of Pillow's formats, whose header is read and whose pixels are not decoded yet."""
    try:
        return Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError:  # its message holds an address in memory
        raise ValueError("it is neither" if len(formats) == 2 else "it is none of them") from None
