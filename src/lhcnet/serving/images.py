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

from lhcnet.data.fer2013 import Bytes
from lhcnet.data.pictures import Rules, grey, read_picture
from lhcnet.errors import LhcnetError

LARGEST_FILE = 10 << 20  # bytes of an image file
LARGEST_IMAGE = 1 << 24  # pixels, 4096x4096: 50 MB while an image is decoded
RULES = Rules(formats=("PNG", "JPEG"), largest_file=LARGEST_FILE, largest_image=LARGEST_IMAGE, exact=True)

_DATA_URL = re.compile(r"data:image/\w+;base64,")


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
    return np.stack([_read(value, f"image {row}") for row, value in enumerate(rows)])


def _read(value: object, where: str) -> Bytes:
    return grey(read_picture(_decode(value, where) if isinstance(value, str) else value, where, RULES))


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
