"""Test-time augmentation: the 60 views of an image whose probabilities are averaged.

A view is one way of looking at a batch; plain inference is the list with the one neutral view. The prediction
is the mean of the views' probabilities, weighted with ``View.weight``.
"""

import math
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from lhcnet.data.transforms import resize, sample_axis, warp

REFERENCE_SIZE = 224  # the side that shifts are given at


@dataclass(frozen=True)
class View:
    """Flip, zoom, shift, rotation, applied in this order, each a bilinear resampling of its own."""

    zoom: float = 1.0
    """Side of the central crop that is resized back, as a fraction; 1 for none."""
    rotation: float = 0.0
    """Radians; positive turns the picture counter-clockwise."""
    shift_h: float = 0.0
    """Pixels at 224x224; positive moves the picture right."""
    shift_v: float = 0.0
    """Pixels at 224x224; positive moves the picture down."""
    flip: bool = False
    """Mirror left and right."""
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.zoom <= 1:
            raise ValueError(f"zoom={self.zoom} must be more than 0 and at most 1")


def plain_views() -> list[View]:
    """No test-time augmentation: the image as it is."""
    return [View()]


def tta_views(rotation2: float = 0.15) -> list[View]:
    """The paper's 60 views: the image itself (weight 3), 53 shifted and turned, 6 zoomed; weights sum to 62.

    Args:
        rotation2: angle of the zoomed views, radians. The paper's text says 0.4; the default is what its
            reference implementation uses, and its published figures come from.
    """
    views = [View(weight=3.0)]
    for rotation, h, v, flip in product((0, 0.4, -0.4), (0, 10, -10), (0, 10, -10), (False, True)):
        if (rotation, h, v, flip) != (0, 0, 0, False):
            views.append(View(rotation=rotation, shift_h=h, shift_v=v, flip=flip))
    for rotation, flip in product((0, rotation2, -rotation2), (False, True)):
        views.append(View(zoom=0.9, rotation=rotation, flip=flip))
    return views


def render(images: Tensor, view: View) -> Tensor:
    """The images (B, 1, S, S) as seen in ``view``, same shape; shifts scale with S/224."""
    size = images.shape[-1]
    if view.flip:
        images = images.flip(3)
    margin = int((size - size * view.zoom) / 2)
    if margin > 0:
        images = resize(images[..., margin : size - margin, margin : size - margin], size)
    for dim, shift in ((3, view.shift_h), (2, view.shift_v)):
        if shift:
            positions = torch.arange(size, dtype=images.dtype, device=images.device)
            images = sample_axis(images, positions - shift * size / REFERENCE_SIZE, dim)
    if view.rotation:
        cos, sin = math.cos(view.rotation), math.sin(view.rotation)
        turn = torch.tensor([[[cos, sin], [-sin, cos]]], device=images.device)  # (1, 2, 2) on (row, column)
        images = warp(images, turn, turn.new_zeros(1, 2))
    return images
