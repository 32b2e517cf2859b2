"""The model directory: `model.safetensors`, `model.json`, `history.csv`, `metrics.json`.

A directory is complete or absent: it is written under a hidden name and then renamed. There are no pickles. Reading
everything except the weights does not load torch. A training that ended early (`UNFINISHED`) has a model directory
without weights. The facts of a model are a folder with everything except its weights (`facts.json` is its
`model.json`): selection needs no more.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from lhcnet.config import parse
from lhcnet.errors import LhcnetError, NoMemoryError
from lhcnet.estimate import MAX_PARAMETERS, parameters
from lhcnet.io.atomic import atomic_directory
from lhcnet.io.contents import OwnFolder, OwnJson
from lhcnet.io.files import MAX_SIZE, read_bytes_bounded, read_json, read_text, require_regular_file, write_json
from lhcnet.model_record import (
    CLASSES,
    UNFINISHED,
    Architecture,
    Epoch,
    Fitted,
    Metrics,
    ModelInfo,
    ModelRecord,
    Provenance,
)
from lhcnet.versioned import read_versioned

if TYPE_CHECKING:
    from torch import Tensor

    from lhcnet.models.slots import SlotNetwork

__all__ = [
    "CLASSES",
    "FACTS",
    "FACTS_FOLDER",
    "FEATURES",
    "FILES",
    "HISTORY",
    "MARKER",
    "METRICS",
    "MODEL_FOLDER",
    "UNFINISHED",
    "WEIGHTS",
    "Architecture",
    "Epoch",
    "Fitted",
    "Metrics",
    "ModelInfo",
    "ModelRecord",
    "Provenance",
    "SavedModel",
    "open_facts",
    "open_model",
    "save",
    "save_unfinished",
]

MARKER, WEIGHTS, HISTORY, METRICS = "model.json", "model.safetensors", "history.csv", "metrics.json"
FEATURES = "features.safetensors"  # only where `evaluate` fitted them: `lhcnet.prediction.typical`
FILES = (MARKER, WEIGHTS, HISTORY, METRICS)  # all that any other model directory consists of
FACTS = "facts.json"  # what `model.json` is called where the weights are left out
_INFO_JSON = OwnJson.having("schema_version", "architecture", "provenance")
MODEL_FOLDER = OwnFolder(MARKER, _INFO_JSON, frozenset({*FILES, FEATURES}))
FACTS_FOLDER = OwnFolder(FACTS, _INFO_JSON, frozenset({FACTS, HISTORY, METRICS}))
_LONGEST_HISTORY = 1 << 20  # bytes, ten thousand epochs
_LARGEST_HEADER = 64 << 20  # bytes; 150 for each tensor


@dataclass(frozen=True)
class SavedModel:
    """An open model directory; the weights are read on demand. `facts`: an open folder of facts, without weights."""

    path: Path
    info: ModelInfo
    metrics: Metrics
    history: tuple[Epoch, ...]
    facts: bool = False

    @property
    def id(self) -> str:
        return self.info.provenance.id

    @property
    def temperature(self) -> float | None:
        """Temperature of plain predictions, fitted on validation; None if `evaluate` did not write this model."""
        return self.info.fitted.temperature if self.info.fitted else None

    @property
    def temperature_tta(self) -> float | None:
        """Temperature of predictions with TTA; None as well if they were not made. `info.fitted` names the views."""
        return self.info.fitted.temperature_tta if self.info.fitted else None

    def weights_digest(self) -> str:
        """SHA-256 of `model.safetensors`. Raises `LhcnetError` if it is not the one in `model.json`."""
        self._require_weights()
        path = self.path / WEIGHTS
        try:
            _require_size(path, self._largest())
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise LhcnetError(f"{path}: expected the weights of {self.id}: {error}") from None
        self._require_digest(found)
        return found

    def require_weights(self, digest: str | None, where: Path) -> None:
        """Raise `LhcnetError` if the weights are not those that the file `where` names by their digest."""
        if (found := self.weights_digest()) != digest:
            raise LhcnetError(
                f"{self.path}: the weights of {self.id} have the SHA-256 {found[:12]}, but {where} was made for "
                f"{str(digest)[:12]}: run the step that wrote {where} again"
            )

    def features(self) -> bytes | None:
        """Content of `features.safetensors`; None if the record names none. Raises `LhcnetError` if it is another."""
        if self.info.fitted is None or self.info.fitted.features is None:
            return None
        path = self.path / FEATURES
        try:
            content = read_bytes_bounded(path, MAX_SIZE)
        except OSError as error:
            raise LhcnetError(f"{path}: expected the typical features of {self.id}: {error}") from None
        if (found := hashlib.sha256(content).hexdigest()) != self.info.fitted.features:
            raise LhcnetError(
                f"{path}: its SHA-256 is {found[:12]}, but {MARKER} says {self.info.fitted.features[:12]}: it is "
                "damaged or of another evaluation; run evaluate again"
            )
        return content

    def copy(self, folder: Path, *, fitted: Fitted | None = None, features: bytes | None = None) -> None:
        """Copy the files of the model, and nothing else, into an existing folder; links are read, not copied.

        Args:
            folder: to copy to.
            fitted: what the copy's `model.json` gets; the other files stay as they are.
            features: what the copy's `features.safetensors` gets; None: that of this model, if it has one.
        """
        self._require_weights()
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
        fitted = fitted or self.info.fitted
        if fitted is not None and (features := self.features() if features is None else features) is not None:
            (folder / FEATURES).write_bytes(features)
            fitted = fitted.model_copy(update={"features": hashlib.sha256(features).hexdigest()})
        if fitted is not None:
            write_json(folder / MARKER, self.info.model_copy(update={"fitted": fitted}).to_dict())

    def save_facts(self, target: Path) -> None:
        """Write the facts of this model, which are everything except its weights, as a folder for `open_facts`."""
        with atomic_directory(target, FACTS_FOLDER) as folder:
            for name, copy in ((HISTORY, HISTORY), (METRICS, METRICS), (MARKER, FACTS)):
                (folder / copy).write_bytes((self.path / name).read_bytes())

    def _require_weights(self) -> None:
        """Raise `LhcnetError` if there can be no weights here."""
        self._require_finished()
        if self.facts:
            raise LhcnetError(f"{self.path}: has the facts of {self.id} without weights; expected its model directory")

    def _require_finished(self) -> None:
        if self.metrics.unfinished:
            raise LhcnetError(
                f"{self.path}: {self.id} has no weights, because its training ended early ({self.metrics.status}: "
                f"{self.metrics.reason}); expected a trained network: train it again"
            )

    def _largest(self) -> int:
        """Upper bound of the size of `model.safetensors` in bytes, from the architecture where it has sizes."""
        sizes = self.info.architecture.sizes
        return 4 * (parameters(sizes) if sizes else MAX_PARAMETERS) + _LARGEST_HEADER

    def _require_digest(self, found: str) -> None:
        if found != self.info.weights:
            raise LhcnetError(
                f"{self.path / WEIGHTS}: its SHA-256 is {found[:12]}, but {MARKER} says {str(self.info.weights)[:12]}: "
                "it is damaged or of another training; run the step that wrote this model again"
            )

    def require_trained(self) -> None:
        """Raise `LhcnetError` if the training of this model diverged or ended early."""
        self._require_finished()
        if self.metrics.status == "diverged":
            reason = self.metrics.reason
            raise LhcnetError(f"{self.path}: its training diverged ({reason}); expected a trained network")

    def require_data(self, digest: str, store: Path) -> None:
        """Raise `LhcnetError` if this model was trained on other data than those of `store`, with this digest."""
        if (was := self.info.provenance.data) != digest:
            raise LhcnetError(f"{self.path}: was trained on data {was[:12]}, not on {digest[:12]} of {store}")

    def record(self) -> ModelRecord:
        """What the results keep of this model. Weights that are here are read to verify their digest."""
        return ModelRecord(
            architecture=self.info.architecture,
            provenance=self.info.provenance,
            metrics=self.metrics,
            history=self.history,
            weights=self.info.weights if self.facts or self.metrics.unfinished else self.weights_digest(),
        )

    def network(self) -> SlotNetwork:
        """The network with its weights, on the CPU, in evaluation mode."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        self._require_weights()
        file = self.path / WEIGHTS
        try:
            _require_size(file, self._largest())
            content = read_bytes_bounded(file, limit=None)
            self._require_digest(hashlib.sha256(content).hexdigest())
            network = _filled(self.info.architecture, load(content))
        except MemoryError:
            raise NoMemoryError(f"{file}: there is not enough memory for {file.stat().st_size:,} bytes") from None
        except (SafetensorError, RuntimeError, ValueError, TypeError, KeyError, OverflowError, OSError) as error:
            line = " ".join(str(error).split())[:300]
            raise LhcnetError(f"{file}: expected the weights of the network in {MARKER}: {line}") from None
        return network.eval()


