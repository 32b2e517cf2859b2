"""Initial weights of a backbone, for every kind of network."""

from __future__ import annotations

from lhcnet.models.host import HostNetwork
from lhcnet.models.resnetv2 import ResNetV2
from lhcnet.models.slots import SlotNetwork
from lhcnet.weights.host import load_host
from lhcnet.weights.imagenet import load_start


def initial_weights(weights: str, network: SlotNetwork) -> str:
    """Give a network the initial weights that the setting `network.weights` names.

    Args:
        weights: `none` keeps the random weights, `imagenet` is published, anything else is the path of a file. There is
            no fallback to other weights.
        network: changed in place; unchanged when an error is raised.

    Returns:
        SHA-256 of the file in hexadecimal, or `none`.

    Raises:
        LhcnetError: the file cannot be found, or does not have exactly the weights of this backbone.
    """
    if isinstance(network, HostNetwork):
        return load_host(weights, network)
    if isinstance(network, ResNetV2):
        return load_start(weights, network)[1]
    raise TypeError(f"there are no initial weights for {type(network).__name__}")
