"""Initial weights of the backbone: random, or the ImageNet weights of the Keras package image-classifiers.

The file `resnet34_imagenet_1000_no_top.h5` is read with h5py; Keras is not needed. Only the backbone gets its weights;
the head keeps its random initialisation, as in the paper.
"""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path
from typing import Any

from lhcnet.errors import LhcnetError
from lhcnet.io.files import require_regular_file
from lhcnet.models.resnetv2 import RESNET34_DEPTHS, RESNET34_WIDTHS, ResNetV2
from lhcnet.weights.keras import keras_state, unit_layers

IMAGENET = "imagenet"
URL = "https://github.com/qubvel/classification_models/releases/download/0.0.1/resnet34_imagenet_1000_no_top.h5"
CHECKSUM = "md5:8caaa0ad39d927cb8ba5385bf945d582"  # as published in weights.py of image-classifiers
LICENSE = "MIT"  # of the repository that publishes it
CACHE = "LHCNET_CACHE"  # environment variable: folder of downloaded weights
MAX_CHUNK = 1 << 23  # numbers; the largest kernel has 2.4 million

LAYERS = {"bn_data": "bn_data", "stem_conv": "conv0", "stem_bn": "bn0", "bn": "bn1"} | unit_layers(
    lambda stage, unit, part: f"stage{stage}_unit{unit}_{part}",
    {"bn1": "bn1", "conv1": "conv1", "bn2": "bn2", "conv2": "conv2", "shortcut": "sc"},
)


def load_start(weights: str, network: ResNetV2, file: Path | None = None) -> tuple[ResNetV2, str]:
    """Give a network the initial weights that the settings name.

    Args:
        weights: `none` keeps the random weights; for others see `keras_file`. There is no fallback to other weights.
        network: changed in place; unchanged when an error is raised.
        file: a copy of the file that `weights` names, which is then not looked for.

    Returns:
        The network, and the SHA-256 of the file in hexadecimal, or `none`.

    Raises:
        LhcnetError: the file cannot be found or downloaded, or does not have exactly the weights of this backbone.
    """
    if weights == "none":
        return network, "none"
    file = file or keras_file(weights, network)
    fill_backbone(network, file)
    with file.open("rb") as opened:
        return network, hashlib.file_digest(opened, "sha256").hexdigest()


def keras_file(weights: str, network: ResNetV2) -> Path:
    """Path of the initial weights of a ResNet34v2.

    Args:
        weights: `imagenet` is the published file, downloaded once into the cache; anything else is the path of such a
            file.
        network: must have the sizes of the published file.

    Raises:
        LhcnetError: the file cannot be found or downloaded, or does not fit the sizes of the network.
    """
    if weights != IMAGENET and not Path(weights).is_file():
        raise LhcnetError(
            f"network.weights: {weights} is not a file; expected {IMAGENET}, the path of that file, or none for "
            "random weights"
        )
    _check_fit(weights, network)
    return fetch() if weights == IMAGENET else Path(weights)


def fill_backbone(network: ResNetV2, file: Path) -> None:
    """Load the backbone's weights from a Keras file; the head keeps its weights.

    Args:
        network: a network with the depths of ResNet34 and any widths; changed in place.
        file: an HDF5 file written by Keras. The weights are at its root, or in the group `model_weights` if a whole
            model was saved.

    Raises:
        LhcnetError: the file cannot be read, or does not have exactly the weights of this backbone.
    """
    import h5py

    datasets: dict[str, Any] = {}

    def collect(path: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual:
                raise ValueError(f"{path} is stored in another file, expected in this one")
            if math.prod(item.chunks or ()) > MAX_CHUNK:  # HDF5 reads whole chunks into memory
                raise ValueError(f"{path} is stored in chunks of {item.chunks}, expected smaller ones")
            parts = path.split("/")
            datasets[f"{parts[0]}/{parts[-1].removesuffix(':0')}"] = item

    try:
        require_regular_file(file)
        with h5py.File(file, "r") as opened:
            inner = opened.get("model_weights")
            (inner if isinstance(inner, h5py.Group) else opened).visititems(collect)
            state = keras_state(network, datasets, LAYERS)
    except (ValueError, OSError, RuntimeError, KeyError, TypeError) as error:  # what h5py raises depends on the damage
        line = " ".join(str(error).split())
        raise LhcnetError(f"network.weights: {file}: expected Keras weights of this backbone in HDF5: {line}") from None
    network.load_state_dict(network.state_dict() | state)


def fetch() -> Path:
    """Path of the ImageNet file in the cache, downloaded if necessary; LHCNET_CACHE is the folder, if set.

    Raises:
        LhcnetError: the file cannot be downloaded, or has another checksum.
    """
    import pooch

    folder = cache_folder()
    name = URL.rpartition("/")[2]
    try:
        download = pooch.HTTPDownloader(chunk_size=2**20)  # bytes; its default of 1024 is slow
        return Path(pooch.retrieve(URL, CHECKSUM, fname=name, path=folder, downloader=download))
    except ValueError:
        raise LhcnetError(f"network.weights: {URL}: expected the published file, with checksum {CHECKSUM}") from None
    except OSError as error:
        reason = " ".join(str(error).split())[:200]
        raise LhcnetError(
            f"network.weights: {URL} could not be downloaded; expected a network connection or the file at "
            f"{folder / name} ({CACHE} sets the folder): {reason}"
        ) from None


def cache_folder() -> Path:
    """Folder of downloaded weights: LHCNET_CACHE, or that of the operating system."""
    import pooch

    return Path(os.environ.get(CACHE) or pooch.os_cache("lhcnet"))


def _check_fit(weights: str, network: ResNetV2) -> None:
    if (network.depths, network.widths) != (RESNET34_DEPTHS, RESNET34_WIDTHS):
        raise LhcnetError(
            f"network.weights: {weights} is for depths {RESNET34_DEPTHS} and widths {RESNET34_WIDTHS}, not for "
            f"{network.depths} and {network.widths}; expected those or weights: none"
        )
