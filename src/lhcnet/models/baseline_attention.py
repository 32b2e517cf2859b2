"""Attention modules to compare LHC with, from timm: Squeeze and Excitation, CBAM and ECA.

They scale their input by numbers between 0 and 1, so nothing is added around them, and they take maps of any size.
"""

from typing import Literal

import torch
from torch import nn

from lhcnet.errors import LhcnetError


def baseline_attention(
    kind: Literal["se", "cbam", "eca"], channels: int, generator: torch.Generator | None
) -> nn.Module:
    """A fresh module for (B, C, H, W) tensors, with timm's settings and start, drawn from the generator's seed.

    Raises:
        LhcnetError: timm is not installed.
    """
    try:
        from timm.layers import create_attn
    except ImportError:
        raise LhcnetError(f"attention: {kind} comes from timm, which is missing: pip install 'timm>=1.0'") from None
    with torch.random.fork_rng(devices=[], enabled=generator is not None):  # timm draws from the global generator
        if generator is not None:
            torch.default_generator.manual_seed(generator.initial_seed())
        module: nn.Module = create_attn(kind, channels)
    return module
