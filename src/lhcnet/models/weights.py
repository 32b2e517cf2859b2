"""The start of the backbone: random, said explicitly, or a named file of ImageNet weights."""

from __future__ import annotations

from pathlib import Path

from lhcnet.errors import LhcnetError
from lhcnet.models.resnetv2 import ResNetV2


def load_start(weights: str, network: ResNetV2) -> tuple[ResNetV2, str]:
    """(network at its start, digest of the weights it starts from or `none`).

    `none` leaves the random start. Anything else is a file of ImageNet weights; it is never replaced by a random
    start in silence.
    """
    if weights == "none":
        return network, "none"
    if not Path(weights).is_file():
        raise LhcnetError(
            f"network.weights: {weights} is not a file; expected ImageNet weights, or none for a random start"
        )
    raise LhcnetError(
        f"network.weights: {weights}: importing ImageNet weights is not built yet; `weights: none` starts at random"
    )
