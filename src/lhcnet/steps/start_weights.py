"""The start weights of stage 1 as a folder of their own, so that no training downloads or looks for them."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from lhcnet.config import Network
from lhcnet.io.atomic import atomic_directory
from lhcnet.io.files import write_json
from lhcnet.model_record import Architecture, StartWeights
from lhcnet.runtime import memory_errors
from lhcnet.steps.outputs import check_outputs
from lhcnet.steps.start_folder import RECORD, START_WEIGHTS_FOLDER, FileName, StartWeightsRecord, require_digest

log = logging.getLogger("lhcnet")


def start_weights(out: Path, *, network: Network) -> StartWeightsRecord:
    """Find the start weights of stage 1, prove that they fit the network, and write a copy of them.

    Args:
        out: folder to write.
        network: the network; its setting `weights` names `imagenet` (downloaded, or of an installed package), a file,
            its address, or `none`.

    Returns:
        The record in the folder.

    Raises:
        LhcnetError: the weights cannot be found, are not the published ones, or do not fit the network.
    """
    check_outputs((out, START_WEIGHTS_FOLDER))
    file, start = (None, None) if network.weights == "none" else _find(network)
    name: FileName | None = None
    if file:
        name = "weights.h5" if network.is_lhcnet else "weights.pth"
        name = "weights.safetensors" if file.suffix == ".safetensors" else name  # it is read in another way
    record = StartWeightsRecord(backbone=network.backbone, weights=network.weights, file=name, start=start)
    with atomic_directory(out, START_WEIGHTS_FOLDER, file.stat().st_size if file else 0) as folder:
        if file and name and start:
            shutil.copyfile(file, folder / name)
            require_digest(folder / name, start)
        write_json(folder / RECORD, record.to_dict())
    log.info("start weights: %s", start or "none, the network starts from random weights")
    return record


def _find(network: Network) -> tuple[Path, StartWeights | None]:
    """(file, its record) of the weights that the settings name, after the network was filled with them."""
    from lhcnet.weights.address import address_file, is_address
    from lhcnet.weights.start import describe_weights, initial_weights, weights_file

    named = str(address_file(network.weights)) if is_address(network.weights) else network.weights
    with memory_errors("network"):
        model = Architecture.of(network).build(seed=0)
        file = weights_file(named, model)
        digest = initial_weights(network.weights, model, file)
    return file, describe_weights(network.weights, network.backbone, digest)
