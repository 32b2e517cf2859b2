"""Weight initialisation: layers that leave it to the network that holds them, and seeded generators.

PyTorch initialises every layer when it is constructed. The networks of this package use other distributions (those of
Keras), so each weight would be drawn twice, and the first draw would come from torch's global generator.
"""

import hashlib

import torch
from torch import nn


class Conv2d(nn.Conv2d):
    """Convolution that does not initialise itself; the module that holds it does."""

    def reset_parameters(self) -> None:
        """Leave the weights as they are: `reset_parameters` of the module that holds the layer draws them."""


class Linear(nn.Linear):
    """Dense layer that does not initialise itself; the module that holds it does."""

    def reset_parameters(self) -> None:
        """Leave the weights as they are: `reset_parameters` of the module that holds the layer draws them."""


def named_generator(seed: int | None, name: str) -> torch.Generator | None:
    """Random generator of one part of a network, so that no part's weights depend on another part's size.

    Args:
        seed: seed of the whole network; None for torch's global generator.
        name: name of the part, for example `backbone` or `LHC3`.

    Returns:
        A CPU generator seeded with (seed, name), or None without a seed.
    """
    if seed is None:
        return None
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
