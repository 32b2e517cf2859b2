"""The model directory (`model.safetensors`, `model.json`, `history.csv`, `metrics.json`) and the record of a model.

A directory is complete or absent: it is written under a hidden name and then renamed. There are no pickles. Reading
everything except the weights does not load torch.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from lhcnet import __version__
from lhcnet.config import (
    Compute,
    Count,
    Depth,
    Fraction,
    FrozenModel,
    InputSize,
    LHCSettings,
    Modules,
    Name,
    Network,
    SetName,
    Stage,
    module_arguments,
    parse,
    whole,
)
from lhcnet.errors import LhcnetError
from lhcnet.estimate import Sizes, parameters, problem
from lhcnet.io.atomic import atomic_directory
from lhcnet.io.contents import OwnFolder, OwnJson
from lhcnet.io.files import MAX_SIZE, read_bytes_bounded, read_json, read_text, require_regular_file, write_json
from lhcnet.versioned import Versioned, read_versioned

if TYPE_CHECKING:
    from torch import Tensor

    from lhcnet.models.resnetv2 import ResNetV2

MARKER, WEIGHTS, HISTORY, METRICS = "model.json", "model.safetensors", "history.csv", "metrics.json"
FILES = (MARKER, WEIGHTS, HISTORY, METRICS)  # all that a model directory consists of
MODEL_FOLDER = OwnFolder(MARKER, OwnJson.having("schema_version", "architecture", "provenance"), frozenset(FILES))
CLASSES = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
FACTS = (MARKER, HISTORY, METRICS)  # the record of a model, without its weights
FACTS_FOLDER = OwnFolder(MARKER, MODEL_FOLDER.json, frozenset(FACTS))
_LONGEST_HISTORY = 1 << 20  # bytes, ten thousand epochs
_LARGEST_HEADER = 64 << 20  # bytes; 150 for each tensor
Status = Literal["trained", "diverged", "dead", "inserted"]  # dead: the attention of an LHC module is uniform


class Epoch(FrozenModel):
    """One row of `history.csv`. Training figures are running means over the epoch, under augmentation and dropout;
    `grad_norm` is the largest of a batch (Euclidean, over all trained weights).
    """

    epoch: Annotated[int, BeforeValidator(whole)]
    train_loss: float | None = None
    train_accuracy: float | None = None
    grad_norm: float | None = None
    val_loss: float | None = None
    val_accuracy: float


class Architecture(FrozenModel):
    """Everything that is needed to build the network again; `modules` is null for the plain ResNet34v2."""

    input_size: InputSize
    depths: tuple[Depth, Depth, Depth, Depth]
    widths: tuple[Count, Count, Count, Count]
    head: Annotated[tuple[Count, ...], Field(max_length=100)]
    dropout: Fraction
    bn_momentum: float
    modules: Modules | None = None
    control: bool = False

    @property
    def sizes(self) -> Sizes:
        """Sizes of this network, for estimates of its memory."""
        modules = None if self.modules is None else module_arguments(self.modules)
        return Sizes(self.input_size, self.depths, self.widths, self.head, modules)

    @model_validator(mode="after")
    def _can_be_built(self) -> Architecture:
        if why := problem(self.sizes):
            raise ValueError(why)
        return self

    @property
    def has_lhc(self) -> bool:
        """Whether there is an LHC module in each of the five slots."""
        return self.modules is not None and all(isinstance(row, LHCSettings) for row in self.modules)

    @classmethod
    def of(cls, network: Network) -> Architecture:
        return cls(**network.model_dump(exclude={"weights"}))

    def build(self, seed: int | None, device: str = "cpu") -> ResNetV2:
        """The network with new weights; `device` is `cpu`, or `meta` for the shapes alone, without a seed."""
        import torch

        from lhcnet.models.lhcnet import LHCNet, add_control
        from lhcnet.models.resnetv2 import ResNetV2

        sizes = self.model_dump(exclude={"modules", "control"})
        with torch.device(device):
            if self.modules is None:
                network = ResNetV2(**sizes, seed=seed)
            else:
                network = LHCNet(module_arguments(self.modules), **sizes, seed=seed)
            return add_control(network) if self.control else network


class Provenance(FrozenModel):
    """Where a model comes from.

    `start` is the SHA-256 of the weights file that training started from, or the word `none`. `training` and `compute`
    are the settings of the training; null if there was none. `lhcnet` is the version that trained the model.
    """

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_./-]+$")]
    set: SetName
    stage: Annotated[int, Field(ge=0, lt=100)]
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    variant: Name | None
    data: str
    start: str
    training: Stage | None = None
    compute: Compute | None = None
    lhcnet: str = __version__


class Metrics(FrozenModel):
    """Metrics of the final weights, in evaluation mode and without augmentation; null if not measured or not finite.

    `attention_entropy` has one value for each LHC module, from 0 (every channel attends to one channel) to 1 (uniform).
    """

    status: Status
    reason: str = ""
    best_epoch: int = 0
    epochs: int = 0
    train_loss: float | None = None
    train_accuracy: float | None = None
    val_loss: float | None = None
    val_accuracy: float | None = None
    attention_entropy: dict[str, float] = Field(default_factory=dict)


def _the_seven(classes: tuple[str, ...]) -> tuple[str, ...]:
    if classes != CLASSES:
        raise ValueError(f"expected {', '.join(CLASSES)}, in this order")
    return classes


class ModelInfo(Versioned):
    """`model.json`. `weights` is the SHA-256 of `model.safetensors`: null in memory, until `save` has written both."""

    architecture: Architecture
    preprocessing: Literal["48x48 grey 0..255, bilinear to input_size, copied to 3 channels"] = (
        "48x48 grey 0..255, bilinear to input_size, copied to 3 channels"
    )
    classes: Annotated[tuple[str, ...], AfterValidator(_the_seven)] = CLASSES
    provenance: Provenance
    weights: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None


class ModelRecord(FrozenModel):
    """What a trained model is, and what it reached.

    `selection.json` holds the record of each model of the sets A, B and C, `evaluation.json` that of each LHC-NetC; all
    other results name the model by its id. `weights` is the SHA-256 of its weights file: two models with equal weights
    are one model.
    """

    architecture: Architecture
    provenance: Provenance
    metrics: Metrics
    history: tuple[Epoch, ...]
    weights: str

    @property
    def id(self) -> str:
        return self.provenance.id

    @property
    def set(self) -> SetName:
        return self.provenance.set

    @property
    def is_its_start(self) -> bool:
        """Whether training changed nothing that was kept: epoch 0, the start, was the best on validation."""
        return self.weights == self.provenance.start or (self.metrics.epochs > 0 and self.metrics.best_epoch == 0)


@dataclass(frozen=True)
class SavedModel:
    """An open model directory; the weights are read on demand. Of a folder with facts (`is_facts`) there are none."""

    path: Path
    info: ModelInfo
    metrics: Metrics
    history: tuple[Epoch, ...]
    is_facts: bool = False

    @property
    def id(self) -> str:
        return self.info.provenance.id

    def weights_digest(self) -> str:
        """SHA-256 of `model.safetensors`. Raises `LhcnetError` if it is not the one in `model.json`.

        Of facts, which have no weights, it is the one in `model.json`.
        """
        if self.is_facts:
            return str(self.info.weights)
        path = self.path / WEIGHTS
        try:
            _require_size(path, self._largest())
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise LhcnetError(f"{path}: expected the weights of {self.id}: {error}") from None
        self._require_digest(found)
        return found

    def require_weights(self, digest: str, where: Path) -> None:
        """Raise `LhcnetError` if the weights are not those that the file `where` names by their digest."""
        if (found := self.weights_digest()) != digest:
            raise LhcnetError(
                f"{self.path}: the weights of {self.id} have the SHA-256 {found[:12]}, but {where} was made for "
                f"{digest[:12]}: run the step that wrote {where} again"
            )

    def copy(self, folder: Path) -> None:
        """Copy the four files, and nothing else, into an existing folder; links are read, not copied."""
        limits = {HISTORY: _LONGEST_HISTORY, WEIGHTS: self._largest()}
        for name in FILES:
            try:
                _require_size(self.path / name, limits.get(name, MAX_SIZE))
                content = (self.path / name).read_bytes()
            except OSError as error:
                raise LhcnetError(f"{self.path / name}: expected a file of {self.id}: {error}") from None
            (folder / name).write_bytes(content)
            if name == WEIGHTS:
                self._require_digest(hashlib.sha256(content).hexdigest())

    def save_facts(self, target: Path) -> None:
        """Write a folder with the facts of this model: all of the model directory except the weights."""
        with atomic_directory(target, FACTS_FOLDER) as folder:
            for name in FACTS:
                (folder / name).write_bytes((self.path / name).read_bytes())

    def _largest(self) -> int:
        """Upper bound of the size of `model.safetensors` in bytes, from the architecture."""
        return 4 * parameters(self.info.architecture.sizes) + _LARGEST_HEADER

    def _require_digest(self, found: str) -> None:
        if found != self.info.weights:
            raise LhcnetError(
                f"{self.path / WEIGHTS}: its SHA-256 is {found[:12]}, but {MARKER} says {str(self.info.weights)[:12]}: "
                "it is damaged or of another training; run the step that wrote this model again"
            )

    def require_trained(self) -> None:
        """Raise `LhcnetError` if the training of this model diverged."""
        if self.metrics.status == "diverged":
            reason = self.metrics.reason
            raise LhcnetError(f"{self.path}: its training diverged ({reason}); expected a trained network")

    def require_data(self, digest: str, store: Path) -> None:
        """Raise `LhcnetError` if this model was trained on other data than those of `store`, with this digest."""
        if (was := self.info.provenance.data) != digest:
            raise LhcnetError(f"{self.path}: was trained on data {was[:12]}, not on {digest[:12]} of {store}")

    def record(self) -> ModelRecord:
        """What the results keep of this model."""
        return ModelRecord(
            architecture=self.info.architecture,
            provenance=self.info.provenance,
            metrics=self.metrics,
            history=self.history,
            weights=self.weights_digest(),
        )

    def network(self) -> ResNetV2:
        """The network with its weights, on the CPU, in evaluation mode."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        file = self.path / WEIGHTS
        try:
            _require_size(file, self._largest())
            content = read_bytes_bounded(file, limit=None)
            self._require_digest(hashlib.sha256(content).hexdigest())
            network = _filled(self.info.architecture, load(content))
        except MemoryError:
            raise LhcnetError(f"{file}: there is not enough memory for {file.stat().st_size:,} bytes") from None
        except (SafetensorError, RuntimeError, ValueError, TypeError, KeyError, OverflowError, OSError) as error:
            line = " ".join(str(error).split())[:300]
            raise LhcnetError(f"{file}: expected the weights of the network in {MARKER}: {line}") from None
        return network.eval()


