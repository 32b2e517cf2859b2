"""Augmentation of an epoch: all random numbers are drawn before its first batch.

Every kind of transform has a generator of its own, so switching one on changes no number of the others.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from lhcnet.config import Stage
from lhcnet.data.transforms import adjust, affine, draw_affine, draw_boxes, erase, mirror


def derive_seed(name: str) -> int:
    """Seed of a random generator; hashed, so that neighbouring seeds, stages and epochs are independent."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "little")


@dataclass(frozen=True)
class EpochAugmentation:
    """The random transforms of all images of an epoch. Those that are switched off in the settings are skipped.

    Args:
        stage: settings of the training.
        geometry: (N, 6), from `draw_affine`.
        tones: (N, 2), factors of brightness and contrast; None if both are off.
        boxes: (N, 4), from `draw_boxes`; None if nothing is erased.
    """

    stage: Stage
    geometry: Tensor
    tones: Tensor | None
    boxes: Tensor | None

    @classmethod
    def draw(
        cls, n: int, stage: Stage, *, size: int, seed: str, generator: torch.Generator, device: torch.device
    ) -> EpochAugmentation:
        """Draw the transforms of n images.

        Args:
            n: number of images.
            stage: settings of the training.
            size: S, side of the images in pixels.
            seed: of the epoch; tones and boxes have generators that are derived from it.
            generator: of the geometry, on the CPU.
            device: where the images are.
        """
        a = stage.augmentation
        geometry = draw_affine(
            n, rotation=a.rotation, shift=a.shift, zoom=a.zoom, flip=a.flip, size=size, generator=generator
        )
        tones = boxes = None
        if a.brightness or a.contrast:
            u = torch.rand(n, 2, generator=torch.Generator().manual_seed(derive_seed(f"{seed}/tones")))
            tones = 1 + (2 * u - 1) * torch.tensor([a.brightness, a.contrast])
            tones = tones.to(device)
        if stage.random_erasing:
            own = torch.Generator().manual_seed(derive_seed(f"{seed}/erasing"))
            boxes = draw_boxes(n, probability=stage.random_erasing, size=size, generator=own).to(device)
        return cls(stage, geometry.to(device), tones, boxes)

    def apply(self, grey: Tensor, batch: slice) -> Tensor:
        """Transform the images (B, 1, S, S) of one batch."""
        a = self.stage.augmentation
        if a.rotation or a.shift or a.zoom:
            grey = affine(grey, self.geometry[batch])
        elif a.flip:
            grey = mirror(grey, self.geometry[batch, 5])
        if self.tones is not None:
            grey = adjust(grey, *self.tones[batch].unbind(1))
        return grey if self.boxes is None else erase(grey, self.boxes[batch])
