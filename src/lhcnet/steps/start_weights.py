"""The start weights of stage 1 as a folder of their own, so that no training downloads or looks for them.

The folder holds a copy of the file that `network.weights` names and `start_weights.json`, or for `none` that record
alone.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from pathlib import Path
from typing import Literal, get_args

from pydantic import model_validator

from lhcnet.config import Backbone, Network
from lhcnet.errors import LhcnetError
from lhcnet.io.atomic import atomic_directory
from lhcnet.io.contents import OwnFolder, OwnJson
from lhcnet.io.files import write_json
from lhcnet.model_record import Architecture, StartWeights
from lhcnet.runtime import memory_errors
from lhcnet.steps.outputs import check_outputs
from lhcnet.versioned import Versioned, read_versioned

RECORD = "start_weights.json"
_FileName = Literal["weights.h5", "weights.pth", "weights.safetensors"]
START_WEIGHTS_FOLDER = OwnFolder(
    RECORD,
    OwnJson.having("schema_version", "backbone", "weights", "start"),
    frozenset({RECORD, *get_args(_FileName)}),
)

log = logging.getLogger("lhcnet")


class StartWeightsRecord(Versioned):
    """`start_weights.json`.

    `backbone` and `weights` are the settings that the folder was made for. `file` is the copy of the weights, and
    `start` its SHA-256, source and licence; both are null if the weights are `none`.
    """

    backbone: Backbone
    weights: str
    file: _FileName | None
    start: StartWeights | None

    @model_validator(mode="after")
    def _a_file_unless_none(self) -> StartWeightsRecord:
        if len({self.weights == "none", self.file is None, self.start is None}) > 1:
            raise ValueError("file, start: expected both, or null for both where weights is none")
        return self

    @property
    def facts(self) -> dict[str, str]:
        """Settings, SHA-256, source and licence, for people."""
        settings = {"backbone": self.backbone, "weights": self.weights}
        return settings | (self.start.to_dict() if self.start else {})


def start_weights(out: Path, *, network: Network) -> StartWeightsRecord:
    """Find the start weights of stage 1, prove that they fit the network, and write a copy of them.

    Args:
        out: folder to write.
        network: the network; its setting `weights` names `imagenet` (downloaded, or of an installed package), a file,
            or `none`.

    Returns:
        The record in the folder.

    Raises:
        LhcnetError: the weights cannot be found, are not the published ones, or do not fit the network.
    """
    check_outputs((out, START_WEIGHTS_FOLDER))
    file, start = (None, None) if network.weights == "none" else _find(network)
    name: _FileName | None = None
    if file:
        name = "weights.h5" if network.is_lhcnet else "weights.pth"
        name = "weights.safetensors" if file.suffix == ".safetensors" else name  # it is read in another way
    record = StartWeightsRecord(backbone=network.backbone, weights=network.weights, file=name, start=start)
    with atomic_directory(out, START_WEIGHTS_FOLDER, file.stat().st_size if file else 0) as folder:
        if file and name and start:
            shutil.copyfile(file, folder / name)
            _require_digest(folder / name, start)
        write_json(folder / RECORD, record.to_dict())
    log.info("start weights: %s", start or "none, the network starts from random weights")
    return record


def open_start_weights(folder: Path, network: Network) -> Path | None:
    """The file of weights in a folder that `start_weights` wrote; None if the weights are `none`.

    Args:
        folder: the folder.
        network: the settings of the training.

    Raises:
        LhcnetError: the folder is missing or damaged, or was made for other settings.
    """
    record = read_versioned(StartWeightsRecord, folder / RECORD)
    if (record.backbone, record.weights) != (network.backbone, network.weights):
        raise LhcnetError(
            f"{folder / RECORD}: is for network.weights: {record.weights} of {record.backbone}, but the settings say "
            f"{network.weights} of {network.backbone}: run start-weights again"
        )
    if record.file is None or record.start is None:
        return None
    _require_digest(folder / record.file, record.start)
    return folder / record.file


def _find(network: Network) -> tuple[Path, StartWeights | None]:
    """(file, its record) of the weights that the settings name, after the network was filled with them."""
    from lhcnet.weights.start import describe_weights, initial_weights, weights_file

    with memory_errors("network"):
        model = Architecture.of(network).build(seed=0)
        file = weights_file(network.weights, model)
        digest = initial_weights(network.weights, model, file)
    return file, describe_weights(network.weights, network.backbone, digest)


def _require_digest(file: Path, start: StartWeights) -> None:
    try:
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise LhcnetError(f"{file}: cannot be read, expected start weights: {error.strerror or error}") from None
    if found != start.sha256:
        raise LhcnetError(
            f"{file}: is damaged: its SHA-256 is {found[:12]}, expected {start.sha256[:12]}: run start-weights again"
        )
