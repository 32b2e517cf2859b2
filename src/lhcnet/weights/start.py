"""Initial weights of a backbone, for every kind of network."""

from __future__ import annotations

from pathlib import Path

from lhcnet.config import LHCNET
from lhcnet.errors import LhcnetError
from lhcnet.model_record import StartWeights
from lhcnet.models.host import HostNetwork
from lhcnet.models.resnetv2 import ResNetV2
from lhcnet.models.slots import SlotNetwork
from lhcnet.weights import imagenet
from lhcnet.weights.host import PACKAGED, host_file, load_host
from lhcnet.weights.imagenet import keras_file, load_start


def weights_file(weights: str, network: SlotNetwork) -> Path:
    """Path of the file that the setting `network.weights` names, downloaded if necessary.

    Args:
        weights: `imagenet`, or the path of a file; not `none`.
        network: the network that the weights are for.

    Raises:
        LhcnetError: the file cannot be found.
    """
    if isinstance(network, HostNetwork):
        return host_file(weights, network.backbone)
    if isinstance(network, ResNetV2):
        return keras_file(weights, network)
    raise TypeError(f"there are no initial weights for {type(network).__name__}")


def initial_weights(weights: str, network: SlotNetwork, file: Path | None = None) -> str:
    """Give a network the initial weights that the setting `network.weights` names.

    Args:
        weights: `none` keeps the random weights, `imagenet` is published, anything else is the path of a file, or its
            address if `file` is given. There is no fallback to other weights.
        network: changed in place; unchanged when an error is raised.
        file: a copy of the file that `weights` names; None: `weights_file` finds it.

    Returns:
        SHA-256 of the file in hexadecimal, or `none`.

    Raises:
        LhcnetError: the file cannot be found, or does not have exactly the weights of this backbone.
    """
    if weights == "none":
        return "none"
    if file is None and "://" in weights:
        raise LhcnetError(
            f"network.weights: {_shown(weights)} is an address, which `lhcnet start-weights FOLDER` downloads; "
            "expected its folder (--start-weights FOLDER)"
        )
    if isinstance(network, HostNetwork):
        return load_host(weights, network, file or host_file(weights, network.backbone))
    if isinstance(network, ResNetV2):
        return load_start(weights, network, file)[1]
    raise TypeError(f"there are no initial weights for {type(network).__name__}")


def describe_weights(weights: str, backbone: str, digest: str) -> StartWeights | None:
    """What the weights of a backbone are, for the record of its models.

    Args:
        weights: the setting `network.weights`.
        backbone: the setting `network.backbone`.
        digest: what `initial_weights` returned.

    Returns:
        source and licence; the licence of a user's file is not known. None for random weights.
    """
    if digest == "none":
        return None
    for packaged in PACKAGED.values():
        if packaged.sha256 == digest:  # also where its path was given
            return StartWeights(sha256=digest, source=packaged.package, license=packaged.license)
    if weights == imagenet.IMAGENET and backbone == LHCNET:
        return StartWeights(sha256=digest, source=imagenet.URL, license=imagenet.LICENSE)
    return StartWeights(sha256=digest, source=_shown(weights)[:300], license="not known")


def _shown(weights: str) -> str:
    """The name of a file, or an address without digest and signature."""
    return weights.partition("#")[0].partition("?")[0] if "://" in weights else Path(weights).name
