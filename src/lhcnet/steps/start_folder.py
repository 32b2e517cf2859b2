"""The folder of start weights that the step `start_weights` writes and stage 1 reads.

It holds a copy of the file that `network.weights` names and `start_weights.json`, or for `none` that record alone.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal, get_args

from pydantic import model_validator

from lhcnet.config import Backbone, Network
from lhcnet.errors import LhcnetError
from lhcnet.io.contents import OwnFolder, OwnJson
from lhcnet.model_record import StartWeights
from lhcnet.versioned import Versioned, read_versioned

RECORD = "start_weights.json"
FileName = Literal["weights.h5", "weights.pth", "weights.safetensors"]
START_WEIGHTS_FOLDER = OwnFolder(
    RECORD,
    OwnJson.having("schema_version", "backbone", "weights", "start"),
    frozenset({RECORD, *get_args(FileName)}),
)


class StartWeightsRecord(Versioned):
    """`start_weights.json`.

    `backbone` and `weights` are the settings that the folder was made for. `file` is the copy of the weights, and
    `start` its SHA-256, source and licence; both are null if the weights are `none`.
    """

    backbone: Backbone
    weights: str
    file: FileName | None
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
    require_digest(folder / record.file, record.start)
    return folder / record.file


def require_digest(file: Path, start: StartWeights) -> None:
    """Raise LhcnetError if a file is missing, or another one than its record says."""
    try:
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise LhcnetError(f"{file}: cannot be read, expected start weights: {error.strerror or error}") from None
    if found != start.sha256:
        raise LhcnetError(
            f"{file}: is damaged: its SHA-256 is {found[:12]}, expected {start.sha256[:12]}: run start-weights again"
        )
