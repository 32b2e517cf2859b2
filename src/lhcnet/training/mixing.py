"""Mixup and CutMix: each image of a batch is combined with another one, and the loss with that of its label.

Zhang et al., *mixup: Beyond Empirical Risk Minimization*, ICLR 2018; Yun et al., *CutMix*, ICCV 2019. As in
torchvision, one share is drawn for a batch, the partner is the previous image of the (shuffled) batch, and where both
methods are on each batch gets one of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from lhcnet.config import Stage


@dataclass(frozen=True)
class Mix:
    """How the images of one batch are combined with their partners.

    Args:
        share: weight of the image's own label, 0 to 1.
        box: rows and columns (top, bottom, left, right) that the partner replaces (CutMix); None for mixup.
    """

    share: float
    box: tuple[int, int, int, int] | None = None

    def images(self, grey: Tensor) -> Tensor:
        """Combine the images (B, 1, S, S)."""
        if self.box is None:
            return grey * self.share + partner(grey) * (1 - self.share)
        top, bottom, left, right = self.box
        mixed = grey.clone()
        mixed[:, :, top:bottom, left:right] = partner(grey)[:, :, top:bottom, left:right]
        return mixed


def partner(batch: Tensor) -> Tensor:
    """The images, or the labels, that those of the batch are combined with."""
    return batch.roll(1, 0)


def draw_mixes(stage: Stage, epoch: int, batches: int, size: int, seed: int) -> list[Mix] | None:
    """Draw the mix of each batch of an epoch.

    Args:
        stage: `mixup`, `cutmix` and `mixup_off`.
        epoch: number of the epoch, from 1.
        batches: number of batches of the epoch.
        size: S, side of the images in pixels.
        seed: of the only generator used.

    Returns:
        The mixes, or None if the images of this epoch are not mixed.
    """
    alphas = [alpha for alpha in (stage.mixup, stage.cutmix) if alpha]
    if not alphas or epoch > stage.epochs - stage.mixup_off:
        return None
    generator = np.random.default_rng(seed)
    mixes = []
    for _ in range(batches):
        cut = generator.random() < 0.5 if len(alphas) == 2 else bool(stage.cutmix)
        alpha = stage.cutmix if cut else stage.mixup
        share = float(generator.beta(alpha, alpha))
        row, column = generator.random(2)
        mixes.append(_cut(share, row, column, size) if cut else Mix(share))
    return mixes


def _cut(share: float, row: float, column: float, size: int) -> Mix:
    """CutMix: a square of 1 - `share` of the area about (row, column), both 0 to 1; cut off at the image's edge."""
    half = size * (1 - share) ** 0.5 / 2
    top, left = (max(0, round(centre * size - half)) for centre in (row, column))
    bottom, right = (min(size, round(centre * size + half)) for centre in (row, column))
    return Mix(1 - (bottom - top) * (right - left) / size**2, (top, bottom, left, right))