def _filled(architecture: Architecture, weights: Mapping[str, Tensor]) -> ResNetV2:
    """The network with these weights; no memory is taken for sizes that the weights do not have."""
    depth = sum(architecture.depths) + len(architecture.head)
    if depth > len(weights):
        raise ValueError(f"{depth} layers, but {len(weights)} tensors in the file")
    network = architecture.build(seed=None, device="meta")
    wanted = {name: tensor.dtype for name, tensor in network.state_dict().items()}
    network.load_state_dict(weights, assign=True)  # raises for whatever is lost, left over or of another shape
    for name, tensor in weights.items():
        if tensor.dtype != wanted[name]:
            raise ValueError(f"{name} is {tensor.dtype}, expected {wanted[name]}")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{name} holds values that are not finite")
    return network


def save(
    target: Path,
    network: ResNetV2,
    info: ModelInfo,
    metrics: Metrics,
    history: Sequence[Epoch],
) -> None:
    """Write a model directory at `target`; `model.json` gets the SHA-256 of the weights."""
    from safetensors.torch import save as safetensors_of

    with atomic_directory(target, MODEL_FOLDER) as folder:
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
        content = safetensors_of(state)  # not save_file: its file has the mode 0600, so another user could not read it
        (folder / WEIGHTS).write_bytes(content)
        with (folder / HISTORY).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(Epoch.model_fields), lineterminator="\n")
            writer.writeheader()
            writer.writerows({k: "" if v is None else v for k, v in row.to_dict().items()} for row in history)
        write_json(folder / METRICS, metrics.to_dict())
        write_json(folder / MARKER, info.to_dict() | {"weights": hashlib.sha256(content).hexdigest()})


