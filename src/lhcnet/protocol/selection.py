"""The 10 % loss rule and the choice of a model. Nothing here has ever seen the test split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

from lhcnet.config import Compute, FrozenModel, Stage
from lhcnet.errors import LhcnetError
from lhcnet.saved import Architecture, Epoch, SavedModel


class Trained(FrozenModel):
    """One training: its start (SHA-256 of the weights, or `none`) and settings, the figures of its final weights, and
    its curves.
    """

    id: str
    seed: int
    start: str
    architecture: Architecture
    training: Stage | None
    compute: Compute | None
    best_epoch: int
    train_loss: float | None
    train_accuracy: float | None
    val_loss: float | None
    val_accuracy: float | None
    history: tuple[Epoch, ...]


T = TypeVar("T", bound=Trained)


class Entry(Trained):
    """One model of the sets A, B and C: kept, or rejected with the reason."""

    set: Literal["A", "B", "C"]
    variant: str | None
    kept: bool
    reason: str


class SelectionReport(FrozenModel):
    """`selection.json`. `best` is the kept model of each set that is best on validation; `chosen` of B u C.

    `backbone` are the stages 1-3, as far as they were handed in; the last is the start of stage 4.
    """

    loss_factor: float
    start_id: str
    start_train_loss: float
    data: str
    backbone: tuple[Trained, ...]
    entries: tuple[Entry, ...]
    best: dict[str, str]
    chosen: str
    chosen_variant: str


def apply_loss_rule(saved: SavedModel, start_train_loss: float, loss_factor: float) -> tuple[bool, str]:
    """(kept, reason). Section 4.1: keep a run only if its training loss is below 1.10 x that of the start.

    Both losses are measured alike: final weights, evaluation mode, whole training split, no augmentation. Set A has
    no new modules to be rejected by the host, so only divergence counts there. A dead module is rejected as well: what
    it adds is no attention.
    """
    if saved.metrics.status == "diverged" or saved.metrics.train_loss is None:
        return False, f"diverged: {saved.metrics.reason or 'training loss is not finite'}"
    if saved.metrics.status == "dead":
        return False, f"dead: {saved.metrics.reason}"
    if saved.info.provenance.set == "A":
        return True, "set A: the loss rule is for networks with LHC"
    loss, limit = saved.metrics.train_loss, loss_factor * start_train_loss
    rule = f"{loss_factor:g} x the start's {start_train_loss:.4f}"
    if loss < limit:
        return True, f"training loss {loss:.4f} is below {rule}"
    return False, f"training loss {loss:.4f} is not below {rule}"


def judge(models: Sequence[SavedModel], start: SavedModel, loss_factor: float) -> tuple[Entry, ...]:
    """Apply the rule to every model, in the order of their ids.

    Raises `LhcnetError` when ids repeat, when data sets differ, or when the start has no finite training loss.
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
        kept, reason = apply_loss_rule(saved, start.metrics.train_loss, loss_factor)
        p = saved.info.provenance
        if p.set not in ("A", "B", "C"):
            raise LhcnetError(f"{saved.path}: expected a model of set A, B or C, not {saved.id}")
        entries.append(Entry(**_trained(saved), set=p.set, variant=p.variant, kept=kept, reason=reason))
    return tuple(entries)


def trained(saved: SavedModel) -> Trained:
    """What selection looks at of a model."""
    return Trained(**_trained(saved))


def _trained(saved: SavedModel) -> dict[str, Any]:
    figures = saved.metrics.model_dump(exclude={"status", "reason", "epochs", "attention_entropy"})
    p = saved.info.provenance
    settings = {"start": p.start, "training": p.training, "compute": p.compute, "architecture": saved.info.architecture}
    return {"id": saved.id, "seed": p.seed, "history": saved.history, **settings, **figures}


def choose(entries: Sequence[Entry], backbone: Sequence[SavedModel], loss_factor: float) -> SelectionReport:
    """Choose on validation accuracy among the kept models with LHC (ties: lower validation loss, then the id).

    `backbone` are its stages, the last one the start of stage 4.

    Raises `LhcnetError` when none was kept.
    """
    with_lhc = [entry for entry in entries if entry.kept and entry.set != "A"]
    if not with_lhc:
        reasons = "; ".join(f"{e.id}: {e.reason}" for e in entries if e.set != "A") or "none was given"
        raise LhcnetError(f"no network with LHC was kept, so there is nothing to choose: {reasons}")
    chosen = best_on_validation(with_lhc)
    best = {
        name: best_on_validation(candidates).id
        for name in ("A", "B", "C")
        if (candidates := [entry for entry in entries if entry.kept and entry.set == name])
    }
    start = backbone[-1]
    return SelectionReport(
        loss_factor=loss_factor,
        start_id=start.id,
        start_train_loss=start.metrics.train_loss or 0.0,
        data=start.info.provenance.data,
        backbone=tuple(trained(saved) for saved in backbone),
        entries=tuple(entries),
        best=best,
        chosen=chosen.id,
        chosen_variant=chosen.variant or "",
    )


def best_on_validation(models: Sequence[T]) -> T:
    """The highest accuracy; ties: lower loss, then the id."""
    return min(models, key=lambda m: (-(m.val_accuracy or 0.0), math.inf if m.val_loss is None else m.val_loss, m.id))
