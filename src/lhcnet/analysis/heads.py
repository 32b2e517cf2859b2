"""Statistics of the heads of a trained LHC-Net: their correlation, the learnt scaling T, and their attention maps.

The paper gives a correlation between heads of 63 %, and of "up to 93 %" in a Transformer encoder, without a formula.
Here it is Pearson's coefficient of two heads' outputs A_h (16) over images, channels and the pixels of a slice; its
mean over the pairs of heads corresponds to the first figure, "up to" to the largest of the pairs.

Sums are kept over small batches of images: at full size one image has four million attention weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from lhcnet.analysis.results import BINS, QUANTILES
from lhcnet.analysis.switching import inputs_of, lhc_slots
from lhcnet.inference.predict import batches
from lhcnet.models.lhc import LHC, LHCIntermediates
from lhcnet.models.slots import SlotNetwork
from lhcnet.runtime import Device

IMAGES_AT_ONCE = 16  # (B, heads, C, C) several times over: 0.5 GB with the modules of Table 2


@dataclass(frozen=True)
class HeadStatistics:
    """The heads of one module, over all images."""

    g: float
    correlation: NDArray[np.float64]
    """(heads, heads); nan where an output is constant."""
    scaling: NDArray[np.int64]
    """(heads, BINS): histogram of T (13) over images and channels."""
    scaling_mean: NDArray[np.float64]
    """(heads,)."""
    attention: NDArray[np.float32]
    """(heads, C, C): mean of W (15)."""
    entropy: NDArray[np.float64]
    """(heads,): mean entropy of W's rows, relative to uniform attention: 0 is one-hot (18), 1 uniform (19)."""
    entropy_of_mean: NDArray[np.float64]
    """(heads,): the same of the mean W; equal to `entropy` where attention does not depend on the image."""

    def pairs(self) -> NDArray[np.float64]:
        """Correlations of all pairs of heads; those of constant outputs are left out."""
        pairs = self.correlation[np.triu_indices(len(self.correlation), 1)]
        return pairs[np.isfinite(pairs)]

    def quantiles(self) -> NDArray[np.float64]:
        """(heads, QUANTILES) of T; those of the exponent (14) are greater by g."""
        edges = np.linspace(0, 1, BINS + 1)
        below = np.pad(self.scaling.cumsum(axis=1), ((0, 0), (1, 0))) / self.scaling.sum(axis=1, keepdims=True)
        return np.stack([np.interp(QUANTILES, row, edges) for row in below])


class _RunningSums:
    """Running sums of one module over batches; float64, as small differences of large sums are taken."""

    def __init__(self, lhc: LHC) -> None:
        zeros = lhc.w1.new_zeros
        self.lhc = lhc
        self.images = self.count = 0
        self.shift: Tensor | None = None  # the first batch's means: nothing cancels in the variances
        self.total = zeros(lhc.heads, dtype=torch.float64)
        self.products = zeros(lhc.heads, lhc.heads, dtype=torch.float64)
        self.scaling = zeros(lhc.heads * BINS, dtype=torch.int64)
        self.scaling_total = zeros(lhc.heads, dtype=torch.float64)
        self.attention = zeros(lhc.heads, lhc.channels, lhc.channels, dtype=torch.float64)
        self.entropy = zeros(lhc.heads, dtype=torch.float64)

    def add(self, z: LHCIntermediates) -> None:
        heads = self.lhc.heads
        A = z.A.transpose(0, 1).reshape(heads, -1).double()  # (heads, B*C*L)
        self.shift = A.mean(dim=1, keepdim=True) if self.shift is None else self.shift
        A = A - self.shift
        self.count += A.shape[1]
        self.total += A.sum(dim=1)
        self.products += A @ A.T

        T = z.T.transpose(0, 1).reshape(heads, -1)  # (heads, B*C)
        bins = (T * BINS).long().clamp(max=BINS - 1) + BINS * torch.arange(heads, device=T.device)[:, None]
        self.scaling += bins.flatten().bincount(minlength=heads * BINS)
        self.scaling_total += T.double().sum(dim=1)

        self.images += len(z.attention)
        self.attention += z.attention.sum(dim=0)
        self.entropy += _entropy(z.attention).double().sum(dim=0)

    def statistics(self) -> HeadStatistics:
        mean = self.total / self.count
        covariance = (self.products / self.count - torch.outer(mean, mean)).cpu().numpy()
        deviation = np.sqrt(np.diag(covariance).clip(min=0))
        with np.errstate(invalid="ignore", divide="ignore"):
            correlation = covariance / np.outer(deviation, deviation)
        attention = self.attention / self.images
        return HeadStatistics(
            g=self.lhc.g,
            correlation=correlation,
            scaling=self.scaling.view(self.lhc.heads, BINS).cpu().numpy(),
            scaling_mean=(self.scaling_total / (self.images * self.lhc.channels)).cpu().numpy(),
            attention=attention.float().cpu().numpy(),
            entropy=(self.entropy / self.images).cpu().numpy(),
            entropy_of_mean=_entropy(attention).cpu().numpy(),
        )


def _entropy(attention: Tensor) -> Tensor:
    """(..., C, C) to (...): mean entropy of the rows, as a share of log C."""
    uniform = math.log(attention.shape[-1]) or 1.0
    entropy: Tensor = torch.special.entr(attention).sum(dim=-1).mean(dim=-1)
    return entropy / uniform


@torch.inference_mode()
def head_statistics(
    network: SlotNetwork,
    images: NDArray[np.uint8],
    *,
    input_size: int,
    device: Device,
    batch_size: int = IMAGES_AT_ONCE,
) -> list[HeadStatistics]:
    """Statistics of each module over (N, 48, 48) images.

    Raises:
        ValueError: a slot of the network holds something other than an LHC module.
    """
    network.eval()
    sums = [_RunningSums(slot.lhc) for slot in lhc_slots(network)]
    with tqdm(total=len(images), desc="attention", unit="image", disable=None) as progress:
        for _, grey in batches(images, input_size, False, device, min(batch_size, IMAGES_AT_ONCE)):
            with device.autocast():
                inputs, _ = inputs_of([module.lhc for module in sums], network, grey.expand(-1, 3, -1, -1))
                for module, x in zip(sums, inputs, strict=True):
                    module.add(module.lhc.intermediates(x))
            progress.update(len(grey))
    return [module.statistics() for module in sums]