def _require_size(path: Path, limit: int) -> None:
    require_regular_file(path)
    if path.stat().st_size > limit:
        raise OSError(f"more than {limit:,} bytes")


def open_model(path: Path) -> SavedModel:
    """Read a model directory. Raises `LhcnetError` naming the file that is missing or not what was expected."""
    info = read_versioned(ModelInfo, path / MARKER)
    if info.weights is None:
        raise LhcnetError(
            f"{path / MARKER}: weights: has no SHA-256 of {WEIGHTS}, so it is of an earlier lhcnet: "
            "run the step that wrote it again (with DVC: dvc repro)"
        )
    metrics = parse(Metrics, read_json(path / METRICS), str(path / METRICS))
    try:
        lines = StringIO(read_text(path / HISTORY, _LONGEST_HISTORY), newline="")
        rows = [{k: float(v) if v else None for k, v in row.items()} for row in csv.DictReader(lines)]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise LhcnetError(f"{path / HISTORY}: expected one row of numbers an epoch: {error}") from None
    history = tuple(parse(Epoch, row, f"{path / HISTORY}, epoch {i}") for i, row in enumerate(rows))
    return SavedModel(path, info, metrics, history)


def open_facts(path: Path) -> SavedModel:
    """Read the facts of a model, from a folder that `save_facts` wrote or from a model directory.

    Facts give the same record as their model, without its weights. Raises `LhcnetError` as `open_model` does.
    """
    model = open_model(path)
    return model if (path / WEIGHTS).exists() else replace(model, is_facts=True)
