"""What an exported file says about itself: strings in the metadata of an ONNX model, JSON in a file of torch.export."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from lhcnet import __version__
from lhcnet.config import Count, FrozenModel, parse
from lhcnet.config_base import InputSize
from lhcnet.model_record import Answered
from lhcnet.protocol.score import Proportion
from lhcnet.saved import SavedModel

INPUT, LOGITS, PROBABILITIES = "images", "logits", "probabilities"  # names in the graph
LICENCE = "lhcnet: Apache-2.0. Start weights and training images have terms of their own."
JSON_FILE = "lhcnet.json"  # in a file of torch.export
_TEXTS = (  # keys whose values are strings; those of all others are JSON
    *("format", "model", "network", "input", "output", "precision"),
    *("weights", "data", "licence", "lhcnet", "trained_with"),
)

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Parity(FrozenModel):
    """Largest difference of a probability from PyTorch's, on n drawn faces."""

    largest_difference: Proportion
    n: Count


class Calibration(FrozenModel):
    """The n validation images that the ranges of the activations were measured on; `data` is their data digest."""

    n: Count
    data: Digest
    weight_bits: Literal[7, 8]


class AccuracyLoss(FrozenModel):
    """Accuracy of the exported model minus that of PyTorch, on the same n test images, with its paired 95 % interval.

    `data` is the digest of the data, `p` that of McNemar's exact test.
    """

    accuracy: Proportion
    accuracy_float32: Proportion
    difference: float
    ci95: tuple[float, float]
    p: Proportion
    n: Count
    data: Digest


class ExportRecord(FrozenModel):
    """Facts of an exported model.

    `lhcnet` is the version that exported it, `trained_with` the one that trained it; `weights` the SHA-256 of the
    weights, `data` the digest of the training data. `views` is 1, or the number of views of test-time augmentation
    whose mean it gives. `temperature` is null where none was fitted: the probabilities are then the softmax of the
    logits, else that of the logits divided by it. `thresholds` say what thresholds of the confidence did on validation,
    for the float32 model.
    """

    format: Literal["lhcnet 1"] = "lhcnet 1"
    model: str
    network: str
    classes: tuple[str, ...]
    input: str
    output: str
    input_size: InputSize
    views: Count
    temperature: Annotated[float, Field(gt=0)] | None = None
    thresholds: tuple[Answered, ...] = ()
    precision: Literal["float32", "int8"] = "float32"
    weights: Digest
    data: str
    licence: str = LICENCE
    lhcnet: str = __version__
    trained_with: str
    parity: Parity | None = None
    calibration: Calibration | None = None
    accuracy_loss: AccuracyLoss | None = None

    @classmethod
    def of(cls, saved: SavedModel, *, views: int) -> ExportRecord:
        """The record of a model directory that is exported."""
        info, fitted = saved.info, saved.info.fitted
        size = info.architecture.input_size
        with_views = f" of the mean over {views} views" if views > 1 else ""
        return cls(
            model=saved.id,
            network=info.architecture.plain_name + (" with attention modules" if info.architecture.modules else ""),
            classes=info.classes,
            input=f"{INPUT}: uint8 (N, 48, 48), grey values 0..255; they are resized to {size}x{size} inside",
            output=f"{LOGITS}, {PROBABILITIES}: float32 (N, {len(info.classes)}), in the order of classes{with_views}",
            input_size=size,
            views=views,
            temperature=saved.temperature_tta if views > 1 else saved.temperature,
            thresholds=() if fitted is None else fitted.thresholds_tta if views > 1 else fitted.thresholds,
            weights=saved.weights_digest(),
            data=info.provenance.data,
            trained_with=info.provenance.lhcnet,
        )

    def to_metadata(self) -> dict[str, str]:
        """As text: strings as they are, everything else as JSON; what is null is left out."""
        values = self.to_dict().items()
        return {key: value if key in _TEXTS else json.dumps(value) for key, value in values if value is not None}

    @classmethod
    def of_metadata(cls, metadata: Mapping[str, str], where: str) -> ExportRecord:
        """Inverse of `to_metadata`. Raises `LhcnetError` naming the file `where` if it is of another program."""
        values: dict[str, Any] = {}
        for key in cls.model_fields.keys() & metadata.keys():
            try:
                values[key] = metadata[key] if key in _TEXTS else json.loads(metadata[key])
            except (ValueError, RecursionError):
                values[key] = metadata[key]  # refused below, by its name
        return parse(cls, values, f"{where}: expected the metadata of a model that `lhcnet export` wrote")
