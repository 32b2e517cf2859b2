"""How maps lie in memory."""

from __future__ import annotations

import torch


def memory_format(*channels: int) -> torch.memory_format:
    """channels_last, in which pooling is 5 to 10 times faster on a CPU, for maps with these numbers of channels.

    But the plain order if one is no multiple of 8: oneDNN's channels_last convolutions (torch 2.14, AVX2) then write
    outside their memory.
    """
    return torch.contiguous_format if any(n % 8 for n in channels) else torch.channels_last
