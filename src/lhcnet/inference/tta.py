"""Test-time augmentation (TTA): the 60 views of an image whose probabilities are averaged (section 4.1).

A view is a transformation of the images. Plain inference has one view, which changes nothing. The prediction is the
mean of the views' probabilities, weighted with `View.weight`.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lhcnet.config import Family
from lhcnet.data.transforms import resize, sample_axis, warp

if TYPE_CHECKING:
    from lhcnet.model_record import Fitted

REFERENCE_SIZE = 224  # pixels; side of the images for which shifts are given


@dataclass(frozen=True)
class View:
    """One view: flip, zoom, shift and rotation, applied in this order, each by a bilinear resampling of its own.

    Raises:
        ValueError: zoom is out of range.
    """

    zoom: float = 1.0
    """Side of the central crop that is resized back, as a fraction; 1 for none."""
    rotation: float = 0.0
    """Angle in radians; positive is counter-clockwise."""
    shift_h: float = 0.0
    """Shift in pixels at 224x224; positive is to the right."""
    shift_v: float = 0.0
    """Shift in pixels at 224x224; positive is down."""
    flip: bool = False
    """Whether left and right are exchanged."""
    weight: float = 1.0
    """Weight of the view in the mean."""

    def __post_init__(self) -> None:
        if not 0 < self.zoom <= 1:
            raise ValueError(f"zoom={self.zoom} must be more than 0 and at most 1")

    @property
    def families(self) -> frozenset[Family]:
        """What the view does to the image. A zoomed view counts as such, whatever its small rotation."""
        zoomed = self.zoom < 1
        found: dict[Family, bool] = {
            "flip": self.flip,
            "shift": not zoomed and bool(self.shift_h or self.shift_v),
            "rotation": not zoomed and bool(self.rotation),
            "zoom": zoomed,
        }
        return frozenset(family for family, used in found.items() if used)

    @property
    def family_weight(self) -> float:
        """Weight in a mean over families: the mirrored image is as natural as the image, and weighs as much (3)."""
        return 3.0 if self.families == {"flip"} else self.weight

    def __str__(self) -> str:
        """The view in words: `shift 10 -10, rotation 0.4, flip`."""
        parts = [f"zoom {self.zoom:g}"] * (self.zoom < 1)
        parts += [f"shift {self.shift_h:g} {self.shift_v:g}"] * bool(self.shift_h or self.shift_v)
        parts += [f"rotation {self.rotation:g}"] * bool(self.rotation) + ["flip"] * self.flip
        return ", ".join(parts) or "image itself"


def plain_views() -> list[View]:
    """The one view of plain inference: the image as it is."""
    return [View()]


def tta_views(rotation2: float = 0.15) -> list[View]:
    """The paper's 60 views: the image itself (weight 3), 53 shifted and rotated, 6 zoomed; weights sum to 62.

    Args:
        rotation2: angle of the zoomed views in radians. The default is that of the reference implementation, which the
            published figures come from; the paper's text says 0.4.
    """
    views = [View(weight=3.0)]
    for rotation, h, v, flip in product((0, 0.4, -0.4), (0, 10, -10), (0, 10, -10), (False, True)):
        if (rotation, h, v, flip) != (0, 0, 0, False):
            views.append(View(rotation=rotation, shift_h=h, shift_v=v, flip=flip))
    for rotation, flip in product((0, rotation2, -rotation2), (False, True)):
        views.append(View(zoom=0.9, rotation=rotation, flip=flip))
    return views


def family_views(families: Collection[Family], rotation2: float = 0.15) -> list[View]:
    """The paper's views that need these families only, the image itself first, with the weights `View.family_weight`.

    Args:
        families: kinds of views; without any, the image itself is the only view.
        rotation2: as in `tta_views`.
    """
    views = [view for view in tta_views(rotation2) if view.families <= set(families)]
    return [replace(view, weight=view.family_weight) for view in views]


def fitted_views(fitted: Fitted | None) -> list[View]:
    """The views of a model with TTA: those that `evaluate` chose on validation, or else the paper's 60.

    It may have chosen the image alone.
    """
    if fitted is None:
        return tta_views()
    families, rotation = fitted.tta_families, fitted.tta_rotation
    return tta_views(rotation) if families is None else family_views(families, rotation)


def render(images: Tensor, view: View) -> Tensor:
    """Transform images (B, 1, S, S) into one view of the same shape; shifts are scaled with S/224."""
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