def _filled(architecture: Architecture, weights: Mapping[str, Tensor]) -> SlotNetwork:
    """The network with these weights; no memory is taken for sizes that the weights do not have."""
    if sizes := architecture.sizes:
        depth = sum(sizes.depths) + len(sizes.head)
        if depth > len(weights):
            raise ValueError(f"{depth} layers, but {len(weights)} tensors in the file")
        network = architecture.build(seed=None, device="meta")
    else:
        network = architecture.build(seed=0)  # no random numbers are taken from the caller
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
    network: SlotNetwork,
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
        _write_record(
            folder, info.model_copy(update={"weights": hashlib.sha256(content).hexdigest()}), metrics, history
        )


def save_unfinished(target: Path, info: ModelInfo, metrics: Metrics) -> None:
    """Write the model directory of a training that ended early: without weights, `metrics` say why."""
    with atomic_directory(target, MODEL_FOLDER) as folder:
        _write_record(folder, info.model_copy(update={"weights": None}), metrics, [])


def _write_record(folder: Path, info: ModelInfo, metrics: Metrics, history: Sequence[Epoch]) -> None:
    with (folder / HISTORY).open("w", newline="", encoding="utf-8") as file:
        rows = [row.to_dict() for row in history]
        used = set().union(*rows) | Epoch.model_fields.keys() - Epoch.newer
        writer = csv.DictWriter(file, [name for name in Epoch.model_fields if name in used], lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: "" if v is None else v for k, v in row.items()} for row in rows)
    write_json(folder / METRICS, metrics.to_dict())
    write_json(folder / MARKER, info.to_dict())


