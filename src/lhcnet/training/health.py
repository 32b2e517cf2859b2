"""Detects dead LHC modules: attention that is uniform or one-hot whatever the image."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lhcnet.inference.predict import predict
from lhcnet.inference.tta import plain_views
from lhcnet.models.lhc import LHC
from lhcnet.models.residual import ResidualLHC
from lhcnet.models.slots import SlotNetwork
from lhcnet.runtime import Device

IMAGES = 16  # number of images; few, because the attention of a module has B * heads * C * C entries
TOLERANCE = 1e-6  # a few rounding errors of float32


@dataclass(frozen=True)
class AttentionStatistics:
    """Statistics of one module's attention weights (15) over images, heads and channels.

    Args:
        entropy: mean entropy of the rows, divided by log C: 0 is one-hot, 1 is uniform.
        smallest, largest: the smallest and the largest weight, times C; both are 1 if attention is uniform.
        smallest_peak: the smallest of the rows' largest weights; 1 if every row is one-hot.
    """

    entropy: float
    smallest: float
    largest: float
    smallest_peak: float

    @property
    def dead(self) -> str:
        """`uniform` or `one-hot` if every row of every head is so; otherwise an empty string."""
        if max(self.largest - 1, 1 - self.smallest) < TOLERANCE:
            return "uniform"
        return "one-hot" if self.smallest_peak > 1 - TOLERANCE else ""


@torch.inference_mode()
def attention_statistics(
    network: SlotNetwork, images: NDArray[np.uint8], *, input_size: int, device: Device
) -> dict[str, AttentionStatistics]:
    """Attention statistics of each LHC module on the first images.

    Args:
        network: any network; one without LHC modules gives an empty result.
        images: (N, 48, 48) uint8.
        input_size: side of the network's input in pixels.
        device: where the network is.

    Returns:
        Slot (LHC1 to LHC5) -> statistics of its module.
    """
    found: dict[str, AttentionStatistics] = {}

    def measure(slot: str, lhc: LHC, inputs: tuple[Tensor, ...]) -> None:
        W = lhc.intermediates(inputs[0]).attention.float()  # (B, heads, C, C)
        channels = W.shape[-1]
        entropy = torch.special.entr(W).sum(dim=-1).mean().item() / (math.log(channels) or 1.0)
        smallest, largest = (W.min() * channels).item(), (W.max() * channels).item()
        found[slot] = AttentionStatistics(entropy, smallest, largest, W.amax(dim=-1).min().item())

    slots = zip(network.slots, network.attention, strict=True)
    modules = [(slot, module.lhc) for slot, module in slots if isinstance(module, ResidualLHC)]
    hooks = [lhc.register_forward_pre_hook(partial(measure, slot)) for slot, lhc in modules]
    try:
        if not hooks:
            return {}
        with suppress(FloatingPointError):  # of a training that diverged from the beginning
            predict(network, images[:IMAGES], plain_views(), input_size=input_size, device=device)
    finally:
        for hook in hooks:
            hook.remove()
    return found
