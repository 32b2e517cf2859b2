"""Memory format of feature maps and of the convolution weights that go with them."""

from __future__ import annotations

import torch


def memory_format(*channels: int) -> torch.memory_format:
    """Memory format for feature maps with these numbers of channels.

    Returns:
        `channels_last`, in which pooling is 5 to 10 times faster on a CPU; `contiguous_format` if one of the
        numbers is not a multiple of 8, because oneDNN's channels_last convolutions (torch 2.14, AVX2) then write
        outside their memory.
    """
    return torch.contiguous_format if any(n % 8 for n in channels) else torch.channels_last
