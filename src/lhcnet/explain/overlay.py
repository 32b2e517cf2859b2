"""A map of heat on the picture that it explains, in colours that people with colour blindness can tell apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lhcnet.prediction.annotate import display_scale

OPACITY = 0.7  # of the colour where the heat is 1; where it is 0 the picture stays as it is
HALF = 0.5  # heat where a line is drawn


def overlay(picture: Image.Image, heat: NDArray[np.float32]) -> Image.Image:
    """The picture in grey, coloured from violet over red to yellow (inferno), the more the higher the heat.

    A white line surrounds the places with more than half of the largest heat, so that they are seen without colours.

    Args:
        picture: the face that the heat is of (mode L or RGB); small ones are enlarged.
        heat: (h, w), from 0 to 1.

    Returns:
        Mode RGB, in the proportions of the picture.
    """
    from matplotlib import colormaps

    scale = display_scale(picture)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    grey = np.asarray(picture.convert("L").resize(size, Image.Resampling.BICUBIC), np.float32)[..., None]
    strength = np.asarray(Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)).clip(0, 1)
    colour = 255 * colormaps["inferno"](0.25 + 0.7 * strength)[..., :3]
    alpha = OPACITY * strength[..., None]
    pixels = grey * (1 - alpha) + colour * alpha
    pixels[_edge(strength > HALF, width=max(1, min(size) // 160))] = 255
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def _edge(inside: NDArray[np.bool], width: int) -> NDArray[np.bool]:
    """Pixels inside whose neighbour, `width` away along an axis, is not."""
    padded = np.pad(inside, width, mode="edge")
    h, w = inside.shape
    moved = [padded[r : r + h, c : c + w] for r, c in ((0, width), (2 * width, width), (width, 0), (width, 2 * width))]
    edge: NDArray[np.bool] = inside & ~np.logical_and.reduce(moved)
    return edge
