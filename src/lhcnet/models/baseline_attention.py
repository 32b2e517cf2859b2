"""Attention modules to compare LHC with: Squeeze and Excitation, CBAM and ECA, as implemented in timm.

They scale their input by factors between 0 and 1, so they need no residual sum, and they take feature maps of any size.
"""

from typing import Literal

import torch
from torch import nn

from lhcnet.errors import LhcnetError

BaselineName = Literal["se", "cbam", "eca"]
BASELINES: tuple[BaselineName, ...] = ("se", "cbam", "eca")


def baseline_attention(attention: BaselineName, channels: int, generator: torch.Generator | None = None) -> nn.Module:
    """A new baseline attention module with timm's settings and initialisation.

    Args:
        attention: which module.
        channels: C of the (B, C, H, W) feature maps.
        generator: its seed initialises the weights; None draws from torch's global generator.

    Raises:
        ValueError: no such module.
        LhcnetError: timm is not installed.
    """
    if attention not in BASELINES:
        raise ValueError(f"attention={attention!r} must be one of {', '.join(BASELINES)}")
    try:
        from timm.layers import create_attn
    except ImportError:
        raise LhcnetError(
            f"attention: {attention} needs timm, which is not installed: pip install 'timm>=1.0'"
        ) from None
    with torch.random.fork_rng(devices=[], enabled=generator is not None):  # timm draws from the global generator
        if generator is not None:
            torch.default_generator.manual_seed(generator.initial_seed())
        module: nn.Module = create_attn(attention, channels)
    return module
