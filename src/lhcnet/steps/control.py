"""LHC-NetC: the five weights of the residual sums."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lhcnet.config import (
    Checkpoints,
    Compute,
    Control,
    FrozenModel,
    Name,
    parse,
)
from lhcnet.data.store import open_store
from lhcnet.errors import LhcnetError
from lhcnet.io.atomic import atomic_directory
from lhcnet.io.files import read_json, write_json
from lhcnet.protocol.selection import read_selection
from lhcnet.saved import ModelInfo, Provenance, SavedModel, open_model
from lhcnet.steps.fit_model import fit_model, refuse_other_data

if TYPE_CHECKING:
    from lhcnet.training.checkpoint import Checkpoint

log = logging.getLogger("lhcnet")

CONTROL_STAGE = 5  # LHC-NetC is trained after stage 4


CONTROL_PREFIX = "LHC-NetC/"


def control(
    models: Sequence[Path],
    selection: Path,
    trainval: Path,
    out: Path,
    *,
    control: Control,
    compute: Compute,
    checkpoints: Checkpoints | None = None,
    execution: str | None = None,
) -> list[SavedModel]:
    """LHC-NetC: from trained LHC-Nets, train the five weights w of the residual sums and nothing else.

    The data seed of each is that of its LHC-Net. Writes a folder with one model directory each beside
    `control.json`; with `models: none` there is none.
    """
    from lhcnet.models.lhcnet import add_control, freeze_all_but_control

    chosen = read_selection(selection)
    with_lhc = {model.id for model in chosen.kept if model.set != "A"}
    wanted = {"none": set(), "chosen": {chosen.chosen}, "kept": with_lhc}[control.models]
    starts = {model.id: model for path in models if (model := open_model(path)).id in wanted}
    if lost := sorted(wanted - set(starts)):
        raise LhcnetError(f"{selection}: names models that were not handed in: {', '.join(lost)}")
    for id_ in [id_ for id_, model in starts.items() if not model.info.architecture.has_lhc]:
        log.info("%s: has other attention than LHC, so there is no LHC-NetC of it", id_)
        del starts[id_]
    store = open_store(trainval)
    names = [str(number) for number in range(len(starts))]
    done: list[Checkpoint | None] = []  # the folder is not there before the last is trained
    with atomic_directory(out, "control.json") as folder:
        for name, id_ in zip(names, sorted(starts), strict=True):
            begun = starts[id_]
            refuse_other_data(begun, store, trainval)
            try:
                network = freeze_all_but_control(add_control(begun.network()))
            except ValueError as error:
                raise LhcnetError(f"{begun.path}: {error}") from None
            p = begun.info.provenance
            info = ModelInfo(
                architecture=begun.info.architecture.model_copy(update={"control": True}),
                provenance=Provenance(
                    id=f"{CONTROL_PREFIX}{id_}",
                    set="control",
                    stage=CONTROL_STAGE,
                    seed=p.seed,
                    variant=p.variant,
                    data=p.data,
                    start=begun.weights_digest(),
                ),
            )
            done.append(
                fit_model(
                    network,
                    info,
                    store,
                    folder / name,
                    stage=control.training,
                    compute=compute,
                    checkpoints=checkpoints,
                    execution=execution,
                )
            )
        write_json(folder / "control.json", {"models": names})
    for checkpoint in filter(None, done):
        checkpoint.remove()
    return open_controlled(out)


class ControlIndex(FrozenModel):
    """`control.json`: the folders of the LHC-NetCs beside it."""

    models: tuple[Name, ...]  # no way out of the folder


def open_controlled(folder: Path) -> list[SavedModel]:
    """The LHC-NetCs that `control` wrote."""
    index = parse(ControlIndex, read_json(folder / "control.json"), str(folder / "control.json"))
    return [open_model(folder / name) for name in index.models]
