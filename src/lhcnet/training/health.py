"""Whether the LHC modules of a trained network attend to anything."""

from __future__ import annotations

import math
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
from lhcnet.models.resnetv2 import SLOTS, ResNetV2
from lhcnet.runtime import Device

IMAGES = 16  # looked at: (B, heads, C, C) of each module
SAME = 1e-6  # a few roundings of float32


@dataclass
class Spread:
    """Attention (15) of one module over images, heads and channels."""

    mean: float = 0.0  # entropy of the rows over log C: 0 one-hot, 1 uniform
    least: float = 0.0  # the smallest and the largest weight, times C: both 1 where all are alike
    largest: float = 0.0
    one_hot: float = 0.0  # the smallest of the rows' largest weights: 1 where every row is one-hot

    @property
    def dead(self) -> str:
        """ "uniform" or "one-hot" where that is what every row of every head is, otherwise nothing."""
        if max(self.largest - 1, 1 - self.least) < SAME:
            return "uniform"
        return "one-hot" if self.one_hot > 1 - SAME else ""


@torch.inference_mode()
def attention_entropy(
    network: ResNetV2, images: NDArray[np.uint8], *, input_size: int, device: Device
) -> dict[str, Spread]:
    """The spread of each LHC module by its place, on the first images (N, 48, 48); empty for networks without."""
    found: dict[str, Spread] = {}

    def look(place: str, module: LHC, inputs: tuple[Tensor, ...]) -> None:
        W = module.intermediates(inputs[0]).attention.float()  # (B, heads, C, C)
        channels = W.shape[-1]
        entropy = torch.special.entr(W).sum(dim=-1).mean().item() / math.log(channels)
        low, high = (W.min() * channels).item(), (W.max() * channels).item()
        found[place] = Spread(entropy, low, high, W.amax(dim=-1).min().item())

    slots = zip(SLOTS, network.attention, strict=True)
    modules = [(place, slot.lhc) for place, slot in slots if isinstance(slot, ResidualLHC)]
    hooks = [lhc.register_forward_pre_hook(partial(look, place)) for place, lhc in modules]
    try:
        if hooks:
            predict(network, images[:IMAGES], plain_views(), input_size=input_size, device=device)
    finally:
        for hook in hooks:
            hook.remove()
    return found
