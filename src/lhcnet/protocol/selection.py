"""The 10 % loss rule and the choice of a model (section 4.1). The test split is not used here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from lhcnet.config import FrozenModel, Minimum
from lhcnet.errors import LhcnetError
from lhcnet.saved import ModelRecord, SavedModel
from lhcnet.versioned import Versioned, read_versioned


class Entry(FrozenModel):
    """One model of the sets A, B and C: kept or rejected, with the reason."""

    record: ModelRecord
    kept: bool
    reason: str

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def set(self) -> str:
        return self.record.set


class SelectionReport(Versioned):
    """`selection.json`.

    `backbone` are the stages 1-3 that were handed in; the last one is the start of stage 4. `best` names the kept model
    of each set with the best validation accuracy, `chosen` the best one of B ∪ C.
    """

    loss_factor: Annotated[float, Field(gt=0)]
    backbone: Annotated[tuple[ModelRecord, ...], Field(min_length=1)]
    entries: tuple[Entry, ...]
    best: dict[str, str]
    chosen: str

    @model_validator(mode="after")
    def _holds_together(self) -> SelectionReport:
        kept = {entry.id: entry.set for entry in self.entries if entry.kept}
        ids = [entry.id for entry in self.entries]
        if len(set(ids)) != len(ids):
            raise ValueError("an entry occurs twice, expected each model once")
        if strangers := sorted({record.provenance.data for record in self.kept} - {self.data}):
            raise ValueError(f"kept models are of other data ({strangers[0]}) than the backbone ({self.data})")
        if kept.get(self.chosen) not in ("B", "C"):
            raise ValueError(f"expected the chosen {self.chosen} among the kept entries of the sets B and C")
        for name, id_ in self.best.items():
            if kept.get(id_) != name:
                raise ValueError(f"best: expected {id_} among the kept entries of set {name}")
        return self

    @property
    def start(self) -> ModelRecord:
        """The network that stage 4 starts from; LHC modules are inserted into it."""
        return self.backbone[-1]

    @property
    def data(self) -> str:
        """Digest of the data set."""
        return self.start.provenance.data

    @property
    def kept(self) -> tuple[ModelRecord, ...]:
        return tuple(entry.record for entry in self.entries if entry.kept)

    @property
    def missing(self) -> tuple[Entry, ...]:
        """The models whose training ended early (crashed, out of memory, time limit); they have no weights."""
        return tuple(entry for entry in self.entries if entry.record.metrics.unfinished)

    @property
    def chosen_model(self) -> ModelRecord:
        return next(entry.record for entry in self.entries if entry.id == self.chosen)

    @property
    def chosen_variant(self) -> str:
        return self.chosen_model.provenance.variant or ""


def read_selection(file: Path) -> SelectionReport:
    """Read `selection.json`. Raises `LhcnetError` as `read_versioned` does."""
    return read_versioned(SelectionReport, file)


def apply_loss_rule(model: ModelRecord, start_train_loss: float, loss_factor: float) -> tuple[bool, str]:
    """Keep a model if its training loss is below `loss_factor` (1.10) times that of its start (section 4.1).

    Both losses are measured in the same way: final weights, evaluation mode, whole training split, no augmentation. The
    rule does not apply to set A, which has no new modules: there, only divergence counts. A model with a dead module
    (uniform attention) is rejected as well, and one whose training ended early.

    Returns:
        Whether the model is kept, and the reason.
    """
    metrics = model.metrics
    if metrics.unfinished:
        return False, f"{metrics.status}: {metrics.reason}"
    if metrics.status == "diverged" or metrics.train_loss is None:
        return False, f"diverged: {metrics.reason or 'training loss is not finite'}"
    if metrics.status == "dead":
        return False, f"dead: {metrics.reason}"
    if model.set == "A":
        return True, "set A: the loss rule is for networks with LHC"
    limit = loss_factor * start_train_loss
    factor = f"{loss_factor:.2f}" if loss_factor == round(loss_factor, 2) else f"{loss_factor:g}"
    kept = metrics.train_loss < limit
    sign = "<" if kept else ">="
    return kept, f"training loss {metrics.train_loss:.4f} {sign} limit {limit:.4f} ({factor} x {start_train_loss:.4f})"


def judge(models: Sequence[SavedModel], start: SavedModel, loss_factor: float) -> tuple[Entry, ...]:
    """Apply the loss rule to every model, in the order of their ids.

    Raises:
        LhcnetError: ids repeat, data sets differ, or the start has no finite training loss.
    """
    if start.metrics.train_loss is None:
        raise LhcnetError(f"{start.path}: the starting network has no finite training loss to compare with")
    data = {saved.info.provenance.data for saved in [*models, start]}
    if len(data) != 1:
        raise LhcnetError(f"expected models trained on one data set, not on {len(data)}: {', '.join(sorted(data))}")
    ids = [saved.id for saved in models]
    if repeated := sorted({id_ for id_ in ids if ids.count(id_) > 1}):
        raise LhcnetError(f"expected each model once, but these ids repeat: {', '.join(repeated)}")

    entries = []
    for saved in sorted(models, key=lambda saved: saved.id):
        if saved.info.provenance.set not in ("A", "B", "C"):
            raise LhcnetError(f"{saved.path}: expected a model of set A, B or C, not {saved.id}")
        record = saved.record()
        kept, reason = apply_loss_rule(record, start.metrics.train_loss, loss_factor)
        entries.append(Entry(record=record, kept=kept, reason=reason))
    return tuple(entries)


def choose(
    entries: Sequence[Entry], backbone: Sequence[SavedModel], loss_factor: float, minimum: Minimum | None = None
) -> SelectionReport:
    """Choose the kept model of B ∪ C with the best validation accuracy.

    Args:
        entries: the models that were judged.
        backbone: stages of the backbone; the last one is the start of stage 4.
        loss_factor: of the loss rule.
        minimum: how many models of each set among `entries` must be kept; None: one of B ∪ C.

    Raises:
        LhcnetError: fewer models of a set were kept, or none of B ∪ C.
    """
    kept = [entry.record for entry in entries if entry.kept]
    with_lhc = [record for record in kept if record.set != "A"]
    if not with_lhc:
        reasons = "; ".join(f"{e.id}: {e.reason}" for e in entries if e.set != "A") or "none was given"
        raise LhcnetError(f"no network with LHC was kept, so there is nothing to choose: {reasons}")
    by_set = {name: [record for record in kept if record.set == name] for name in ("A", "B", "C")}
    if minimum is not None:
        _require_minimum(entries, {name: len(models) for name, models in by_set.items()}, minimum)
    return SelectionReport(
        loss_factor=loss_factor,
        backbone=tuple(saved.record() for saved in backbone),
        entries=tuple(entries),
        best={name: best_on_validation(models).id for name, models in by_set.items() if models},
        chosen=best_on_validation(with_lhc).id,
    )


def _require_minimum(entries: Sequence[Entry], kept: Mapping[str, int], minimum: Minimum) -> None:
    """Raise LhcnetError if fewer models of a set among `entries` were kept than `minimum` says."""
    for name in sorted({entry.set for entry in entries}):
        of_set = [entry for entry in entries if entry.set == name]
        key, needed = f"selection.minimum.{name.lower()}", getattr(minimum, name.lower())
        if kept[name] < needed:
            reasons = "; ".join(f"{entry.id}: {entry.reason}" for entry in of_set if not entry.kept)
            raise LhcnetError(
                f"{key}: {kept[name]} of {len(of_set)} models of set {name} were kept, expected at least {needed}: "
                f"train the others again, or lower {key} ({reasons or 'there were no others'})"
            )


def best_on_validation(models: Sequence[ModelRecord]) -> ModelRecord:
    """The model with the highest validation accuracy; ties: the lower validation loss, then the id."""
    return min(models, key=_rank)


def _rank(model: ModelRecord) -> tuple[float, float, str]:
    loss = math.inf if model.metrics.val_loss is None else model.metrics.val_loss
    return -(model.metrics.val_accuracy or 0.0), loss, model.id