def _require_size(path: Path, limit: int) -> None:
    require_regular_file(path)
    if path.stat().st_size > limit:
        raise OSError(f"more than {limit:,} bytes")


def open_model(path: Path) -> SavedModel:
    """Read a model directory. Raises `LhcnetError` naming the file that is missing or not what was expected."""
    return _open(path, MARKER)


def open_facts(path: Path) -> SavedModel:
    """Read the facts of a model: a folder of `save_facts`, or a model directory. Raises as `open_model` does."""
    return _open(path, FACTS if (path / FACTS).is_file() else MARKER)


def _open(path: Path, marker: str) -> SavedModel:
    if marker == MARKER and (path / FACTS).is_file():
        raise LhcnetError(f"{path}: has the facts of a model without its weights; expected a model directory")
    info = read_versioned(ModelInfo, path / marker)
    metrics = parse(Metrics, read_json(path / METRICS), str(path / METRICS))
    if info.weights is None and not metrics.unfinished:
        raise LhcnetError(
            f"{path / marker}: weights: has no SHA-256 of {WEIGHTS}, so it is of an earlier lhcnet: "
            "run the step that wrote it again (with DVC: dvc repro)"
        )
    try:
        lines = StringIO(read_text(path / HISTORY, _LONGEST_HISTORY), newline="")
        rows = [{k: float(v) if v else None for k, v in row.items()} for row in csv.DictReader(lines)]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise LhcnetError(f"{path / HISTORY}: expected one row of numbers an epoch: {error}") from None
    history = tuple(parse(Epoch, row, f"{path / HISTORY}, epoch {i}") for i, row in enumerate(rows))
    return SavedModel(path, info, metrics, history, facts=marker == FACTS)
